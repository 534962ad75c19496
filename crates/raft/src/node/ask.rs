//! What one application asks another, beside the log.

use std::time::Duration;

use bytes::Bytes;
use openraft::AsyncRuntime;

use super::RaftNode;
use crate::app::App;
use crate::device::Device;
use crate::transport::{CallError, CallKind, Lane, PeerConnection, PeerHeader, PeerTransport};

/// A way to one peer's application. It connects at the first question, and again
/// after it broke.
pub struct PeerLink<T: PeerTransport> {
    connection: T::Connection,
    header: PeerHeader,
}

impl<T: PeerTransport> PeerLink<T> {
    /// Asks, and waits for the answer. An application that knows no such
    /// questions answers with nothing.
    ///
    /// # Errors
    /// No answer within `deadline`, or the peer refused the call.
    pub async fn ask(&self, question: Bytes, deadline: Duration) -> Result<Bytes, CallError> {
        self.connection.call(CallKind::Ask, self.header.clone(), question, deadline).await
    }
}

impl<A: App, RT: AsyncRuntime, D: Device, T: PeerTransport> RaftNode<A, RT, D, T> {
    /// A way to the application of another node.
    #[must_use]
    pub fn peer_link(&self, node_id: u64, address: &str) -> PeerLink<T> {
        let options = &self.0.options;
        PeerLink {
            connection: self.0.transport.connect(node_id, address, Lane::Heartbeat),
            header: PeerHeader {
                cluster_id: options.cluster_id,
                from_node: options.node_id,
                to_node: node_id,
            },
        }
    }
}
