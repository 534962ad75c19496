//! The replicated state machine: commands in, a new state and events out. It
//! checks every claim again, whoever proposes it; it wakes, sends and logs
//! nothing, and never panics on a command.

#![forbid(unsafe_code)]

pub mod access;
mod apply;
mod backup;
pub mod command;
pub mod decision;
pub mod event;
mod fair;
pub mod invariants;
pub mod lending;
pub mod movable;
pub mod namespace;
pub mod node;
pub mod node_reservation;
mod outdated;
pub mod query;
pub mod refusal;
pub mod reservation;
mod restore;
pub mod rows;
pub mod state;
pub mod table;
pub mod version;

pub use access::{
    Authority, Expiry, JOIN_TTL_MS_MAX, JoinProof, NewToken, REVOCATIONS_MAX, RevocationRow,
    Security, TOKENS_MAX, TokenRow, TokenUser,
};
pub use apply::retention;
pub use backup::{Restoration, RestorationError};
pub use command::{
    Command, DevicePurpose, Entry, JobChange, Observation, Observed, Placement, Purpose,
    Reservation, Stock, SubmitJob, Unknown,
};
pub use event::{Event, EventKind};
pub use lending::{Asker, Right};
pub use namespace::{NAMESPACE_ROWS_MAX, NamespaceRow};
pub use node::{AwayRow, NodeRow, OrphanRow};
pub use node_reservation::{Hold, NodeReservationRow, Permit, let_in};
pub use refusal::Refusal;
pub use reservation::{KeptPlace, NotAVictim, ReservationRow};
pub use restore::RestoreError;
pub use rows::{
    AllocationRow, ClusterRow, Draining, FOUNDER, FailureDetail, JobPhase, JobRow, JobVersionRow,
    KeyRow, RestoreRow, Retry, Rollout, SchedulerRow, ScoreParts, Seat, Stored, TaskRow,
};
pub use state::{Applied, ClusterState, QueueKey, Reply};
pub use table::Table;
pub use version::{CLUSTER_VERSION_MAX, NewerCluster};

#[cfg(test)]
mod tests;
