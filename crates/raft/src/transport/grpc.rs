//! Peers over gRPC: the calling side.

use std::sync::Arc;
use std::time::Duration;

use berth_proto::raft::v1 as proto;
use berth_proto::raft::v1::peer_client::PeerClient;
use berth_proto::raft::v1::peer_refusal::Reason;
use bytes::Bytes;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{
    CallError, CallKind, Cutter, Lane, MESSAGE_BYTES_MAX, OutgoingSnapshot, PeerConnection,
    PeerHeader, PeerRefusal, PeerTransport,
};

/// A peer that does not accept within this time is down for now. On loopback
/// and in a data centre a connection takes a millisecond.
const CONNECT_WAIT: Duration = Duration::from_millis(150);
/// Finds connections whose other end vanished without a word.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Pieces read ahead of the network: bounds the memory of a transfer.
const PIECES_AHEAD: usize = 2;

/// Turns an endpoint into a channel that connects at its first call; encryption
/// is put in here.
pub type ChannelFactory = Arc<dyn Fn(&Endpoint) -> Channel + Send + Sync>;

/// Peers over gRPC.
#[derive(Clone)]
pub struct GrpcTransport {
    channels: ChannelFactory,
}

impl GrpcTransport {
    /// Plain text: for loopback, or where an operator asked for it.
    #[must_use]
    pub fn plain() -> Self {
        Self::with_channels(Arc::new(Endpoint::connect_lazy))
    }

    /// With channels of the caller's making.
    #[must_use]
    pub fn with_channels(channels: ChannelFactory) -> Self {
        Self { channels }
    }
}

/// One connection; it is made at the first call and again after it broke.
#[derive(Clone)]
pub struct GrpcConnection(Result<PeerClient<Channel>, String>);

impl PeerTransport for GrpcTransport {
    type Connection = GrpcConnection;

    fn connect(&self, _: u64, address: &str, _: Lane) -> GrpcConnection {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let channel = endpoint.map_err(|error| error.to_string()).map(|endpoint| {
            let endpoint = endpoint
                .connect_timeout(CONNECT_WAIT)
                .tcp_nodelay(true)
                .tcp_keepalive(Some(KEEPALIVE))
                .http2_keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE);
            (self.channels)(&endpoint)
        });
        GrpcConnection(channel.map(|channel| {
            PeerClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        }))
    }
}

impl GrpcConnection {
    fn client(&self) -> Result<PeerClient<Channel>, CallError> {
        self.0.clone().map_err(CallError::Unreachable)
    }
}

impl PeerConnection for GrpcConnection {
    async fn call(
        &self,
        kind: CallKind,
        header: PeerHeader,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let mut client = self.client()?;
        let request =
            proto::PeerRequest { header: Some(to_proto(&header)), kind: kind as u32, payload };
        let answer = tokio::time::timeout(deadline, client.call(request)).await;
        match answer {
            Ok(answer) => read_answer(answer, deadline),
            Err(_) => Err(CallError::Timeout(deadline)),
        }
    }

    async fn send_snapshot(&self, snapshot: OutgoingSnapshot) -> Result<Bytes, CallError> {
        let mut client = self.client()?;
        let OutgoingSnapshot { header, meta, source, patience } = snapshot;
        let (sender, pieces) = tokio::sync::mpsc::channel(PIECES_AHEAD);
        let (progress, mut progressed) = tokio::sync::watch::channel(());
        let header = to_proto(&header);
        let reading = tokio::task::spawn_blocking(move || {
            let mut first = Some((header, meta));
            let mut cutter = Cutter::new(source);
            while let Some(piece) = cutter.next()? {
                let (header, meta) = first.take().unzip();
                let piece = proto::SnapshotPiece {
                    header,
                    meta: meta.unwrap_or_default(),
                    offset: piece.offset,
                    data: piece.data,
                    crc32c: piece.crc32c,
                    last: piece.last,
                };
                if sender.blocking_send(piece).is_err() {
                    break;
                }
                progress.send_replace(());
            }
            std::io::Result::Ok(())
        });
        let sending = client.snapshot(ReceiverStream::new(pieces));
        let mut sending = std::pin::pin!(sending);
        // The limit is on time without progress, not on the whole: a large
        // snapshot over a slow link is no failure.
        let answer = loop {
            tokio::select! {
                answer = &mut sending => break answer,
                Ok(()) = progressed.changed() => {}
                () = tokio::time::sleep(patience) => return Err(CallError::Timeout(patience)),
            }
        };
        match reading.await {
            Ok(Ok(())) => read_answer(answer, patience),
            Ok(Err(error)) => Err(CallError::Unreachable(format!("read snapshot: {error}"))),
            Err(_) => Err(CallError::Unreachable("snapshot reader ended".to_owned())),
        }
    }
}

fn to_proto(header: &PeerHeader) -> proto::PeerHeader {
    proto::PeerHeader {
        cluster_id: Bytes::copy_from_slice(&header.cluster_id),
        from_node: header.from_node,
        to_node: header.to_node,
    }
}

fn read_answer(
    answer: Result<tonic::Response<proto::PeerReply>, Status>,
    deadline: Duration,
) -> Result<Bytes, CallError> {
    let reply = match answer {
        Ok(reply) => reply.into_inner(),
        Err(status) if status.code() == Code::DeadlineExceeded => {
            return Err(CallError::Timeout(deadline));
        }
        Err(status) => return Err(CallError::Unreachable(status.to_string())),
    };
    match reply.refusal {
        None => Ok(reply.payload),
        Some(refusal) => Err(CallError::Refused(match refusal.reason() {
            Reason::WrongCluster => PeerRefusal::WrongCluster,
            Reason::WrongNode => PeerRefusal::WrongNode {
                expected: refusal.expected_node,
                actual: refusal.actual_node,
            },
            Reason::Stopped => PeerRefusal::Stopped,
            Reason::Snapshot => PeerRefusal::Snapshot(refusal.detail),
            Reason::Unreadable | Reason::Unspecified => PeerRefusal::Unreadable(refusal.detail),
        })),
    }
}
