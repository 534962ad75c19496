//! Workers in containers of a real engine, started for the test on a socket of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use berth_model::{AllocationId, Artifact, Driver, DurationMs, JobKind, Limits, MemoryBytes};
use berth_proto::v1::{Device, EndCause};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::AsyncBufReadExt as _;

use crate::exec::{holder_of, until_let_go};
use crate::gpu_faults::looks;
use crate::gpus::{script as script_of, whole};
use crate::harness::agent::{Agent, until_gone};
use crate::harness::jobs::Job;
use crate::harness::origin::{How, Origin};
use crate::harness::scheduler::Scheduler;
use crate::harness::{skip, until_file, within};
use crate::sharers::part;

const IMAGE: &str = "berth-trial:1";
/// What an image of one program is made of: the program, and the names it goes by.
const NAMES: [&str; 10] =
    ["sh", "cat", "echo", "env", "head", "sleep", "stty", "tail", "touch", "true"];

/// An engine with one image. Dropping it ends it with everything in it.
pub struct Engine {
    dir: TempDir,
    child: Child,
}

impl Engine {
    /// `None` where there is none to start.
    pub async fn start() -> Option<Engine> {
        let root = rustix::process::geteuid().is_root();
        let is_there = |name: &str| {
            let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
            path.split(':').map(|dir| Path::new(dir).join(name)).find(|file| file.exists())
        };
        let found = (is_there("dockerd"), is_there("docker"), is_there("busybox"), root);
        let (Some(dockerd), Some(_), Some(busybox), true) = found else {
            skip("docker", "no Docker engine can be started: it takes root, docker.io and busybox");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let flag = |name: &str, file: &str| format!("--{name}={}", dir.path().join(file).display());
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(dockerd)
            .args([flag("data-root", "data"), flag("exec-root", "exec"), flag("pidfile", "pid")])
            .arg(format!("--host=unix://{}", dir.path().join("socket").display()))
            .args(["--bridge=none", "--iptables=false", "--storage-driver=vfs"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let engine = Engine { dir, child };
        let socket = engine.socket();
        let up = || (socket.exists() && engine.ask(&["version"]).is_some()).then_some(());
        until_file("the engine", engine.dir.path(), up).await;
        engine.make_image(&busybox);
        Some(engine)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// What the engine's own client prints; `None` if it fails.
    fn ask(&self, arguments: &[&str]) -> Option<String> {
        let host = format!("unix://{}", self.socket().display());
        let output = Command::new("docker").args(["--host", &host]).args(arguments).output();
        let output = output.unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn make_image(&self, busybox: &Path) {
        let bin = self.dir.path().join("root/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(busybox, bin.join("busybox")).unwrap();
        for name in NAMES {
            std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
        }
        let archive = self.dir.path().join("image.tar");
        let (archive, root) = (archive.to_str().unwrap(), self.dir.path().join("root"));
        let packed = Command::new("tar").args(["-cf", archive, "-C"]).arg(root).arg(".").status();
        assert!(packed.unwrap().success());
        self.ask(&["import", archive, IMAGE]).unwrap();
    }

    fn containers(&self) -> String {
        self.ask(&["ps", "--all", "--format", "{{.ID}} {{.Names}} {{.CreatedAt}}"]).unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        // It ends its containers and its own helpers first.
        let _ = kill_process(pid, Signal::TERM);
        let _ = self.child.wait();
        // It leaves this mounted, and what is mounted cannot be removed.
        let _ = Command::new("umount").arg(self.dir.path().join("exec/netns/default")).status();
    }
}

async fn cluster(engine: &Engine) -> (Scheduler, Agent) {
    let (scheduler, agent, _) = cluster_with(engine, &[]).await;
    (scheduler, agent)
}

pub async fn cluster_with(engine: &Engine, more: &[&str]) -> (Scheduler, Agent, Device) {
    let mut scheduler = Scheduler::start().await;
    let socket = engine.socket();
    let usual = ["--docker-socket", socket.to_str().unwrap(), "--simulate", "1xH100-80GB"];
    let more = [&usual[..], &["--artifacts-allow", "http,loopback"], more].concat();
    let agent = Agent::start(&scheduler.address, &more);
    let hello = scheduler.session().await;
    let mut spec = hello.spec.unwrap();
    assert!(!spec.docker_version.is_empty(), "{spec:?}");
    scheduler.send_full();
    (scheduler, agent, spec.devices.remove(0))
}

pub fn job(number: u64, kind: JobKind, script: &str) -> Job {
    let mut job = Job::of(number, kind, &["sh", "-c", script]);
    job.task().driver = Driver::Docker { image: IMAGE.to_owned() };
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_runs_and_ends_like_a_process() {
    let Some(engine) = Engine::start().await else { return };
    let (mut scheduler, agent) = cluster(&engine).await;
    let script = "echo $GREETING from $BERTH_TASK_DIR; echo done > $BERTH_TASK_DIR/file; \
                  cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes \
                      2>/dev/null; \
                  cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null; \
                  env | while read line; do echo \"env $line\"; done; echo last words >&2; exit 3";
    let mut job = job(1, JobKind::Batch, script);
    let task = job.task();
    task.env = [("GREETING".to_owned(), "hello".to_owned())].into();
    task.memory = MemoryBytes(64 << 20);
    task.limits = Limits { processes: Some(33), ..Limits::default() };
    let id = job.id(0);
    scheduler.want(&job, vec![job.row(0)]);
    let ended = scheduler.until_ended(id).await;
    assert_eq!(ended.cause, i32::from(EndCause::Exited), "{ended:?}");
    assert_eq!((ended.exit_code, &*ended.stderr_tail), (Some(3), "last words\n"));
    let output = agent.stdout(id);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..3], ["hello from /berth", "67108864", "33"], "{output}");
    let has = |line: &str| lines.contains(&line);
    assert!(has("env BERTH_ALLOC_ID=1.0.0.1") && has("env NVIDIA_VISIBLE_DEVICES=void"));
    assert!(!output.contains("LEAKED_FROM_THE_AGENT"), "{output}");
    assert_eq!(fs::read_to_string(agent.task_dir(id).join("file")).unwrap(), "done\n");
    assert_eq!(engine.containers(), "", "nothing of it is left");
}

/// Its own copy: whoever is root in a container can write to what is root's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_container_finds_its_files_and_changes_nobody_elses() {
    let Some(engine) = Engine::start().await else { return };
    let (mut scheduler, agent) = cluster(&engine).await;
    let origin = Origin::start().await;
    origin.serve("/w", b"weights\n", &[How::Well]);
    for number in [1, 2] {
        let mut job = job(number, JobKind::Batch, "cat /berth/models/w; echo x > /berth/models/w");
        let to = "models/w".to_owned();
        job.task().artifacts = vec![Artifact { source: origin.url("/w"), checksum: None, to }];
        scheduler.want(&job, vec![job.row(0)]);
        let ended = scheduler.until_ended(job.id(0)).await;
        assert_eq!(
            (ended.exit_code, &*agent.stdout(job.id(0))),
            (Some(0), "weights\n"),
            "{ended:?}"
        );
    }
    assert_eq!(origin.asked("/w").iter().map(|asked| asked.status).collect::<Vec<_>>(), [200, 304]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_a_container_out_of_memory_ends_as_a_whole_and_is_told_so() {
    let Some(engine) = Engine::start().await else { return };
    let (mut scheduler, _agent) = cluster(&engine).await;
    let hog = "head -c 200000000 /dev/zero | tail -n 1 >/dev/null";
    for (number, script) in [(1, format!("{hog}; exit 0")), (2, format!("({hog}) & sleep 600"))] {
        let mut job = job(number, JobKind::Batch, &script);
        job.task().memory = MemoryBytes(32 << 20);
        scheduler.want(&job, vec![job.row(0)]);
        let ended = scheduler.until_ended(job.id(0)).await;
        assert_eq!(ended.cause, i32::from(EndCause::OutOfMemory), "{ended:?}");
        assert_eq!(ended.reason, "out of memory at its limit of 32MiB");
    }
    assert_eq!(engine.containers(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f34_a_container_is_adopted_and_stopped_by_the_next_agent() {
    let Some(engine) = Engine::start().await else { return };
    let (mut scheduler, mut agent) = cluster(&engine).await;
    let script = "trap 'echo bye; exit 0' TERM; touch /berth/up; while true; do sleep 0.1; done";
    let job = job(1, JobKind::Service, script);
    let id = job.id(0);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(id).await;
    let dir = agent.task_dir(id);
    until_file("it is up", &dir, || dir.join("up").exists().then_some(())).await;
    let before = engine.containers();
    agent.kill().await;
    agent.start_again();
    scheduler.session().await;
    scheduler.until_ready(id).await;
    assert_eq!(engine.containers(), before, "it was left alone");
    scheduler.stop(id);
    let ended = scheduler.until_ended(id).await;
    assert_eq!(ended.cause, i32::from(EndCause::Stopped), "{ended:?}");
    assert_eq!((ended.exit_code, &*agent.stdout(id)), (Some(0), "bye\n"));
    assert_eq!(engine.containers(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_told_when_the_container_is_gone_whoever_was_killed() {
    let Some(engine) = Engine::start().await else { return };
    let (mut scheduler, agent) = cluster(&engine).await;
    // It does not care for SIGTERM, and its runner is killed.
    let script = "trap '' TERM; touch /berth/up; while true; do sleep 0.1; done";
    let job = job(1, JobKind::Service, script);
    let id: AllocationId = job.id(0);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(id).await;
    let dir = agent.task_dir(id);
    until_file("it is up", &dir, || dir.join("up").exists().then_some(())).await;
    let runner = agent.processes(id).remove(0);
    let pid = Pid::from_raw(i32::try_from(runner.pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let ended = scheduler.until_ended(id).await;
    assert_eq!((ended.cause, ended.signal), (i32::from(EndCause::Exited), Some(9)), "{ended:?}");
    assert_eq!(engine.containers(), "");
}

/// Nobody is there but the shim, and the container does not care for SIGTERM.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_an_exclusive_container_ends_with_its_lease_while_the_agent_is_dead() {
    let Some(engine) = Engine::start().await else { return };
    let (mut scheduler, mut agent) = cluster(&engine).await;
    let script = "trap '' TERM; touch /berth/up; while true; do sleep 0.1; done";
    let mut job = job(1, JobKind::Service, script);
    job.spec.exclusive = true;
    job.task().stop.grace = DurationMs(1_000);
    let id = job.id(0);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(id).await;
    let dir = agent.task_dir(id);
    until_file("it is up", &dir, || dir.join("up").exists().then_some(())).await;
    let runner = agent.processes(id).remove(0);
    agent.kill().await;
    until_gone(runner.pid).await;
    assert_eq!(engine.ask(&["ps", "--quiet"]).unwrap(), "", "it does not run any more");
    scheduler.seen.clear();
    agent.start_again();
    scheduler.session().await;
    let ended = scheduler.until_ended(id).await;
    assert_eq!(ended.cause, i32::from(EndCause::Fenced), "{ended:?}");
    assert_eq!(engine.containers(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_engine_cannot_start_is_told_with_its_reason() {
    let Some(engine) = Engine::start().await else { return };
    let (mut scheduler, _agent) = cluster(&engine).await;
    let of = |number, image: &str| {
        let mut job = job(number, JobKind::Batch, "exit 0");
        job.task().driver = Driver::Docker { image: image.to_owned() };
        job
    };
    let mut mistyped = job(2, JobKind::Batch, "");
    mistyped.task().command = vec!["/bin/no-such-program".to_owned()];
    for (job, cause, reason) in [
        // The registry may be there the next time; the others never will be.
        (
            of(1, "127.0.0.1:9/none:1"),
            EndCause::Exited,
            "image 127.0.0.1:9/none:1 is not on this host and cannot be pulled: ",
        ),
        (mistyped, EndCause::CannotStart, "exec /bin/no-such-program failed: No such file"),
        (of(3, "Upper:1"), EndCause::CannotStart, "there is no image Upper:1: "),
    ] {
        scheduler.want(&job, vec![job.row(0)]);
        let ended = scheduler.until_ended(job.id(0)).await;
        assert_eq!(ended.cause, i32::from(cause), "{ended:?}");
        assert!(ended.reason.starts_with(reason), "{ended:?}");
    }
    assert_eq!(engine.containers(), "");
}

/// A node with the numbers of `/dev/null`, which a test can take away from whom it likes.
fn make_node(node: &Path) {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, node, FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
}

/// Has the container lose the use of a node, as a service manager does that writes down anew
/// what its group may use; whether that can be done here.
fn take_node_away(container: &str) -> bool {
    let group = Path::new("/sys/fs/cgroup/devices/docker").join(container);
    if group.exists() {
        fs::write(group.join("devices.deny"), "c 1:3 rwm").unwrap();
        return true;
    }
    // Version 2 has a program in the kernel decide, which only who put it there can replace.
    skip("devices-cgroup-v1", "no group of version 1 decides of a container's devices");
    false
}

/// The worker notices nothing of it, and it is replaced all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f57_a_container_that_loses_its_gpu_is_ended_and_says_so() {
    let Some(engine) = Engine::start().await else { return };
    let node = engine.dir.path().join("node");
    make_node(&node);
    let more = ["--docker-node", node.to_str().unwrap()];
    let (mut scheduler, agent, device) = cluster_with(&engine, &more).await;
    let job = job(1, JobKind::Service, "touch /berth/up; sleep 600");
    let row = |instance| job.row_with(instance, vec![whole(&device)], Vec::new());
    let up = async |scheduler: &mut Scheduler, instance| {
        scheduler.want(&job, vec![row(instance)]);
        scheduler.until_ready(job.id(instance)).await;
        // It is known what it can use.
        let watched = agent.allocation(job.id(instance));
        let sign = watched.join("container.watched");
        until_file("it is watched", &watched, || sign.exists().then_some(())).await;
    };
    up(&mut scheduler, 0).await;
    let container = engine.ask(&["ps", "--quiet", "--no-trunc"]).unwrap().trim().to_owned();
    if !take_node_away(&container) {
        return;
    }
    let lost = Instant::now();
    let ended = scheduler.until_ended(job.id(0)).await;
    assert!(lost.elapsed() < Duration::from_secs(60), "{:?}", lost.elapsed());
    assert_eq!(ended.cause, i32::from(EndCause::HostFault), "{ended:?}");
    let reason = format!("its container has lost the use of {}: ", node.display());
    assert!(ended.reason.starts_with(&reason), "{ended:?}");
    assert_eq!(engine.containers(), "", "nothing of it is left");
    // The next one has it again.
    scheduler.change(Vec::new(), vec![job.id(0)]);
    up(&mut scheduler, 1).await;
    scheduler.stop(job.id(1));
    let ended = scheduler.until_ended(job.id(1)).await;
    assert_eq!(ended.cause, i32::from(EndCause::Stopped), "{ended:?}");
}

/// Agent, shim and runner are killed, and nobody wants it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_nobody_watches_is_removed_by_the_next_agent() {
    let Some(engine) = Engine::start().await else { return };
    let (mut scheduler, mut agent) = cluster(&engine).await;
    let job = job(1, JobKind::Service, "touch /berth/up; sleep 600");
    let id = job.id(0);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(id).await;
    let runner = agent.processes(id).remove(0);
    let shim = agent.shim_of(&runner);
    agent.kill().await;
    for pid in [shim, runner.pid] {
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    }
    until_gone(runner.pid).await;
    assert_ne!(engine.containers(), "", "the engine goes on");
    fs::remove_file(agent.data().join("desired")).unwrap();
    agent.start_again();
    // The cluster wants nothing yet.
    scheduler.session().await;
    until_removed(&engine).await;
}

/// Waits until the engine says that the last container is gone.
async fn until_removed(engine: &Engine) {
    let host = format!("--host=unix://{}", engine.socket().display());
    let mut events = tokio::process::Command::new("docker")
        .args([host.as_str(), "events", "--since=0", "--filter=event=destroy"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(events.stdout.take().unwrap()).lines();
    within("a container is removed", async { lines.next_line().await.unwrap().unwrap() }).await;
    assert_eq!(engine.containers(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_in_a_container_is_like_one_among_processes() {
    let Some(engine) = Engine::start().await else { return };
    let (mut scheduler, agent) = cluster(&engine).await;
    let job = job(1, JobKind::Service, "trap 'exit 0' TERM; while true; do sleep 0.1; done");
    let id = job.id(0);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(id).await;
    let mut exec = scheduler.exec_shell(id, "echo $BERTH_ALLOC_ID; cat; echo err >&2; exit 3");
    exec.type_in("one\n");
    exec.until_said("one\n").await;
    exec.type_in("two");
    exec.end_input();
    assert_eq!(exec.until_ended().await, Some(3), "{}", exec.stderr);
    assert_eq!((exec.stdout, &*exec.stderr), (format!("{id}\none\ntwo"), "err\n"));
    let script = "echo $TERM; while read line; do echo got $line; stty size; done";
    let mut exec = scheduler.exec_at(id, &["sh", "-c", script], Some((81, 25)));
    exec.until_said("vt100\r\n").await;
    exec.type_in("one\n");
    exec.until_said("got one\r\n25 81\r\n").await;
    exec.resize(100, 50);
    exec.type_in("word\n");
    exec.until_said("got word\r\n50 100\r\n").await;
    exec.type_in("\u{4}");
    assert_eq!(exec.until_ended().await, Some(0), "{}", exec.stdout);
    let mut none = scheduler.exec(id, &["no-such-program"]);
    assert!(matches!(none.until_ended().await, Some(126 | 127)), "{:?}", none.ended);
    // It goes with whoever asked for it, also if it does not care for a hang-up.
    let fifo = agent.task_dir(id).join("held");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    // It may be silent, or have much to say.
    for does in ["sleep 0.1", "echo much"] {
        let script =
            format!("trap '' HUP; exec 9>/berth/held; echo up >&9; while true; do {does}; done");
        let exec = scheduler.exec_shell(id, &script);
        let holder = holder_of(&fifo).await;
        drop(exec);
        until_let_go(holder).await;
    }
    scheduler.stop(id);
    assert_eq!(scheduler.until_ended(id).await.exit_code, Some(0));
}

/// Whose process it is says the container that it is in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_a_container_over_its_share_of_a_gpu_is_ended_and_its_neighbour_is_not() {
    let Some(engine) = Engine::start().await else { return };
    let (mut scheduler, agent, device) = cluster_with(&engine, &[]).await;
    let script = "trap 'exit 0' TERM; sleep 600 & wait";
    let (hog, neighbour) = (job(1, JobKind::Batch, script), job(2, JobKind::Batch, script));
    let mut pids = Vec::new();
    for job in [&hog, &neighbour] {
        scheduler.want(job, vec![job.row_with(0, vec![part(&device, 500)], Vec::new())]);
        scheduler.until_ready(job.id(0)).await;
        let names = engine.containers();
        let name = names.split_whitespace().find(|name| name.ends_with(&job.id(0).to_string()));
        let pid = engine.ask(&["inspect", "--format", "{{.State.Pid}}", name.unwrap()]).unwrap();
        pids.push(pid.trim().to_owned());
    }
    let uses = |hog: u64| {
        format!("gpu 0 process {} {hog}\ngpu 0 process {} 40000000000\n", pids[0], pids[1])
    };
    looks(&mut scheduler, &agent, &uses(40_000_000_000), 3).await;
    assert_eq!(scheduler.samples[0].unwatched, None);
    script_of(&agent, &uses(44_000_000_000));
    let ended = scheduler.until_ended(hog.id(0)).await;
    assert!(ended.reason.starts_with("used 40.9GiB of GPU memory on GPU-sim-"), "{ended:?}");
    assert_eq!(ended.cause(), EndCause::OutOfMemory);
    let left = engine.containers();
    assert!(left.contains(&neighbour.id(0).to_string()), "{left}");
    assert!(!left.contains(&hog.id(0).to_string()), "{left}");
}
