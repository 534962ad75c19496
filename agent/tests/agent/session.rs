//! The session: redirects, leases, logs, and the ways an agent ends.

use crate::harness::agent::Agent;
use crate::harness::jobs::Job;
use crate::harness::scheduler::Scheduler;
use crate::harness::{cluster, until_file, within};
use berth_model::JobKind;
use berth_proto::v1::EndCause;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_proto::v1::{LogCancel, LogRequest};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_followed_and_the_identity_kept() {
    let follower = Scheduler::start().await;
    let mut leader = Scheduler::start().await;
    follower.redirect_to(&leader.address);
    let mut agent = Agent::start(&follower.address, &["--simulate", "4xH100-80GB"]);
    let first = leader.session().await;
    let spec = first.spec.clone().unwrap();
    assert_eq!(first.name, "node-a");
    assert_eq!((spec.cpu_milli, spec.memory_bytes), (64_000, 512 << 30));
    let uuids: Vec<&str> = spec.devices.iter().map(|device| device.uuid.as_str()).collect();
    assert_eq!(uuids, (0..4).map(|n| format!("GPU-sim-node-a-{n}")).collect::<Vec<_>>());
    agent.kill().await;
    agent.start_again();
    let second = leader.session().await;
    assert_eq!(first.instance_key, second.instance_key);
    assert_eq!(first.instance_key.len(), 16);
    assert_eq!(first.boot_id, second.boot_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_exclusive_work_is_fenced_when_the_lease_ends() {
    let (mut scheduler, agent) = cluster(&[]).await;
    let mut exclusive = Job::of(1, JobKind::Batch, &["sleep", "600"]);
    exclusive.spec.exclusive = true;
    let plain = Job::of(2, JobKind::Batch, &["sleep", "600"]);
    scheduler.want(&exclusive, vec![exclusive.row(0)]);
    scheduler.want(&plain, vec![plain.row(0)]);
    scheduler.until_ready(exclusive.id(0)).await;
    scheduler.until_ready(plain.id(0)).await;
    scheduler.acknowledge_no_heartbeats();
    let ended = scheduler.until_ended(exclusive.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::Fenced), "{ended:?}");
    assert_eq!(agent.processes(exclusive.id(0)), []);
    assert_eq!(agent.processes(plain.id(0)).len(), 1);
    // Without a lease none is started either.
    scheduler.want(&exclusive, vec![exclusive.row(1)]);
    let after = Job::shell(3, "exit 0");
    scheduler.want(&after, vec![after.row(0)]);
    scheduler.until_ended(after.id(0)).await;
    assert_eq!(agent.processes(exclusive.id(1)), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_hosts_own_limit_of_silence_everything_is_stopped() {
    let (mut scheduler, agent) = cluster(&["--stop-after-ms", "1000"]).await;
    let job = Job::of(1, JobKind::Batch, &["sleep", "600"]);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(job.id(0)).await;
    assert_eq!(agent.processes(job.id(0)).len(), 1);
    scheduler.acknowledge_no_heartbeats();
    let ended = scheduler.until_ended(job.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::Fenced), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_followed_to_their_end() {
    let (mut scheduler, agent) = cluster(&[]).await;
    let job = Job::shell(1, "mkfifo go; echo one; echo err >&2; touch here; read x < go; echo two");
    let id = job.id(0);
    scheduler.want(&job, vec![job.row(0)]);
    let dir = agent.task_dir(id);
    scheduler.until_ready(id).await;
    until_file("the first line", &dir, || dir.join("here").exists().then_some(())).await;
    let request = |request_id: &str, stderr: bool, follow: bool| {
        ToAgent::LogRequest(LogRequest {
            request_id: request_id.to_owned(),
            allocation_id: id.to_string(),
            stderr,
            follow,
        })
    };
    scheduler.say(request("followed", false, true));
    assert_eq!(scheduler.log("followed").await.data, "one\n");
    scheduler.say(request("now", true, false));
    assert_eq!(scheduler.log("now").await.data, "err\n");
    assert_eq!(scheduler.log("now").await.end, Some(String::new()));
    scheduler.say(request("cancelled", false, true));
    assert_eq!(scheduler.log("cancelled").await.data, "one\n");
    let cancel = LogCancel { request_id: "cancelled".to_owned() };
    scheduler.say(ToAgent::LogCancel(cancel));
    std::fs::write(dir.join("go"), "x\n").unwrap();
    assert_eq!(scheduler.log("followed").await.data, "two\n");
    assert_eq!(scheduler.log("followed").await.end, Some(String::new()));
    scheduler.until_ended(id).await;
    let unknown = LogRequest {
        request_id: "unknown".to_owned(),
        allocation_id: "99.0.0.1".to_owned(),
        ..LogRequest::default()
    };
    scheduler.say(ToAgent::LogRequest(unknown));
    let refused = scheduler.log("unknown").await.end.unwrap();
    assert_eq!(refused, "nothing of allocation 99.0.0.1 is kept on this node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f33_a_second_agent_on_the_directory_is_refused() {
    let (_scheduler, agent) = cluster(&[]).await;
    let (code, message) = agent.second().await;
    assert_eq!(code, Some(1));
    let expected = format!("agent already running (pid {})", agent.pid());
    assert!(message.contains(&expected), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owners_death_ends_agent_shims_and_workers() {
    let (mut scheduler, mut agent) = cluster(&[]).await;
    let polite = Job::of(1, JobKind::Batch, &["sleep", "600"]);
    let stubborn =
        Job::shell(2, "trap '' TERM; setsid sleep 600 & touch both; sleep 600; sleep 600");
    scheduler.want(&polite, vec![polite.row(0), polite.row(1)]);
    scheduler.want(&stubborn, vec![stubborn.row(0)]);
    for id in [polite.id(0), polite.id(1), stubborn.id(0)] {
        scheduler.until_ready(id).await;
    }
    let dir = agent.task_dir(stubborn.id(0));
    until_file("both processes", &dir, || dir.join("both").exists().then_some(())).await;
    let begun = std::time::Instant::now();
    assert_eq!(agent.owner_dies().await, Some(0));
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    for id in [polite.id(0), polite.id(1), stubborn.id(0)] {
        assert_eq!(agent.processes(id), []);
    }
    assert_eq!(agent.shims(), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_is_the_session() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    // A port that was just free.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let http = free.local_addr().unwrap().to_string();
    drop(free);
    let (mut scheduler, _agent) = cluster(&["--http", &http]).await;
    let job = Job::shell(1, "exit 0");
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ended(job.id(0)).await;
    for (path, expected) in [("/livez", "200 OK"), ("/readyz", "200 OK"), ("/none", "404")] {
        let answer = within("an answer", async {
            let mut stream = tokio::net::TcpStream::connect(&http).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        })
        .await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_is_refused() {
    let (mut scheduler, mut agent) = cluster(&[]).await;
    let job = Job::of(1, JobKind::Batch, &["sleep", "600"]);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(job.id(0)).await;
    agent.kill().await;
    // The same address, another cluster: this agent has nothing to say to it.
    scheduler.become_cluster(2);
    agent.start_again();
    scheduler.session().await;
    scheduler.send_full();
    scheduler.become_cluster(1);
    scheduler.session().await;
    scheduler.until_ready(job.id(0)).await;
    assert_eq!(agent.processes(job.id(0)).len(), 1, "the stranger's empty state ended nothing");
}
