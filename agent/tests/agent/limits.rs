//! What holds workers to their limits, read back from the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use berth_model::{AllocationId, CpuMilli, JobKind, Limits, MemoryBytes};
use berth_proto::v1::EndCause;
use berth_shim::ProcessIdentity;
use rustix::process::{Resource, getrlimit};

use crate::harness::agent::{Agent, text};
use crate::harness::jobs::Job;
use crate::harness::scheduler::{Scheduler, running};
use crate::harness::{self, skip, until_file};

const MIB: u64 = 1 << 20;

/// A cluster whose agent can hold workers to limits; `None` where the host does not let it.
async fn cluster() -> Option<(Scheduler, Agent)> {
    cluster_with(&[]).await
}

/// With and without namespaces around each worker.
const CONFINED_OR_NOT: [&[&str]; 2] = [&[], &["--confine", "always"]];

async fn cluster_with(more: &[&str]) -> Option<(Scheduler, Agent)> {
    static TRIALS: AtomicU32 = AtomicU32::new(0);
    let trees = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
    let trial = TRIALS.fetch_add(1, Ordering::Relaxed);
    let trial = format!("berth-trial-{}-{trial}", std::process::id());
    let writable = trees.iter().map(|tree| Path::new(tree).join(&trial)).any(|dir| {
        let made = fs::create_dir(&dir).is_ok();
        made && fs::remove_dir(dir).is_ok()
    });
    if !writable {
        skip("cgroups", "no cgroup can be made here: the agent's tests of limits need root");
        return None;
    }
    Some(harness::cluster(&[&["--hold", "always"], more].concat()).await)
}

/// The group of a process in the tree of `controller`.
fn group(process: &ProcessIdentity, controller: &str) -> PathBuf {
    let own = text(Path::new(&format!("/proc/{}/cgroup", process.pid)));
    let split = own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let here = controllers.split(',').any(|one| one == controller);
        here.then(|| Path::new("/sys/fs/cgroup").join(controllers).join(&path[1..]))
    });
    let split = split.filter(|dir| dir.is_dir());
    let unified = || {
        let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        Path::new("/sys/fs/cgroup").join(path)
    };
    split.unwrap_or_else(unified)
}

fn value(process: &ProcessIdentity, controller: &str, files: [&str; 2]) -> String {
    let dir = group(process, controller);
    let found = files.iter().find_map(|file| fs::read_to_string(dir.join(file)).ok());
    found.unwrap().trim().to_owned()
}

