//! Where a host runs out of memory, work leaves it for other nodes before the kernel ends some: one
//! at a time, the one that can best be spared first, and only to where it has a place.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use berth_model::{
    AllocationId, DurationMs, JobKind, NodeId, NodeState, QualityClass, StateMs, StopIntent,
};
use berth_state::movable::may_move;
use berth_state::{AllocationRow, ClusterState, Command, NodeRow, Purpose};

use crate::drain::{HasPlace, turn_of};
use crate::guards::{GuardRules, HostWatch, Marks};
use crate::replicas::next_to_go;

/// So long what has ended takes to show in what its host has left, at five heartbeats. Nobody else
/// is asked to leave before, so no more than six leave a node in a minute.
const SETTLES: DurationMs = DurationMs::from_secs(10);
/// Searches for places of one tick, of all nodes together; each costs O(nodes).
const PLACES_ASKED_MAX: usize = 8;

/// One who leaves its node.
#[derive(Clone, PartialEq, Debug)]
pub struct Relief {
    pub node: NodeId,
    pub command: Command,
}

/// Who can best be spared comes first: what asks for nothing in particular before what is
/// promised something, then the less urgent, then whoever loses less.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Spared {
    quality: Reverse<QualityClass>,
    priority: u8,
    work_lost: u64,
    id: AllocationId,
}

/// Of each node that is short of memory the one who leaves now, if there is one. `going` is what
/// this tick has given orders about already.
pub fn reliefs(
    view: &ClusterState,
    watch: &HostWatch,
    rules: &GuardRules,
    going: &BTreeSet<AllocationId>,
    has_place: &mut HasPlace<'_>,
    now: StateMs,
) -> Vec<Relief> {
    let Some(marks) = rules.memory else { return Vec::new() };
    let mut short: Vec<&NodeRow> = view
        .nodes()
        .values()
        .map(|node| &**node)
        .filter(|node| node.guards.memory.is_some() && may_be_relieved(node))
        .filter(|node| watch.is_short_for(node.id, marks, SETTLES, now))
        .collect();
    // Where nobody finds a place others come before long.
    let first = turn_of(now) % (short.len() as u64).max(1);
    short.rotate_left(usize::try_from(first).unwrap_or(0));
    let mut going = going.clone();
    let mut asks_left = PLACES_ASKED_MAX;
    let mut found = Vec::new();
    for node in short {
        let spared = to_spare(view, node, now);
        let count = spared.len();
        for one in spared {
            if !may_leave(view, one.id, &going) {
                continue;
            }
            if asks_left == 0 {
                return found;
            }
            asks_left -= 1;
            if has_place(one.id) {
                going.insert(one.id);
                let command =
                    order(view, node, (one, count), marks, watch.used_percent(node.id, now).1);
                found.push(Relief { node: node.id, command });
                break;
            }
        }
    }
    found
}

/// One that is being emptied is relieved by that, and a silent one can be told nothing.
fn may_be_relieved(node: &NodeRow) -> bool {
    match node.purpose {
        Purpose::Work | Purpose::Cordoned => node.state == NodeState::Ready,
        Purpose::Draining(_) => false,
    }
}

/// Those who may move, who can best be spared first.
fn to_spare(view: &ClusterState, node: &NodeRow, now: StateMs) -> Vec<Spared> {
    let live = node.live.iter().filter_map(|id| view.allocations().get(id));
    let mut spared: Vec<Spared> = live.filter_map(|row| spared(view, row, now)).collect();
    spared.sort_unstable();
    spared
}

fn spared(view: &ClusterState, row: &AllocationRow, now: StateMs) -> Option<Spared> {
    let job = view.jobs().get(&row.id.job)?;
    let task = job.spec.tasks.get(usize::from(row.id.task.0))?;
    // In place of what is held nothing comes.
    if row.state.stop_intent().is_some() || !job.places() {
        return None;
    }
    let work_lost = may_move(view, job, row, now).ok()?;
    let (quality, priority) = (Reverse(task.quality()), job.spec.priority);
    Some(Spared { quality, priority, work_lost, id: row.id })
}

/// Of a service one goes while the others serve, wherever they are.
fn may_leave(view: &ClusterState, id: AllocationId, going: &BTreeSet<AllocationId>) -> bool {
    let Some(job) = view.jobs().get(&id.job) else { return false };
    match job.kind() {
        JobKind::Batch => !going.contains(&id),
        JobKind::Service => next_to_go(view, job, id.task, going, |row| row.id == id).is_some(),
        JobKind::Daemon => false,
    }
}

fn order(
    view: &ClusterState,
    node: &NodeRow,
    (one, count): (Spared, usize),
    marks: Marks,
    used_percent: Option<u8>,
) -> Command {
    let job = view.jobs().get(&one.id.job);
    let task = job.and_then(|job| job.spec.tasks.get(usize::from(one.id.task.0)));
    let quality = task.map_or("", |task| task.quality().name());
    let used = used_percent.unwrap_or(marks.high_percent);
    let reason = format!(
        "moved elsewhere: {used} % of the memory of node {} is in use, it was above {} %; of {count} \
         that may move this one can best be spared ({quality}, priority {}, {}.{:03} GPU-seconds of \
         work are lost)",
        node.name,
        marks.high_percent,
        one.priority,
        one.work_lost / 1_000_000,
        one.work_lost / 1_000 % 1_000,
    );
    // What costs it no attempt.
    Command::StopAllocations { allocations: vec![one.id], intent: StopIntent::Drain, reason }
}
