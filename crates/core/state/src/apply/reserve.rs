//! Keeping places: what is less urgent ends, and what it ends for starts in the same step as the
//! last of them is gone. Until then the place is nobody else's.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, Claim, NodeId, StopIntent};

use super::Step;
use crate::command::Reservation;
use crate::event::EventKind;
use crate::refusal::Refusal;
use crate::reservation::{KeptPlace, NotAVictim, ReservationRow, may_end, may_preempt};
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
        let job = self.state.job_row(placement.job)?.clone();
        if job.is_gang(id.task) {
            let (job, members) = (id.job, job.count_of(id.task));
            return Err(Refusal::GangIncomplete { job, members, found: 1 });
        }
        let victims = self.awaitable(reservation)?;
        if victims.is_empty() {
            // All have ended meanwhile.
            return self.grant(placement, None);
        }
        let node = self.state.node_row(placement.node)?.clone();
        self.may_begin(&job, placement)?;
        if self.state.is_reserved(id.job, id.task, id.instance) {
            return Err(Refusal::NotPending(id));
        }
        let joined = joined(&node, &victims)?;
        // As the node will be when all who are awaited have ended.
        let mut later = NodeRow::clone(&node);
        victims.iter().for_each(|row| later.used.remove(&row.claim));
        if let Some(joined) = joined {
            later.used.remove(&node.reservations[joined].held);
            let members = node.reservations[joined].members.values();
            members.for_each(|place| later.used.add(&place.claim));
        }
        let claim = self.claim_fits(&job, &later, id, placement)?;
        let place = KeptPlace { claim, score: placement.score.clone() };
        let awaits: BTreeSet<_> = victims.iter().map(|row| row.id).collect();
        let before = joined.map(|at| &node.reservations[at]);
        self.state.check_kept_quota(job.namespace(), before, (id, &place), &awaits)?;
        self.put_place(node.id, joined, (id, place), awaits);
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

    fn put_place(
        &mut self,
        node: NodeId,
        joined: Option<usize>,
        (id, place): (AllocationId, KeptPlace),
        awaits: BTreeSet<AllocationId>,
    ) {
        let at = joined.unwrap_or(usize::MAX);
        let members = BTreeMap::new();
        let new = ReservationRow { members, awaits, held: Claim::default() };
        self.change_reservation(node, at, new, |row| {
            row.members.insert(id, place);
        });
    }

    /// Changes the reservation at this position, or appends the new one, changed; what is held
    /// follows, and one without members goes.
    fn change_reservation(
        &mut self,
        node: NodeId,
        at: usize,
        new: ReservationRow,
        change: impl FnOnce(&mut ReservationRow),
    ) {
        let Some(row) = self.state.nodes.get(&node) else { return };
        let before = row.reservations.get(at).cloned();
        let mut after = before.clone().unwrap_or(new);
        change(&mut after);
        after.held = after.to_hold(self.state);
        self.state.nodes.edit(&node, |row| {
            if let Some(before) = before {
                row.used.remove(&before.held);
                row.reservations.remove(at);
            }
            if !after.members.is_empty() && !after.awaits.is_empty() {
                row.used.add(&after.held);
                row.reservations.insert(at.min(row.reservations.len()), after);
            }
        });
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
        let gpu_milli = victim.claim.gpu_milli();
        let owner = self.state.jobs.get(&victim.id.job);
        // A name is for those who may see the job.
        let named = match owner.is_some_and(|owner| owner.namespace() == job.namespace()) {
            true => format!("{id} of job `{}`", job.name()),
            false => format!("{id} of another namespace"),
        };
        format!(
            "preempted for {named}: priority {} against {found}, and a gap of {} is enough; \
             what it did in {}.{:03} s on {}.{:03} GPUs is lost",
            job.spec.priority,
            berth_model::PREEMPTION_GAP,
            ran / 1000,
            ran % 1000,
            gpu_milli / 1000,
            gpu_milli % 1000,
        )
    }

    /// An allocation of the node has ended: what waited for it and for nothing else starts.
    pub(super) fn awaited_ended(&mut self, node: NodeId, ended: AllocationId) {
        let Some((at, mut reservation)) =
            self.reservation_where(node, |one| one.awaits.contains(&ended))
        else {
            return;
        };
        self.change_reservation(node, at, reservation.clone(), |row| {
            row.awaits.remove(&ended);
        });
        reservation.awaits.remove(&ended);
        if !reservation.awaits.is_empty() {
            return;
        }
        for id in reservation.members.keys() {
            self.state.index.reserved.remove(id);
        }
        for (id, place) in reservation.members {
            if let Err(refusal) = self.grant(&place.placement(id, node), None) {
                let reason = refusal.to_string();
                self.emit_allocation(id, node, EventKind::ReservationDropped { reason });
            }
        }
    }

    fn reservation_where(
        &self,
        node: NodeId,
        holds: impl Fn(&ReservationRow) -> bool,
    ) -> Option<(usize, ReservationRow)> {
        let row = self.state.nodes.get(&node)?;
        let at = row.reservations.iter().position(holds)?;
        Some((at, row.reservations[at].clone()))
    }

    /// The places of those that are named are kept no longer; what was asked to end for them ends.
    pub(super) fn drop_named(&mut self, named: &[AllocationId], reason: &str) -> Reply {
        for id in named {
            self.drop_place(*id, reason);
        }
        Reply::Done
    }

    /// The node takes nothing new any more.
    pub(super) fn drop_places_on(&mut self, node: NodeId, reason: &str) {
        let Some(row) = self.state.nodes.get(&node) else { return };
        let members = row.reservations.iter().flat_map(|one| one.members.keys());
        let ids: Vec<AllocationId> = members.copied().collect();
        self.drop_named(&ids, reason);
    }

    /// An awaited allocation is no longer live, and what it holds is not free.
    pub(super) fn drop_places_for(&mut self, node: NodeId, awaited: AllocationId) {
        let waits = |one: &ReservationRow| one.awaits.contains(&awaited);
        if let Some((_, reservation)) = self.reservation_where(node, waits) {
            let ids: Vec<AllocationId> = reservation.members.keys().copied().collect();
            self.drop_named(&ids, "what it waited for gave its place to another attempt");
        }
    }

    fn drop_place(&mut self, id: AllocationId, reason: &str) {
        let Some(node) = self.state.index.reserved.remove(&id) else { return };
        let found = self.reservation_where(node, |one| one.members.contains_key(&id));
        let Some((at, reservation)) = found else { return };
        self.change_reservation(node, at, reservation, |row| {
            row.members.remove(&id);
        });
        let reason = super::bounded(reason, crate::rows::REASON_BYTES_MAX);
        self.emit_allocation(id, node, EventKind::ReservationDropped { reason });
    }
}

/// The reservation that awaits exactly those who are named; none if nothing awaits any of them.
fn joined(node: &NodeRow, victims: &[AllocationRow]) -> Result<Option<usize>, Refusal> {
    let named: BTreeSet<AllocationId> = victims.iter().map(|row| row.id).collect();
    for (at, reservation) in node.reservations.iter().enumerate() {
        if let Some(victim) = reservation.awaits.intersection(&named).next() {
            let refusal = Refusal::NotAVictim { victim: *victim, why: NotAVictim::Awaited };
            return if reservation.awaits == named { Ok(Some(at)) } else { Err(refusal) };
        }
    }
    Ok(None)
}

impl NodeRow {
    /// Nothing of it is promised to what has yet to start.
    pub(crate) fn drop_reservations(&mut self) {
        for reservation in std::mem::take(&mut self.reservations) {
            self.used.remove(&reservation.held);
        }
    }
}
