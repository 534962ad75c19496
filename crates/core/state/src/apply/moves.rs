//! Moving what runs to another node: its next attempt has its place there before it is asked to
//! end, and begins there in the same step as it has. Nobody is asked to end who has none.

use berth_model::{AllocationId, NodeId, StopIntent};

use super::Step;
use super::node_reservations::Begins;
use crate::command::Reservation;
use crate::event::EventKind;
use crate::movable::may_move;
use crate::refusal::Refusal;
use crate::reservation::{KeptPlace, NotAVictim, ReservationRow};

impl Step<'_> {
    /// Keeps the place and asks the mover to end. A place that is let go of meanwhile, as its
    /// node falls silent, leaves the mover to be placed as everything is.
    pub(super) fn move_one(&mut self, reservation: &Reservation) -> Result<AllocationId, Refusal> {
        let placement = &reservation.placement;
        let id = placement.allocation();
        let job = self.state.job_row(placement.job)?.clone();
        let mover = reservation.awaits.first().and_then(|id| self.state.allocations.get(id));
        let Some(mover) = mover.cloned() else { return Err(Refusal::NotPending(id)) };
        let refuse = |why| Refusal::NotAVictim { victim: mover.id, why };
        if mover.node == placement.node {
            return Err(refuse(NotAVictim::Elsewhere));
        }
        may_move(self.state, &job, &mover, self.now)
            .map_err(|why| refuse(NotAVictim::Stays(why)))?;
        let is_next = self.state.attempt_after(mover.id) == Some(id.attempt);
        let is_kept = self.state.is_reserved(id.job, id.task, id.instance);
        if !job.places() || !is_next || is_kept || self.state.waits_after_restore(self.now) {
            return Err(Refusal::NotPending(id));
        }
        let node = self.state.node_row(placement.node)?.clone();
        self.check_let_in(&job, &node, placement, Begins::Later)?;
        let claim = self.claim_fits(&job, &node, id, placement)?;
        let place = KeptPlace { claim, score: placement.score.clone() };
        let after = ReservationRow {
            members: [(id, place)].into(),
            awaits: [mover.id].into(),
            held: Default::default(),
            patient: false,
        };
        self.state.check_kept_quota((&job.spec, id), None, std::slice::from_ref(&after))?;
        self.put_places(node.id, None, after);
        self.emit_allocation(id, node.id, EventKind::PlaceReserved { awaited: 1 });
        let reason =
            format!("moved to node {}, so that less of the cluster is of no use", node.name);
        self.stop_allocation(mover.id, StopIntent::Drain, &reason);
        Ok(id)
    }

    /// Where places may be kept until an allocation of this node ends: there, and where its own
    /// next attempt is to begin.
    pub(super) fn where_awaited(&self, node: NodeId, ended: AllocationId) -> Vec<NodeId> {
        let own = self.state.reservations_of(ended.job, ended.task);
        let own = own.filter(|(id, at)| id.instance == ended.instance && *at != node);
        std::iter::once(node).chain(own.map(|(_, at)| at)).collect()
    }
}
