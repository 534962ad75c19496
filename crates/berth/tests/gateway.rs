//! A gateway in front of a cluster's services: an outside client sees nothing of what happens
//! behind it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use berth::local::{GatewayPort, LocalCluster};
use berth_client::Client;
use berth_model::{DurationMs, JobSpec};
use berth_proto::v1;
use rustix::process::Signal;
use support::callers::{LONG, MIDDLE, REPLICAS, SHORT, ask, chat, send, until_answered};
use support::processes;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// A cluster with the service, and a gateway that passes requests on to it.
struct Served {
    cluster: LocalCluster,
    client: Client,
    job: u64,
    /// Where the gateway is.
    edge: String,
    _folder: tempfile::TempDir,
}

async fn served(schedulers: u8, agents: u8) -> Served {
    served_as(schedulers, agents, &chat("1")).await
}

async fn served_as(schedulers: u8, agents: u8, spec: &JobSpec) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let plan = support::plan(folder.path(), schedulers, agents);
    let mut cluster = LocalCluster::start(plan).await.unwrap();
    let client = cluster.client();
    let job = support::submit(&client, spec).await;
    until_versions(&client, job, &vec![1; spec.tasks[0].count as usize]).await;
    cluster.start_gateway(GatewayPort::Any).unwrap();
    let edge = cluster.gateway.as_ref().unwrap().address.clone();
    until_answered(&edge).await;
    Served { cluster, client, job, edge, _folder: folder }
}

async fn kill_gateway(cluster: &mut LocalCluster) {
    cluster.gateway.as_mut().unwrap().child.kill().await.unwrap();
}

/// Asks one after the other until it is told to stop, and gathers what was no whole answer.
struct Callers {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Callers {
    fn start(address: &str) -> Callers {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = |_| {
            let (address, stop, asked) =
                (address.to_owned(), Arc::clone(&stop), Arc::clone(&asked));
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let answer = ask(&address, SHORT).await.unwrap_or_default();
                    if !answer.starts_with("HTTP/1.1 200") || !answer.contains("\"one two\"") {
                        failed.push(answer);
                    }
                    asked.fetch_add(1, Ordering::SeqCst);
                }
                failed
            })
        };
        let tasks = (0..4).map(task).collect();
        Callers { stop, asked, tasks }
    }

    /// Waits until so many more have been answered.
    async fn more(&self, count: u64) {
        let from = self.asked.load(Ordering::SeqCst);
        support::until("requests to be answered", || async {
            (self.asked.load(Ordering::SeqCst) >= from + count).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            assert_eq!(task.await.unwrap(), Vec::<String>::new());
        }
    }
}

/// The replicas that are ready, with their versions.
async fn ready(client: &Client, job: u64) -> Vec<u32> {
    let all = support::allocations(client, job).await.into_iter();
    all.filter(|one| one.state == "running" && one.ready).map(|one| one.job_version).collect()
}

async fn until_ready(client: &Client, job: u64, version: u32) {
    until_versions(client, job, &[version; REPLICAS as usize]).await;
}

