//! Three etcd servers with their ordinary settings, and the three calls of
//! theirs that are measured. The messages name only the fields that are used;
//! the numbers are those of etcd's public API, `etcdserverpb`.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::{Child, Command};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::berth::until;
use crate::{load, ports};

const MEMBERS: usize = 3;

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(int64, tag = "4")]
    count: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
}

/// A running cluster of etcd; it ends with this value.
pub struct Etcd {
    clients: Vec<String>,
    _members: Vec<Child>,
}

impl Etcd {
    pub async fn start(program: &Path, folder: &Path) -> anyhow::Result<Etcd> {
        if folder.exists() {
            std::fs::remove_dir_all(folder).context("remove the last etcd's data")?;
        }
        std::fs::create_dir_all(folder).context("make etcd's folder")?;
        let ports = ports::free(MEMBERS * 2)?;
        let urls: Vec<String> =
            ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let (client_urls, peer_urls) = urls.split_at(MEMBERS);
        let named: Vec<String> =
            (1..).zip(peer_urls).map(|(number, url)| format!("e{number}={url}")).collect();
        let mut members = Vec::new();
        for (number, (client, peer)) in (1..).zip(client_urls.iter().zip(peer_urls)) {
            let name = format!("e{number}");
            let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
            let member = Command::new(program)
                .arg("--name")
                .arg(&name)
                .arg("--data-dir")
                .arg(folder.join(&name))
                .args(["--listen-client-urls", client, "--advertise-client-urls", client])
                .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
                .args(["--initial-cluster", &named.join(",")])
                .args(["--initial-cluster-token", "bench", "--logger", "zap"])
                .args(["--log-level", "warn"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .kill_on_drop(true)
                .spawn()
                .context("start etcd")?;
            members.push(member);
        }
        let clients = ports[..MEMBERS].iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let etcd = Etcd { clients, _members: members };
        etcd.leader_address().await?;
        Ok(etcd)
    }

    /// Where the leader takes calls: a peer is measured at its best.
    pub async fn leader_address(&self) -> anyhow::Result<String> {
        until("etcd to elect a leader", || async {
            for address in &self.clients {
                let channels = load::connections(address, 1).await.ok()?;
                let status = status(channels[0].clone()).await.ok()?;
                let own = status.header.map_or(0, |header| header.member_id);
                if status.leader != 0 && status.leader == own {
                    return Some(address.clone());
                }
            }
            None
        })
        .await
    }
}

async fn status(channel: Channel) -> anyhow::Result<StatusResponse> {
    call(channel, "/etcdserverpb.Maintenance/Status", StatusRequest {}).await
}

/// Writes a value under a key.
pub async fn put(channel: Channel, key: Vec<u8>, value: Vec<u8>) -> anyhow::Result<()> {
    let reply: PutResponse =
        call(channel, "/etcdserverpb.KV/Put", PutRequest { key, value }).await?;
    let header = reply.header.context("etcd answered a put without a header")?;
    anyhow::ensure!(header.revision > 0, "etcd answered a put without a revision");
    Ok(())
}

/// Reads a key, linearizably, which is what a range is unless it says otherwise.
pub async fn read(channel: Channel, key: Vec<u8>) -> anyhow::Result<()> {
    let reply: RangeResponse =
        call(channel, "/etcdserverpb.KV/Range", RangeRequest { key }).await?;
    anyhow::ensure!(reply.count == 1, "etcd found {} of one key", reply.count);
    Ok(())
}

async fn call<Q, A>(channel: Channel, path: &'static str, request: Q) -> anyhow::Result<A>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.context("connect to etcd")?;
    let codec = ProstCodec::<Q, A>::default();
    let path = PathAndQuery::from_static(path);
    let reply = grpc.unary(tonic::Request::new(request), path, codec).await;
    Ok(reply.context("call etcd")?.into_inner())
}