fn status(process: &ProcessIdentity, field: &str) -> String {
    let status = text(Path::new(&format!("/proc/{}/status", process.pid)));
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

fn sleeper(number: u64, cpu: u64, memory: u64, limits: Limits) -> Job {
    let mut job = Job::of(number, JobKind::Service, &["sleep", "600"]);
    let task = job.task();
    (task.cpu, task.memory, task.limits) = (CpuMilli(cpu), MemoryBytes(memory), limits);
    job
}

async fn begin(scheduler: &mut Scheduler, agent: &Agent, job: &Job) -> ProcessIdentity {
    scheduler.want(job, vec![job.row(0)]);
    scheduler.until_ready(job.id(0)).await;
    agent.processes(job.id(0)).remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_read_back_from_the_process() {
    let Some((mut scheduler, agent)) = cluster().await else { return };
    let limits = Limits {
        cpu: Some(CpuMilli(1_500)),
        memory: Some(MemoryBytes(96 * MIB)),
        processes: Some(77),
        ..Limits::default()
    };
    let job = sleeper(1, 500, 64 * MIB, limits);
    let process = begin(&mut scheduler, &agent, &job).await;
    let share = value(&process, "cpu", ["cpu.weight", "cpu.shares"]);
    assert!(["20", "512"].contains(&share.as_str()), "{share}");
    let quota = value(&process, "cpu", ["cpu.max", "cpu.cfs_quota_us"]);
    assert!(["150000 100000", "150000"].contains(&quota.as_str()), "{quota}");
    let memory = value(&process, "memory", ["memory.max", "memory.limit_in_bytes"]);
    assert_eq!(memory, (96 * MIB).to_string());
    assert_eq!(value(&process, "pids", ["pids.max"; 2]), "77");
    let score = |process: &ProcessIdentity| {
        text(Path::new(&format!("/proc/{}/oom_score_adj", process.pid))).trim().to_owned()
    };
    assert_eq!(score(&process), "500");
    // Nobody asked for anything in particular.
    let plain = sleeper(2, 100, 128 * MIB, Limits::default());
    let other = begin(&mut scheduler, &agent, &plain).await;
    let unlimited = value(&other, "memory", ["memory.max", "memory.limit_in_bytes"]);
    assert!(["max", "9223372036854771712"].contains(&unlimited.as_str()), "{unlimited}");
    assert_eq!(
        (value(&other, "pids", ["pids.max"; 2]).as_str(), &*score(&other)),
        ("16384", "1000")
    );
    // With the end of a worker its groups are gone.
    let dirs = ["cpu", "memory", "pids"].map(|controller| group(&process, controller));
    scheduler.stop(job.id(0));
    scheduler.until_ended(job.id(0)).await;
    let next = Job::shell(3, "exit 0");
    scheduler.want(&next, vec![next.row(0)]);
    scheduler.until_ended(next.id(0)).await;
    assert_eq!(dirs.iter().filter(|dir| dir.exists()).count(), 0, "{dirs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guaranteed_core_is_nobody_elses() {
    let Some((mut scheduler, mut agent)) = cluster().await else { return };
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores < 2 {
        skip("cores", "the one core of this host cannot be anybody's own");
        return;
    }
    let plain = sleeper(1, 100, 128 * MIB, Limits::default());
    let other = begin(&mut scheduler, &agent, &plain).await;
    let of = |process: &ProcessIdentity| status(process, "Cpus_allowed_list");
    let all = of(&other);
    let own = Limits { cpu: Some(CpuMilli(1_000)), ..Limits::default() };
    let pinned = sleeper(2, 1_000, 64 * MIB, own);
    let process = begin(&mut scheduler, &agent, &pinned).await;
    let first = of(&process);
    assert!(first.parse::<u32>().is_ok(), "one core: {first}");
    assert!(
        !numbers(&of(&other)).contains(&first.parse().unwrap()),
        "{first} is in {}",
        of(&other)
    );
    // The next agent knows it from the kernel.
    agent.kill().await;
    agent.start_again();
    scheduler.session().await;
    let third = sleeper(3, 100, 128 * MIB, Limits::default());
    let third = begin(&mut scheduler, &agent, &third).await;
    assert_eq!((of(&process), of(&third)), (first, of(&other)));
    scheduler.stop(pinned.id(0));
    scheduler.until_ended(pinned.id(0)).await;
    assert_eq!((of(&other), of(&third)), (all.clone(), all));
}

fn numbers(list: &str) -> BTreeSet<u32> {
    let span = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse::<u32>().unwrap()..=last.parse().unwrap()
    };
    list.split(',').flat_map(span).collect()
}

/// Bound: told within 2 s, which is a look later at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_who_runs_out_of_memory_ends_as_a_whole_and_is_told_so() {
    for confined in CONFINED_OR_NOT {
        let Some((mut scheduler, agent)) = cluster_with(confined).await else { return };
        let neighbour = sleeper(9, 100, 64 * MIB, Limits::default());
        begin(&mut scheduler, &agent, &neighbour).await;
        let spared = agent.processes(neighbour.id(0));
        let hog = "head -c 200000000 /dev/zero | tail -n 1 >/dev/null";
        for (number, script) in [(1, format!("{hog}; exit 0")), (2, format!("({hog}) & sleep 600"))]
        {
            let mut job = Job::shell(number, &script);
            job.task().memory = MemoryBytes(32 * MIB);
            scheduler.want(&job, vec![job.row(0)]);
            let ended = scheduler.until_ended(job.id(0)).await;
            assert_eq!(ended.cause, i32::from(EndCause::OutOfMemory), "{ended:?}");
            assert!(ended.reason.starts_with("out of memory at its limit of 32MiB"), "{ended:?}");
            assert_eq!(agent.processes(job.id(0)), []);
        }
        let left = agent.processes(neighbour.id(0));
        assert!(spared.iter().all(|process| left.contains(process)), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f41_a_fork_bomb_gets_no_more_than_its_processes() {
    for confined in CONFINED_OR_NOT {
        let Some((mut scheduler, agent)) = cluster_with(confined).await else { return };
        let script = "i=0; while [ $i -lt 200 ]; do sleep 600 & i=$((i+1)); done; touch all";
        let mut job = Job::shell(1, script);
        job.task().limits.processes = Some(20);
        scheduler.want(&job, vec![job.row(0)]);
        // The shell gives up at the first fork that fails, and its children go with it.
        let ended = scheduler.until_ended(job.id(0)).await;
        assert_eq!(ended.cause, i32::from(EndCause::Exited), "{ended:?}");
        assert!(ended.exit_code.is_some_and(|code| code != 0), "{ended:?}");
        assert!(ended.stderr_tail.contains("ork"), "{ended:?}");
        assert!(!agent.task_dir(job.id(0)).join("all").exists());
        assert_eq!(agent.processes(job.id(0)), []);
        let next = Job::shell(2, "exit 0");
        scheduler.want(&next, vec![next.row(0)]);
        assert_eq!(scheduler.until_ended(next.id(0)).await.exit_code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f41_a_process_opens_no_more_files_than_it_may() {
    let own = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let usual = own.min(65_536);
    for confined in CONFINED_OR_NOT {
        let Some((mut scheduler, agent)) = cluster_with(confined).await else { return };
        for (number, open_files, expected) in [(1, Some(99), 99), (2, None, usual)] {
            let mut job = Job::shell(number, "ulimit -Sn");
            job.task().limits.open_files = open_files;
            scheduler.want(&job, vec![job.row(0)]);
            assert_eq!(scheduler.until_ended(job.id(0)).await.exit_code, Some(0));
            assert_eq!(agent.stdout(job.id(0)), format!("{expected}\n"));
        }
    }
}

/// Its health is asked for by a command of the job's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_check_is_held_to_the_limits_of_its_worker() {
    let Some((mut scheduler, agent)) = cluster().await else { return };
    let mut job = sleeper(1, 500, 64 * MIB, Limits::default());
    let script = "cat /proc/self/cgroup /proc/self/oom_score_adj > found.new; \
                  mv found.new found; test -e well";
    job.check_by(script);
    scheduler.want(&job, vec![job.row(0)]);
    let dir = agent.task_dir(job.id(0));
    scheduler.until("runs", job.id(0), |state| running(state).map(drop)).await;
    let found = || fs::read_to_string(dir.join("found")).ok();
    let check = until_file("a check", &dir, found).await;
    fs::write(dir.join("well"), "").unwrap();
    scheduler.until_ready(job.id(0)).await;
    let worker = agent.processes(job.id(0)).remove(0);
    let own = text(Path::new(&format!("/proc/{}/cgroup", worker.pid)));
    assert_eq!(check, format!("{own}500\n"));
}

/// Without its shim and without its environment, its group still says whose it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_hides_is_found_by_its_group() {
    let Some((mut scheduler, mut agent)) = cluster().await else { return };
    let job = Job::shell(1, "env -i setsid sh -c 'echo $$ > hidden; exec sleep 600' & sleep 600");
    let id: AllocationId = job.id(0);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(id).await;
    let dir = agent.task_dir(id);
    let pid = || fs::read_to_string(dir.join("hidden")).ok()?.trim().parse::<u32>().ok();
    let hidden = until_file("its pid", &dir, pid).await;
    agent.kill().await;
    let seen = agent.processes(id).remove(0);
    let shim = agent.shim_of(&seen);
    let kill = |pid: u32| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    kill(shim);
    kill(seen.pid);
    agent.start_again();
    scheduler.session().await;
    let ended = scheduler.until_ended(id).await;
    assert_eq!(ended.cause, i32::from(EndCause::Unseen), "{ended:?}");
    crate::harness::agent::until_gone(hidden).await;
}
