//! Forming log entries: what has arrived goes into one entry, one entry is in
//! flight, and where it is small the placements that it makes possible ride in
//! it, so that a lone submit starts after a single commit.

use std::sync::Arc;

use berth_model::{EndCause, JobId, JobKind};
use berth_placement::{Budget, Planner};
use berth_raft::{Proposal, ProposeError};
use berth_state::decision::Scope;
use berth_state::{Applied, ClusterState, Command, Entry, EventKind, Observation, Observed, Reply};
use berth_wire::capture::Origin;
use berth_wire::log::v1 as log;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use super::cuts::fitting;
use super::decisions::Asked;
use super::line::{Line, Room};
use super::{Answers, Leader, clock};

/// Commands in an entry: throughput peaks there on a sled log (measured
/// November 2026), and larger entries only delay the first in them.
const COMMANDS_MAX: usize = 256;
/// Encoded bytes of the commands of an entry; the rest of the 64 KiB that an
/// entry may have is for the placements that ride along.
pub const ENTRY_BYTES_MAX: usize = 52 << 10;
/// Wishes that wait in line; further ones wait at the queue before it. More than
/// the submits that are let in.
const LINE_MAX: usize = 16_384;
/// Clocks, schema and proposer of an entry take less.
const ENTRY_HEAD_BYTES: usize = 256;
/// With more commands than this the planner's own run is cheaper than
/// applying the entry twice here.
const INLINE_COMMANDS_MAX: usize = 64;
/// With more waiting tasks than this, planning is the planner's.
const INLINE_QUEUE_MAX: usize = 256;

/// What one proposer wants.
pub struct Wish {
    pub commands: Vec<Command>,
    /// Encoded length of the commands.
    pub bytes: usize,
    pub answer: oneshot::Sender<Answers>,
}

/// Serves wishes until the term ends.
pub async fn run(leader: Arc<Leader>, mut queue: mpsc::Receiver<Wish>) {
    let mut line = Line::default();
    let mut planner = Planner::default();
    loop {
        if line.is_empty() {
            tokio::select! {
                wish = queue.recv() => match wish {
                    Some(wish) => line.push(wish),
                    None => break,
                },
                () = leader.ended.cancelled() => break,
            }
        }
        while line.len() < LINE_MAX
            && let Ok(wish) = queue.try_recv()
        {
            line.push(wish);
        }
        let wishes = line.next_entry(Room { commands: COMMANDS_MAX, bytes: ENTRY_BYTES_MAX });
        let served = serve(&leader, &mut planner, wishes).await;
        if served.is_err_and(|refused| is_alone(&leader, &refused)) {
            // Each entry would wait for a majority in vain. Who has waited
            // behind this one is told now, not after a wait of its own.
            refuse_all(&mut line, &mut queue, &ProposeError::NoQuorum);
        }
        if leader.ended.is_cancelled() {
            break;
        }
    }
    queue.close();
    refuse_all(&mut line, &mut queue, &ProposeError::NotLeader { leader: None });
}

/// Tells everybody who waits.
fn refuse_all(line: &mut Line, queue: &mut mpsc::Receiver<Wish>, error: &ProposeError) {
    for wish in line.drain().chain(std::iter::from_fn(|| queue.try_recv().ok())) {
        let _ = wish.answer.send(Err(error.clone()));
    }
}

/// Whether an entry failed because this leader hears no majority.
fn is_alone(leader: &Leader, refused: &ProposeError) -> bool {
    /// Longer than the fast profile's lease: no flaw of one moment.
    const SILENCE_MS: u64 = 500;
    match refused {
        ProposeError::NoQuorum => true,
        ProposeError::OutcomeUnknown => {
            let silence = leader.node.status().millis_since_quorum;
            silence.is_some_and(|silence_ms| silence_ms > SILENCE_MS)
        }
        ProposeError::NotLeader { .. } | ProposeError::TooLarge { .. } | ProposeError::Stopped => {
            false
        }
    }
}

async fn serve(
    leader: &Arc<Leader>,
    planner: &mut Planner,
    mut wishes: Vec<Wish>,
) -> Result<(), ProposeError> {
    // A proposer that has gone no longer wants an answer, but it was told
    // nothing: its commands stay.
    let mut commands = Vec::new();
    let bytes = ENTRY_HEAD_BYTES + wishes.iter().map(|wish| wish.bytes).sum::<usize>();
    let mut counts = Vec::with_capacity(wishes.len());
    for wish in &mut wishes {
        counts.push(wish.commands.len());
        commands.append(&mut wish.commands);
    }
    let mut entry = Entry {
        state_ms: leader.clock.now(),
        wall_ms: clock::wall(),
        proposer: env!("CARGO_PKG_VERSION").to_owned(),
        commands,
    };
    let effect = effect(&leader.published.view(), &entry.commands);
    let rest = add_placements(leader, planner, &mut entry, effect, bytes);
    match commit(leader, entry).await {
        Ok(applied) => {
            leader.decisions.forget_before(leader.published.view().applied_index());
            note(leader, effect, rest, &applied);
            let mut replies = applied.replies.iter().cloned();
            for (wish, count) in wishes.into_iter().zip(counts) {
                let _ = wish.answer.send(Ok(replies.by_ref().take(count).collect()));
            }
            Ok(())
        }
        Err(refused) => {
            // It may be applied yet, and nobody else would look at what it
            // frees.
            leader.backlog.made_room();
            leader.planner_wake.notify_one();
            for wish in wishes {
                let _ = wish.answer.send(Err(refused.clone()));
            }
            Err(refused)
        }
    }
}

