//! Places that are kept: an instance for which others end has, until they have, what is free of
//! its place already, and the right to the rest. And who may be ended for whom, the one rule that
//! planning and apply share.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{
    AllocationId, Borrowing, Claim, DurationMs, InstanceIndex, JobId, JobKind, JobSpec,
    LENT_MIN_RUN_MAX, NodeId, NodeUse, PREEMPTION_GAP, StateMs, StopIntent, TaskIndex, TaskSpec,
    outranks,
};
use imbl::OrdMap;
use thiserror::Error;

use crate::command::{Placement, Reservation};
use crate::lending::{Asker, Right};
use crate::movable::Stays;
use crate::node::NodeRow;
use crate::rows::{AllocationRow, JobRow, ScoreParts};
use crate::state::ClusterState;

/// Places that are kept on the node whose row holds this, until all that is awaited has ended:
/// here, and for a gang on all nodes of its members.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReservationRow {
    /// Whom for; never empty. They are placed together.
    pub members: BTreeMap<AllocationId, KeptPlace>,
    /// Live on the same node, ending unless it is patient, and awaited by no other reservation of it. Empty only of a gang
    /// that awaits others elsewhere. Of a move it is the member's own earlier attempt on another node.
    pub awaits: BTreeSet<AllocationId>,
    /// The part of the members' claims that those do not hold: part of the node's `used`, so that
    /// nobody else is given it.
    pub held: NodeUse,
    /// Those who are awaited end by themselves. It gives way to what might have ended the members.
    pub patient: bool,
}

/// One of the places.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KeptPlace {
    pub claim: Claim,
    pub score: ScoreParts,
}

/// Work that ends begins anew elsewhere: so much of it is lost beside what it had done. What a
/// worker takes to start, as the simulator of queues has it.
pub const RESTART_MS: u64 = 30_000;

/// So many cores weigh as much as a GPU: hosts have about as many for each (17.2 in the published
/// cluster of 1,213 nodes, Weng et al., ATC '23).
const CORES_OF_A_GPU: u64 = 16;

/// Why something is not ended for something else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Error)]
pub enum NotAVictim {
    #[error("its job may not be preempted")]
    NotPreemptible,
    #[error("a daemon belongs to its node")]
    Daemon,
    #[error("its priority of {found} is not {PREEMPTION_GAP} below {asked}")]
    TooUrgent { found: u8, asked: u8 },
    #[error("it has not run for as long as its job is left alone")]
    TooYoung {
        /// When it has.
        until: StateMs,
    },
    #[error("its place is kept for others, and not all of it is asked for")]
    Awaited,
    #[error("it is not on the node")]
    Elsewhere,
    #[error("its namespace holds no more than it is guaranteed")]
    Guaranteed,
    #[error("a service does not end by itself")]
    Endless,
    #[error("what asks has not waited for ten minutes")]
    TooSoon,
    #[error("{}", .0.text())]
    Stays(Stays),
}

/// Whether a job ends others at all.
pub fn may_preempt(spec: &JobSpec) -> bool {
    spec.preemption.preempts && spec.kind != JobKind::Daemon
}

/// Whether a live allocation of `owner` may be ended for what asks; with a member of a
/// gang all of it ends. One that ends for good
/// may be waited for by anybody; one that ends and comes back by whom it might be ended for,
/// however short it has run: its place is that of its own next attempt first. Whether its
/// namespace is sure of it is asked of all together who would end.
///
/// # Errors
/// Why not.
pub fn may_end(
    asker: Asker<'_>,
    owner: &JobRow,
    row: &AllocationRow,
    now: StateMs,
) -> Result<(), NotAVictim> {
    if let Some(StopIntent::Cancel | StopIntent::TimeOut) = row.state.stop_intent() {
        return Ok(());
    }
    let of = &owner.spec;
    if of.kind == JobKind::Daemon {
        return Err(NotAVictim::Daemon);
    }
    if asker.right == Right::Patience {
        let ends = of.kind == JobKind::Batch || row.state.stop_intent().is_some();
        return if ends { Ok(()) } else { Err(NotAVictim::Endless) };
    }
    if !of.preemption.preemptible {
        return Err(NotAVictim::NotPreemptible);
    }
    let (found, asked) = (of.priority, asker.job.spec.priority);
    let takes_back = match asker.right {
        Right::Priority | Right::Patience => false,
        Right::Guarantee => of.namespace != asker.job.spec.namespace,
    };
    if !outranks(asked, found) && !takes_back {
        return Err(NotAVictim::TooUrgent { found, asked });
    }
    if row.state.stop_intent().is_some() {
        return Ok(());
    }
    let (since, min_run) = (row.running_since.unwrap_or(row.planned_at), of.preemption.min_run);
    let until = match takes_back {
        // Nor is it left alone for longer than that after something sure has come to wait: work
        // that is always young would never be old enough.
        true => {
            let waited = asker.job.submitted_ms.after(LENT_MIN_RUN_MAX);
            since.after(min_run.min(LENT_MIN_RUN_MAX)).min(waited)
        }
        false => since.after(min_run),
    };
    if now < until { Err(NotAVictim::TooYoung { until }) } else { Ok(()) }
}

