//! Requests for a model over a fleet of replicas, in virtual time: the gateway's own routing in
//! front of a model of an inference engine. What arrives, when, and which replica fails for how
//! long are given; everything that is decided is decided by `berth-routing`.

mod engine;
mod report;
mod run;

pub use engine::{Done, Engine, EngineShape, Work};
pub use report::{Latency, ServeReport, Slo};
pub use run::{
    Checks, Fleet, Outage, OutageKind, Retries, ServeArrival, ServeError, ServeOptions, capacity,
    run, scaled,
};

#[cfg(test)]
mod tests;
