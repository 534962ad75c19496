//! The calls of the Operator service.

use berth_proto::v1::operator_client::OperatorClient;
use berth_proto::v1::{
    ClusterStatus, JoinReply, JoinRequest, PromoteReply, PromoteRequest, RemoveReply,
    RemoveRequest, SnapshotReply, SnapshotRequest, StateHashReply, StateHashRequest, StatusRequest,
    TransferReply, TransferRequest,
};

use crate::cluster::{Client, Repeat};
use crate::error::ClientError;
use crate::jobs::calls;

calls! {
    status(StatusRequest) -> ClusterStatus = OperatorClient.status, Read;
    /// Its instance key makes a repeat harmless.
    join(JoinRequest) -> JoinReply = OperatorClient.join, Harmless;
    promote(PromoteRequest) -> PromoteReply = OperatorClient.promote, Harmless;
    /// What was removed stays so.
    remove(RemoveRequest) -> RemoveReply = OperatorClient.remove, Harmless;
    /// A second transfer would move the leadership on.
    transfer(TransferRequest) -> TransferReply = OperatorClient.transfer, Harmful;
    snapshot(SnapshotRequest) -> SnapshotReply = OperatorClient.snapshot, Harmless;
    /// Of whichever scheduler is asked first.
    state_hash(StateHashRequest) -> StateHashReply = OperatorClient.state_hash, Read;
}
