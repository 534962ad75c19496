//! The agent against a scheduler in this process, with real shims and real
//! workers.

#![expect(clippy::unwrap_used, reason = "what is not so fails the test")]

mod adoption;
mod artifact_origins;
mod artifacts;
mod confinement;
mod devices;
mod disks;
mod docker;
mod exec;
mod gpu_faults;
mod gpus;
mod harness;
mod lifecycle;
mod limits;
mod metadata;
mod mps;
mod self_test;
mod session;
mod sharers;
mod slices;
