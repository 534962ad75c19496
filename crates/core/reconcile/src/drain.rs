//! Emptying nodes: replicas move one at a time per task, and only to a place that is free;
//! batch work may finish until the deadline, daemons go when all else is gone. Before the
//! deadline it leaves a silent node alone: nobody could carry the orders out, and its work is
//! given up as a silent node's is.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{
    AllocationId, Drain, JobId, JobKind, NodeId, NodeState, StateMs, StopIntent, TaskIndex,
};
use berth_state::{AllocationRow, ClusterState, Command, NodeRow, Purpose};

use crate::ALLOCATIONS_IN_COMMAND_MAX;
use crate::replicas::next_to_go;

/// Whether the successor of an allocation that leaves its node has a place now, as far as is
/// known. It is asked once for each that is to go, and takes the place.
pub type HasPlace<'a> = dyn FnMut(AllocationId) -> bool + 'a;

/// Tasks of which one tick asks for places: each costs a search among all nodes.
const PLACES_ASKED_MAX: usize = 8;
/// Whose turn it is to ask moves on so often, or those without a place would keep those
/// behind them from ever asking. The leader asks no further in a turn in which none had one.
const TURN_MS: u64 = 1_000;
/// Allocations of a node whose waiting is told.
const WAITS_SHOWN_MAX: usize = 100;

/// Whose turn it is to ask for a place.
pub fn turn_of(now: StateMs) -> u64 {
    now.0 / TURN_MS
}

/// `going` is what this tick has given orders about already; a second order
/// would change why it ends.
pub(crate) fn commands(
    view: &ClusterState,
    going: &BTreeSet<AllocationId>,
    has_place: &mut HasPlace<'_>,
    now: StateMs,
) -> Vec<Command> {
    let mut stops: BTreeMap<NodeId, Vec<AllocationId>> = BTreeMap::new();
    let mut replicas: BTreeMap<(JobId, TaskIndex), BTreeSet<AllocationId>> = BTreeMap::new();
    let mut gone = going.clone();
    for node in view.nodes().values() {
        let Purpose::Draining(drain) = node.purpose else { continue };
        let rows = rows_of(view, node, going);
        let stops = stops.entry(node.id).or_default();
        if is_over(drain, now) {
            stops.extend(rows.iter().map(|row| row.id));
            gone.extend(rows.iter().map(|row| row.id));
            continue;
        }
        if node.state != NodeState::Ready {
            continue;
        }
        let only_daemons = has_only_daemons(view, node);
        for row in rows {
            match kind(view, row.id) {
                Some(JobKind::Service) => {
                    replicas.entry((row.id.job, row.id.task)).or_default().insert(row.id);
                }
                Some(JobKind::Daemon) if only_daemons => stops.push(row.id),
                Some(JobKind::Daemon | JobKind::Batch) | None => {}
            }
        }
    }
    let next = replicas.into_iter().filter_map(|((job, task), here)| {
        // In place of what is held nothing comes.
        let job = view.jobs().get(&job).filter(|job| job.places())?;
        next_to_go(view, job, task, &gone, |row| here.contains(&row.id))
    });
    let mut next: Vec<&AllocationRow> = next.collect();
    // Each turn begins where the one before it ended.
    let first = turn_of(now).wrapping_mul(PLACES_ASKED_MAX as u64) % (next.len() as u64).max(1);
    next.rotate_left(usize::try_from(first).unwrap_or(0));
    for row in next.into_iter().take(PLACES_ASKED_MAX) {
        if has_place(row.id) {
            stops.entry(row.node).or_default().push(row.id);
        }
    }
    stops.into_iter().filter_map(|(node, stops)| order(view, node, stops)).collect()
}

/// Whether what is left on the node leaves now, whatever it is.
pub(crate) fn is_over(drain: Drain, now: StateMs) -> bool {
    drain.deadline.is_some_and(|deadline| deadline <= now)
}

