//! Agents that die: their workers go on, are adopted with their ends, or are
//! placed elsewhere when nobody comes back. What is stopped leaves nothing.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use berth::local::LocalCluster;
use berth_client::Client;
use berth_model::{DurationMs, JobSpec, StopPolicy};
use berth_proto::v1;
use rustix::process::Signal;

use support::dev::{As, Dev, NOBODY};
use support::gates::Gates;
use support::processes;

/// What a shim costs a host, beside the pages of the executable that all share and those that the
/// loader writes at the start (`.data.rel.ro` and `.got`, 3.3 MiB of an unoptimised build), which
/// grow with the executable and not with what a shim does. Found: 1.2 MiB.
const SHIM_KIB_MAX: u32 = 1024 + 512;

#[tokio::test]
async fn an_agent_that_comes_back_adopts_its_workers_and_their_ends() {
    const INSTANCES: u32 = 20;
    let folder = tempfile::tempdir().unwrap();
    let gates = Gates::new(folder.path(), INSTANCES);
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let client = cluster.client();
    let spec = JobSpec {
        max_disconnect: DurationMs::from_secs(120),
        ..support::batch("survivors", INSTANCES, gates.command())
    };
    let job = support::submit(&client, &spec).await;
    support::job_when(&client, job, "runs", |job| job.tasks[0].running == u64::from(INSTANCES))
        .await;
    let before: Vec<u32> = (0..INSTANCES).map(|index| gates.pids(index)[0]).collect();
    // A shim is begun by a process that has its command line, needs more for
    // some milliseconds, and is gone as soon as the shim is ready.
    support::until("every shim to need no more than it may", || async {
        let processes = processes::naming(folder.path()).into_iter();
        let shims = processes.filter(|process| process.command_line.contains(" shim --dir "));
        let memory: Vec<u32> =
            shims.filter_map(|shim| processes::memory_beside_executable_kib(shim.pid)).collect();
        let small = memory.iter().all(|memory| *memory <= SHIM_KIB_MAX);
        (memory.len() >= INSTANCES as usize && small).then_some(())
    })
    .await;

    cluster.agents[0].child.kill().await.unwrap();
    for index in 0..5 {
        gates.release(index, i32::try_from(index).unwrap() + 1).await;
    }
    support::until("five workers to end", || async {
        before[..5].iter().all(|pid| !processes::is_alive(*pid)).then_some(())
    })
    .await;
    support::until("the cluster to miss the agent", || async {
        (support::node_state(&client, "node-1").await? == "disconnected").then_some(())
    })
    .await;
    assert!(
        before[5..].iter().all(|pid| processes::is_alive(*pid)),
        "workers ended with the agent"
    );

    cluster.restart_agent("node-1").unwrap();
    let adopted = support::job_when(&client, job, "tells of five ends", |job| {
        job.tasks[0].failed == 5 && job.tasks[0].running == 15
    });
    let task = adopted.await.tasks.remove(0);
    let codes: BTreeMap<String, Option<i32>> = task
        .failures
        .into_iter()
        .map(|failure| (failure.allocation_id, failure.exit_code))
        .collect();
    let expected: BTreeMap<String, Option<i32>> =
        (0..5).map(|index| (format!("{job}.0.{index}.1"), Some(index + 1))).collect();
    assert_eq!(codes, expected);
    assert_eq!(task.lost, 0);
    for (index, pid) in (0..INSTANCES).zip(&before) {
        assert_eq!(gates.pids(index), [*pid], "instance {index} ran once, as one process");
        assert_eq!(processes::is_alive(*pid), index >= 5, "instance {index}");
    }

    for index in 5..INSTANCES {
        gates.release(index, 0).await;
    }
    let ended = support::job_when(&client, job, "ends", |job| job.finished_at_ms.is_some()).await;
    let task = &ended.tasks[0];
    assert_eq!((task.succeeded, task.failed, task.lost), (15, 5, 0));
    assert_eq!(ended.state, "failed");
    assert_eq!(support::lines(&gates.traces), once_each(INSTANCES), "nothing ran twice");
    let kinds = event_kinds(&client, job).await;
    assert!(!kinds.iter().any(|kind| kind.contains("lost")), "{kinds:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn work_of_an_agent_that_stays_away_is_placed_elsewhere() {
    const INSTANCES: u32 = 6;
    let folder = tempfile::tempdir().unwrap();
    let gates = Gates::new(folder.path(), INSTANCES);
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 1, 2)).await.unwrap();
    let client = cluster.client();
    let spec = JobSpec {
        max_disconnect: DurationMs::from_secs(1),
        ..support::batch("wanderers", INSTANCES, gates.command())
    };
    let job = support::submit(&client, &spec).await;
    support::job_when(&client, job, "runs", |job| job.tasks[0].running == u64::from(INSTANCES))
        .await;
    let before = support::allocations(&client, job).await;
    let (gone, kept): (Vec<_>, Vec<_>) =
        before.into_iter().partition(|allocation| allocation.node == "node-1");
    assert!(!gone.is_empty() && !kept.is_empty(), "the work is on both nodes");

    cluster.agents[0].child.kill().await.unwrap();
    let killed = processes::naming(&cluster.agents[0].data_dir);
    assert!(killed.len() >= 2 * gone.len(), "a shim and a worker each: {killed:?}");
    for process in killed {
        processes::send(process.pid, Signal::KILL);
    }
    let expected: BTreeMap<u32, (u32, String)> = gone
        .iter()
        .map(|allocation| (allocation.index, (2, "node-2".to_owned())))
        .chain(kept.iter().map(|allocation| (allocation.index, (1, "node-2".to_owned()))))
        .collect();
    support::until("everything to run on the other node", || async {
        let running = support::allocations(&client, job).await.into_iter();
        let running = running.filter(|allocation| allocation.state == "running");
        let shown: BTreeMap<u32, (u32, String)> = running
            .map(|allocation| (allocation.index, (allocation.attempt, allocation.node)))
            .collect();
        (shown == expected).then_some(())
    })
    .await;
    for index in 0..INSTANCES {
        gates.release(index, 0).await;
    }
    let ended = support::job_when(&client, job, "ends", |job| job.finished_at_ms.is_some()).await;
    assert_eq!((ended.state.as_str(), ended.tasks[0].succeeded), ("succeeded", INSTANCES.into()));
    for (index, (attempt, _)) in expected {
        assert_eq!(gates.pids(index).len(), attempt as usize, "starts of instance {index}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn stopping_a_job_leaves_no_escaped_grandchild() {
    check_that_nothing_escapes(As::WhoeverThisIs).await;
}

#[tokio::test]
async fn stopping_a_job_leaves_no_escaped_grandchild_without_root_either() {
    // Run by another user than root, the test above is this one.
    if rustix::process::geteuid().is_root() {
        check_that_nothing_escapes(As::Nobody).await;
    }
}

async fn check_that_nothing_escapes(who: As) {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    std::fs::write(&pids, "").unwrap();
    if who == As::Nobody {
        for path in [folder.path(), &pids] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let dev = Dev::start(folder.path(), who, 1, 1).await;
    let mut spec = support::batch("escape", 1, support::shell(&escape(&pids)));
    spec.tasks[0].stop = StopPolicy { grace: DurationMs(200), ..StopPolicy::default() };
    let job = support::submit(&dev.client, &spec).await;
    let all = support::until("the worker and its descendants to say who they are", || async {
        Some(written(&pids)).filter(|pids| pids.len() == ESCAPE_PROCESSES)
    })
    .await;
    assert!(all.iter().all(|pid| processes::is_alive(*pid)), "{all:?}");
    if who == As::Nobody {
        assert!(all.iter().all(|pid| processes::user_of(*pid) == NOBODY));
    }

    let request = v1::ChangeJobRequest { job: support::reference("escape"), if_version: None };
    dev.client.stop_job(request).await.unwrap();
    support::job_when(&dev.client, job, "is stopped", |job| job.finished_at_ms.is_some()).await;
    let left: Vec<_> = all.iter().filter(|pid| processes::is_alive(**pid)).collect();
    assert!(left.is_empty(), "of {all:?}, {left:?} are left");
    dev.end().await;
}

/// What `escape` starts, the worker with it.
const ESCAPE_PROCESSES: usize = 6;

/// Descendants that try to get away: by a session of their own, by a second
/// fork whose parent has ended, without any environment to know them by, and
/// deaf to SIGTERM. Each, the worker too, writes down its pid.
fn escape(pids: &Path) -> String {
    let pids = pids.display();
    let sleeper = format!("trap \"\" TERM; echo $$ >> {pids}; sleep 3600 & wait; wait");
    format!(
        "( setsid sh -c '{sleeper}' & ) \n\
         ( setsid env -i sh -c '{sleeper}' & ) \n\
         ( setsid env -i sh -c '( setsid sh -c \"echo \\$\\$ >> {pids}; exec sleep 3600\" & )' & ) \n\
         ( nohup setsid sh -c 'echo $$ >> {pids}; exec sleep 3600' >/dev/null 2>&1 & ) \n\
         sh -c 'echo $$ >> {pids}; exec sleep 3600' & \n\
         trap '' TERM; echo $$ >> {pids}; wait; wait"
    )
}

fn written(pids: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(pids).unwrap();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[tokio::test]
async fn a_killed_dev_leaves_no_process() {
    const PATIENT: u32 = 8;
    const END_LIMIT: Duration = Duration::from_secs(5);
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    std::fs::write(&pids, "").unwrap();
    let mut dev = Dev::start(folder.path(), As::WhoeverThisIs, 3, 2).await;
    let patient = support::shell(&format!("echo $$ >> {}; exec sleep 3600", pids.display()));
    support::submit(&dev.client, &support::batch("patient", PATIENT, patient)).await;
    let escape = support::shell(&escape(&pids));
    support::submit(&dev.client, &support::batch("escape", 1, escape)).await;
    let workers = support::until("every worker to say who it is", || async {
        Some(written(&pids)).filter(|pids| pids.len() == PATIENT as usize + ESCAPE_PROCESSES)
    })
    .await;
    let daemons = processes::naming(&dev.data_dir);
    assert!(daemons.len() >= 3 + 2 + 9, "schedulers, agents and shims: {daemons:?}");

    let killed_at = Instant::now();
    dev.kill();
    support::until("everything of the cluster to end", || async {
        let left: Vec<_> = workers.iter().filter(|pid| processes::is_alive(**pid)).collect();
        let named = processes::naming(&dev.data_dir);
        let took = killed_at.elapsed();
        assert!(took < END_LIMIT, "left after {took:?}: {named:?}, workers {left:?}");
        (left.is_empty() && named.is_empty()).then_some(())
    })
    .await;
}

fn once_each(instances: u32) -> BTreeMap<String, usize> {
    (0..instances).map(|index| (index.to_string(), 1)).collect()
}

async fn event_kinds(client: &Client, job: u64) -> Vec<String> {
    let events = support::events(client, job).await;
    assert!(!events.is_empty(), "there are events of the job");
    events.into_iter().map(|event| event.kind).collect()
}
