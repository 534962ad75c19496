//! The deterministic simulation: schedulers, agents, clients and a great deal
//! of trouble in one thread under virtual time, over the real consensus, state,
//! placement, reconciliation and supervision code. A seed is a run.
//!
//! `BERTH_SIM_SEED=n` runs one seed and shows its last events; `BERTH_SIM_SEEDS=n`
//! runs that many instead of the usual number; `BERTH_SIM_SOAK_SECONDS=n` runs
//! fresh seeds for so long.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agent;
mod app;
mod client;
mod deeds;
mod effects;
mod faults;
mod host;
mod inbox;
mod leader;
mod oracle;
mod plan;
mod progress;
mod rng;
mod scheduler;
mod session;
mod suite;
mod uplink;
mod work;
mod world;