async fn until_versions(client: &Client, job: u64, versions: &[u32]) {
    support::until("the replicas that are wanted to be ready, and no others", || async {
        (ready(client, job).await == versions).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_leader_is_killed_and_a_version_replaced() {
    let Served { mut cluster, client, job, edge, _folder } = served(3, 2).await;
    let callers = Callers::start(&edge);
    callers.more(20).await;

    let leader = cluster.leader().await.unwrap();
    support::schedulers::kill(&mut cluster, &[leader]).await;
    callers.more(20).await;
    support::schedulers::leader_after(&cluster, Some(leader)).await;

    let request = support::request(&chat("2"), "second");
    support::until("the second version to be taken", || async {
        client.submit(request.clone()).await.ok()
    })
    .await;
    until_ready(&client, job, 2).await;
    callers.more(20).await;
    callers.end().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f74_without_schedulers_a_gateway_goes_on_and_begins_with_what_it_knew() {
    let Served { mut cluster, edge, _folder, .. } = served(1, 1).await;
    let leader = cluster.leader().await.unwrap();
    support::schedulers::kill(&mut cluster, &[leader]).await;
    let callers = Callers::start(&edge);
    callers.more(20).await;
    callers.end().await;
    kill_gateway(&mut cluster).await;
    cluster.start_gateway(GatewayPort::Any).unwrap();
    until_answered(&edge).await;
    cluster.stop().await;
}

/// What the command line shows of a service: what the gateway counts, and what its replicas say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_sees_of_a_service_is_told_by_the_leader() {
    let served = served(1, 1).await;
    let job = support::reference(&served.job.to_string());
    let service = support::until("the gateway to tell what its replicas say", || async {
        let request = v1::GetServiceRequest { job: job.clone(), consistency: 0 };
        let found = served.client.get_service(request).await.ok()?;
        let used = found.uses.first()?;
        let all_say = used.replicas.iter().all(|one| one.running.is_some());
        (used.requests > 0 && used.replicas.len() == REPLICAS as usize && all_say).then_some(found)
    })
    .await;
    assert_eq!((service.model.as_str(), service.replicas_ready), ("chat", REPLICAS));
    assert_eq!((service.gateways, service.uses.len()), (Some(1), 1));
    let replicas = &service.uses[0].replicas;
    assert!(replicas.iter().all(|one| one.metrics[0] == "vllm:num_requests_running"));
    assert_eq!(replicas.iter().map(|one| one.answers).sum::<u64>(), service.uses[0].requests);
    let asked: Vec<&str> = service.replicas.iter().map(|one| one.address.as_str()).collect();
    assert!(asked.iter().all(|address| address.starts_with("127.0.0.1:")), "{asked:?}");
    // Whoever does not lead knows no gateway.
    let request = v1::ListServicesRequest { namespace: String::new(), consistency: 1 };
    let listed = served.client.list_services(request).await.unwrap();
    assert_eq!((listed.services.len(), listed.gateways), (1, None));
    served.cluster.stop().await;
}

/// The mock worker that listens there.
fn worker_at(port: u32) -> u32 {
    let port = port.to_string();
    let listens = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        words.contains(&&b"mock-worker"[..]) && words.contains(&port.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(listens).last().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f71_a_replica_that_is_killed_or_stopped_in_the_middle_of_a_stream_is_said_to_be() {
    let Served { cluster, client, job, edge, _folder } = served(1, 1).await;
    for signal in [Signal::KILL, Signal::STOP] {
        until_ready(&client, job, 1).await;
        // One after the other until it is known who answers: the other one is killed or stopped
        // with it, as no caller is told.
        let mut stream = send(&edge, LONG).await.unwrap();
        let mut begun = [0; 4096];
        assert!(stream.read(&mut begun).await.unwrap() > 0);
        let mut pids = Vec::new();
        for one in support::allocations(&client, job).await {
            if one.state == "running" {
                pids.push(worker_at(one.ports[0].port));
            }
        }
        pids.iter().for_each(|pid| processes::send(*pid, signal));
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("\"code\":\"answer_broke_off\""), "{signal:?}: {rest}");
        assert!(!rest.contains("[DONE]"), "{signal:?}");
        if signal == Signal::STOP {
            pids.iter().for_each(|pid| processes::send(*pid, Signal::CONT));
        }
        until_answered(&edge).await;
    }
    cluster.stop().await;
}

/// A service that lets its callers go for so long, and whose workers are ended by SIGKILL: one that
/// is told to end answers nothing more.
fn ended_by_kill(version: &str, drain: DurationMs) -> JobSpec {
    let mut spec = chat(version);
    spec.route.drain = drain;
    spec.tasks[0].stop.signal = berth_model::Signal::Kill;
    spec
}

/// Streams of each replica, and a new version of the service that comes meanwhile.
async fn streams_of_before(drain: DurationMs) -> (Served, Vec<TcpStream>) {
    let served = served_as(1, 1, &ended_by_kill("1", drain)).await;
    let mut streams = Vec::new();
    // By the least work: each replica has one.
    for _ in 0..REPLICAS {
        let mut stream = send(&served.edge, MIDDLE).await.unwrap();
        let mut begun = [0; 4096];
        assert!(stream.read(&mut begun).await.unwrap() > 0);
        streams.push(stream);
    }
    let second = support::request(&ended_by_kill("2", drain), "second");
    served.client.submit(second).await.unwrap();
    (served, streams)
}

async fn states(served: &Served) -> Vec<String> {
    let all = support::allocations(&served.client, served.job).await;
    let live = all.into_iter().filter(|one| one.finished_at_ms.is_none());
    live.map(|one| one.state).collect()
}

/// F75: a replica that is replaced ends what it was asked, and only then is told to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f75_what_was_begun_before_a_new_version_came_is_answered_to_its_end() {
    let (served, mut streams) = streams_of_before(DurationMs::from_secs(600)).await;
    support::until("a replica to let its callers go", || async {
        states(&served).await.contains(&"draining".to_owned()).then_some(())
    })
    .await;
    for stream in &mut streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("data: [DONE]"), "{rest}");
    }
    until_ready(&served.client, served.job, 2).await;
    served.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f75_callers_that_take_longer_than_they_may_are_told_that_they_are_cut_off() {
    let (served, mut streams) = streams_of_before(DurationMs(500)).await;
    let mut rest = String::new();
    for stream in &mut streams {
        stream.read_to_string(&mut rest).await.unwrap();
    }
    assert!(rest.contains("\"code\":\"answer_broke_off\""), "{rest}");
    until_ready(&served.client, served.job, 2).await;
    served.cluster.stop().await;
}

/// The only replica is ended before the next one begins: its GPU may be the only one that there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_only_replica_is_replaced() {
    let alone = |version: &str| {
        let mut spec = chat(version);
        spec.tasks[0].count = 1;
        spec
    };
    let served = served_as(1, 1, &alone("1")).await;
    let callers = Callers::start(&served.edge);
    callers.more(20).await;
    served.client.submit(support::request(&alone("2"), "second")).await.unwrap();
    until_versions(&served.client, served.job, &[2]).await;
    callers.more(20).await;
    callers.end().await;
    served.cluster.stop().await;
}

/// F76: those who ask while there is no replica are answered by the one that comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f76_a_hundred_requests_wait_for_a_service_to_come_back_from_nothing() {
    let served = served_as(1, 1, &chat("1")).await;
    let job = support::reference(&served.job.to_string());
    let scale = async |count: u32| {
        let request = v1::ScaleJobRequest { job: job.clone(), count, ..Default::default() };
        served.client.scale_job(request).await.unwrap();
    };
    let used = async || {
        let request = v1::GetServiceRequest { job: job.clone(), consistency: 0 };
        served.client.get_service(request).await.ok()?.uses.pop()
    };
    scale(0).await;
    support::until("the gateway to know of no replica", || async {
        used().await.filter(|used| used.replicas.is_empty())
    })
    .await;
    let asked = (0..100).map(|_| {
        let edge = served.edge.clone();
        tokio::spawn(async move { ask(&edge, SHORT).await.unwrap_or_default() })
    });
    let asked: Vec<_> = asked.collect();
    support::until("the gateway to tell that a hundred wait", || async {
        used().await.filter(|used| used.waiting == 100)
    })
    .await;
    scale(1).await;
    for answer in asked {
        let answer = answer.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let starts = support::allocations(&served.client, served.job).await;
    let starts = starts.iter().filter(|one| one.job_version == 3).count();
    assert_eq!(starts, 1);
    served.cluster.stop().await;
}
