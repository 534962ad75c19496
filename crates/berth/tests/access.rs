//! Every call and every page, tried by every kind of caller against a real
//! scheduler. What should come of it stands here, written apart from the rules
//! that the scheduler enforces.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use berth_identity::tls::{Credentials, Trust, client_config};
use berth_identity::{Dialer, Page};
use berth_model::{Grant, Machine, Role, Scope};
use berth_proto::v1;
use bytes::Bytes;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use support::secure::SecureScheduler;

/// Callers, in the order of the table's columns.
const CALLERS: [&str; 18] = [
    "stranger",
    "stranger with an admin's token",
    "server",
    "agent",
    "gateway",
    "client",
    "client, read",
    "client, submit",
    "client, operate",
    "client, admin",
    "client, revoked token",
    "client, garbled token",
    "agent with an admin's token",
    "server with an admin's token",
    "lapsed agent",
    "lapsed client, admin",
    "revoked client, admin",
    "socket file",
];

/// The rows, by what a call is for. `+` may, `u` is asked who it is
/// (unauthenticated), `-` may not (permission denied); one letter for each of
/// `CALLERS`:
///
///                 strangers, server, agent, gateway, client
///                 |  without token, read, submit, operate, admin
///                 |  |    revoked and garbled token
///                 |  |    |  agent and server with an admin's token
///                 |  |    |  |  lapsed agent, lapsed and revoked client
///                 |  |    |  |  |  socket file
const PEERS: &str = "uu + - - - ---- -- -+ uuu u";
const AGENTS: &str = "uu - + - - ---- -- +- uuu u";
const GATEWAYS: &str = "uu - - + - ---- -- -- uuu u";
const READ: &str = "uu - - - u ++++ uu -- uuu u";
const SUBMIT: &str = "uu - - - u -+++ uu -- uuu u";
const OPERATE: &str = "uu - - - u --++ uu -- uuu u";
const ADMIN: &str = "uu - - - u ---+ uu -- uuu u";
/// Whoever has a join token, which the call itself carries.
const JOINING: &str = "++ + + + + ++++ ++ ++ +++ u";
/// An agent or a gateway, for itself, also one that has lapsed.
const RENEWAL: &str = "uu - + + - ---- -- +- +-u u";
const SOCKET: &str = "-- - - - - ---- -- -- --- +";
const ANYONE: &str = "++ + + + + ++++ ++ ++ +++ +";
/// Any machine whose certificate is good.
const MEMBERS: &str = "uu + + + + ++++ ++ ++ uuu u";