/// What ending an allocation costs, in thousandths of a GPU times milliseconds: what it has run
/// for and what starting again takes, by what it holds. Nothing if it ends anyway.
pub fn work_lost(row: &AllocationRow, now: StateMs) -> u64 {
    if row.state.stop_intent().is_some() {
        return 0;
    }
    let ran = row.running_since.map_or(0, |since| now.since(since).0);
    let weight = row.claim.gpu_milli().saturating_add(row.claim.cpu.0 / CORES_OF_A_GPU);
    ran.saturating_add(RESTART_MS).saturating_mul(weight.max(1))
}

/// How long it takes at most until an allocation has ended by itself, in milliseconds. Of one
/// without a time limit nobody knows: the longer something has run, the longer it goes on, as
/// with the heavy tails of real jobs, for which what is left is about what has passed.
pub fn time_left(spec: &JobSpec, row: &AllocationRow, now: StateMs) -> u64 {
    if row.state.stop_intent().is_some() {
        return row.draining.map_or(0, |draining| draining.by.since(now).0);
    }
    let ran = row.running_since.map_or(0, |since| now.since(since).0);
    let task = spec.tasks.get(usize::from(row.id.task.0));
    match task.and_then(|task| task.time_limit) {
        Some(limit) => limit.0.saturating_sub(ran),
        None => ran.max(RESTART_MS),
    }
}

/// When an allocation has ended by itself at the latest, its grace included, if one that does not
/// run yet `starts` then; `None` if it may run for ever.
pub fn ends_by(
    spec: &JobSpec,
    row: &AllocationRow,
    starts: StateMs,
    now: StateMs,
) -> Option<StateMs> {
    let task = spec.tasks.get(usize::from(row.id.task.0))?;
    let stopped_at = match row.state.stop_intent() {
        Some(_) => row.draining.map_or(now, |draining| draining.by),
        None => row.running_since.unwrap_or(starts).after(task.time_limit?),
    };
    Some(stopped_at.max(now).after(task.stop.grace))
}

/// Whether a place that is kept for a patient `owner` gives way to what asks: as it would if it
/// ran already.
pub fn gives_way(asker: Asker<'_>, owner: &JobRow) -> bool {
    let (of, by) = (&owner.spec, &asker.job.spec);
    let takes_back = match asker.right {
        Right::Priority => false,
        Right::Guarantee => of.namespace != by.namespace,
        Right::Patience => return false,
    };
    may_preempt(by) && (takes_back || outranks(by.priority, of.priority))
}

/// What a job with something live that may be ended is found by.
pub(crate) fn endable(row: &JobRow) -> Option<(u8, JobId)> {
    let may_end = row.live > 0 && row.spec.borrowing() == Borrowing::Allowed;
    may_end.then_some((row.spec.priority, row.id))
}

impl ReservationRow {
    /// Whether its member awaits its own end on another node.
    pub fn is_move(&self) -> bool {
        let (members, awaits) = (self.members.keys(), self.awaits.iter());
        members.len() == 1
            && awaits.len() == 1
            && members.zip(awaits).all(|(to, of)| follows(to, of))
    }

    /// Whether what would begin now has ended, at the latest, when the last of those who are awaited
    /// has: then it may have of the place what it needs, and is awaited with them.
    pub fn has_time_for(&self, state: &ClusterState, task: &TaskSpec, now: StateMs) -> bool {
        let Some(limit) = task.time_limit else { return false };
        let ends = now.after(DurationMs(RESTART_MS)).after(limit).after(task.stop.grace);
        let ends_by = |id: &AllocationId| {
            let (row, owner) = (state.allocations.get(id)?, state.jobs.get(&id.job)?);
            let starts = row.planned_at.after(DurationMs(RESTART_MS));
            ends_by(&owner.spec, row, starts, now)
        };
        let all: Option<Vec<StateMs>> = self.awaits.iter().map(ends_by).collect();
        self.patient && all.is_some_and(|all| all.into_iter().any(|last| ends <= last))
    }

