//! What peers ask of this node. A call that was meant for another cluster or
//! node is refused before anything of it is read.

use bytes::Bytes;
use futures::StreamExt;
use openraft::errors::{Fatal, Infallible, RaftError};
use openraft::raft::AppendEntriesResponse;
use openraft::{AsyncRuntime, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::RaftNode;
use crate::app::App;
use crate::device::Device;
use crate::device::snapshots::{SnapshotSink, SnapshotStore};
use crate::machine::offload;
use crate::snapshot::{self, SnapshotData};
use crate::transport::network::{SnapshotOffer, encode};
use crate::transport::{
    CallKind, PIECE_BYTES_MAX, PeerHandler, PeerHeader, PeerRefusal, PeerTransport, Piece, Pieces,
};
use crate::types::Types;

type Answer = Result<Bytes, PeerRefusal>;

fn decode<M: DeserializeOwned>(payload: &[u8]) -> Result<M, PeerRefusal> {
    postcard::from_bytes(payload).map_err(|error| PeerRefusal::Unreadable(error.to_string()))
}

fn answer<M: Serialize, A: App, RT: AsyncRuntime>(
    result: Result<M, RaftError<Types<A, RT>, Infallible>>,
) -> Answer {
    let message = result.map_err(|_| PeerRefusal::Stopped)?;
    encode(&message).map_err(PeerRefusal::Unreadable)
}

fn answer_unless_stopped<M: Serialize, A: App, RT: AsyncRuntime>(
    result: Result<M, Fatal<Types<A, RT>>>,
) -> Answer {
    let message = result.map_err(|_| PeerRefusal::Stopped)?;
    encode(&message).map_err(PeerRefusal::Unreadable)
}

impl<A: App, RT: AsyncRuntime, D: Device, T: PeerTransport> RaftNode<A, RT, D, T> {
    fn check_header(&self, header: &PeerHeader) -> Result<(), PeerRefusal> {
        let options = &self.0.options;
        if header.cluster_id != options.cluster_id {
            return Err(PeerRefusal::WrongCluster);
        }
        if header.to_node != options.node_id {
            return Err(PeerRefusal::WrongNode {
                expected: header.to_node,
                actual: options.node_id,
            });
        }
        if self.0.fatal.get().is_some() {
            return Err(PeerRefusal::Stopped);
        }
        Ok(())
    }

    /// Answers one call of a peer.
    ///
    /// # Errors
    /// The call was not meant for this node, cannot be read, or the node has
    /// stopped.
    pub async fn handle_peer(&self, kind: u32, header: PeerHeader, payload: Bytes) -> Answer {
        self.check_header(&header)?;
        let raft = &self.0.raft;
        let kind = CallKind::from_number(kind)
            .ok_or_else(|| PeerRefusal::Unreadable(format!("unknown kind of call {kind}")))?;
        match kind {
            CallKind::Append => {
                let appended = raft.append_entries(decode(&payload)?).await;
                // Whoever has a lower vote than is known here leads no more.
                if !matches!(&appended, Err(_) | Ok(AppendEntriesResponse::HigherVote(_))) {
                    self.hear_leader();
                }
                answer(appended)
            }
            CallKind::Vote => answer(raft.vote(decode(&payload)?).await),
            CallKind::PreVote => answer(raft.pre_vote(decode(&payload)?).await),
            CallKind::TransferLeader => {
                answer_unless_stopped(raft.handle_transfer_leader(decode(&payload)?).await)
            }
            CallKind::ReadIndex => self.tell_read_index().await,
            CallKind::Ask => Ok((self.0.answerer)(payload)),
        }
    }

    /// Takes a snapshot from a peer: stored aside and checked whole, then
    /// installed.
    ///
    /// # Errors
    /// As `handle_peer`; or a piece is missing or damaged, or the disk fails.
    pub async fn handle_snapshot(&self, header: PeerHeader, meta: Bytes, pieces: Pieces) -> Answer {
        self.check_header(&header)?;
        let offer: SnapshotOffer = decode(&meta)?;
        let sink = self.receive(pieces).await?;
        let (cluster_id, place) = (self.0.options.cluster_id, self.0.shared.place);
        let refuse = |error: std::io::Error| PeerRefusal::Snapshot(error.to_string());
        let (sink, inside) = offload::<RT, _>(place, move || {
            let mut sink = sink;
            let (inside, _) = snapshot::check(&mut *sink.read_back()?, cluster_id)?;
            Ok((sink, inside))
        })
        .await
        .map_err(refuse)?;
        if inside != offer.meta {
            let what = "the snapshot holds another position than was announced";
            return Err(PeerRefusal::Snapshot(what.to_owned()));
        }
        let name = snapshot::name_of(&inside).map_err(refuse)?;
        let snapshot =
            Snapshot { meta: inside, snapshot: SnapshotData { name, staged: Some(sink) } };
        let installed = self.0.raft.install_full_snapshot(offer.vote, snapshot).await;
        if installed.is_ok() {
            self.hear_leader();
        }
        answer_unless_stopped(installed)
    }

    async fn receive(&self, mut pieces: Pieces) -> Result<Box<dyn SnapshotSink>, PeerRefusal> {
        let refuse = |error: std::io::Error| PeerRefusal::Snapshot(error.to_string());
        let mut sink = self.0.snapshots.create().map_err(refuse)?;
        let mut received = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(PeerRefusal::Snapshot)?;
            check_piece(&piece, received)?;
            received += piece.data.len() as u64;
            let is_last = piece.last;
            sink = offload::<RT, _>(self.0.shared.place, move || {
                sink.write_all(&piece.data)?;
                Ok(sink)
            })
            .await
            .map_err(refuse)?;
            if is_last {
                return Ok(sink);
            }
        }
        Err(PeerRefusal::Snapshot("it ended too early".to_owned()))
    }
}

fn check_piece(piece: &Piece, expected_offset: u64) -> Result<(), PeerRefusal> {
    let refuse = |what: &str| Err(PeerRefusal::Snapshot(what.to_owned()));
    if piece.offset != expected_offset {
        return refuse("a piece is missing");
    }
    if piece.data.len() > PIECE_BYTES_MAX {
        return refuse("a piece is too large");
    }
    if crc32c::crc32c(&piece.data) != piece.crc32c {
        return refuse("the checksum of a piece is wrong");
    }
    Ok(())
}

impl<A: App, RT: AsyncRuntime, D: Device, T: PeerTransport> PeerHandler for RaftNode<A, RT, D, T> {
    fn handle_peer(
        &self,
        kind: u32,
        header: PeerHeader,
        payload: Bytes,
    ) -> std::pin::Pin<Box<dyn Future<Output = Answer> + Send + '_>> {
        Box::pin(Self::handle_peer(self, kind, header, payload))
    }

    fn handle_snapshot(
        &self,
        header: PeerHeader,
        meta: Bytes,
        pieces: Pieces,
    ) -> std::pin::Pin<Box<dyn Future<Output = Answer> + Send + '_>> {
        Box::pin(Self::handle_snapshot(self, header, meta, pieces))
    }
}