const CALLS: [(&str, &str); 75] = [
    ("/berth.raft.v1.Peer/Call", PEERS),
    ("/berth.raft.v1.Peer/Snapshot", PEERS),
    ("/berth.v1.Agents/Session", AGENTS),
    ("/berth.v1.Agents/PushLogs", AGENTS),
    ("/berth.v1.Agents/Exec", AGENTS),
    ("/berth.v1.Jobs/Submit", SUBMIT),
    ("/berth.v1.Jobs/SubmitMany", SUBMIT),
    ("/berth.v1.Jobs/Plan", SUBMIT),
    ("/berth.v1.Jobs/Get", READ),
    ("/berth.v1.Jobs/List", READ),
    ("/berth.v1.Jobs/ListAllocations", READ),
    ("/berth.v1.Jobs/Explain", READ),
    ("/berth.v1.Jobs/History", READ),
    ("/berth.v1.Jobs/Stop", SUBMIT),
    ("/berth.v1.Jobs/Restart", SUBMIT),
    ("/berth.v1.Jobs/Hold", SUBMIT),
    ("/berth.v1.Jobs/Release", SUBMIT),
    ("/berth.v1.Jobs/Purge", SUBMIT),
    ("/berth.v1.Jobs/Scale", SUBMIT),
    ("/berth.v1.Jobs/Rollback", SUBMIT),
    ("/berth.v1.Jobs/Events", READ),
    ("/berth.v1.Jobs/Logs", READ),
    ("/berth.v1.Jobs/Exec", SUBMIT),
    ("/berth.v1.Jobs/Files", SUBMIT),
    ("/berth.v1.Nodes/List", READ),
    ("/berth.v1.Nodes/Get", READ),
    ("/berth.v1.Nodes/Cordon", OPERATE),
    ("/berth.v1.Nodes/Uncordon", OPERATE),
    ("/berth.v1.Nodes/CordonDevice", OPERATE),
    ("/berth.v1.Nodes/UncordonDevice", OPERATE),
    ("/berth.v1.Nodes/GetDevice", READ),
    ("/berth.v1.Nodes/Drain", OPERATE),
    ("/berth.v1.Nodes/ListOrphans", READ),
    ("/berth.v1.Nodes/StopOrphans", OPERATE),
    ("/berth.v1.Namespaces/Apply", ADMIN),
    ("/berth.v1.Namespaces/Get", READ),
    ("/berth.v1.Namespaces/List", READ),
    ("/berth.v1.Namespaces/Delete", ADMIN),
    ("/berth.v1.Gateways/WatchRoutes", GATEWAYS),
    ("/berth.v1.Gateways/Report", GATEWAYS),
    ("/berth.v1.Services/List", READ),
    ("/berth.v1.Services/Get", READ),
    ("/berth.v1.NodeReservations/Set", OPERATE),
    ("/berth.v1.NodeReservations/Get", READ),
    ("/berth.v1.NodeReservations/List", READ),
    ("/berth.v1.NodeReservations/Remove", OPERATE),
    ("/berth.v1.Nodes/PlanDefrag", OPERATE),
    ("/berth.v1.Nodes/Defrag", OPERATE),
    ("/berth.v1.Operator/Status", READ),
    ("/berth.v1.Operator/Join", JOINING),
    ("/berth.v1.Operator/Promote", OPERATE),
    ("/berth.v1.Operator/Remove", OPERATE),
    ("/berth.v1.Operator/Transfer", OPERATE),
    ("/berth.v1.Operator/Snapshot", OPERATE),
    ("/berth.v1.Operator/Backup", ADMIN),
    ("/berth.v1.Operator/Capture", ADMIN),
    ("/berth.v1.Operator/Resume", OPERATE),
    ("/berth.v1.Operator/StateHash", OPERATE),
    ("/berth.v1.Operator/Finalize", OPERATE),
    ("/berth.v1.Operator/SetPolicyDefault", OPERATE),
    ("/berth.v1.Operator/ListPolicyDefaults", READ),
    ("/berth.v1.Access/CreateToken", ADMIN),
    ("/berth.v1.Access/ListTokens", ADMIN),
    ("/berth.v1.Access/RevokeToken", ADMIN),
    ("/berth.v1.Access/Enrol", JOINING),
    ("/berth.v1.Access/Renew", RENEWAL),
    ("/berth.v1.Access/Issue", ADMIN),
    ("/berth.v1.Access/RevokeCertificates", ADMIN),
    ("/berth.v1.Access/RecoverAdmin", SOCKET),
    ("/grpc.health.v1.Health/Check", ANYONE),
    ("/grpc.health.v1.Health/Watch", ANYONE),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", READ),
    ("GET /livez", ANYONE),
    ("GET /readyz", ANYONE),
    ("GET /metrics", MEMBERS),
];

/// A caller that is ready to call.
struct Caller {
    channel: Channel,
    token: Option<String>,
    trust: Option<Trust>,
}

struct Callers<'a> {
    scheduler: &'a SecureScheduler,
}

impl Callers<'_> {
    fn with(&self, trust: Trust, token: Option<String>) -> Caller {
        let endpoint = Dialer::endpoint(&self.scheduler.grpc).unwrap();
        let channel = Dialer::tls(trust.clone()).unwrap().channel(&endpoint);
        Caller { channel, token, trust: Some(trust) }
    }

    fn member(&self, credentials: Arc<Credentials>, token: Option<String>) -> Caller {
        self.with(Trust::Member(credentials), token)
    }

    fn machine(&self, machine: Machine, name: &str) -> Caller {
        self.member(self.scheduler.credentials(machine, name, 0), None)
    }

    async fn person(&self, role: Role) -> String {
        let grant = Grant::Person { role, scope: Scope::All };
        self.scheduler.token(grant, None).await.to_text()
    }

    async fn all(&self) -> BTreeMap<&'static str, Caller> {
        let scheduler = self.scheduler;
        let pin = Trust::Pinned(scheduler.authority().fingerprint());
        let admin = self.person(Role::Admin).await;
        let client = || scheduler.credentials(Machine::Client, "alice", 0);
        let mut callers = BTreeMap::from([
            ("stranger", self.with(pin.clone(), None)),
            ("stranger with an admin's token", self.with(pin, Some(admin.clone()))),
            ("server", self.machine(Machine::Server, "1")),
            ("agent", self.machine(Machine::Agent, "gpu-7")),
            ("gateway", self.machine(Machine::Gateway, "edge")),
            ("client", self.machine(Machine::Client, "alice")),
        ]);
        let roles = [Role::Read, Role::Submit, Role::Operate, Role::Admin];
        for (role, name) in roles.into_iter().zip(&CALLERS[6..10]) {
            let token = self.person(role).await;
            callers.insert(name, self.member(client(), Some(token)));
        }
        let revoked = scheduler.token(all(Role::Admin), None).await;
        let revoke = v1::RevokeTokenRequest { id: revoked.id.0 };
        scheduler.admin().unwrap().revoke_token(revoke).await.unwrap();
        let garbled = admin.replace("berth_", "berth-");
        let of = |machine, name, age| scheduler.credentials(machine, name, age);
        let mallory = of(Machine::Client, "mallory", 0);
        let (machine, name) = (v1::Machine::Client.into(), "mallory".to_owned());
        let revoke = v1::RevokeCertificatesRequest { machine, name };
        scheduler.admin().unwrap().revoke_certificates(revoke).await.unwrap();
        let endpoint = Dialer::endpoint("localhost:0").unwrap();
        let socket = Dialer::Local(Arc::from(scheduler.data_dir.join("admin.sock")));
        callers.extend([
            ("client, revoked token", self.member(client(), Some(revoked.to_text()))),
            ("client, garbled token", self.member(client(), Some(garbled))),
            (
                "agent with an admin's token",
                self.member(of(Machine::Agent, "gpu-7", 0), Some(admin.clone())),
            ),
            (
                "server with an admin's token",
                self.member(of(Machine::Server, "1", 0), Some(admin.clone())),
            ),
            ("lapsed agent", self.member(of(Machine::Agent, "gpu-7", 31), None)),
            (
                "lapsed client, admin",
                self.member(of(Machine::Client, "alice", 31), Some(admin.clone())),
            ),
            ("revoked client, admin", self.member(mallory, Some(admin))),
            (
                "socket file",
                Caller { channel: socket.channel(&endpoint), token: None, trust: None },
            ),
        ]);
        callers
    }
}

