//! Start, run, stop, and what a worker finds.

use std::collections::BTreeMap;

use crate::harness::agent::Agent;
use crate::harness::jobs::Job;
use crate::harness::scheduler::{Scheduler, running};
use crate::harness::{cluster_with_hello, until_file};
use berth_model::{
    ArraySpec, DeviceClaim, GangSeat, HealthCheck, HealthProbe, JobKind, MemoryBytes, PortClaim,
    ShareMilli,
};
use berth_proto::v1::EndCause;
use berth_proto::v1::observation::State;
use berth_wire::agent::DesiredRow;

/// A scheduler with one agent that acts on an empty desired state.
async fn cluster(more: &[&str]) -> (Scheduler, Agent) {
    let (scheduler, agent, hello) = cluster_with_hello(more).await;
    assert_eq!((hello.incarnation, hello.generation), (0, 0));
    (scheduler, agent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_runs_and_its_exit_code_and_last_words_are_told() {
    let (mut scheduler, agent) = cluster(&[]).await;
    let job = Job::shell(7, "echo to stdout; echo last words >&2; exit 3");
    scheduler.want(&job, vec![job.row(0)]);
    let ended = scheduler.until_ended(job.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::Exited));
    assert_eq!((ended.exit_code, ended.signal), (Some(3), None));
    assert_eq!(ended.stderr_tail, "last words\n");
    assert!(ended.started_at_ms.is_some_and(|started| started <= ended.finished_at_ms));
    assert_eq!(agent.stdout(job.id(0)), "to stdout\n");
    // Its row is still there: it must not run again when more is wanted.
    let other = Job::shell(8, "exit 0");
    scheduler.want(&other, vec![other.row(0)]);
    scheduler.until_ended(other.id(0)).await;
    let ends = |states: &Vec<State>| {
        states.iter().filter(|state| matches!(state, State::Ended(_))).count()
    };
    assert_eq!(scheduler.history.get(&job.id(0)).map(ends), Some(1));
}

/// A port that was just free.
fn free_port(name: &str) -> PortClaim {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    PortClaim { name: name.parse().unwrap(), port: free.local_addr().unwrap().port() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_is_exactly_what_is_promised() {
    let (mut scheduler, agent) = cluster(&["--simulate", "2xH100-80GB"]).await;
    let mut job = Job::of(17, JobKind::Batch, &["env"]);
    job.task().env = [
        ("GREETING", "on ${BERTH_NODE}:${PORT}"),
        ("PATH", "/opt/bin:${PATH}"),
        ("BERTH_NODE", "x"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    job.task().array = Some(ArraySpec { start: 10, step: 5, parallel_max: None });
    let devices = vec![DeviceClaim {
        uuid: "GPU-sim-node-a-1".to_owned(),
        share: ShareMilli::WHOLE,
        memory: MemoryBytes(80 << 30),
    }];
    let web = free_port("web-api");
    let (port, ports) = (web.port, vec![web]);
    scheduler.want(&job, vec![job.row_with(3, devices, ports)]);
    let id = job.id(3);
    let ended = scheduler.until_ended(id).await;
    assert_eq!(ended.exit_code, Some(0), "{ended:?}");
    let output = agent.stdout(id);
    let found: BTreeMap<&str, &str> =
        output.lines().map(|line| line.split_once('=').unwrap()).collect();
    let task_dir = agent.task_dir(id);
    let path = "/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let (port, greeting) = (port.to_string(), format!("on node-a:{port}"));
    let expected: BTreeMap<&str, &str> = [
        ("BERTH_ALLOC_ID", "17.0.3.1"),
        ("BERTH_ARRAY_INDEX", "25"),
        ("BERTH_ATTEMPT", "1"),
        ("BERTH_GPU_VRAM_BYTES", "85899345920"),
        ("BERTH_JOB_ID", "17"),
        ("BERTH_JOB_NAME", "trial"),
        ("BERTH_NAMESPACE", "default"),
        ("BERTH_NODE", "node-a"),
        ("BERTH_PORT_WEB_API", &port),
        ("BERTH_TASK", "main"),
        ("BERTH_TASK_DIR", task_dir.to_str().unwrap()),
        ("BERTH_TASK_INDEX", "3"),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        ("CUDA_VISIBLE_DEVICES", "GPU-sim-node-a-1"),
        ("GREETING", &greeting),
        ("PATH", path),
        ("PORT", &port),
    ]
    .into();
    assert_eq!(found, expected);
}

/// It is what was told, whatever the job says; the port where they meet has no second name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_a_gang_finds_its_seat() {
    let (mut scheduler, agent) = cluster(&[]).await;
    let mut job = Job::shell(1, "env | grep -E 'RANK|WORLD|NNODES|MASTER|PORT|MEET' | sort");
    job.task().env.insert("WORLD_SIZE".to_owned(), "1".to_owned());
    job.task().env.insert("MEET".to_owned(), "${MASTER_ADDR}:${MASTER_PORT}".to_owned());
    let seat = GangSeat {
        rank: 5,
        world_size: 8,
        node_rank: 2,
        node_count: 4,
        local_rank: 1,
        local_world_size: 2,
        master_address: "10.0.0.7".to_owned(),
        master_port: 20_001,
    };
    let master = free_port("master");
    let row = DesiredRow { seat: Some(seat), ..job.row_with(5, vec![], vec![master]) };
    scheduler.want(&job, vec![row]);
    let ended = scheduler.until_ended(job.id(5)).await;
    assert_eq!(ended.exit_code, Some(0), "{ended:?}");
    let expected = [
        "LOCAL_RANK=1",
        "LOCAL_WORLD_SIZE=2",
        "MASTER_ADDR=10.0.0.7",
        "MASTER_PORT=20001",
        "MEET=10.0.0.7:20001",
        "NNODES=4",
        "NODE_RANK=2",
        "RANK=5",
        "WORLD_SIZE=8",
    ];
    assert_eq!(agent.stdout(job.id(5)).lines().collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_working_directory_and_substitution_are_as_asked() {
    let (mut scheduler, agent) = cluster(&[]).await;
    let here = Job::shell(1, "pwd; echo ${BERTH_TASK_INDEX} $${BERTH_TASK_INDEX} ${HOME:-none}");
    let mut there = Job::shell(2, "pwd");
    there.task().workdir = Some("/".to_owned());
    scheduler.want(&here, vec![here.row(4)]);
    scheduler.want(&there, vec![there.row(0)]);
    scheduler.until_ended(here.id(4)).await;
    scheduler.until_ended(there.id(0)).await;
    let expected = format!("{}\n4 4 none\n", agent.task_dir(here.id(4)).display());
    assert_eq!(agent.stdout(here.id(4)), expected);
    assert_eq!(agent.stdout(there.id(0)), "/\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_the_whole_tree() {
    let (mut scheduler, agent) = cluster(&[]).await;
    // A grandchild that forked twice and left the session.
    let job = Job::shell(
        1,
        "setsid sh -c 'sh -c \"touch deep; exec sleep 600\" & exit 0'; touch main; exec sleep 600",
    );
    let id = job.id(0);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(id).await;
    let dir = agent.task_dir(id);
    let begun = || (dir.join("deep").exists() && dir.join("main").exists()).then_some(());
    until_file("both processes", &dir, begun).await;
    assert!(agent.processes(id).len() >= 2);
    scheduler.stop(id);
    let ended = scheduler.until_ended(id).await;
    assert_eq!(ended.cause, i32::from(EndCause::Stopped));
    assert_eq!(ended.signal, Some(15));
    assert_eq!(agent.processes(id), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_back_is_stopped_and_then_forgotten() {
    let (mut scheduler, agent) = cluster(&[]).await;
    let job = Job::of(1, JobKind::Batch, &["sleep", "600"]);
    scheduler.want(&job, vec![job.row(0), job.row(1)]);
    scheduler.until_ready(job.id(0)).await;
    scheduler.until_ready(job.id(1)).await;
    scheduler.change(Vec::new(), vec![job.id(0)]);
    let ended = scheduler.until_ended(job.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::Stopped));
    assert_eq!(agent.processes(job.id(0)), []);
    assert_eq!(agent.processes(job.id(1)).len(), 1);
    // Forgotten: a new session hears only of the other one.
    scheduler.hang_up();
    scheduler.session().await;
    scheduler.until_true("a complete report", |heard| heard.complete_reports.len() == 2).await;
    let last = scheduler.complete_reports.last().unwrap();
    let named: Vec<&str> =
        last.observations.iter().map(|seen| seen.allocation_id.as_str()).collect();
    assert_eq!(named, [job.id(1).to_string()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_told_and_nothing_is_started() {
    let (mut scheduler, agent) = cluster(&[]).await;
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let job = Job::shell(1, "touch started");
    let claim = PortClaim { name: "http".parse().unwrap(), port };
    scheduler.want(&job, vec![job.row_with(0, Vec::new(), vec![claim])]);
    let ended = scheduler.until_ended(job.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::PortTaken));
    assert!(ended.reason.starts_with(&format!("port {port} (`http`) is taken")), "{ended:?}");
    assert!(!agent.task_dir(job.id(0)).join("started").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_started_says_why() {
    let (mut scheduler, _agent) = cluster(&[]).await;
    let job = Job::of(1, JobKind::Service, &["/no/such/program"]);
    let mut lost = Job::shell(2, "true");
    lost.task().workdir = Some("/no/such/directory".to_owned());
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.want(&lost, vec![lost.row(0)]);
    for (id, expected) in [(job.id(0), "/no/such/program"), (lost.id(0), "/no/such/directory")] {
        let ended = scheduler.until_ended(id).await;
        assert_eq!(ended.cause, i32::from(EndCause::CannotStart), "{ended:?}");
        assert!(ended.reason.contains(expected), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_makes_ready_and_unhealthy() {
    let (mut scheduler, mut agent) = cluster(&[]).await;
    let mut job = Job::of(1, JobKind::Service, &["sleep", "600"]);
    job.task().health = Some(HealthCheck {
        probe: HealthProbe::Command {
            command: ["test", "-e", "healthy"].map(str::to_owned).to_vec(),
        },
        interval: berth_model::DurationMs(20),
        timeout: berth_model::DurationMs(5000),
        failures: 2,
        start_period: berth_model::DurationMs(60_000),
    });
    let id = job.id(0);
    scheduler.want(&job, vec![job.row(0)]);
    let unready = |state: &State| {
        let running = running(state)?;
        (!running.ready && !running.unhealthy).then_some(())
    };
    scheduler.until("runs and is not ready", id, unready).await;
    let file = agent.task_dir(id).join("healthy");
    std::fs::write(&file, "").unwrap();
    scheduler.until_ready(id).await;
    // Over a restart it stays ready: nobody hears otherwise.
    scheduler.history.clear();
    agent.kill().await;
    agent.start_again();
    scheduler.session().await;
    scheduler.until_true("is reported", |heard| heard.history.contains_key(&id)).await;
    let first = scheduler.history[&id].first().and_then(running);
    assert!(first.is_some_and(|running| running.ready), "{first:?}");
    std::fs::remove_file(&file).unwrap();
    let unhealthy = |state: &State| {
        let running = running(state)?;
        running.unhealthy.then(|| running.detail.clone())
    };
    let detail = scheduler.until("is unhealthy", id, unhealthy).await;
    assert!(detail.contains("`test` ended with"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_short_instances_share_few_shims() {
    let (mut scheduler, agent) = cluster(&[]).await;
    let job = Job::shell(1, "echo $BERTH_TASK_INDEX >> ../../../trace");
    for chunk in (0..200).collect::<Vec<u32>>().chunks(20) {
        scheduler.want(&job, chunk.iter().map(|instance| job.row(*instance)).collect());
        for instance in chunk {
            let ended = scheduler.until_ended(job.id(*instance)).await;
            assert_eq!(ended.exit_code, Some(0), "{ended:?}");
        }
        scheduler.change(Vec::new(), chunk.iter().map(|instance| job.id(*instance)).collect());
    }
    let trace = std::fs::read_to_string(agent.data().join("trace")).unwrap();
    let mut seen: Vec<u32> = trace.lines().map(|line| line.parse().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..200).collect::<Vec<_>>(), "each ran exactly once");
    assert!(agent.shims().len() <= 24, "{} shims", agent.shims().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_begins_while_desired_state_cannot_be_written() {
    let mut scheduler = Scheduler::start().await;
    let mut agent = Agent::start(&scheduler.address, &[]);
    scheduler.session().await;
    scheduler.send_full();
    let running = Job::of(1, JobKind::Batch, &["sleep", "600"]);
    scheduler.want(&running, vec![running.row(0)]);
    scheduler.until_ready(running.id(0)).await;
    agent.kill().await;
    // A directory where the new file would be written: no write succeeds.
    let in_the_way = agent.data().join("desired.new");
    std::fs::create_dir(&in_the_way).unwrap();
    agent.start_again();
    scheduler.session().await;
    let job = Job::shell(2, "touch started");
    scheduler.want(&job, vec![job.row(0)]);
    // What runs goes on and can be stopped.
    assert_eq!(agent.processes(running.id(0)).len(), 1);
    scheduler.stop(running.id(0));
    scheduler.until_ended(running.id(0)).await;
    assert!(!agent.allocation(job.id(0)).exists(), "nothing new is begun");
    std::fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(scheduler.until_ended(job.id(0)).await.exit_code, Some(0));
    assert!(agent.task_dir(job.id(0)).join("started").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_a_report_that_is_not_acknowledged_is_said_again() {
    let (mut scheduler, _agent) = cluster(&[]).await;
    let job = Job::shell(1, "exit 4");
    scheduler.acknowledge_no_reports();
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ended(job.id(0)).await;
    scheduler.seen.clear();
    assert_eq!(scheduler.until_ended(job.id(0)).await.exit_code, Some(4));
}
