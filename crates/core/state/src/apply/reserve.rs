//! Keeping places: what is less urgent ends, and what it ends for starts in the same step as the
//! last of them is gone. Until then the place is nobody else's.

use berth_model::{AllocationId, NodeId, StopIntent};

use super::Step;
use crate::command::Reservation;
use crate::event::EventKind;
use crate::refusal::Refusal;
use crate::reservation::{NotAVictim, ReservationRow, may_end, may_preempt};
use crate::rows::{AllocationRow, JobRow, NodeRow};
use crate::state::Reply;

impl Step<'_> {
    pub(super) fn reserve(&mut self, reservations: &[Reservation]) -> Reply {
        let mut granted = Vec::new();
        let mut refused = Vec::new();
        for reservation in reservations {
            match self.reserve_one(reservation) {
                Ok(id) => granted.push(id),
                Err(refusal) => refused.push(refusal),
            }
        }
        Reply::Placed { granted, refused }
    }

    /// Checks everything before anybody is asked to end: nobody ends for what could not start.
    fn reserve_one(&mut self, reservation: &Reservation) -> Result<AllocationId, Refusal> {
        let placement = &reservation.placement;
        let id = placement.allocation();
        let victims = self.awaitable(reservation)?;
        if victims.is_empty() {
            // All have ended meanwhile.
            return self.grant(placement);
        }
        let job = self.state.job_row(placement.job)?.clone();
        let node = self.state.node_row(placement.node)?.clone();
        self.may_begin(&job, placement)?;
        let mut without = NodeRow::clone(&node);
        victims.iter().for_each(|row| without.used.remove(&row.claim));
        let claim = self.claim_fits(&job, &without, id, placement)?;
        let mut row = ReservationRow {
            claim,
            score: placement.score.clone(),
            awaits: victims.iter().map(|row| row.id).collect(),
            held: berth_model::Claim::default(),
            since: self.now,
        };
        row.held = row.to_hold(self.state);
        self.state.nodes.edit(&node.id, |node| {
            node.used.add(&row.held);
            node.reservations.insert(id, row);
        });
        self.state.index.reserved.insert(id, node.id);
        let awaited = u32::try_from(victims.len()).unwrap_or(u32::MAX);
        self.emit_allocation(id, node.id, EventKind::PlaceReserved { awaited });
        for victim in victims {
            if victim.state.stop_intent().is_none() {
                let receipt = self.receipt(&job, id, &victim);
                self.stop_allocation(victim.id, StopIntent::Preempt, &receipt);
            }
        }
        Ok(id)
    }

    /// Those of the named allocations that are still there.
    fn awaitable(&self, reservation: &Reservation) -> Result<Vec<AllocationRow>, Refusal> {
        let placement = &reservation.placement;
        let spec = &self.state.job_row(placement.job)?.spec;
        let mut rows = Vec::new();
        for victim in &reservation.awaits {
            let refuse = |why| Refusal::NotAVictim { victim: *victim, why };
            let Some(row) = self.state.allocations.get(victim) else { continue };
            let Some(owner) = self.state.jobs.get(&victim.job) else { continue };
            if row.node != placement.node {
                return Err(refuse(NotAVictim::Elsewhere));
            }
            if self.state.awaited_by(row).is_some() {
                return Err(refuse(NotAVictim::Awaited));
            }
            if !may_preempt(spec) {
                let (found, asked) = (owner.spec.priority, spec.priority);
                return Err(refuse(NotAVictim::TooUrgent { found, asked }));
            }
            may_end(spec, owner, row, self.now).map_err(refuse)?;
            rows.push(AllocationRow::clone(row));
        }
        Ok(rows)
    }

    /// What a victim is told: for whom, by which rule, and what is lost.
    fn receipt(&self, job: &JobRow, id: AllocationId, victim: &AllocationRow) -> String {
        let found = self.state.jobs.get(&victim.id.job).map_or(0, |owner| owner.spec.priority);
        let ran = victim.running_since.map_or(0, |since| self.now.since(since).0);
        let gpu_milli: u64 =
            victim.claim.devices.iter().map(|device| u64::from(device.share.0)).sum();
        format!(
            "preempted for {id} of job `{}`: priority {} against {found}, and a gap of {} is enough; \
             what it did in {}.{:03} s on {}.{:03} GPUs is lost",
            job.name(),
            job.spec.priority,
            berth_model::PREEMPTION_GAP,
            ran / 1000,
            ran % 1000,
            gpu_milli / 1000,
            gpu_milli % 1000,
        )
    }

    /// An allocation of the node has ended: what waited for it alone starts.
    pub(super) fn awaited_ended(&mut self, node: NodeId, ended: AllocationId) {
        let Some(row) = self.state.nodes.get(&node) else { return };
        let awaiting = row.reservations.iter().find(|(_, place)| place.awaits.contains(&ended));
        let Some((id, mut place)) = awaiting.map(|(id, place)| (*id, place.clone())) else {
            return;
        };
        place.awaits.remove(&ended);
        if place.awaits.is_empty() {
            self.unreserve(node, id);
            if let Err(refusal) = self.grant(&place.placement(id, node)) {
                let reason = refusal.to_string();
                self.emit_allocation(id, node, EventKind::ReservationDropped { reason });
            }
            return;
        }
        let held = place.to_hold(self.state);
        let before = std::mem::replace(&mut place.held, held);
        self.state.nodes.edit(&node, |row| {
            row.used.remove(&before);
            row.used.add(&place.held);
            row.reservations.insert(id, place);
        });
    }

    /// Those that are named are kept no longer; what was asked to end for them ends.
    pub(super) fn drop_named(&mut self, named: &[AllocationId], reason: &str) -> Reply {
        for id in named {
            if let Some(node) = self.state.index.reserved.get(id).copied() {
                self.drop_reservation(node, *id, reason);
            }
        }
        Reply::Done
    }

    /// The node takes nothing new any more.
    pub(super) fn drop_reservations_on(&mut self, node: NodeId, reason: &str) {
        let ids = self.state.nodes.get(&node).map(|row| row.reservations.keys().copied().collect());
        let ids: Vec<AllocationId> = ids.unwrap_or_default();
        for id in ids {
            self.drop_reservation(node, id, reason);
        }
    }

    /// An awaited allocation is no longer live, and what it holds is not free.
    pub(super) fn drop_reservation_for(&mut self, node: NodeId, awaited: AllocationId) {
        let Some(row) = self.state.nodes.get(&node) else { return };
        let awaiting = row.reservations.iter().find(|(_, place)| place.awaits.contains(&awaited));
        if let Some(id) = awaiting.map(|(id, _)| *id) {
            self.drop_reservation(node, id, "what it waited for gave its place to another attempt");
        }
    }

    fn drop_reservation(&mut self, node: NodeId, id: AllocationId, reason: &str) {
        self.unreserve(node, id);
        let reason = super::bounded(reason, crate::rows::REASON_BYTES_MAX);
        self.emit_allocation(id, node, EventKind::ReservationDropped { reason });
    }

    fn unreserve(&mut self, node: NodeId, id: AllocationId) {
        self.state.nodes.edit(&node, |row| row.drop_reservation(id));
        self.state.index.reserved.remove(&id);
    }
}

impl NodeRow {
    pub(crate) fn drop_reservation(&mut self, id: AllocationId) {
        if let Some(place) = self.reservations.remove(&id) {
            self.used.remove(&place.held);
        }
    }

    /// Nothing of it is promised to what has yet to start.
    pub(crate) fn drop_reservations(&mut self) {
        for place in std::mem::take(&mut self.reservations).into_values() {
            self.used.remove(&place.held);
        }
    }
}
