//! Who still has something under way at a replica that is to end, by what gateways tell; and when
//! nobody waits for that any more.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, DurationMs, JobId, StateMs, TaskIndex};
use berth_state::{AllocationRow, ClusterState, Command, Draining, Purpose};

use crate::{ALLOCATIONS_IN_COMMAND_MAX, drain};

/// A gateway tells what it has under way each second. One that has missed two turns is taken to be
/// gone, and so are its callers.
pub const GATEWAY_SILENCE: DurationMs = DurationMs::from_secs(3);
/// Gateways that are listened to.
pub const GATEWAYS_MAX: usize = 256;

/// What the gateways last told.
#[derive(Clone, Debug, Default)]
pub struct Gateways {
    told: BTreeMap<String, Told>,
}

#[derive(Clone, Debug)]
struct Told {
    at: StateMs,
    /// Of the view by which it routes.
    index: u64,
    /// Replicas that it asks no more and that still answer it.
    busy: BTreeSet<AllocationId>,
}

/// More gateways tell than [`GATEWAYS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyGateways;

impl Gateways {
    /// What a gateway has told. Those that were silent are forgotten.
    ///
    /// # Errors
    /// Of a further one where there are [`GATEWAYS_MAX`].
    pub fn hear(
        &mut self,
        gateway: &str,
        index: u64,
        busy: BTreeSet<AllocationId>,
        now: StateMs,
    ) -> Result<(), TooManyGateways> {
        self.told.retain(|_, told| is_heard(told.at, now));
        if !self.told.contains_key(gateway) && self.told.len() >= GATEWAYS_MAX {
            return Err(TooManyGateways);
        }
        self.told.insert(gateway.to_owned(), Told { at: now, index, busy });
        Ok(())
    }

    /// Whether this one is.
    pub fn is_there(&self, gateway: &str, now: StateMs) -> bool {
        self.told.get(gateway).is_some_and(|told| is_heard(told.at, now))
    }

    /// How many are there.
    pub fn count(&self, now: StateMs) -> usize {
        self.told.values().filter(|told| is_heard(told.at, now)).count()
    }

    /// Whether each of those who are there has left the replica out of its routes and has nothing
    /// under way at it.
    fn are_done_with(&self, id: AllocationId, draining: Draining, now: StateMs) -> bool {
        let mut there = self.told.values().filter(|told| is_heard(told.at, now));
        there.all(|told| told.index >= draining.since_index && !told.busy.contains(&id))
    }
}

fn is_heard(at: StateMs, now: StateMs) -> bool {
    now.since(at) < GATEWAY_SILENCE
}

/// `watching_since` is when it began to be heard what gateways tell: before all have had their turn
/// nobody is known to have nothing under way.
pub(crate) fn commands(
    view: &ClusterState,
    gateways: &Gateways,
    watching_since: StateMs,
    now: StateMs,
) -> Vec<Command> {
    let all_had_a_turn = now.since(watching_since) >= GATEWAY_SILENCE;
    let waits = view.allocations().values().filter_map(|row| Some((row, row.draining?)));
    let waits: Vec<_> = waits.map(|(row, draining)| (row.clone(), draining)).collect();
    // The members of a gang answer together.
    let is_gang = |row: &AllocationRow| row.seat.is_some();
    let mut busy_gangs: BTreeSet<(JobId, TaskIndex)> = BTreeSet::new();
    let is_done = |row: &AllocationRow, draining| {
        all_had_a_turn && gateways.are_done_with(row.id, draining, now)
    };
    for (row, draining) in waits.iter().filter(|(row, _)| is_gang(row)) {
        if !is_done(row, *draining) {
            busy_gangs.insert((row.id.job, row.id.task));
        }
    }
    let mut groups: [(Vec<AllocationId>, &str); 3] = [
        (Vec::new(), "nothing that it was asked is under way any more"),
        (Vec::new(), "its callers had their time"),
        (Vec::new(), "its node is to be empty by now"),
    ];
    for (row, draining) in &waits {
        let is_in_busy_gang = busy_gangs.contains(&(row.id.job, row.id.task));
        let group = if is_done(row, *draining) && !is_in_busy_gang {
            0
        } else if draining.by <= now {
            1
        } else if node_is_to_be_empty(view, row, now) {
            2
        } else {
            continue;
        };
        if groups[group].0.len() < ALLOCATIONS_IN_COMMAND_MAX {
            groups[group].0.push(row.id);
        }
    }
    let groups = groups.into_iter().filter(|(allocations, _)| !allocations.is_empty());
    groups
        .map(|(allocations, reason)| Command::LetGo { allocations, reason: reason.to_owned() })
        .collect()
}

fn node_is_to_be_empty(view: &ClusterState, row: &AllocationRow, now: StateMs) -> bool {
    let node = view.nodes().get(&row.node);
    node.is_some_and(|node| match node.purpose {
        Purpose::Draining(limit) => drain::is_over(limit, now),
        Purpose::Work | Purpose::Cordoned => false,
    })
}
