//! What agents and the leader tell each other: who an agent is, what it has
//! observed, and what should be on its node. Refuses values that no worker can
//! have had, such as an exit code of 300.

mod desired;
mod hello;
mod observation;
mod stock;

pub use desired::{
    Delta, DesiredRow, Full, delta_from_proto, delta_to_proto, desired_digest,
    desired_row_from_proto, desired_row_to_proto, full_from_proto, full_to_proto,
    spec_row_from_proto, spec_row_to_proto,
};
pub use hello::{
    Held, Hello, OtherProtocol, PROTOCOL, PROTOCOL_OLDEST, check_protocol, hello_from_proto,
    hello_to_proto,
};
pub use observation::{
    Readiness, end_report_from_proto, end_report_to_proto, ended, observation_from_proto,
    observation_to_proto, running, starting, stopping, unhealthy, unkillable,
};

pub use stock::{
    StockTold, WorkerHere, stock_from_proto, stock_to_proto, worker_from_proto, worker_to_proto,
};

#[cfg(test)]
mod tests;
