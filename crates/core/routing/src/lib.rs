//! Which replica of a service answers a request, and whether it is asked again, as values from
//! values: the same code in the gateway and in the simulator. It refuses to read a clock, to draw a
//! random number, to open a connection or to wait: moments and chance are arguments.
//!
//! What holds whatever comes in whatever order:
//! - a request is counted for its replica in the very step that picks it, and what it counts for is
//!   taken back exactly once, however it ends;
//! - who failed is never taken for idle: it stands behind everybody who has not;
//! - what is not known (no report, no prefix, no answer yet) is not taken for zero;
//! - the same pool, request, chance and moment give the same decision.

#![forbid(unsafe_code)]

pub mod breaker;
pub mod bucket;
pub mod chance;
pub mod clock;
pub mod load;
pub mod pick;
mod policies;
pub mod pool;
pub mod prefix;
pub mod record;
pub mod request;
pub mod retry;
pub mod split;

pub use berth_model::RoutingPolicy as Policy;
pub use breaker::Breaker;
pub use bucket::Bucket;
pub use clock::{GatewayUs, SpanUs};
pub use load::{Load, Outcome, Signals};
pub use pick::{Decision, NoReplica, Reason, Score};
pub use pool::{Member, Pool, Ticket};
pub use prefix::{Blocks, PrefixIndex};
pub use request::Request;
