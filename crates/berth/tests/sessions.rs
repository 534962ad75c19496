//! What an agent's certificate allows in a session: its own node, in its own
//! pool, for as long as it counts.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_identity::tls::{Credentials, Trust};
use berth_identity::{Dialer, KeyMaterial, Token};
use berth_model::{CpuMilli, Device, Grant, JoinGrant, Machine, MemoryBytes, NodeSpec, PortRange};
use berth_proto::v1;
use berth_proto::v1::access_client::AccessClient;
use berth_proto::v1::agent_message::Message as FromAgent;
use berth_proto::v1::agents_client::AgentsClient;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_wire::agent::{Hello, PROTOCOL, hello_to_proto};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use support::secure::SecureScheduler;

struct Session {
    messages: mpsc::Sender<v1::AgentMessage>,
    answers: Streaming<v1::SchedulerMessage>,
}

impl Session {
    /// Opens the stream; nothing is said yet.
    async fn open(scheduler: &SecureScheduler, credentials: Arc<Credentials>) -> Session {
        let endpoint = Dialer::endpoint(&scheduler.grpc).unwrap();
        let channel = Dialer::tls(Trust::Member(credentials)).unwrap().channel(&endpoint);
        let (messages, outgoing) = mpsc::channel(4);
        let opened = AgentsClient::new(channel).session(ReceiverStream::new(outgoing)).await;
        Session { messages, answers: opened.unwrap().into_inner() }
    }

    /// Says hello as a node; the first answer.
    async fn hello(&mut self, name: &str, pool: &str) -> Result<ToAgent, Status> {
        self.say(hello(name, pool, 0)).await
    }

    async fn say(&mut self, hello: v1::Hello) -> Result<ToAgent, Status> {
        let message = Some(FromAgent::Hello(hello));
        self.messages.send(v1::AgentMessage { message }).await.unwrap();
        self.answers.message().await.map(|answer| answer.unwrap().message.unwrap())
    }
}

fn hello(name: &str, pool: &str, gpus: u32) -> v1::Hello {
    let device = |index| {
        Device::new(format!("GPU-{name}-{index}"), index, "H100-80GB", MemoryBytes(80 << 30))
    };
    hello_to_proto(&Hello {
        name: support::text(name),
        instance_key: [7; 16],
        spec: NodeSpec {
            labels: BTreeMap::new(),
            pool: support::text(pool),
            zone: support::text("default"),
            cpu: CpuMilli(4_000),
            memory: MemoryBytes(1 << 30),
            devices: (0..gpus).map(device).collect(),
            ports: PortRange::DEFAULT,
            agent_version: "test".to_owned(),
            docker_version: String::new(),
            tasks_per_device_max: berth_model::TASKS_PER_DEVICE_MAX_DEFAULT,
            address: String::new(),
        },
        held: None,
        boot_id: "boot".to_owned(),
    })
}

async fn enrolled(
    scheduler: &SecureScheduler,
    token: &Token,
    name: &str,
    pool: &str,
) -> Arc<Credentials> {
    let pin = Trust::Pinned(scheduler.authority().fingerprint());
    let endpoint = Dialer::endpoint(&scheduler.grpc).unwrap();
    let channel = Dialer::tls(pin).unwrap().channel(&endpoint);
    let key = KeyMaterial::generate().unwrap();
    let asked = v1::EnrolRequest {
        token: token.to_text(),
        request: key.request().unwrap().into(),
        machine: v1::Machine::Agent.into(),
        name: name.to_owned(),
        pool: pool.to_owned(),
    };
    let reply = AccessClient::new(channel).enrol(asked).await.unwrap().into_inner();
    let authorities = [reply.authority.to_vec().into()];
    let certificate = reply.certificate.to_vec().into();
    Arc::new(Credentials::new(certificate, &key.to_pem(), &authorities).unwrap())
}

fn quarter() -> Option<berth_model::DurationMs> {
    Some(berth_model::DurationMs(15 * 60 * 1000))
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_node_and_pool_alone() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = SecureScheduler::found(folder.path().join("s1")).await;
    let pool = Some(support::text("training"));
    let grant = Grant::Join(JoinGrant { machine: Machine::Agent, name: None, pool });
    let token = scheduler.token(grant, quarter()).await;
    let credentials = enrolled(&scheduler, &token, "gpu-1", "training").await;
    for (name, pool) in [("gpu-2", "training"), ("gpu-1", "serving")] {
        let mut session = Session::open(&scheduler, credentials.clone()).await;
        let refused = session.hello(name, pool).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{name} in {pool}: {refused:?}");
    }
    let mut session = Session::open(&scheduler, credentials).await;
    let welcome = session.hello("gpu-1", "training").await.unwrap();
    assert!(matches!(welcome, ToAgent::Welcome(_)), "{welcome:?}");
}

#[tokio::test]
async fn a_session_that_was_opened_before_a_revocation_does_not_begin_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = SecureScheduler::found(folder.path().join("s1")).await;
    let grant = Grant::Join(JoinGrant { machine: Machine::Agent, name: None, pool: None });
    let token = scheduler.token(grant, quarter()).await;
    let credentials = enrolled(&scheduler, &token, "gpu-1", "default").await;
    let mut early = Session::open(&scheduler, credentials.clone()).await;
    let mut open = Session::open(&scheduler, credentials.clone()).await;
    assert!(matches!(open.hello("gpu-1", "default").await.unwrap(), ToAgent::Welcome(_)));

    let (machine, name) = (v1::Machine::Agent.into(), "gpu-1".to_owned());
    let revoke = v1::RevokeCertificatesRequest { machine, name };
    scheduler.admin().unwrap().revoke_certificates(revoke).await.unwrap();
    // The one that is up ends.
    let ended = loop {
        match open.answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the session ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
    let refused = early.hello("gpu-1", "default").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
}