fn all(role: Role) -> Grant {
    Grant::Person { role, scope: Scope::All }
}

/// Every call of every service that a scheduler offers, as their descriptors
/// have them, and every page that its router is made of.
fn offered() -> BTreeSet<String> {
    let sets = [
        berth_proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ];
    let mut offered = BTreeSet::new();
    for set in sets {
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                for method in &service.method {
                    let (package, service) = (file.package(), service.name());
                    offered.insert(format!("/{package}.{service}/{}", method.name()));
                }
            }
        }
    }
    offered.extend(Page::ALL.map(|page| format!("GET {}", page.path())));
    offered
}

/// One call with an empty message: what the gate made of it. What comes from
/// behind the gate is no matter of rules.
async fn call(caller: &Caller, path: &str) -> char {
    let mut grpc = tonic::client::Grpc::new(caller.channel.clone());
    grpc.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::once(Bytes::new()));
    if let Some(token) = &caller.token {
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
    }
    let path = path.parse().unwrap();
    let asked = grpc.streaming(request, path, support::bytes::BytesCodec);
    let answer = tokio::time::timeout(Duration::from_secs(20), asked).await.unwrap();
    match answer {
        Ok(_) => '+',
        Err(status) => letter(&status),
    }
}

fn letter(status: &Status) -> char {
    let detail = v1::ErrorDetail::decode(status.details()).unwrap();
    // The call was let through to where its join token is looked at.
    if detail.refused == "join" {
        return '+';
    }
    if status.code() == Code::Unauthenticated {
        'u'
    } else if status.code() == Code::PermissionDenied {
        '-'
    } else {
        '+'
    }
}

/// One page; over the socket file there are none.
async fn get(scheduler: &SecureScheduler, caller: &Caller, path: &str) -> Option<char> {
    let mut config = client_config(caller.trust.clone()?).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(&scheduler.http).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let nobody = "scheduler".try_into().unwrap();
    let mut stream = connector.connect(nobody, stream).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: berth\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    Some(match answer.split(' ').nth(1).unwrap() {
        "200" => '+',
        "401" => 'u',
        "403" => '-',
        other => panic!("{path} answered {other}"),
    })
}

#[tokio::test]
async fn every_call_is_for_whom_it_should_be() {
    let expected: BTreeMap<String, &str> =
        CALLS.iter().map(|(call, row)| ((*call).to_owned(), *row)).collect();
    let rows: BTreeSet<String> = expected.keys().cloned().collect();
    assert_eq!(offered(), rows, "each call and page has a row, and each row a call or page");

    let folder = tempfile::tempdir().unwrap();
    let scheduler = SecureScheduler::found(folder.path().join("s")).await;
    let callers = Callers { scheduler: &scheduler }.all().await;
    let mut wrong = Vec::new();
    for (path, row) in &expected {
        let letters: Vec<char> = row.chars().filter(|letter| *letter != ' ').collect();
        assert_eq!(letters.len(), CALLERS.len(), "{path}");
        for (name, wanted) in CALLERS.iter().zip(letters) {
            let caller = &callers[name];
            let found = match path.strip_prefix("GET ") {
                Some(page) => match get(&scheduler, caller, page).await {
                    Some(found) => found,
                    None => continue,
                },
                None => call(caller, path).await,
            };
            if found != wanted {
                wrong.push(format!("{path}: {name}: expected {wanted}, found {found}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
