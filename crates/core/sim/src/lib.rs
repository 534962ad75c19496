//! The simulator: the cluster's own code, apply and plan, driven in virtual time over lists of
//! work. It models nothing that the cluster decides, reads no file and prints nothing; it alone
//! in core holds a seeded generator.

#![forbid(unsafe_code)]

mod cluster;
pub mod jobs;
pub mod openb;
pub mod place;
pub mod random;
pub mod replay;
pub mod serve;

pub use jobs::{JobsOptions, JobsReport, TraceJob};
pub use place::{Arrival, Moved, MovesMax, NodeShape, PlaceRun, Placed};
pub use random::Random;
