//! Reservations of nodes: they are set, begin, and are over. What begins and ends by the calendar
//! is said by an entry of the log, once, and asked by the clock of that entry.

use std::sync::Arc;

use berth_model::{
    AllocationId, AtBegin, NODE_RESERVATIONS_MAX, Name, NodeReservation, ReservedNodes, StopIntent,
    validate_node_reservation,
};

use super::Step;
use crate::command::Placement;
use crate::event::EventKind;
use crate::node::NodeRow;
use crate::node_reservation::{NodeReservationRow, let_in};
use crate::refusal::Refusal;
use crate::rows::JobRow;
use crate::state::Reply;

/// When an instance would begin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    Now,
    /// Nobody knows when those have ended whom it waits for.
    Later,
}

impl Step<'_> {
    /// Sets a reservation, or changes it; one that begins no later than now begins with it.
    pub(super) fn reserve_nodes(
        &mut self,
        spec: &NodeReservation,
        if_version: Option<u32>,
    ) -> Result<Reply, Refusal> {
        if self.state.cluster.id == [0; 16] {
            return Err(Refusal::NotFounded);
        }
        if let Some(first) = validate_node_reservation(spec).first() {
            return Err(Refusal::Invalid(format!("{}: {}", first.field, first.message)));
        }
        if spec.until.is_some_and(|until| until <= self.wall) {
            return Err(Refusal::Invalid("until: expected a time that is not over yet".to_owned()));
        }
        let known = self.state.node_reservations.get(&spec.name).cloned();
        let found = known.as_ref().map_or(0, |row| row.version);
        // Whoever repeats it, not knowing that it was done, is answered like the first time.
        if known.as_ref().is_some_and(|row| row.spec == *spec) {
            return Ok(Reply::NodesReserved { version: found });
        }
        check_version(&spec.name, if_version, found)?;
        if found == 0 && self.state.node_reservations.len() >= NODE_RESERVATIONS_MAX {
            return Err(Refusal::TooManyNodeReservations);
        }
        self.check_alone(spec)?;
        let version = found.saturating_add(1);
        // One in force stays so unless its beginning is moved, whatever this leader's clock shows.
        let goes_on = |row: &NodeReservationRow| {
            row.begun && (spec.from <= row.spec.from || spec.from <= self.wall)
        };
        let begun = known.is_some_and(|row| goes_on(&row));
        let row = NodeReservationRow { spec: spec.clone(), version, begun, changed_at: self.wall };
        let name = spec.name.clone();
        self.state.node_reservations.insert(name.clone(), Arc::new(row.clone()));
        self.emit(None, None, None, EventKind::NodesReserved { name: name.clone(), version });
        self.let_places_go(&row);
        if begun {
            self.clear_for(&row);
        } else {
            self.turn_node_reservation(&name)?;
        }
        Ok(Reply::NodesReserved { version })
    }

    /// Nothing is reserved by it any more.
    pub(super) fn free_nodes(
        &mut self,
        name: &Name,
        if_version: Option<u32>,
    ) -> Result<Reply, Refusal> {
        let known = self.state.node_reservations.get(name);
        let found = known.ok_or_else(|| Refusal::NoSuchNodeReservation(name.clone()))?.version;
        check_version(name, if_version, found)?;
        self.state.node_reservations.remove(name);
        self.emit(None, None, None, EventKind::NodesFreed { name: name.clone(), over: false });
        Ok(Reply::Done)
    }

    /// Begins it, or ends it, if its time has come.
    pub(super) fn turn_node_reservation(&mut self, name: &Name) -> Result<Reply, Refusal> {
        let known = self.state.node_reservations.get(name).cloned();
        let row = known.ok_or_else(|| Refusal::NoSuchNodeReservation(name.clone()))?;
        if row.is_over(self.wall) {
            self.state.node_reservations.remove(name);
            self.emit(None, None, None, EventKind::NodesFreed { name: name.clone(), over: true });
        } else if !row.begun && row.spec.from <= self.wall {
            let row = NodeReservationRow { begun: true, ..NodeReservationRow::clone(&row) };
            self.state.node_reservations.insert(name.clone(), Arc::new(row.clone()));
            self.emit(None, None, None, EventKind::ReservationBegun { name: name.clone() });
            self.let_places_go(&row);
            self.clear_for(&row);
        }
        Ok(Reply::Done)
    }

    /// Whether something of a job may be put on a node, as far as that is reserved.
    pub(super) fn check_let_in(
        &self,
        job: &JobRow,
        node: &NodeRow,
        placement: &Placement,
        begins: Begins,
    ) -> Result<(), Refusal> {
        let allocation = placement.allocation();
        let task = job.spec.tasks.get(usize::from(placement.task.0));
        let task = task.ok_or(Refusal::NotPending(allocation))?;
        let permit = match begins {
            Begins::Now => self.state.permit(&job.spec, task),
            Begins::Later => self.state.permit_later(&job.spec),
        };
        let let_in = let_in(&self.state.holds_on(node, self.now), permit);
        let_in.map_err(|misfit| Refusal::DoesNotFit { allocation, misfit })
    }

    /// A node is in a pool that it was not in before: what is reserved of that is reserved of it.
    /// What runs on it is not asked to end, since no reservation begins.
    pub(super) fn let_places_go_of_all(&mut self) {
        let rows: Vec<Arc<NodeReservationRow>> =
            self.state.node_reservations.values().cloned().collect();
        rows.iter().for_each(|row| self.let_places_go(row));
    }

    /// What is not let in keeps no place on its nodes: nobody knows when it would begin there.
    fn let_places_go(&mut self, row: &NodeReservationRow) {
        if !row.is_felt() {
            return;
        }
        let nodes = self.state.nodes.values().filter(|node| row.covers(node));
        let kept = nodes.flat_map(|node| node.reservations.iter());
        let kept = kept.flat_map(|one| one.members.keys()).filter(|id| !self.stays(row, id));
        let kept: Vec<AllocationId> = kept.copied().collect();
        let reason = format!("its node is reserved (`{}`), and not for such jobs", row.spec.name);
        self.drop_named(&kept, &reason);
    }

    /// What is not let in is asked to end, if that was said.
    fn clear_for(&mut self, row: &NodeReservationRow) {
        if row.spec.running == AtBegin::Keep {
            return;
        }
        let nodes = self.state.nodes.values().filter(|node| row.covers(node));
        let ends = nodes.flat_map(|node| node.live.iter()).filter(|id| !self.stays(row, id));
        // What ends already does so for its own reason.
        let live = ends.filter_map(|id| self.state.allocations.get(id));
        let ends = live.filter(|row| row.state.stop_intent().is_none());
        let ends: Vec<AllocationId> = ends.map(|row| row.id).collect();
        let reason =
            format!("its node is reserved now (`{}`), and not for such jobs", row.spec.name);
        for id in ends {
            self.stop_allocation(id, StopIntent::Drain, &reason);
        }
    }

    fn stays(&self, row: &NodeReservationRow, id: &AllocationId) -> bool {
        self.state.jobs.get(&id.job).is_none_or(|job| row.lets_in(&job.spec))
    }

    /// Two of one time share no node: what either says would not be true.
    fn check_alone(&self, spec: &NodeReservation) -> Result<(), Refusal> {
        let others = self.state.node_reservations.values();
        let others = others.filter(|row| row.spec.name != spec.name && row.spec.meets(spec));
        for other in others {
            let both = match (&spec.nodes, &other.spec.nodes) {
                (ReservedNodes::Pool(one), ReservedNodes::Pool(two)) => {
                    (one == two).then(|| format!("pool `{one}`"))
                }
                (ReservedNodes::Named(one), ReservedNodes::Named(two)) => {
                    one.intersection(two).next().map(|name| format!("node `{name}`"))
                }
                _ => self.node_of_both(spec, &other.spec).map(|name| format!("node `{name}`")),
            };
            if let Some(both) = both {
                let (name, other) = (spec.name.clone(), other.spec.name.clone());
                return Err(Refusal::ReservedTwice { name, other, both });
            }
        }
        Ok(())
    }

    fn node_of_both(&self, one: &NodeReservation, other: &NodeReservation) -> Option<Name> {
        let covers =
            |spec: &NodeReservation, node: &NodeRow| spec.covers(&node.name, &node.spec.pool);
        let mut nodes = self.state.nodes.values();
        let node = nodes.find(|node| covers(one, node) && covers(other, node))?;
        Some(node.name.clone())
    }
}

fn check_version(name: &Name, if_version: Option<u32>, found: u32) -> Result<(), Refusal> {
    match if_version.filter(|asked| *asked != found) {
        Some(asked) => Err(Refusal::NodeReservationConflict { name: name.clone(), asked, found }),
        None => Ok(()),
    }
}
