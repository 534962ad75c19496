//! What an agent does next, as values from values: which allocations to start,
//! stop, report and forget, which desired state to believe, when a lease has
//! run out and what a row of probe results means. It refuses to start, signal,
//! send or read anything.
//!
//! The rules that hold whatever arrives in whatever order:
//! - an allocation is started at most once, and never after it has ended;
//! - nothing is started before the wish for it is on disk, nor on a device, or a
//!   part of one, that another worker has not left;
//! - what the cluster no longer wants is stopped, but what a *new incarnation*
//!   of the cluster merely does not know is kept and reported;
//! - an end is reported until it is acknowledged, and forgotten only after
//!   that and after the cluster has dropped the row.

#![forbid(unsafe_code)]

pub mod clock;
pub mod desired;
pub mod devices;
pub mod gpu;
pub mod health;
pub mod lease;
pub mod observed;
pub mod step;

pub use clock::AgentMs;
pub use desired::{Desired, DesiredRow, Offer, Order, Refusal, Version};
pub use devices::{Held, Part, Room, occupied};
pub use health::{Health, HealthPolicy, ProbeOutcome, Verdict};
pub use lease::Lease;
pub use observed::{Allocation, Link, Observed, Worker};
pub use step::{Decision, KeepReason, StopReason, WorkerAction, decide, step};
