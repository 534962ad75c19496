//! The consensus library's network trait over a transport.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::Stream;
use futures::future::{Either, select};
use openraft::base::BoxFuture;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{
    AsyncRuntime, BasicNode, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::stream::{self, AppendStream};
use super::{
    CallError, CallKind, Lane, OutgoingSnapshot, PeerConnection, PeerHeader, PeerTransport,
};
use crate::app::App;
use crate::device::snapshots::SnapshotStore;
use crate::device::{Position, VoteRecord};
use crate::log::{to_position, to_vote_record};
use crate::snapshot::SnapshotData;
use crate::types::{SnapshotMeta, SnapshotOf, Types, Vote};

/// How far each peer acknowledged under the leadership named: a peer that
/// then lacks such an entry was wiped, and must not be counted any more.
type Acknowledged = Arc<Mutex<BTreeMap<u64, (VoteRecord, Position)>>>;

/// Makes connections for the consensus core.
pub struct Network<T, S> {
    pub(crate) transport: T,
    pub(crate) store: S,
    pub(crate) header: PeerHeader,
    pub(crate) acknowledged: Acknowledged,
}

impl<T: PeerTransport, S: SnapshotStore> Network<T, S> {
    fn peer(&self, target: u64, node: &BasicNode, lane: Lane) -> Peer<T::Connection, S> {
        Peer {
            connection: self.transport.connect(target, &node.addr, lane),
            store: self.store.clone(),
            header: PeerHeader { to_node: target, ..self.header.clone() },
            acknowledged: self.acknowledged.clone(),
        }
    }
}

impl<A: App, RT: AsyncRuntime, T: PeerTransport, S: SnapshotStore> RaftNetworkFactory<Types<A, RT>>
    for NetworkOf<A, RT, T, S>
{
    type Network = PeerOf<A, RT, T::Connection, S>;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Self::Network {
        PeerOf::new(self.0.peer(target, node, Lane::Log))
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &BasicNode) -> Self::Network {
        PeerOf::new(self.0.peer(target, node, Lane::Heartbeat))
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &BasicNode) -> Self::Network {
        PeerOf::new(self.0.peer(target, node, Lane::Snapshot))
    }
}

/// The network with the library's type parameters.
pub struct NetworkOf<A, RT, T, S>(
    pub(crate) Network<T, S>,
    pub(crate) std::marker::PhantomData<fn() -> (A, RT)>,
);

/// One peer with the library's type parameters.
pub struct PeerOf<A, RT, C, S>(Peer<C, S>, std::marker::PhantomData<fn() -> (A, RT)>);

impl<A, RT, C, S> PeerOf<A, RT, C, S> {
    fn new(peer: Peer<C, S>) -> Self {
        Self(peer, std::marker::PhantomData)
    }
}

struct Peer<C, S> {
    connection: C,
    store: S,
    header: PeerHeader,
    acknowledged: Acknowledged,
}

/// What precedes a snapshot on the wire.
#[derive(Serialize, serde::Deserialize)]
pub(crate) struct SnapshotOffer {
    pub vote: Vote,
    pub meta: SnapshotMeta,
}

pub(crate) fn encode<M: Serialize>(message: &M) -> Result<Bytes, String> {
    let encoded = postcard::to_stdvec(message);
    encoded.map(Bytes::from).map_err(|error| error.to_string())
}

impl<C: PeerConnection, S: SnapshotStore> Peer<C, S> {
    async fn call<A: App, RT: AsyncRuntime, Q: Serialize, R: DeserializeOwned>(
        &self,
        kind: CallKind,
        action: RPCTypes,
        request: &Q,
        option: &RPCOption,
    ) -> Result<R, RPCError<Types<A, RT>>> {
        let payload =
            encode(request).map_err(|error| RPCError::Network(NetworkError::from_string(error)))?;
        let deadline = option.hard_ttl();
        let answer = self.connection.call(kind, self.header.clone(), payload, deadline).await;
        let answer = answer.map_err(|error| self.failure(error, action))?;
        postcard::from_bytes(&answer)
            .map_err(|error| RPCError::Network(NetworkError::from_string(error)))
    }

    fn failure<A: App, RT: AsyncRuntime>(
        &self,
        error: CallError,
        action: RPCTypes,
    ) -> RPCError<Types<A, RT>> {
        match error {
            CallError::Timeout(timeout) => RPCError::Timeout(Timeout {
                action,
                id: self.header.from_node,
                target: self.header.to_node,
                timeout,
            }),
            // A refusal is answered at once, so without a pause it would be
            // asked for again at once.
            error @ (CallError::Unreachable(_) | CallError::Refused(_)) => {
                RPCError::Unreachable(Unreachable::from_string(error))
            }
        }
    }

    fn note_success(&self, vote: VoteRecord, last: Option<Position>) {
        let Some(last) = last else { return };
        let mut all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let held = all.entry(self.header.to_node).or_insert((vote, last));
        *held = if held.0 == vote { (vote, held.1.max(last)) } else { (vote, last) };
    }

    /// The index up to which this peer once had what it now lacks.
    fn lost(&self, vote: VoteRecord, lacking: Option<Position>) -> Option<u64> {
        let lacking = lacking?;
        let all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let (under, reached) = all.get(&self.header.to_node)?;
        (*under == vote && lacking.index <= reached.index).then_some(reached.index)
    }
}

impl<A: App, RT: AsyncRuntime, C: PeerConnection, S: SnapshotStore> RaftNetworkV2<Types<A, RT>>
    for PeerOf<A, RT, C, S>
{
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<A, RT>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<A, RT>>, RPCError<Types<A, RT>>> {
        let peer = &self.0;
        let response = peer.call(CallKind::Append, RPCTypes::AppendEntries, &rpc, &option).await?;
        let vote = to_vote_record(&rpc.vote);
        let before = rpc.prev_log_id.as_ref().map(to_position);
        match &response {
            AppendEntriesResponse::Success => {
                let last = rpc.entries.last().map(|entry| to_position(&entry.log_id));
                peer.note_success(vote, last.or(before));
            }
            AppendEntriesResponse::PartialSuccess(last) => {
                peer.note_success(vote, last.as_ref().map(to_position));
            }
            AppendEntriesResponse::Conflict => {
                if let Some(index) = peer.lost(vote, before) {
                    let target = peer.header.to_node;
                    tracing::error!(
                        node_id = target,
                        index,
                        "member has lost data it acknowledged; remove it and let it join under a new id"
                    );
                    let what = format!("node {target} lost data it had up to index {index}");
                    return Err(RPCError::Unreachable(Unreachable::from_string(what)));
                }
            }
            AppendEntriesResponse::HigherVote(_) => {}
        }
        Ok(response)
    }

    fn stream_append<'s, Q>(
        &'s mut self,
        requests: Q,
        option: RPCOption,
    ) -> BoxFuture<'s, AppendStream<'s, A, RT>>
    where
        Q: Stream<Item = AppendEntriesRequest<Types<A, RT>>> + OptionalSend + Unpin + 'static,
    {
        stream::append(self, requests, option)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<A, RT>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<A, RT>>, RPCError<Types<A, RT>>> {
        self.0.call(CallKind::Vote, RPCTypes::Vote, &rpc, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<A, RT>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<A, RT>>, RPCError<Types<A, RT>>> {
        self.0.call(CallKind::PreVote, RPCTypes::Vote, &rpc, &option).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types<A, RT>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<A, RT>>, RPCError<Types<A, RT>>> {
        let action = RPCTypes::TransferLeader;
        self.0.call(CallKind::TransferLeader, action, &rpc, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types<A, RT>>, StreamingError<Types<A, RT>>> {
        let peer = &self.0;
        let network = |error: String| StreamingError::Network(NetworkError::from_string(error));
        let meta = encode(&SnapshotOffer { vote, meta: snapshot.meta.clone() }).map_err(network)?;
        let (source, _) = peer
            .store
            .open(snapshot.snapshot.name)
            .map_err(|error| network(format!("open snapshot: {error}")))?;
        let sending = peer.connection.send_snapshot(OutgoingSnapshot {
            header: peer.header.clone(),
            meta,
            source,
            patience: option.hard_ttl(),
        });
        let answer = match select(std::pin::pin!(sending), std::pin::pin!(cancel)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((closed, _)) => return Err(StreamingError::Closed(closed)),
        };
        let answer = answer.map_err(|error| peer.failure(error, RPCTypes::InstallSnapshot))?;
        let response: SnapshotResponse<Types<A, RT>> =
            postcard::from_bytes(&answer).map_err(|error| network(error.to_string()))?;
        if response.vote == vote {
            let last = snapshot.meta.last_log_id.as_ref().map(to_position);
            peer.note_success(to_vote_record(&vote), last);
        }
        Ok(response)
    }
}
