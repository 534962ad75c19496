//! Places that are kept patiently: when they may be, and for what they make way.

use berth_model::{AllocationId, Amounts, Claim, NodeId, PATIENCE};

use super::Step;
use super::node_reservations::Begins;
use crate::command::{Placement, Reservation};
use crate::lending::{Asker, Right};
use crate::node::NodeRow;
use crate::refusal::Refusal;
use crate::reservation::{NotAVictim, ReservationRow, gives_way};
use crate::rows::JobRow;

/// What a placement leaves of the patient places on its node.
pub(super) enum Beside {
    All,
    /// It has ended before the place of this one is whole, and is awaited for it.
    Before(AllocationId),
    /// These make way.
    Instead(Vec<AllocationId>),
}

impl Step<'_> {
    /// Whether a place may be kept for the attempt, wherever. One that is kept patiently makes way
    /// for one where others are asked to end; itself, then.
    pub(super) fn may_wait(
        &self,
        job: &JobRow,
        placement: &Placement,
        right: Right,
    ) -> Result<Option<AllocationId>, Refusal> {
        let id = placement.allocation();
        self.may_begin(job, placement)?;
        if !self.state.is_reserved(id.job, id.task, id.instance) {
            return Ok(None);
        }
        match right != Right::Patience && self.state.is_reserved_patiently(id) {
            true => Ok(Some(id)),
            false => Err(Refusal::NotPending(id)),
        }
    }

    /// By what right others end for it.
    pub(super) fn right_of(&self, job: &JobRow, places: &[Reservation]) -> Result<Right, Refusal> {
        if !places.iter().any(|one| one.patient) {
            let placements = places.iter().map(|one| &one.placement);
            let own = placements.clone().next().map(Placement::allocation);
            return Ok(self.state.right_to(job.namespace(), asked_for(job, placements), own));
        }
        if self.now < job.submitted_ms.after(PATIENCE) {
            let awaited = places.iter().flat_map(|one| &one.awaits).next();
            let victim = awaited.copied().unwrap_or_default();
            return Err(Refusal::NotAVictim { victim, why: NotAVictim::TooSoon });
        }
        Ok(Right::Patience)
    }

    /// A patient place of the node that has time for a task and, without it, room.
    fn with_time_for(
        &self,
        (job, node): (&JobRow, &NodeRow),
        placement: &Placement,
    ) -> Option<(Claim, AllocationId)> {
        let (task, _) = placement.claim_of(job)?;
        let own = self.state.unit_of(placement.allocation());
        let is_own = |one: &ReservationRow| {
            one.members.keys().any(|member| self.state.unit_of(*member) == own)
        };
        let kept = node.reservations.iter().filter(|one| !is_own(one));
        // The first of them; who plans looks at the same.
        let mut kept = kept.filter(|one| one.has_time_for(self.state, task, self.now));
        let one = kept.next()?;
        let mut without = node.clone();
        // Ports are not shared out anew.
        without.used.remove_held(&one.held.without_ports());
        let claim = self.claim_fits(job, &without, placement.allocation(), placement).ok()?;
        Some((claim, one.members.keys().next().copied()?))
    }

    /// What a placement takes, and what becomes of patient places if there is no room beside them.
    pub(super) fn claim_open(
        &self,
        job: &JobRow,
        node: &NodeRow,
        placement: &Placement,
    ) -> Result<(Claim, Beside), Refusal> {
        let id = placement.allocation();
        self.check_let_in(job, node, placement, Begins::Now)?;
        let refusal = match self.claim_fits(job, node, id, placement) {
            Ok(claim) => return Ok((claim, Beside::All)),
            Err(refusal) => refusal,
        };
        if !node.reservations.iter().any(|one| one.patient) {
            return Err(refusal);
        }
        if let Some((claim, member)) = self.with_time_for((job, node), placement) {
            return Ok((claim, Beside::Before(member)));
        }
        // A plan counts what is sure for all of a gang and in its own order; for the sake of a place
        // where nothing runs yet it is not counted again.
        let right = match self.state.guarantee(job.namespace()) {
            Some(_) => Right::Guarantee,
            None => Right::Priority,
        };
        let (open, making_way) = self.opened(Asker { job, right }, node, id);
        Ok((self.claim_fits(job, &open, id, placement)?, Beside::Instead(making_way)))
    }

    /// Somebody more is awaited for a place.
    pub(super) fn await_also(&mut self, node: NodeId, member: AllocationId, id: AllocationId) {
        let is_its = |one: &ReservationRow| one.members.contains_key(&member);
        if let Some((at, row)) = self.reservation_where(node, is_its) {
            self.change_reservation(node, at, row, |row| row.awaits.extend([id]));
        }
    }

    /// The node without the patient places that give way to what asks, and one member of each of
    /// those. Its own place gives way to itself.
    pub(super) fn opened(
        &self,
        asker: Asker<'_>,
        node: &NodeRow,
        own: AllocationId,
    ) -> (NodeRow, Vec<AllocationId>) {
        let is_own = |id: &AllocationId| self.state.unit_of(*id) == self.state.unit_of(own);
        let gives_way = |id: &AllocationId| {
            let owner = self.state.jobs.get(&id.job);
            is_own(id) || owner.is_some_and(|owner| gives_way(asker, owner))
        };
        let mut open = node.clone();
        let mut making_way = Vec::new();
        open.reservations.retain(|one| {
            let first = one.members.keys().next().filter(|id| one.patient && gives_way(id));
            making_way.extend(first.copied());
            first.is_none()
        });
        let before = node.reservations.iter();
        for one in before.filter(|one| one.members.keys().any(|id| making_way.contains(id))) {
            open.used.remove_held(&one.held);
        }
        (open, making_way)
    }
}

/// What these would take together.
pub(super) fn asked_for<'p>(
    job: &JobRow,
    placements: impl IntoIterator<Item = &'p Placement>,
) -> Amounts {
    let claims = placements.into_iter().filter_map(|placement| placement.claim_of(job));
    claims.fold(Amounts::default(), |sum, (_, claim)| sum.plus(claim.amounts()))
}
