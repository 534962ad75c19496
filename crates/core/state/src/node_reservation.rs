//! Reservations of nodes, and what they mean for whoever asks for a place there: the one rule that
//! planning, apply and explanations share.

use std::sync::Arc;

use berth_model::{
    AtBegin, DurationMs, JobKind, JobSpec, Misfit, Name, NodeReservation, StateMs, TaskSpec, WallMs,
};

use crate::node::NodeRow;
use crate::reservation::RESTART_MS;
use crate::state::ClusterState;
use crate::table::Table;

/// A reservation that is ahead or in force; once it is over its row is gone.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeReservationRow {
    pub spec: NodeReservation,
    /// Counts changes, from 1.
    pub version: u32,
    /// It is in force: said once by the log, as no two clocks agree on when that is.
    pub begun: bool,
    pub changed_at: WallMs,
}

/// What a task has to show where nodes are reserved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Permit {
    /// A bit for each reservation, in the order of their names, that lets it in.
    pub lets_in: u64,
    /// Within what it ends, its start and its grace included; `None`: nobody knows, or nobody asks.
    pub lasts: Option<DurationMs>,
}

/// A reservation as one of its nodes has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    pub name: Name,
    /// Which bit of a permit is for it.
    bit: u32,
    /// How long it is until it begins; `None`: it has.
    pub left: Option<DurationMs>,
}

impl NodeReservationRow {
    /// Whether something of a job is let in while it is in force. Daemons belong to their node.
    pub fn lets_in(&self, spec: &JobSpec) -> bool {
        spec.kind == JobKind::Daemon || self.spec.lets_in(&spec.namespace, spec.priority)
    }

    pub fn covers(&self, node: &NodeRow) -> bool {
        self.spec.covers(&node.name, &node.spec.pool)
    }

    /// Whether it keeps anybody out now: where others are asked to end when it begins, they may
    /// run there until then.
    pub(crate) fn is_felt(&self) -> bool {
        self.begun || self.spec.running == AtBegin::Keep
    }

    /// What there is to do about it at a moment.
    pub fn is_due(&self, wall: WallMs) -> bool {
        (!self.begun && self.spec.from <= wall) || self.is_over(wall)
    }

    pub fn is_over(&self, wall: WallMs) -> bool {
        self.spec.until.is_some_and(|until| until <= wall)
    }
}

impl Permit {
    /// Of the same where nobody knows when it begins.
    #[must_use]
    pub fn later(self) -> Permit {
        Permit { lasts: None, ..self }
    }

    /// Of the same if it ended within so long, its start and its grace included.
    #[must_use]
    pub fn within(self, lasts: DurationMs) -> Permit {
        Permit { lasts: Some(lasts), ..self }
    }
}

impl Hold {
    /// Whether something may be put there now.
    pub fn lets_in(&self, permit: Permit) -> bool {
        let ends = |left| permit.lasts.is_some_and(|lasts| lasts <= left);
        permit.lets_in >> self.bit & 1 == 1 || self.left.is_some_and(ends)
    }

    /// The same, with the reason why not.
    ///
    /// # Errors
    /// `Misfit::Reserved` and `Misfit::ReservedSoon`.
    pub fn check(&self, permit: Permit) -> Result<(), Misfit> {
        let reservation = || self.name.to_string();
        match self.left {
            _ if self.lets_in(permit) => Ok(()),
            None => Err(Misfit::Reserved { reservation: reservation() }),
            Some(left) => Err(Misfit::ReservedSoon { reservation: reservation(), left }),
        }
    }
}

/// Whether something may be put now on a node that is reserved like this.
///
/// # Errors
/// The first reason why not.
pub fn let_in(holds: &[Hold], permit: Permit) -> Result<(), Misfit> {
    holds.iter().try_for_each(|hold| hold.check(permit))
}

impl ClusterState {
    pub fn node_reservations(&self) -> &Table<Name, NodeReservationRow> {
        &self.node_reservations
    }

    /// What the wall clock shows at a moment, by the clocks of the last entry.
    pub fn wall_at(&self, now: StateMs) -> WallMs {
        WallMs(self.cluster.wall_ms.0.saturating_add(now.since(self.cluster.state_ms).0))
    }

    /// When the next reservation of nodes begins or is over, by the clocks of the last entry.
    pub fn next_turn(&self, now: StateMs) -> Option<StateMs> {
        let wall = self.wall_at(now);
        let turn = |row: &Arc<NodeReservationRow>| match row.begun {
            true => row.spec.until,
            false => Some(row.spec.from),
        };
        let turns = self.node_reservations.values().filter_map(turn);
        turns.map(|at| now.after(at.since(wall))).min()
    }

    /// What a task of a job has to show, where it would begin now.
    pub fn permit(&self, spec: &JobSpec, task: &TaskSpec) -> Permit {
        let permit = self.permit_later(spec);
        let asks = |(bit, row): (u32, &Arc<NodeReservationRow>)| {
            row.is_felt() && !row.begun && permit.lets_in >> bit & 1 == 0
        };
        let lasts = |limit: DurationMs| {
            DurationMs(RESTART_MS.saturating_add(limit.0).saturating_add(task.stop.grace.0))
        };
        let is_asked = self.numbered_reservations().any(asks);
        Permit { lasts: task.time_limit.map(lasts).filter(|_| is_asked), ..permit }
    }

    /// The same where nobody knows when it begins.
    pub fn permit_later(&self, spec: &JobSpec) -> Permit {
        let lets_in = |(_, row): &(u32, &Arc<NodeReservationRow>)| row.lets_in(spec);
        let bits = self.numbered_reservations().filter(lets_in).map(|(bit, _)| 1 << bit);
        Permit { lets_in: bits.fold(0, |all, bit: u64| all | bit), lasts: None }
    }

    /// How a node is reserved. Costs nothing where no node is.
    pub fn holds_on(&self, node: &NodeRow, now: StateMs) -> Vec<Hold> {
        let wall = self.wall_at(now);
        let on_it =
            self.numbered_reservations().filter(|(_, row)| row.is_felt() && row.covers(node));
        let hold = |(bit, row): (u32, &Arc<NodeReservationRow>)| {
            let left = (!row.begun).then(|| row.spec.from.since(wall));
            Hold { name: row.spec.name.clone(), bit, left }
        };
        on_it.map(hold).collect()
    }

    fn numbered_reservations(&self) -> impl Iterator<Item = (u32, &Arc<NodeReservationRow>)> {
        (0..u64::BITS).zip(self.node_reservations.values())
    }
}