/// A change of a hello, and how it is refused.
type BadHello = (fn(&mut v1::Hello), Code, &'static [&'static str]);

/// Agents of another time, inventories that cannot be, and devices of another
/// host.
const BAD_HELLOS: [BadHello; 8] = [
    (
        |hello| hello.protocol = 9,
        Code::FailedPrecondition,
        &["the agent speaks protocol 9", "this scheduler understands 1 to 1"],
    ),
    (
        |hello| hello.instance_key = vec![8; 16].into(),
        Code::FailedPrecondition,
        &["node name `gpu-1` belongs to another machine"],
    ),
    (
        |hello| {
            let devices = &mut devices_of(hello);
            let one = devices[0].clone();
            let numbered = |index| v1::Device { uuid: format!("GPU-{index}"), ..one.clone() };
            **devices = (0..1_000).map(numbered).collect();
        },
        Code::InvalidArgument,
        &["spec.devices", "found 1000"],
    ),
    (
        |hello| devices_of(hello)[1].uuid = "GPU-gpu-1-0".to_owned(),
        Code::InvalidArgument,
        &["two devices have the uuid `GPU-gpu-1-0`"],
    ),
    (
        |hello| devices_of(hello)[0].memory_bytes = 0,
        Code::InvalidArgument,
        &["spec.devices", "GPU-gpu-1-0"],
    ),
    (
        |hello| hello.spec.as_mut().unwrap().agent_version = "5".repeat(1 << 20),
        Code::InvalidArgument,
        &["spec", "bytes"],
    ),
    (
        |hello| devices_of(hello)[0].uuid = "GPU-gpu-2-1".to_owned(),
        Code::FailedPrecondition,
        &["device `GPU-gpu-2-1` is on node `gpu-2` already"],
    ),
    (|hello| hello.boot_id = "b".repeat(1 << 10), Code::InvalidArgument, &["boot_id"]),
];

fn devices_of(hello: &mut v1::Hello) -> &mut Vec<v1::Device> {
    &mut hello.spec.as_mut().unwrap().devices
}

#[tokio::test]
async fn b45_b46_an_agent_that_cannot_be_is_refused_whole_and_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = SecureScheduler::found(folder.path().join("s1")).await;
    let mut nodes = Vec::new();
    for name in ["gpu-1", "gpu-2"] {
        let grant = Grant::Join(JoinGrant { machine: Machine::Agent, name: None, pool: None });
        let token = scheduler.token(grant, quarter()).await;
        let credentials = enrolled(&scheduler, &token, name, "default").await;
        let mut session = Session::open(&scheduler, credentials.clone()).await;
        let welcome = session.say(hello(name, "default", 2)).await.unwrap();
        assert!(matches!(welcome, ToAgent::Welcome(_)), "{welcome:?}");
        nodes.push((session, credentials));
    }
    let admin = scheduler.admin().unwrap();
    let shown = || async {
        let nodes = admin.list_nodes(v1::ListNodesRequest { consistency: 0 }).await.unwrap().nodes;
        nodes.into_iter().map(|node| (node.name, node.state, node.spec)).collect::<Vec<_>>()
    };
    let before = shown().await;
    let turned_away = || async {
        let asked = v1::GetNodeRequest { node: "gpu-1".to_owned(), consistency: 0 };
        admin.get_node(asked).await.unwrap().agent_refused.map(|refused| refused.reason)
    };
    assert_eq!(turned_away().await, None);
    let (first, credentials) = &mut nodes[0];
    for (position, (change, code, parts)) in BAD_HELLOS.into_iter().enumerate() {
        let mut bad = hello("gpu-1", "default", 2);
        change(&mut bad);
        let mut session = Session::open(&scheduler, credentials.clone()).await;
        let refused = session.say(bad).await.unwrap_err();
        assert_eq!(refused.code(), code, "hello {position}: {refused:?}");
        for part in parts {
            assert!(refused.message().contains(part), "hello {position}: {refused:?}");
        }
        assert_eq!(turned_away().await.as_deref(), Some(refused.message()), "hello {position}");
    }
    assert_eq!(shown().await, before, "what was known is as it was");
    // The session that was up goes on.
    let beat = v1::Heartbeat { sequence: 1, ..v1::Heartbeat::default() };
    let message = Some(FromAgent::Heartbeat(beat));
    first.messages.send(v1::AgentMessage { message }).await.unwrap();
    loop {
        let answer = first.answers.message().await.unwrap().unwrap().message.unwrap();
        if matches!(answer, ToAgent::HeartbeatAck(v1::HeartbeatAck { sequence: 1, .. })) {
            break;
        }
    }
    // An agent that does not say what it speaks is of the first release.
    let mut session = Session::open(&scheduler, credentials.clone()).await;
    let silent = v1::Hello { protocol: 0, ..hello("gpu-1", "default", 2) };
    assert!(matches!(session.say(silent).await.unwrap(), ToAgent::Welcome(_)));
    assert_eq!(turned_away().await, None, "it was let in");
    assert_eq!(hello("gpu-1", "default", 2).protocol, PROTOCOL);
}
