//! Replicas that follow their load: from nothing, up, down and back to nothing, as outside callers
//! make it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use berth::local::{GatewayPort, LocalCluster};
use berth_client::{Client, ClientError};
use berth_model::{Autoscale, DurationMs, JobSpec, ScalingMetric, ScalingPace};
use berth_proto::v1;
use support::callers::{LONG, SHORT, ask, chat, send, until_answered};
use tokio::net::TcpStream;

const MAX: u32 = 3;

/// Four requests at once for each replica; two seconds are enough of a look.
fn scaled(min: u32, down: DurationMs, idle: DurationMs) -> JobSpec {
    let mut spec = chat("1");
    let rule = Autoscale {
        targets: [(ScalingMetric::Concurrency, 4_000)].into(),
        average: DurationMs::from_secs(2),
        down: ScalingPace { window: down, ..ScalingPace::DOWN_DEFAULT },
        idle,
        ..Autoscale::between(min, MAX)
    };
    spec.tasks[0].count = rule.count(None);
    spec.autoscale = Some(rule);
    spec.route.drain = DurationMs::from_secs(1);
    spec
}

struct Scaled {
    cluster: LocalCluster,
    client: Client,
    job: u64,
    edge: String,
    _folder: tempfile::TempDir,
}

async fn started(spec: &JobSpec) -> Scaled {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let client = cluster.client();
    cluster.start_gateway(GatewayPort::Any).unwrap();
    let edge = cluster.gateway.as_ref().unwrap().address.clone();
    let job = support::submit(&client, spec).await;
    Scaled { cluster, client, job, edge, _folder: folder }
}

impl Scaled {
    async fn service(&self) -> v1::Service {
        let job = support::reference(&self.job.to_string());
        self.client.get_service(v1::GetServiceRequest { job, consistency: 0 }).await.unwrap()
    }

    async fn until_ready(&self, count: u32) {
        let what = format!("{count} replicas");
        support::until(&what, || async {
            let service = self.service().await;
            (service.replicas_wanted == count && service.replicas_ready == count).then_some(())
        })
        .await;
    }

    /// What was said of each change, oldest first.
    async fn changes(&self) -> Vec<String> {
        let events = support::events(&self.client, self.job).await;
        let scaled = events.into_iter().filter(|event| event.kind == "replicas-scaled");
        scaled.map(|event| event.message).collect()
    }
}

#[tokio::test]
async fn a_hundred_requests_wake_a_service_once_and_when_they_are_gone_so_is_it() {
    let seconds = DurationMs::from_secs;
    let mut spec = scaled(0, seconds(3), seconds(3));
    // A hundred at once are what one replica is to have.
    let rule = spec.autoscale.as_mut().unwrap();
    rule.targets = [(ScalingMetric::Concurrency, 100_000)].into();
    let scaled = started(&spec).await;
    // One is begun in any case, and nobody asks it anything.
    scaled.until_ready(0).await;
    support::until("the gateway to know of no replica", || async {
        scaled.service().await.uses.pop().filter(|used| used.replicas.is_empty())
    })
    .await;
    let began = support::allocations(&scaled.client, scaled.job).await.len();
    let asked = (0..100).map(|_| {
        let edge = scaled.edge.clone();
        tokio::spawn(async move { ask(&edge, SHORT).await.unwrap_or_default() })
    });
    let asked: Vec<_> = asked.collect();
    for answer in asked {
        let answer = answer.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    scaled.until_ready(0).await;
    let all = support::allocations(&scaled.client, scaled.job).await.len();
    assert_eq!(all - began, 1, "one start");
    let changes = scaled.changes().await;
    assert_eq!(changes[1], "scaled from 0 to 1 replicas: it is asked, and there is none");
    assert!(
        changes[2].starts_with("scaled from 1 to 0 replicas: nobody has asked it"),
        "{changes:?}"
    );
    scaled.cluster.stop().await;
}

#[tokio::test]
async fn replicas_follow_what_is_under_way_and_a_new_version_keeps_them() {
    let seconds = DurationMs::from_secs;
    let spec = scaled(1, seconds(2), seconds(60));
    let scaled = started(&spec).await;
    scaled.until_ready(1).await;
    until_answered(&scaled.edge).await;
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..10 {
        streams.push(send(&scaled.edge, LONG).await.unwrap());
    }
    scaled.until_ready(3).await;
    let service = scaled.service().await;
    let scaling = service.scaling.unwrap();
    assert_eq!((scaling.min, scaling.max), (1, MAX));
    let because = "concurrency is 10.00 in all, and 4.00 for each replica";
    support::until("the mean to be what is under way", || async {
        let scaling = scaled.service().await.scaling?;
        (scaling.because == because).then_some(())
    })
    .await;
    // The file says nothing of how many there are.
    let mut next = spec.clone();
    next.priority += 1;
    let reply = scaled.client.submit(support::request(&next, "second")).await.unwrap();
    assert_eq!(reply.job_id, scaled.job);
    assert_eq!(scaled.service().await.replicas_wanted, 3);
    let job = support::reference(&scaled.job.to_string());
    let request = v1::ScaleJobRequest { job, count: 2, ..Default::default() };
    let Err(ClientError::Refused(refused)) = scaled.client.scale_job(request).await else {
        panic!("it follows its load");
    };
    assert!(refused.message.contains("1 to 3"), "{}", refused.message);
    drop(streams);
    scaled.until_ready(1).await;
    scaled.cluster.stop().await;
}
