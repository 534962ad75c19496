//! The calls of the Operator service.

use berth_proto::v1::operator_client::OperatorClient;
use berth_proto::v1::{
    BackupPiece, BackupRequest, CapturePiece, CaptureRequest, ClusterStatus, FinalizeReply,
    FinalizeRequest, JoinReply, JoinRequest, ListPolicyDefaultsReply, ListPolicyDefaultsRequest,
    PromoteReply, PromoteRequest, RemoveReply, RemoveRequest, ResumeReply, ResumeRequest,
    SetPolicyDefaultReply, SetPolicyDefaultRequest, SnapshotReply, SnapshotRequest, StateHashReply,
    StateHashRequest, StatusRequest, TransferReply, TransferRequest,
};

use bytes::Bytes;
use tonic::Streaming;

use crate::cluster::{Client, Repeat};
use crate::error::ClientError;
use crate::jobs::calls;
use crate::stream::{broken_off, without_limit};

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
    finalize(FinalizeRequest) -> FinalizeReply = OperatorClient.finalize, Harmless;
    resume(ResumeRequest) -> ResumeReply = OperatorClient.resume, Harmless;
    set_policy_default(SetPolicyDefaultRequest) -> SetPolicyDefaultReply = OperatorClient.set_policy_default, Harmless;
    list_policy_defaults(ListPolicyDefaultsRequest) -> ListPolicyDefaultsReply = OperatorClient.list_policy_defaults, Read;
    /// Of whichever scheduler is asked first.
    state_hash(StateHashRequest) -> StateHashReply = OperatorClient.state_hash, Read;
}

impl Client {
    /// A backup of the cluster, as the bytes of a file.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn backup(&self) -> Result<BackupStream, ClientError> {
        let open = self.call(Repeat::Read, BackupRequest {}, |channel, request| async move {
            OperatorClient::new(channel).backup(without_limit(request)).await
        });
        Ok(BackupStream { open: open.await? })
    }
}

impl Client {
    /// The leader's last decisions and what they were made on, as the bytes of a file.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn capture(&self, request: CaptureRequest) -> Result<CaptureStream, ClientError> {
        let open = self.call(Repeat::Read, request, |channel, request| async move {
            OperatorClient::new(channel).capture(without_limit(request)).await
        });
        Ok(CaptureStream { open: open.await? })
    }
}

/// The bytes of a capture. One that breaks off is begun anew by another call.
#[derive(Debug)]
pub struct CaptureStream {
    open: Streaming<CapturePiece>,
}

impl CaptureStream {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// See [`ClientError`]; what came before is of no use then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let piece = self.open.message().await;
        piece.map(|piece| piece.map(|piece| piece.data)).map_err(|status| broken_off(&status))
    }
}

/// The bytes of a backup. One that breaks off is begun anew by another call:
/// the state has moved on.
#[derive(Debug)]
pub struct BackupStream {
    open: Streaming<BackupPiece>,
}

impl BackupStream {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// See [`ClientError`]; what came before is of no use then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let piece = self.open.message().await;
        piece.map(|piece| piece.map(|piece| piece.data)).map_err(|status| broken_off(&status))
    }
}
