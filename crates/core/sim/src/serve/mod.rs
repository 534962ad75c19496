//! Requests for a model over a fleet of replicas, in virtual time: the gateway's own routing in
//! front of a model of an inference engine. What arrives, when, and which replica fails for how
//! long are given; everything that is decided is decided by `berth-routing`.

mod arrivals;
mod engine;
mod herd;
mod known;
mod options;
mod report;
mod run;

pub use arrivals::{ARRIVALS_MAX, ServeArrival, chained, scaled};
pub use engine::{Done, Engine, EngineShape, Work};
pub use herd::{HerdReport, Law, ScalingOptions};
pub use known::{Known, known};
pub use options::{
    Checks, Fleet, Outage, OutageKind, Retries, ServeError, ServeOptions, spread_outages,
};
pub use report::{Latency, SPREAD_MAX, ServeReport, Slo};
pub use run::{capacity, run};

pub use berth_routing::{Blocks, GatewayUs, Policy as RoutingPolicy, SpanUs};

#[cfg(test)]
mod scaled_tests;
#[cfg(test)]
mod tests;