/// What of a node that is being emptied waits, and for what; at most a hundred of what
/// `is_shown`. Places are asked for as few as in one tick.
pub fn drain_waits(
    view: &ClusterState,
    node: &NodeRow,
    is_shown: impl Fn(AllocationId) -> bool,
    has_place: &mut HasPlace<'_>,
) -> Vec<(AllocationId, DrainWait)> {
    let Purpose::Draining(_) = node.purpose else { return Vec::new() };
    let nothing = BTreeSet::new();
    let is_silent = node.state != NodeState::Ready;
    let only_daemons = has_only_daemons(view, node);
    let mut next: BTreeMap<(JobId, TaskIndex), Option<AllocationId>> = BTreeMap::new();
    let mut asked = 0;
    let mut of_replica = |row: &AllocationRow| {
        let job = view.jobs().get(&row.id.job)?;
        if !job.places() {
            return Some(DrainWait::Held);
        }
        // Of a task that is on several such nodes one moves, wherever it is.
        let next = next.entry((row.id.job, row.id.task)).or_insert_with(|| {
            let leaves = |other: &AllocationRow| is_emptied(view, other.node);
            next_to_go(view, job, row.id.task, &nothing, leaves).map(|row| row.id)
        });
        if *next != Some(row.id) {
            return Some(DrainWait::OtherReplicas);
        }
        asked += 1;
        if asked > PLACES_ASKED_MAX {
            return Some(DrainWait::Turn);
        }
        (!has_place(row.id)).then_some(DrainWait::Place)
    };
    let live = rows_of(view, node, &nothing).into_iter().filter(|row| is_shown(row.id));
    let live = live.filter_map(|row| {
        let wait = match kind(view, row.id) {
            _ if is_silent => Some(DrainWait::SilentNode),
            Some(JobKind::Service) => of_replica(row),
            Some(JobKind::Batch) => Some(DrainWait::ItsEnd),
            Some(JobKind::Daemon) => (!only_daemons).then_some(DrainWait::AllElse),
            None => None,
        };
        wait.map(|wait| (row.id, wait))
    });
    let away = node
        .away
        .keys()
        .filter(|id| is_shown(**id))
        .map(|id| (*id, if is_silent { DrainWait::SilentNode } else { DrainWait::ItsWorker }));
    live.chain(away).take(WAITS_SHOWN_MAX).collect()
}

/// Whether replicas on it are to move now.
fn is_emptied(view: &ClusterState, node: NodeId) -> bool {
    view.nodes().get(&node).is_some_and(|row| {
        row.state == NodeState::Ready && matches!(row.purpose, Purpose::Draining(_))
    })
}

/// What something on a node that is being emptied waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DrainWait {
    /// No other node takes it now.
    Place,
    /// Others are asked about first.
    Turn,
    /// Its job is held, and nothing would come in its place.
    Held,
    /// Others of its task are not ready, or move before it.
    OtherReplicas,
    /// Batch work may finish.
    ItsEnd,
    /// A daemon goes last.
    AllElse,
    /// It was given up or replaced, and its worker has not ended.
    ItsWorker,
    /// Its node is silent and can be told nothing.
    SilentNode,
}

fn has_only_daemons(view: &ClusterState, node: &NodeRow) -> bool {
    node.live.iter().all(|id| kind(view, *id) == Some(JobKind::Daemon))
}

fn rows_of<'a>(
    view: &'a ClusterState,
    node: &NodeRow,
    going: &BTreeSet<AllocationId>,
) -> Vec<&'a AllocationRow> {
    node.live
        .iter()
        .filter_map(|id| view.allocations().get(id))
        .map(|row| &**row)
        .filter(|row| row.state.stop_intent().is_none() && !going.contains(&row.id))
        .collect()
}

fn order(view: &ClusterState, node: NodeId, mut stops: Vec<AllocationId>) -> Option<Command> {
    stops.truncate(ALLOCATIONS_IN_COMMAND_MAX);
    let name = &view.nodes().get(&node)?.name;
    (!stops.is_empty()).then(|| Command::StopAllocations {
        allocations: stops,
        intent: StopIntent::Drain,
        reason: format!("node {name} is being drained"),
    })
}

fn kind(view: &ClusterState, id: AllocationId) -> Option<JobKind> {
    view.jobs().get(&id.job).map(|job| job.kind())
}
