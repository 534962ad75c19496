//! Who serves what, as the cluster tells it.

use std::time::Duration;

use berth_model::Name;
use berth_routing::{Member, Policy};

/// All services that can be asked for something.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routes {
    pub services: Vec<ServiceRoute>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceRoute {
    pub namespace: Name,
    pub name: Name,
    /// What callers put into `model`; the service's own name where nothing else was said.
    pub model: String,
    /// When it was submitted, in seconds since 1970.
    pub created_s: u64,
    pub policy: Policy,
    /// Those that are ready.
    pub replicas: Vec<Endpoint>,
    /// Where they tell that they are well; `None`: nobody asks them.
    pub health_path: Option<String>,
    /// Where they may have a page of metrics; `None`: they are not asked.
    pub metrics_path: Option<String>,
    /// No answer takes longer than that to begin, or to go on.
    pub silence_max: Duration,
    /// Who finds no replica waits for one for so long.
    pub wait: Duration,
    /// And so many wait at once.
    pub waiting_max: u32,
}

/// A replica and where it listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    pub member: Member,
    /// `host:port`.
    pub address: String,
}
