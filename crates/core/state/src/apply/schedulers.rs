//! Who belongs to the cluster, as it is wished. Raft's own membership follows
//! from this and is not looked at here.

use super::{Step, bounded};
use crate::access::JoinProof;
use crate::event::EventKind;
use crate::refusal::Refusal;
use crate::rows::{ClusterRow, FOUNDER, REASON_BYTES_MAX, SCHEDULERS_MAX, SchedulerRow, Seat};
use crate::state::Reply;

impl ClusterRow {
    /// What part a scheduler is to have.
    ///
    /// # Errors
    /// It was never admitted, or was removed.
    pub fn seat(&self, scheduler: u64) -> Result<Seat, Refusal> {
        match self.schedulers.get(&scheduler) {
            Some(row) => row.seat.ok_or(Refusal::SchedulerRemoved(scheduler)),
            None if scheduler == FOUNDER => Ok(Seat::Voter),
            None => Err(Refusal::NoSuchScheduler(scheduler)),
        }
    }

    /// Schedulers that are to have a vote.
    pub fn voter_count(&self) -> usize {
        let admitted = self.schedulers.values().filter(|row| row.seat == Some(Seat::Voter)).count();
        admitted + usize::from(!self.schedulers.contains_key(&FOUNDER))
    }
}

impl Step<'_> {
    pub(super) fn admit_scheduler(
        &mut self,
        instance_key: [u8; 16],
        address: &str,
        seat: Seat,
        proof: Option<&JoinProof>,
    ) -> Result<Reply, Refusal> {
        if self.state.cluster.id == [0; 16] {
            return Err(Refusal::NotFounded);
        }
        // Before anything is told of the schedulers that there are.
        self.check_server_proof(proof, instance_key)?;
        let scheduler = self.admitted(instance_key, bounded(address, REASON_BYTES_MAX), seat)?;
        if let Some(proof) = proof {
            self.mark_used(proof, scheduler.to_string());
        }
        Ok(Reply::Admitted { scheduler })
    }

    /// The id of a scheduler that may come in, now or once more.
    fn admitted(
        &mut self,
        instance_key: [u8; 16],
        address: String,
        seat: Seat,
    ) -> Result<u64, Refusal> {
        let known = self.state.cluster.scheduler_with(instance_key);
        let schedulers = &mut self.state.cluster.schedulers;
        if let Some((scheduler, row)) = known.and_then(|id| Some((id, schedulers.get(&id)?))) {
            return match row.seat {
                Some(_) if row.address == address => Ok(scheduler),
                Some(_) => {
                    Err(Refusal::SchedulerElsewhere { scheduler, address: row.address.clone() })
                }
                None => Err(Refusal::SchedulerRemoved(scheduler)),
            };
        }
        if schedulers.len() >= SCHEDULERS_MAX {
            return Err(Refusal::Invalid(format!(
                "{SCHEDULERS_MAX} schedulers were admitted already"
            )));
        }
        let scheduler = schedulers.keys().next_back().copied().unwrap_or(FOUNDER) + 1;
        schedulers.insert(scheduler, SchedulerRow { instance_key, address, seat: Some(seat) });
        self.emit(None, None, None, EventKind::SchedulerAdmitted { scheduler, seat });
        Ok(scheduler)
    }

    pub(super) fn promote_scheduler(&mut self, scheduler: u64) -> Result<Reply, Refusal> {
        if self.state.cluster.seat(scheduler)? == Seat::Voter {
            return Ok(Reply::Done);
        }
        if let Some(row) = self.state.cluster.schedulers.get_mut(&scheduler) {
            row.seat = Some(Seat::Voter);
        }
        self.emit(None, None, None, EventKind::SchedulerPromoted { scheduler });
        Ok(Reply::Done)
    }

    /// A repeated removal is done already.
    pub(super) fn remove_scheduler(&mut self, scheduler: u64) -> Result<Reply, Refusal> {
        let cluster = &mut self.state.cluster;
        match cluster.seat(scheduler) {
            Ok(Seat::Voter) if cluster.voter_count() == 1 => {
                return Err(Refusal::LastVoter(scheduler));
            }
            Ok(Seat::Voter | Seat::Learner) => {}
            Err(Refusal::SchedulerRemoved(_)) => return Ok(Reply::Done),
            Err(refusal) => return Err(refusal),
        }
        let founder = || SchedulerRow { instance_key: [0; 16], address: String::new(), seat: None };
        cluster.schedulers.entry(scheduler).or_insert_with(founder).seat = None;
        self.emit(None, None, None, EventKind::SchedulerRemoved { scheduler });
        Ok(Reply::Done)
    }
}