async fn commit(leader: &Arc<Leader>, entry: Entry) -> Result<Arc<Applied>, ProposeError> {
    let bytes = log::encode_entry(&entry);
    let answer = leader.node.propose(Proposal::new(bytes, Arc::new(entry))).await;
    match &answer {
        Err(ProposeError::TooLarge { bytes }) => error!(bytes, "log entry is too large"),
        Err(refused) => warn!(%refused, "log entry was not confirmed"),
        Ok(_) => {}
    }
    answer
}

/// What an entry can mean for those that wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    Nothing,
    /// Jobs come or come anew; for the others there is no more room.
    NewJobs,
    Room,
}

/// What is left to plan after an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rest {
    Nothing,
    NewJobs,
    Everything,
}

/// Tells the planner what became of an entry.
fn note(leader: &Leader, effect: Effect, rest: Rest, applied: &Applied) {
    let refused = match applied.replies.last() {
        Some(Ok(Reply::Placed { refused, .. })) => !refused.is_empty(),
        Some(_) | None => false,
    };
    if refused || rest == Rest::Everything || effect == Effect::Room {
        leader.backlog.made_room();
    }
    if refused || rest == Rest::Everything {
        return leader.planner_wake.notify_one();
    }
    match (effect, rest) {
        // The entry's own plan looked at everything.
        (Effect::Room, Rest::Nothing) => leader.backlog.settle(),
        (_, Rest::NewJobs) => {
            leader.backlog.add(submitted(applied));
            leader.planner_wake.notify_one();
        }
        (Effect::Nothing | Effect::NewJobs, _) | (Effect::Room, Rest::Everything) => {}
    }
}

fn submitted(applied: &Applied) -> impl Iterator<Item = JobId> + '_ {
    applied.replies.iter().filter_map(|reply| match reply {
        Ok(Reply::Submitted { job, .. }) => Some(*job),
        Ok(_) | Err(_) => None,
    })
}

/// Plans on exactly the state that the entry will meet, and appends the plan.
/// One entry is in flight, so the published view is that state; if it were
/// not, apply would refuse what does not fit and the planner would try again.
/// `bytes` is how long the entry is without them.
fn add_placements(
    leader: &Leader,
    planner: &mut Planner,
    entry: &mut Entry,
    effect: Effect,
    bytes: usize,
) -> Rest {
    // Where everything else is known to have no place, the new jobs are all
    // that there is to plan, however long the queue.
    let only_new = match effect {
        Effect::Nothing => return Rest::Nothing,
        Effect::NewJobs => leader.backlog.is_settled(),
        Effect::Room => false,
    };
    let view = leader.published.view();
    let too_many = entry.commands.len() > INLINE_COMMANDS_MAX;
    if too_many || (!only_new && view.queue_len() > INLINE_QUEUE_MAX) {
        return match effect {
            Effect::Nothing | Effect::Room => Rest::Everything,
            Effect::NewJobs => Rest::NewJobs,
        };
    }
    let mut imagined = view.clone();
    let applied = imagined.apply(view.applied_index() + 1, entry);
    let retries =
        applied.events.iter().any(|event| matches!(event.kind, EventKind::RetryScheduled { .. }));
    let nothing_to_place = imagined.queue_is_empty() && imagined.daemons().next().is_none();
    if nothing_to_place {
        return if retries { Rest::Everything } else { Rest::Nothing };
    }
    let scope = match only_new {
        true => Scope::Jobs(submitted(&applied).collect()),
        false => Scope::Everything,
    };
    let asked = Asked {
        origin: Origin::Entry,
        view: imagined,
        soft: leader.loads(),
        now: entry.state_ms,
        scope,
        budget: Budget::INLINE,
        gave_up: planner.gave_up(),
    };
    let outcome = asked.plan(planner);
    leader.decisions.note(asked, &outcome);
    let left = outcome.exhausted || outcome.next_wakeup.is_some() || retries;
    // Who is to end for others is the planner's to say, which has the time to look everywhere.
    let left = left || outcome.held_back;
    let planned = outcome.placements.len();
    let room = log::ENTRY_BYTES_MAX.saturating_sub(bytes);
    let riding = fitting(outcome.placements, &outcome.gangs, room);
    let left = left || riding.len() < planned;
    if !riding.is_empty() {
        entry.commands.push(Command::Place { placements: riding });
    }
    match (left, only_new) {
        (false, _) => Rest::Nothing,
        (true, true) => Rest::NewJobs,
        (true, false) => Rest::Everything,
    }
}

