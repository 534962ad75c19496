//! Planning what does not fit into an entry of its own: long queues, retries
//! whose time has come. Runs on a thread of its own, on the newest view.

use std::sync::Arc;
use std::time::Duration;

use berth_placement::{Budget, PlanOutcome, Planner};
use berth_state::{Command, Reply};
use berth_wire::capture::Origin;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::Leader;
use super::backlog::Scope;
use super::batch::ENTRY_BYTES_MAX;
use super::cuts::{Gangs, Part, fitting, units_within};
use super::decisions::Asked;

/// Work of one plan; at ten million candidates a second about 25 ms.
pub const BUDGET: Budget =
    Budget { candidates_examined_max: 250_000, placements_max: 1024, reservations_max: 64 };
/// Placements in one command; fewer where they are long ones, of many devices.
const PLACEMENTS_IN_COMMAND_MAX: usize = 128;
/// Places that are kept in one command, with who ends for each: a whole host's worth of workers
/// for each of them encodes to less than half of an entry.
const RESERVATIONS_IN_COMMAND_MAX: usize = 16;
/// While something waits, a plan is made at least so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A plan none of whose placements was granted is made again after this, so
/// that a view that keeps changing under it is not fought over.
const REFUSED_WAIT: Duration = Duration::from_millis(20);

pub async fn run(leader: Arc<Leader>) {
    let mut look_at: Option<Instant> = None;
    let mut planner = Planner::default();
    loop {
        let timer = async {
            match look_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = leader.planner_wake.notified() => {}
            () = timer => {
                // Something is due, or nobody knows better.
                leader.backlog.made_room();
            }
            () = leader.ended.cancelled() => return,
        }
        let Next { wait, scope } = round(&leader, &mut planner).await;
        let next = wait.map(|wait| Instant::now() + wait);
        look_at = match scope {
            Scope::Everything => next,
            Scope::Jobs(_) => look_at.into_iter().chain(next).min(),
        };
    }
}

/// When to look again, if nothing happens before, and what was looked at last.
struct Next {
    wait: Option<Duration>,
    scope: Scope,
}

/// Plans and proposes until nothing more can be placed.
async fn round(leader: &Arc<Leader>, planner: &mut Planner) -> Next {
    let mut budget = BUDGET;
    loop {
        let look = leader.backlog.begin();
        let Some(outcome) = one_plan(leader, planner, budget, look.scope.clone()).await else {
            leader.backlog.made_room();
            return Next { wait: Some(LOOK_AGAIN), scope: Scope::Everything };
        };
        let nothing = outcome.placements.is_empty() && outcome.reservations.is_empty();
        if nothing && outcome.exhausted {
            // Everything went into what does not fit: look further, or what
            // stands behind it would never be looked at.
            leader.backlog.made_room();
            budget.candidates_examined_max = budget.candidates_examined_max.saturating_mul(2);
            continue;
        }
        if nothing {
            leader.backlog.end(&look);
            let now = leader.clock.now();
            let wait = outcome.next_wakeup.map(|at| Duration::from_millis(at.since(now).0.max(1)));
            // Every event that makes room wakes this loop; while something
            // waits it looks again all the same.
            let waits = !leader.published.view().queue_is_empty();
            let wait = if waits { Some(wait.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)) } else { wait };
            return Next { wait, scope: look.scope };
        }
        // What is left of the jobs that are placed now is to be looked at.
        leader.backlog.made_room();
        if let Some(wait) = propose(leader, outcome).await {
            return Next { wait: Some(wait), scope: Scope::Everything };
        }
    }
}

/// Proposes a plan; returns when to try again if nothing of it was granted.
async fn propose(leader: &Arc<Leader>, outcome: PlanOutcome) -> Option<Duration> {
    let PlanOutcome { placements, reservations, gangs, .. } = outcome;
    let planned = placements.len() + reservations.len();
    // Before the placements: with what is lent to it by them a namespace may hold more than what
    // is guaranteed to it, and takes nothing back then.
    let kept = propose_parts(leader, &reservations, &gangs, RESERVATIONS_IN_COMMAND_MAX).await;
    let Ok(kept) = kept else { return Some(REFUSED_WAIT) };
    let placed = propose_parts(leader, &placements, &gangs, PLACEMENTS_IN_COMMAND_MAX).await;
    let Ok(placed) = placed else { return Some(REFUSED_WAIT) };
    let granted_count = placed.granted_count + kept.granted_count;
    debug!(planned, granted_count, "plan proposed");
    (granted_count == 0).then_some(placed.again.max(kept.again))
}

/// What became of a part of a plan.
struct Proposed {
    granted_count: usize,
    /// When to look again if nothing was granted.
    again: Duration,
}

async fn propose_parts<P: Part>(
    leader: &Arc<Leader>,
    parts: &[P],
    gangs: &Gangs,
    count_max: usize,
) -> Result<Proposed, Unsettled> {
    let mut proposed = Proposed { granted_count: 0, again: REFUSED_WAIT };
    let mut left = parts;
    while let Some(first) = left.first() {
        let some = &left[..units_within(left, gangs, count_max)];
        let chunk = fitting(some.to_vec(), gangs, ENTRY_BYTES_MAX);
        if chunk.is_empty() {
            // The others go on; for this one looking again soon is of no use.
            let (job, _) = first.task();
            let members = units_within(left, gangs, 1);
            error!(job_id = %job, members, "placements do not fit a log entry");
            proposed.again = LOOK_AGAIN;
            left = &left[members..];
            continue;
        }
        left = &left[chunk.len()..];
        proposed.granted_count += granted(leader, P::command(chunk)).await?;
    }
    Ok(proposed)
}

/// The term is over, or the outcome unknown: a plan from a newer view settles either.
struct Unsettled;

/// How much of a part of a plan was granted.
async fn granted(leader: &Arc<Leader>, command: Command) -> Result<usize, Unsettled> {
    match leader.propose(command).await {
        Ok(Ok(Reply::Placed { granted, refused })) => {
            for refusal in refused {
                debug!(%refusal, "placement refused");
            }
            Ok(granted.len())
        }
        Ok(_) => Ok(0),
        Err(_) => Err(Unsettled),
    }
}

/// `None` if it did not finish; the planner is a new one then.
async fn one_plan(
    leader: &Arc<Leader>,
    planner: &mut Planner,
    budget: Budget,
    scope: Scope,
) -> Option<PlanOutcome> {
    let mut working = std::mem::take(planner);
    let asked = Asked {
        origin: Origin::Planner,
        view: leader.published.view(),
        soft: leader.loads(),
        now: leader.clock.now(),
        scope,
        budget,
        gave_up: working.gave_up(),
    };
    let noting = leader.clone();
    let planning = move || {
        let outcome = asked.plan(&mut working);
        // Here, as what was placed is copied for it.
        noting.decisions.note(asked, &outcome);
        noting.decisions.note_gave_up(working.gave_up());
        (working, outcome)
    };
    let planned = tokio::task::spawn_blocking(planning).await;
    let planned = planned.inspect_err(|error| warn!(%error, "plan did not finish")).ok();
    let (working, outcome) = planned?;
    *planner = working;
    Some(outcome)
}
