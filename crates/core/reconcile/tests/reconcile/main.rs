//! What the leader proposes, checked against views that apply itself has built.

#![expect(clippy::unwrap_used, reason = "tests may unwrap, and so may what they share")]

mod callers;
mod drain;
mod guards;
mod hosts;
mod liveness;
mod lives;
mod moves;
mod node_reservations;
mod relief;
mod retention;
mod rollback;
mod rolling;
mod scaling;
mod time_limits;
mod world;