    pub(crate) fn to_hold(&self, state: &ClusterState) -> NodeUse {
        let here = match self.is_move() {
            true => &BTreeSet::new(),
            false => &self.awaits,
        };
        let rows = here.iter().filter_map(|id| state.allocations.get(id));
        let members = self.members.values().map(|place| &place.claim);
        held_of(members, rows.map(|row| &row.claim))
    }
}

impl Reservation {
    /// Whether an instance awaits its own end.
    pub fn is_move(&self) -> bool {
        let id = self.placement.allocation();
        matches!(self.awaits.as_slice(), [mover] if follows(&id, mover))
    }
}

/// Whether one is a later attempt of what the other is.
fn follows(id: &AllocationId, of: &AllocationId) -> bool {
    (id.job, id.task, id.instance) == (of.job, of.task, of.instance) && of.attempt < id.attempt
}

/// What has to be held of these claims while others hold `theirs`. As those end the sum of both
/// never grows beyond what the claims take in the end, whoever of them is first.
pub fn held_of<'a>(
    claims: impl Iterator<Item = &'a Claim>,
    theirs: impl Iterator<Item = &'a Claim>,
) -> NodeUse {
    let sum = |mut sum: NodeUse, claim: &Claim| {
        sum.add(claim);
        sum
    };
    let theirs = theirs.fold(NodeUse::default(), sum);
    claims.fold(NodeUse::default(), sum).beyond(&theirs)
}

impl NodeRow {
    /// Whether somebody has yet to end on the node for instances of a task.
    pub(crate) fn awaits_for(&self, job: JobId, task: TaskIndex) -> bool {
        let is_of = |id: &AllocationId| (id.job, id.task) == (job, task);
        let mut kept = self.reservations.iter();
        kept.any(|one| one.members.keys().any(is_of) && !one.awaits.is_empty())
    }
}

impl KeptPlace {
    pub(crate) fn placement(self, id: AllocationId, node: NodeId) -> Placement {
        Placement::new(id, node, self.claim, self.score)
    }
}

/// Where a place is kept, by whom it is kept for.
pub(crate) type Reserved = OrdMap<AllocationId, NodeId>;

impl ClusterState {
    /// The lowest priority of what runs and may be ended for others.
    pub fn least_urgent(&self) -> Option<u8> {
        self.index.endable.get_min().map(|(priority, _)| *priority)
    }

    /// The priorities of what runs and may be ended for others, ascending, each once.
    pub fn endable_priorities(&self) -> BTreeSet<u8> {
        self.index.endable.iter().map(|(priority, _)| *priority).collect()
    }

    /// Whom places are kept for, and where.
    pub fn reservations(&self) -> impl Iterator<Item = (AllocationId, NodeId, &ReservationRow)> {
        self.index.reserved.iter().filter_map(|(id, node)| {
            let row = self.nodes.get(node)?;
            let reservation = row.reservations.iter().find(|one| one.members.contains_key(id))?;
            Some((*id, *node, reservation))
        })
    }

    /// Of one task.
    pub fn reservations_of(
        &self,
        job: JobId,
        task: TaskIndex,
    ) -> impl Iterator<Item = (AllocationId, NodeId)> {
        let first = AllocationId::first_of(job, task, InstanceIndex(0));
        let range = self.index.reserved.range(first..);
        range
            .map(|(id, node)| (*id, *node))
            .take_while(move |(id, _)| (id.job, id.task) == (job, task))
    }

    /// Whether the place that is kept for an attempt is one where others end by themselves.
    pub fn is_reserved_patiently(&self, id: AllocationId) -> bool {
        let node = self.index.reserved.get(&id).and_then(|node| self.nodes.get(node));
        let mut kept = node.into_iter().flat_map(|node| &node.reservations);
        kept.any(|one| one.patient && one.members.contains_key(&id))
    }

    /// Whether a place is kept for an instance, whichever attempt it is at.
    pub fn is_reserved(&self, job: JobId, task: TaskIndex, instance: InstanceIndex) -> bool {
        let first = AllocationId::first_of(job, task, instance);
        let next = self.index.reserved.range(first..).next();
        next.is_some_and(|(id, _)| (id.job, id.task, id.instance) == (job, task, instance))
    }
}