fn effect(view: &ClusterState, commands: &[Command]) -> Effect {
    let waits = !view.queue_is_empty() || view.daemons().next().is_some();
    let mut effect = Effect::Nothing;
    for command in commands {
        match command {
            Command::Submit(_) => effect = Effect::NewJobs,
            Command::ChangeJob { .. }
            | Command::Scale { .. }
            | Command::FailUpdate { .. }
            | Command::RegisterNode { .. }
            | Command::DownNode { .. }
            | Command::LoseAllocations { .. }
            | Command::TakeStock { .. }
            | Command::ForgetOrphans { .. }
            | Command::StopAwaiting
            | Command::Unreserve { .. }
            | Command::SetSchedulable { .. }
            | Command::SetGuards { .. }
            | Command::SetDevicePurpose { .. }
            | Command::ApplyNamespace { .. }
            | Command::DeleteNamespace { .. }
            | Command::ReserveNodes { .. }
            | Command::FreeNodes { .. }
            | Command::TurnNodeReservation { .. } => return Effect::Room,
            // An end may free room for what waits, or make its instance wait.
            Command::Observe { observations, .. } => {
                let matters = observations.iter().any(|observation| {
                    let ended = matches!(observation.observed, Observed::Ended(_));
                    ended && (waits || !is_clean_batch_end(view, observation))
                });
                if matters {
                    return Effect::Room;
                }
            }
            Command::Found { .. }
            | Command::AdmitScheduler { .. }
            | Command::PromoteScheduler { .. }
            | Command::RemoveScheduler { .. }
            | Command::RaiseClusterVersion { .. }
            | Command::StopOrphans { .. }
            | Command::DisconnectNode { .. }
            | Command::Place { .. }
            | Command::Reserve { .. }
            | Command::StopAllocations { .. }
            | Command::LetGo { .. }
            | Command::ExpireJob { .. }
            | Command::Reap { .. }
            | Command::CreateToken(_)
            | Command::RevokeToken { .. }
            | Command::UseJoinToken { .. }
            | Command::RevokeMachine { .. }
            // For what comes later alone.
            | Command::SetPolicyDefault { .. } => {}
        }
    }
    effect
}

/// Whether it surely leaves nothing to place: its instance is done. One that was told to end may
/// say 0 too, and a member of a gang may have to run again with the others.
fn is_clean_batch_end(view: &ClusterState, observation: &Observation) -> bool {
    let id = observation.allocation;
    let Some(job) = view.jobs().get(&id.job) else { return false };
    let task = job.spec.tasks.get(usize::from(id.task.0));
    let Observed::Ended(report) = &observation.observed else { return false };
    let is_done = report.cause == EndCause::Exited && report.exit_code == Some(0);
    job.kind() == JobKind::Batch && is_done && task.is_some_and(|task| task.gang.is_none())
}

#[cfg(test)]
mod tests {
    use berth_model::{
        AllocationId, EndReport, Gang, JobSpec, Name, SpecDigest, StateMs, TaskSpec, WallMs,
    };
    use berth_state::SubmitJob;

    use super::*;

    fn report(cause: EndCause, exit_code: i32) -> EndReport {
        EndReport {
            cause,
            exit_code: Some(exit_code),
            signal: None,
            reason: String::new(),
            stderr_tail: String::new(),
            started_at: None,
            finished_at: WallMs(0),
        }
    }

    #[test]
    fn what_is_ended_by_order_waits_again_whatever_it_says() {
        let name = |text: &str| Name::new(text).unwrap();
        let spec = |kind, gang| {
            let task = TaskSpec { gang, ..TaskSpec::new(name("main"), kind, vec!["x".to_owned()]) };
            let spec = JobSpec::new(name("job"), name("default"), kind, vec![task]);
            Command::Submit(SubmitJob {
                key: None,
                spec: Arc::new(spec),
                digest: SpecDigest::default(),
                if_version: None,
            })
        };
        let check = |kind, gang, end: EndReport, expected| {
            let mut view = ClusterState::default();
            let found = Command::Found { cluster_id: [1; 16], security: None };
            let commands = vec![found, spec(kind, gang)];
            let (state_ms, wall_ms, proposer) = (StateMs(1), WallMs(1), String::new());
            view.apply(1, &Entry { state_ms, wall_ms, proposer, commands });
            let allocation = AllocationId { job: JobId(1), ..AllocationId::default() };
            let observation = Observation { allocation, observed: Observed::Ended(end.clone()) };
            assert_eq!(
                is_clean_batch_end(&view, &observation),
                expected,
                "{kind:?} {gang:?} {end:?}"
            );
        };
        use EndCause as E;
        check(JobKind::Batch, None, report(E::Exited, 0), true);
        check(JobKind::Batch, None, report(E::Exited, 1), false);
        check(JobKind::Batch, None, report(E::Stopped, 0), false);
        check(JobKind::Batch, None, report(E::Fenced, 0), false);
        check(JobKind::Batch, Some(Gang {}), report(E::Exited, 0), false);
        check(JobKind::Service, None, report(E::Exited, 0), false);
    }
}
