//! The replicated log. This is the only crate that knows the consensus
//! library (openraft) and the log store (sled); neither shows in its API.
//! It knows nothing of jobs or nodes: the application is a parameter, and so
//! are the runtime, the disk and the network, which a simulation replaces.

#![forbid(unsafe_code)]

mod app;
mod carry;
pub mod device;
mod fatal;
mod founding;
mod log;
mod machine;
mod node;
mod options;
mod snapshot;
mod status;
#[cfg(test)]
mod suite_test;
pub mod transport;
mod types;

/// The runtime a node runs on. Its name is all that shows of the library.
pub use openraft::AsyncRuntime as Runtime;
/// The runtime of production nodes; it must be running where `start` is
/// called.
pub use openraft::impls::TokioRuntime;

pub use app::{Answerer, App, EntryError, PROPOSAL_BYTES_MAX, Proposal, SnapshotError};
pub use carry::{Carried, CarryError, check_carried, export_store, import_store};
pub use fatal::{FatalCell, FatalReason};
pub use founding::{FoundingError, found_store};
pub use node::{
    BootstrapError, MembershipError, PeerLink, ProposeError, RaftNode, ReadError, StartError,
};
pub use options::{OptionError, RaftOptions, SnapshotPolicy, Timers};
pub use status::{Member, RaftStatus, Role, StatusWatch};

/// A production node: tokio, sled and gRPC.
pub type ProductionNode<A> =
    RaftNode<A, TokioRuntime, device::sled::SledDevice, transport::grpc::GrpcTransport>;
