//! What a gateway knows of services and their replicas, for those who look on.

use berth_model::{AllocationId, Name};
use berth_routing::{Signals, SpanUs};

/// A service, as one gateway sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceView {
    pub namespace: Name,
    pub name: Name,
    /// Requests that were sent to a replica since the gateway began.
    pub requests: u64,
    /// Of those, sent again to another.
    pub retries: u64,
    /// Requests that wait for a replica.
    pub waiting: usize,
    /// In the order of their ids.
    pub replicas: Vec<ReplicaView>,
}

/// A replica, as one gateway sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaView {
    pub id: AllocationId,
    pub state: ReplicaState,
    /// Requests of this gateway that are under way there.
    pub in_flight: u32,
    /// Tokens of prompts among them that it has not begun to answer.
    pub waiting_tokens: u64,
    /// Answers since this gateway knows it.
    pub answers: u64,
    /// How long one takes lately; `None` before the first.
    pub answer_time: Option<SpanUs>,
    /// What it said of itself within the last three seconds, and by which metrics.
    pub signals: Option<(Signals, Vec<&'static str>)>,
}

/// Whether a replica is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplicaState {
    Asked,
    /// It asked to be spared, or has just failed.
    Spared,
    /// It failed too often, and is tried now and then.
    Broken,
    /// It does not answer when it is looked at.
    Gone,
    /// It is to end, and still answers what it was asked.
    Left,
}

impl ReplicaState {
    pub fn name(self) -> &'static str {
        match self {
            ReplicaState::Asked => "asked",
            ReplicaState::Spared => "spared",
            ReplicaState::Broken => "broken",
            ReplicaState::Gone => "gone",
            ReplicaState::Left => "left",
        }
    }
}
