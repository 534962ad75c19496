//! What a request holds of a service: its place at a replica, or among those who wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_model::AllocationId;
use berth_routing::{NoReplica, Outcome, Ticket};
use http::uri::Authority;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Service;

/// A request at a replica. Dropped without an end, its caller has left.
pub(crate) struct Charge {
    pub replica: AllocationId,
    pub authority: Authority,
    pub gone: CancellationToken,
    pub silence_max: Duration,
    pub(super) heard: Arc<AtomicU64>,
    pub(super) service: Arc<Service>,
    pub(super) ticket: Option<Ticket>,
}

impl Charge {
    /// Something came from the replica.
    pub fn heard(&self) {
        self.heard.store(self.service.clock.now().0, Ordering::Relaxed);
    }

    /// It has refused the connection: nothing of the request came to it, and it is asked for
    /// nothing until it takes one. Where to look for that, and until when, unless somebody does.
    pub fn refused(&mut self) -> Option<(Arc<Service>, Authority, CancellationToken)> {
        self.finish(Outcome::Left);
        let left = self.service.refuses(self.replica)?;
        Some((Arc::clone(&self.service), self.authority.clone(), left))
    }

    /// The first byte of the answer.
    pub fn first_byte(&mut self) {
        let now = self.service.clock.now();
        self.heard();
        if let Some(ticket) = &mut self.ticket {
            self.service.inner().pool.first_byte(ticket, now);
        }
    }

    pub fn finish(&mut self, outcome: Outcome) {
        let now = self.service.clock.now();
        if let Some(ticket) = self.ticket.take() {
            let mut inner = self.service.inner();
            inner.pool.finish(ticket, outcome, now);
            inner.room.call();
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.finish(Outcome::Left);
    }
}

/// What a request gets that wants a replica.
pub(crate) enum Picked {
    Charge(Charge),
    Seat(Seat),
}

/// Why it gets nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unasked {
    None(NoReplica),
    /// As many wait as may.
    RoomFull,
}

/// A place among those who wait. Dropped, it is left.
pub(crate) struct Seat {
    pub(super) number: u64,
    pub(super) bell: Arc<Notify>,
    pub(super) service: Arc<Service>,
}

impl Seat {
    /// Until there may be somebody to ask.
    pub async fn called(&self) {
        self.bell.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.service.inner().room.leave(self.number);
    }
}
