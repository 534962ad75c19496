//! Tests of the crate from outside: devices under damage and crashes, and
//! clusters, simulated and real.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod carry;
mod cluster;
mod crash;
mod damage;
mod founding;
mod model;
mod points;
mod power;
mod register;
mod simulation;
mod skip;
mod space;
