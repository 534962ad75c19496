//! Instruments for the tests of whole clusters, and of the source itself. Only
//! tests depend on this crate.
#![forbid(unsafe_code)]

pub mod capacity;
pub mod fleet;
pub mod linearizability;
pub mod skip;
