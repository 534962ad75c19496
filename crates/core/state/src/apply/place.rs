//! Granting placements: each is checked again as if nobody had planned it.

use berth_model::{
    AllocationId, AllocationState, Claim, GangSeat, JobKind, Misfit, NodeId, eligible, fits,
};

use super::Step;
use super::gangs::Unit;
use super::patience::Beside;
use crate::command::{Placement, Purpose};
use crate::event::EventKind;
use crate::node::NodeRow;
use crate::refusal::Refusal;
use crate::rows::{AllocationRow, JobRow};
use crate::state::Reply;

/// Why a place is kept no longer.
pub(super) const GAVE_WAY: &str = "something that is more urgent takes it";

impl Step<'_> {
    pub(super) fn place(&mut self, placements: &[Placement]) -> Reply {
        let mut granted = Vec::new();
        let mut refused = Vec::new();
        for (unit, placements) in self.units(placements, |one| one) {
            let ids = match unit {
                Unit::Gang => self.grant_gang(placements),
                Unit::Single => {
                    let ids = placements.iter().map(|placement| self.grant(placement, None));
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

    pub(super) fn grant(
        &mut self,
        placement: &Placement,
        seat: Option<GangSeat>,
    ) -> Result<AllocationId, Refusal> {
        let id = placement.allocation();
        let job = self.state.job_row(placement.job)?.clone();
        self.may_begin(&job, placement)?;
        let node = self.state.node_row(placement.node)?.clone();
        let (claim, beside) = self.claim_open(&job, &node, placement)?;
        self.state.check_quota(&job.spec, claim.amounts(), Some(id))?;
        if self.state.is_reserved(id.job, id.task, id.instance) {
            self.drop_named(&[id], "there is room for it without that");
        }
        if let Beside::Instead(making_way) = &beside {
            self.drop_named(making_way, GAVE_WAY);
        }
        self.state.nodes.edit(&node.id, |node| {
            node.used.add(&claim);
            node.live.insert(id);
        });
        self.bump_generation(node.id);
        self.state.edit_task(id.job, id.task, |task| {
            task.pending.remove(id.instance.0);
            task.live += 1;
            task.count_attempt(id.instance.0, id.attempt);
        });
        let was = job.state();
        self.state.edit_job(id.job, |job| job.live += 1);
        let row = AllocationRow {
            id,
            node: node.id,
            job_version: job.version,
            spec_digest: job.digest,
            claim,
            state: AllocationState::Planned,
            reason: String::new(),
            planned_at: self.now,
            running_since: None,
            started_at: None,
            score: placement.score.clone(),
            seat,
            draining: None,
        };
        self.state.insert_allocation(row);
        if let Beside::Before(member) = beside {
            self.await_also(node.id, member, id);
        }
        self.emit_allocation(id, node.id, EventKind::AllocationPlanned);
        self.announce_state(id.job, was);
        Ok(id)
    }

    /// Whether the attempt may begin, wherever.
    pub(super) fn may_begin(&self, job: &JobRow, placement: &Placement) -> Result<(), Refusal> {
        if self.state.waits_after_restore(self.now) {
            return Err(Refusal::Awaiting { awaited: self.state.awaited() });
        }
        self.waits(job, placement.allocation(), placement.node)
    }

    /// Whether the instance waits for exactly this attempt.
    fn waits(&self, job: &JobRow, id: AllocationId, node: NodeId) -> Result<(), Refusal> {
        let refuse = || Refusal::NotPending(id);
        let task = self.state.tasks.get(&(id.job, id.task)).ok_or_else(refuse)?;
        let spec = job.spec.tasks.get(usize::from(id.task.0)).ok_or_else(refuse)?;
        let instance = id.instance.0;
        let waiting = match job.kind() {
            JobKind::Batch | JobKind::Service => task.pending.contains(instance),
            JobKind::Daemon => {
                let row = self.state.nodes.get(&node);
                u64::from(instance) == node.0
                    && !task.failed.contains(instance)
                    && !self.state.is_live(id)
                    && !row.is_some_and(|row| {
                        row.has_orphan_of_task(id.job, id.task)
                            || row.awaits_return_of(id.job, id.task)
                    })
            }
        };
        let due = task.retries.get(&instance).is_none_or(|retry| retry.not_before <= self.now);
        let room = task.live < spec.parallel_max();
        let next = self.state.next_attempt(id.job, task, instance) == id.attempt;
        // Of a gang it was asked for all members at once.
        let alone = job.spec.exclusive && !job.is_gang(id.task);
        let twice = alone && self.state.has_orphan_of(id);
        if job.places() && waiting && due && room && next && !twice {
            Ok(())
        } else {
            Err(refuse())
        }
    }

    pub(super) fn claim_fits(
        &self,
        job: &JobRow,
        node: &NodeRow,
        id: AllocationId,
        placement: &Placement,
    ) -> Result<Claim, Refusal> {
        let refuse = |misfit| Refusal::DoesNotFit { allocation: id, misfit };
        let (task, claim) = placement.claim_of(job).ok_or(Refusal::NotPending(id))?;
        if node.state != berth_model::NodeState::Ready {
            return Err(refuse(Misfit::NotReady));
        }
        match node.purpose {
            Purpose::Work => {}
            Purpose::Cordoned => return Err(refuse(Misfit::Cordoned)),
            Purpose::Draining(_) => return Err(refuse(Misfit::Draining)),
        }
        if node.rests(self.now) {
            return Err(refuse(Misfit::Resting));
        }
        eligible(&node.name, &node.spec, &job.spec.constraints, task).map_err(refuse)?;
        let asked = task.of_instance(id.instance);
        fits(node.capacity(&node.used), &asked, &claim).map_err(refuse)?;
        let blocked = claim.ports.iter().find(|claim| {
            node.blocked_ports.get(&claim.port).is_some_and(|until| *until > self.now)
        });
        match blocked {
            Some(claim) => Err(refuse(Misfit::PortTaken { port: claim.port })),
            None => Ok(claim),
        }
    }
}
