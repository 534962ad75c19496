//! What an agent's certificate allows in a session: its own node, in its own
//! pool, for as long as it counts.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_identity::tls::{Credentials, Trust};
use berth_identity::{Dialer, KeyMaterial, Token};
use berth_model::{CpuMilli, Grant, JoinGrant, Machine, MemoryBytes, NodeSpec, PortRange};
use berth_proto::v1;
use berth_proto::v1::access_client::AccessClient;
use berth_proto::v1::agent_message::Message as FromAgent;
use berth_proto::v1::agents_client::AgentsClient;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_wire::agent::{Hello, hello_to_proto};
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
        let hello = Hello {
            name: support::text(name),
            instance_key: [7; 16],
            spec: NodeSpec {
                labels: BTreeMap::new(),
                pool: support::text(pool),
                zone: support::text("default"),
                cpu: CpuMilli(4_000),
                memory: MemoryBytes(1 << 30),
                devices: Vec::new(),
                ports: PortRange::DEFAULT,
                agent_version: "test".to_owned(),
                address: String::new(),
            },
            held: None,
            boot_id: "boot".to_owned(),
        };
        let message = Some(FromAgent::Hello(hello_to_proto(&hello)));
        self.messages.send(v1::AgentMessage { message }).await.unwrap();
        self.answers.message().await.map(|answer| answer.unwrap().message.unwrap())
    }
}

async fn enrolled(scheduler: &SecureScheduler, token: &Token, pool: &str) -> Arc<Credentials> {
    let pin = Trust::Pinned(scheduler.authority().fingerprint());
    let endpoint = Dialer::endpoint(&scheduler.grpc).unwrap();
    let channel = Dialer::tls(pin).unwrap().channel(&endpoint);
    let key = KeyMaterial::generate().unwrap();
    let asked = v1::EnrolRequest {
        token: token.to_text(),
        request: key.request().unwrap().into(),
        machine: v1::Machine::Agent.into(),
        name: "gpu-1".to_owned(),
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
    let credentials = enrolled(&scheduler, &token, "training").await;
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
    let credentials = enrolled(&scheduler, &token, "default").await;
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
