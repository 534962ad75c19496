//! Keeping places: what is less urgent ends, and what it ends for starts in the same step as the
//! last of them is gone. Until then the place is nobody else's.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{
    AllocationId, InstanceIndex, JobId, NodeId, NodeUse, PREEMPTION_GAP, StopIntent, TaskIndex,
    outranks,
};

use super::Step;
use super::gangs::Unit;
use super::node_reservations::Begins;
use super::place::GAVE_WAY;
use crate::command::{Placement, Reservation};
use crate::event::EventKind;
use crate::lending::{Asker, Right};
use crate::node::NodeRow;
use crate::refusal::Refusal;
use crate::reservation::{KeptPlace, NotAVictim, ReservationRow, may_end, may_preempt};
use crate::rows::{AllocationRow, JobRow};
use crate::state::Reply;

impl Step<'_> {
    pub(super) fn reserve(&mut self, reservations: &[Reservation]) -> Reply {
        let mut granted = Vec::new();
        let mut refused = Vec::new();
        for (unit, reservations) in self.units(reservations, |one| &one.placement) {
            let ids = match unit {
                Unit::Gang => self.reserve_gang(reservations),
                Unit::Single => {
                    let ids = reservations.iter().map(|one| match one.is_move() {
                        true => self.move_one(one),
                        false => self.reserve_one(one),
                    });
                    ids.collect()
                }
            };
            match ids {
                Ok(ids) => granted.extend(ids),
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
        let right = self.right_of(&job, std::slice::from_ref(reservation))?;
        let victims = self.awaitable(reservation, right)?;
        if victims.is_empty() {
            // All have ended meanwhile.
            return self.grant(placement, None);
        }
        if right != Right::Patience {
            self.check_lent(&job, victims.values())?;
        }
        let node = self.state.node_row(placement.node)?.clone();
        self.check_let_in(&job, &node, placement, Begins::Later)?;
        let (node, mut making_way) = self.opened(Asker { job: &job, right }, &node, id);
        making_way.extend(self.may_wait(&job, placement, right)?);
        let joined = self.joined(&node, &victims, right)?;
        let mut later = without(&node, &victims);
        if let Some(joined) = joined {
            later.used.remove_held(&node.reservations[joined].held);
            let members = node.reservations[joined].members.values();
            members.for_each(|place| later.used.add(&place.claim));
        }
        let claim = self.claim_fits(&job, &later, id, placement)?;
        let place = KeptPlace { claim, score: placement.score.clone() };
        let before = joined.map(|at| &node.reservations[at]);
        let after = ReservationRow {
            members: [(id, place)].into(),
            awaits: victims.keys().copied().collect(),
            held: NodeUse::default(),
            patient: right == Right::Patience,
        };
        self.state.check_kept_quota((&job.spec, id), before, std::slice::from_ref(&after))?;
        self.drop_named(&making_way, GAVE_WAY);
        self.put_places(node.id, joined, after);
        let awaited = u32::try_from(victims.len()).unwrap_or(u32::MAX);
        self.emit_allocation(id, node.id, EventKind::PlaceReserved { awaited });
        self.ask_to_end((&job, right), id, victims.values());
        Ok(id)
    }

    /// Places for all members, or none: they start together, once nobody is awaited on any node.
    fn reserve_gang(&mut self, members: &[Reservation]) -> Result<Vec<AllocationId>, Refusal> {
        let placements: Vec<Placement> = members.iter().map(|one| one.placement.clone()).collect();
        self.seats(&placements)?;
        let ids: BTreeSet<AllocationId> = placements.iter().map(Placement::allocation).collect();
        let Some(Placement { job, .. }) = placements.first() else { return Ok(Vec::new()) };
        let job = self.state.job_row(*job)?.clone();
        let refuse = |cause| Refusal::GangRefused { job: job.id, cause: Box::new(cause) };
        let one = ids.first().copied().unwrap_or_default();
        if ids.len() < placements.len() {
            return Err(refuse(Refusal::NotPending(one)));
        }
        let right = self.right_of(&job, members).map_err(refuse)?;
        let asker = Asker { job: &job, right };
        let mut making_way = Vec::new();
        let mut nodes: BTreeMap<NodeId, Shared> = BTreeMap::new();
        for member in members {
            let victims = self.awaitable(member, right).map_err(refuse)?;
            nodes.entry(member.placement.node).or_default().victims.extend(victims);
        }
        let awaited: usize = nodes.values().map(|shared| shared.victims.len()).sum();
        if awaited == 0 {
            return self.grant_gang(&placements);
        }
        let victims = nodes.values().flat_map(|shared| shared.victims.values());
        if right != Right::Patience {
            self.check_lent(&job, victims).map_err(refuse)?;
        }
        for (node, shared) in &mut nodes {
            let row = self.state.node_row(*node)?.clone();
            let (row, some) = self.opened(asker, &row, one);
            making_way.extend(some);
            if self.joined(&row, &shared.victims, right).map_err(refuse)?.is_some() {
                let victim = shared.victims.keys().next().copied().unwrap_or_default();
                return Err(refuse(Refusal::NotAVictim { victim, why: NotAVictim::Awaited }));
            }
            let mut later = without(&row, &shared.victims);
            for placement in placements.iter().filter(|one| one.node == *node) {
                making_way.extend(self.may_wait(&job, placement, right).map_err(refuse)?);
                self.check_let_in(&job, &row, placement, Begins::Later).map_err(refuse)?;
                let id = placement.allocation();
                let claim = self.claim_fits(&job, &later, id, placement).map_err(refuse)?;
                later.used.add(&claim);
                let place = KeptPlace { claim, score: placement.score.clone() };
                shared.places.insert(id, place);
            }
        }
        let rows: Vec<ReservationRow> = nodes.values().map(|shared| shared.row(right)).collect();
        let checked = self.state.check_kept_quota((&job.spec, one), None, &rows);
        checked.map_err(|over| refuse(over.into()))?;
        self.drop_named(&making_way, GAVE_WAY);
        let awaited = u32::try_from(awaited).unwrap_or(u32::MAX);
        for ((node, Shared { victims, places }), row) in nodes.into_iter().zip(rows) {
            let first = places.keys().next().copied().unwrap_or_default();
            for id in places.keys() {
                self.emit_allocation(*id, node, EventKind::PlaceReserved { awaited });
            }
            self.put_places(node, None, row);
            self.ask_to_end((&job, right), first, victims.values());
        }
        Ok(placements.iter().map(Placement::allocation).collect())
    }

    /// Puts a new row in, or its members into the one that they join.
    pub(super) fn put_places(&mut self, node: NodeId, joined: Option<usize>, row: ReservationRow) {
        for id in row.members.keys() {
            self.state.index.reserved.insert(*id, node);
        }
        let at = joined.unwrap_or(usize::MAX);
        let places = row.members.clone();
        self.change_reservation(node, at, row, |row| row.members.extend(places));
    }

    fn ask_to_end<'r>(
        &mut self,
        (job, right): (&JobRow, Right),
        id: AllocationId,
        victims: impl Iterator<Item = &'r AllocationRow>,
    ) {
        if right == Right::Patience {
            return;
        }
        for victim in victims.filter(|victim| victim.state.stop_intent().is_none()) {
            let receipt = self.receipt(job, id, victim);
            self.stop_allocation(victim.id, StopIntent::Preempt, &receipt);
        }
    }

    /// Changes the reservation at this position, or appends the new one, changed; what is held
    /// follows, and one without members goes, as does one that awaits nobody, unless it is part of
    /// a gang's.
    pub(super) fn change_reservation(
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
        let stays = match after.members.keys().next() {
            Some(id) => !after.awaits.is_empty() || self.is_of_gang(*id),
            None => false,
        };
        self.state.nodes.edit(&node, |row| {
            if let Some(before) = before {
                row.used.remove_held(&before.held);
                row.reservations.remove(at);
            }
            if stays {
                row.used.add_held(&after.held);
                row.reservations.insert(at.min(row.reservations.len()), after);
            }
        });
    }

    /// Those of the named allocations that are still there.
    fn awaitable(
        &self,
        reservation: &Reservation,
        right: Right,
    ) -> Result<BTreeMap<AllocationId, AllocationRow>, Refusal> {
        let placement = &reservation.placement;
        let job = self.state.job_row(placement.job)?;
        let spec = &job.spec;
        let mut rows = BTreeMap::new();
        for victim in &reservation.awaits {
            let refuse = |why| Refusal::NotAVictim { victim: *victim, why };
            let Some(row) = self.state.allocations.get(victim) else { continue };
            let Some(owner) = self.state.jobs.get(&victim.job) else { continue };
            if row.node != placement.node {
                return Err(refuse(NotAVictim::Elsewhere));
            }
            if right != Right::Patience && !may_preempt(spec) {
                let (found, asked) = (owner.spec.priority, spec.priority);
                return Err(refuse(NotAVictim::TooUrgent { found, asked }));
            }
            may_end(Asker { job, right }, owner, row, self.now).map_err(refuse)?;
            rows.insert(*victim, AllocationRow::clone(row));
        }
        Ok(rows)
    }

    /// Whether their namespaces can do without all of these.
    fn check_lent<'r>(
        &self,
        job: &JobRow,
        victims: impl Iterator<Item = &'r AllocationRow>,
    ) -> Result<(), Refusal> {
        let refuse = |victim| Refusal::NotAVictim { victim, why: NotAVictim::Guaranteed };
        self.state.check_lent(&job.spec, victims).map_err(refuse)
    }

    /// What a victim is told: for whom, by which rule, and what is lost.
    fn receipt(&self, job: &JobRow, id: AllocationId, victim: &AllocationRow) -> String {
        let ran = victim.running_since.map_or(0, |since| self.now.since(since).0);
        let gpu_milli = victim.claim.gpu_milli();
        let owner = self.state.jobs.get(&victim.id.job);
        // A name is for those who may see the job.
        let named = match owner.is_some_and(|owner| owner.namespace() == job.namespace()) {
            true => format!("{id} of job `{}`", job.name()),
            false => format!("{id} of another namespace"),
        };
        let (found, asked) = (owner.map_or(0, |owner| owner.spec.priority), job.spec.priority);
        let rule = match outranks(asked, found) {
            true => {
                format!("priority {asked} against {found}, and a gap of {PREEMPTION_GAP} is enough")
            }
            false => "that one has less than is guaranteed to it, and this one more".to_owned(),
        };
        format!(
            "preempted for {named}: {rule}; what it did in {}.{:03} s on {}.{:03} GPUs is lost",
            ran / 1000,
            ran % 1000,
            gpu_milli / 1000,
            gpu_milli % 1000,
        )
    }

    /// An allocation of the node has ended: what waited for it and for nothing else starts.
    pub(super) fn awaited_ended(&mut self, node: NodeId, ended: AllocationId) {
        for at in self.where_awaited(node, ended) {
            self.awaited_ended_at(at, ended);
        }
    }

    fn awaited_ended_at(&mut self, node: NodeId, ended: AllocationId) {
        let Some((at, reservation)) =
            self.reservation_where(node, |one| one.awaits.contains(&ended))
        else {
            return;
        };
        let waits_on = reservation.awaits.len() > 1;
        let gang = reservation.members.keys().next().copied().filter(|id| self.is_of_gang(*id));
        self.change_reservation(node, at, reservation.clone(), |row| {
            row.awaits.remove(&ended);
        });
        match gang {
            _ if waits_on => {}
            Some(member) => self.start_gang(member),
            None => {
                for (id, place) in reservation.members {
                    self.state.index.reserved.remove(&id);
                    let granted = self.grant(&place.placement(id, node), None);
                    let refusal = granted.err();
                    refusal.iter().for_each(|refusal| self.not_started(id, node, refusal));
                }
            }
        }
    }

    /// Starts a gang for which places are kept, unless somebody is awaited on one of its nodes.
    fn start_gang(&mut self, member: AllocationId) {
        let is_awaited = |node: &NodeId| {
            let row = self.state.nodes.get(node);
            row.is_some_and(|row| row.awaits_for(member.job, member.task))
        };
        if self.nodes_kept_for(member).iter().any(is_awaited) {
            return;
        }
        let kept = self.take_places_of_gang(member);
        let placements: Vec<Placement> =
            kept.iter().map(|(id, (node, place))| place.clone().placement(*id, *node)).collect();
        if let Err(refusal) = self.grant_gang(&placements) {
            kept.iter().for_each(|(id, (node, _))| self.not_started(*id, *node, &refusal));
        }
    }

    /// Where places are kept for a gang.
    fn nodes_kept_for(&self, member: AllocationId) -> BTreeSet<NodeId> {
        self.state.reservations_of(member.job, member.task).map(|(_, node)| node).collect()
    }

    fn not_started(&mut self, id: AllocationId, node: NodeId, refusal: &Refusal) {
        let reason = refusal.to_string();
        self.emit_allocation(id, node, EventKind::ReservationDropped { reason });
    }

    pub(super) fn reservation_where(
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

    pub(super) fn drop_places_of(&mut self, job: JobId, reason: &str) {
        let first = AllocationId::first_of(job, TaskIndex(0), InstanceIndex(0));
        let from_there = self.state.index.reserved.range(first..).map(|(id, _)| *id);
        let ids: Vec<AllocationId> = from_there.take_while(|id| id.job == job).collect();
        self.drop_named(&ids, reason);
    }

    /// An awaited allocation is no longer live, and what it holds is not free.
    pub(super) fn drop_places_for(&mut self, node: NodeId, awaited: AllocationId) {
        let waits = |one: &ReservationRow| one.awaits.contains(&awaited);
        for at in self.where_awaited(node, awaited) {
            if let Some((_, reservation)) = self.reservation_where(at, waits) {
                let ids: Vec<AllocationId> = reservation.members.keys().copied().collect();
                self.drop_named(&ids, "what it waited for gave its place to another attempt");
            }
        }
    }

    /// With one member's place those of its whole gang go.
    fn drop_place(&mut self, id: AllocationId, reason: &str) {
        let Some(node) = self.state.index.reserved.get(&id).copied() else { return };
        let kept = match self.is_of_gang(id) {
            true => self.take_places_of_gang(id),
            false => self.take_places(&[node].into(), |one| *one == id),
        };
        let reason = super::bounded(reason, crate::rows::REASON_BYTES_MAX);
        for (id, (node, _)) in kept {
            let reason = reason.clone();
            self.emit_allocation(id, node, EventKind::ReservationDropped { reason });
        }
    }

    fn take_places_of_gang(
        &mut self,
        member: AllocationId,
    ) -> BTreeMap<AllocationId, (NodeId, KeptPlace)> {
        let of_gang = |id: &AllocationId| (id.job, id.task) == (member.job, member.task);
        self.take_places(&self.nodes_kept_for(member), of_gang)
    }

    /// The places that are kept for these on these nodes, and are not any more.
    fn take_places(
        &mut self,
        nodes: &BTreeSet<NodeId>,
        whom: impl Fn(&AllocationId) -> bool,
    ) -> BTreeMap<AllocationId, (NodeId, KeptPlace)> {
        let mut taken = BTreeMap::new();
        for node in nodes {
            while let Some((at, reservation)) =
                self.reservation_where(*node, |one| one.members.keys().any(&whom))
            {
                self.change_reservation(*node, at, reservation, |row| {
                    let (gone, left) =
                        std::mem::take(&mut row.members).into_iter().partition(|(id, _)| whom(id));
                    row.members = left;
                    let gone: BTreeMap<AllocationId, KeptPlace> = gone;
                    taken.extend(gone.into_iter().map(|(id, place)| (id, (*node, place))));
                });
            }
        }
        taken.keys().for_each(|id| {
            self.state.index.reserved.remove(id);
        });
        taken
    }

    /// The reservation that awaits exactly those who are named; none if nothing awaits any of
    /// them. A gang's place is nobody else's, whatever is left of it.
    fn joined(
        &self,
        node: &NodeRow,
        victims: &BTreeMap<AllocationId, AllocationRow>,
        right: Right,
    ) -> Result<Option<usize>, Refusal> {
        for (at, reservation) in node.reservations.iter().enumerate() {
            let both = reservation.awaits.iter().find(|id| victims.contains_key(id));
            let Some(victim) = both.copied() else { continue };
            let is_same = reservation.awaits.iter().eq(victims.keys());
            let of_gang = reservation.members.keys().any(|id| self.is_of_gang(*id));
            let is_urgent = !reservation.patient && right != Right::Patience;
            return match is_same && is_urgent && !of_gang {
                true => Ok(Some(at)),
                false => Err(Refusal::NotAVictim { victim, why: NotAVictim::Awaited }),
            };
        }
        Ok(None)
    }
}

/// What members of a gang have together on one node.
#[derive(Default)]
struct Shared {
    victims: BTreeMap<AllocationId, AllocationRow>,
    places: BTreeMap<AllocationId, KeptPlace>,
}

impl Shared {
    fn row(&self, right: Right) -> ReservationRow {
        let members = self.places.clone();
        let awaits = self.victims.keys().copied().collect();
        let patient = right == Right::Patience;
        ReservationRow { members, awaits, held: NodeUse::default(), patient }
    }
}

/// The node as it will be when all who are awaited have ended.
fn without(node: &NodeRow, victims: &BTreeMap<AllocationId, AllocationRow>) -> NodeRow {
    let mut later = node.clone();
    victims.values().for_each(|row| later.used.remove(&row.claim));
    later
}

impl NodeRow {
    /// Nothing of it is promised to what has yet to start.
    pub(crate) fn drop_reservations(&mut self) {
        for reservation in std::mem::take(&mut self.reservations) {
            self.used.remove_held(&reservation.held);
        }
    }
}
