//! Instruments for the tests of whole clusters. Nothing depends on this crate.
#![forbid(unsafe_code)]

pub mod linearizability;
