//! What a hostile worker gets at: its own files, devices and processes, and nothing else; and
//! that a worker that is not hostile notices little of it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use berth_model::JobKind;
use berth_proto::v1::{Device, EndCause, Ended};
use berth_shim::ProcessIdentity;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::gpus::{script, until_sample, whole};
use crate::harness::agent::{Agent, text};
use crate::harness::jobs::Job;
use crate::harness::scheduler::{Scheduler, running};
use crate::harness::{cluster_with_hello, skip, until_file};

/// `try NAME COMMAND…` says whether a command succeeded.
const TRY: &str = "try() { what=$1; shift; if (\"$@\") >/dev/null 2>&1; then echo got $what; \
                   else echo no $what; fi; }\n";
const ALWAYS: [&str; 2] = ["--confine", "always"];

/// A cluster whose agent can confine workers; `None` where the host does not let it.
async fn cluster(arguments: &[&str]) -> Option<(Scheduler, Agent)> {
    begin_cluster(arguments).await.map(|(scheduler, agent, _)| (scheduler, agent))
}

/// The same, with the node's devices.
async fn begin_cluster(arguments: &[&str]) -> Option<(Scheduler, Agent, Vec<Device>)> {
    if !rustix::process::geteuid().is_root() {
        skip("root", "the agent's tests of confined workers need namespaces, which root makes");
        return None;
    }
    let (scheduler, agent, hello) = cluster_with_hello(arguments).await;
    Some((scheduler, agent, hello.spec.unwrap().devices))
}

async fn end_of(scheduler: &mut Scheduler, job: &Job) -> Ended {
    scheduler.want(job, vec![job.row(0)]);
    scheduler.until_ended(job.id(0)).await
}

/// Runs a script to its end and returns what it said.
async fn say(scheduler: &mut Scheduler, agent: &Agent, number: u64, script: &str) -> Vec<String> {
    let job = Job::shell(number, script);
    let ended = end_of(scheduler, &job).await;
    assert_eq!(ended.exit_code, Some(0), "{ended:?}");
    agent.stdout(job.id(0)).lines().map(str::to_owned).collect()
}

/// Its processes, once it has made the file `up`.
async fn begin(scheduler: &mut Scheduler, agent: &Agent, job: &Job) -> Vec<ProcessIdentity> {
    scheduler.want(job, vec![job.row(0)]);
    let dir = agent.task_dir(job.id(0));
    scheduler.until("runs", job.id(0), |state| running(state).map(drop)).await;
    until_file("its word", &dir, || dir.join("up").exists().then_some(())).await;
    agent.processes(job.id(0))
}

/// What looks only, and so may be tried without any bounds.
fn looks(agent: &Agent, neighbour: &Job, victim: u32, daemon: &Path) -> String {
    let secret = agent.task_dir(neighbour.id(0)).join("secret");
    format!(
        "{TRY}
         try neighbours-file cat {secret}
         try neighbours-directory ls {neighbours}
         try neighbours-environment cat /proc/{victim}/environ
         try agents-environment cat /proc/{agents}/environ
         try agents-files cat {data}/agent.id
         try shims ls {data}/shims
         try own-enclosure ls {data}/allocs/$BERTH_ALLOC_ID/allocation
         try hosts-daemons ls {daemon}/socket
         try hosts-memory ls /dev/mem /dev/kmsg
         try kernels-memory sh -c '[ -n \"$(head -c 1 /proc/kcore)\" ]'
         try kernels-messages dmesg
         try new-node mknod node c 1 1
         try namespace unshare -U true
         try root-again chroot / true\n",
        secret = secret.display(),
        neighbours = secret.parent().unwrap().display(),
        data = agent.data().display(),
        agents = agent.pid(),
        daemon = daemon.display(),
    )
}

/// Where one of the host's daemons listens, which does what root asks.
fn daemon() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/run").unwrap();
    drop(UnixListener::bind(dir.path().join("socket")).unwrap());
    dir
}

/// What would do harm if it could be done.
fn deeds(victim: u32) -> String {
    format!(
        "try neighbour-killed kill -9 {victim}
         try hosts-file touch /etc/berth-hostile
         try hosts-programs touch /usr/bin/berth-hostile
         try hosts-switch sh -c 'echo 0 > /proc/sys/kernel/sysrq'
         try node-given-away chmod 600 /dev/null
         try own-link ln -s /etc/passwd /dev/link
         try groups sh -c 'echo $$ > /sys/fs/cgroup/cgroup.procs || mkdir /sys/fs/cgroup/cpu/x'
         try mount mount -t tmpfs none /mnt
         try unmount umount /proc\n"
    )
}

/// As the host's own root, which has the most to lose, and as its neighbour's user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_worker_gets_nothing_of_anybody_elses() {
    for user in [&[][..], &["--worker-user", "nobody"]] {
        let Some((mut scheduler, agent)) = cluster(&[&ALWAYS[..], user].concat()).await else {
            return;
        };
        let neighbour = Job::shell(1, "umask 0; echo word > secret; echo > up; exec sleep 600");
        let neighbours = begin(&mut scheduler, &agent, &neighbour).await;
        let victim = neighbours.iter().map(|process| process.pid).max().unwrap();
        let daemon = daemon();
        let script = looks(&agent, &neighbour, victim, daemon.path()) + &deeds(victim);
        let said = say(&mut scheduler, &agent, 2, &script).await;
        let got: Vec<&String> = said.iter().filter(|line| !line.starts_with("no ")).collect();
        assert!(got.is_empty() && said.len() == 23, "as {user:?}: {said:?}");
        assert_eq!(agent.processes(neighbour.id(0)), neighbours);
        let null = fs::metadata("/dev/null").unwrap();
        assert_eq!((null.uid(), null.mode() & 0o777), (0, 0o666));
    }
}

/// The tries of the test above are such that they would tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_confinement_a_worker_of_root_gets_all_of_it() {
    let Some((mut scheduler, agent)) = cluster(&[]).await else { return };
    let neighbour = Job::shell(1, "echo word > secret; echo > up; exec sleep 600");
    let victim = begin(&mut scheduler, &agent, &neighbour).await.remove(0).pid;
    let daemon = daemon();
    let looks = looks(&agent, &neighbour, victim, daemon.path());
    let said = say(&mut scheduler, &agent, 2, &looks).await;
    let refused: Vec<&String> = said.iter().filter(|line| !line.starts_with("got ")).collect();
    // What a container that this runs in takes from root itself says nothing.
    let of_hosts = ["no hosts-memory", "no kernels-memory", "no kernels-messages"];
    assert!(refused.iter().all(|line| of_hosts.contains(&line.as_str())), "{said:?}");
    assert_eq!(said.len(), 14, "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_finds_what_it_needs() {
    let shared = tempfile::tempdir_in("/var/lib").unwrap();
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let own = [&ALWAYS[..], &["--worker-user", "nobody"]].concat();
    let writable = ["--writable", shared.path().to_str().unwrap()];
    let Some((mut scheduler, agent)) = cluster(&[&own[..], &writable].concat()).await else {
        return;
    };
    let script = format!(
        "{TRY}
         try own-directory sh -c 'echo x > file && cat $BERTH_TASK_DIR/file'
         try own-tmp sh -c 'echo x > /tmp/x && cat /var/tmp/x'
         try shared-memory sh -c 'echo x > /dev/shm/x'
         try outputs sh -c 'echo word > /dev/stdout && echo word > /dev/stderr'
         try devices sh -c 'echo > /dev/null && head -c 1 /dev/urandom && ls /dev/pts/ptmx'
         try programs cat /etc/passwd
         try hosts-settings cat /proc/meminfo /sys/devices/system/cpu/online
         try what-is-writable touch {shared}/made
         echo user $(id -u):$(id -g) groups $(id -G)
         echo processes $(ls /proc | grep -c '^[0-9]*$')
         echo tmp $(ls /tmp | grep -v berth | wc -l)
         grep -E '^(NoNewPrivs|Seccomp|CapEff|CapBnd):' /proc/self/status",
        shared = shared.path().display(),
    );
    let said = say(&mut scheduler, &agent, 1, &script).await;
    let (tried, rest) = said.split_at(8);
    assert!(tried.iter().all(|line| line.starts_with("got ")), "{said:?}");
    assert_eq!(rest[0], "user 65534:65534 groups 65534");
    // The first one, the shell, and those of this very question.
    let processes: u32 = rest[1].strip_prefix("processes ").unwrap().parse().unwrap();
    assert!((3..=5).contains(&processes), "{rest:?}");
    let none = "0000000000000000";
    let status: Vec<(&str, &str)> =
        rest[3..].iter().map(|line| line.split_once(":\t").unwrap()).collect();
    assert_eq!(status, [("CapEff", none), ("CapBnd", none), ("NoNewPrivs", "1"), ("Seccomp", "2")]);
    assert!(shared.path().join("made").exists());
    assert!(!Path::new("/tmp/x").exists() && !Path::new("/dev/shm/x").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confined_worker_ends_as_any_other() {
    let Some((mut scheduler, agent)) = cluster(&ALWAYS).await else { return };
    for (number, command, code, signal) in [
        (1, "exit 0", Some(0), None),
        (2, "exit 41", Some(41), None),
        (3, "kill -TERM $$", None, Some(15)),
        (4, "kill -KILL $$", None, Some(9)),
        (5, "kill -SEGV $$", None, Some(11)),
        // What it leaves behind is ended with it.
        (6, "sleep 600 & exit 7", Some(7), None),
    ] {
        let job = Job::shell(number, command);
        let ended = end_of(&mut scheduler, &job).await;
        assert_eq!((ended.exit_code, ended.signal), (code, signal), "{command}: {ended:?}");
        assert_eq!(ended.cause, i32::from(EndCause::Exited), "{command}");
        assert_eq!(agent.processes(job.id(0)), [], "{command}");
    }
    let absent = Job::of(7, JobKind::Batch, &["no-such-program"]);
    let mut elsewhere = Job::shell(8, "exit 0");
    elsewhere.task().workdir = Some("/no/such/place".to_owned());
    let mut temporary = Job::shell(9, "exit 0");
    temporary.task().workdir = Some("/tmp/build".to_owned());
    for (job, reason) in [
        (absent, "cannot execute `no-such-program`: no such file or directory"),
        (elsewhere, "cannot enter working directory `/no/such/place`: no such file or directory"),
        (
            temporary,
            "cannot enter working directory `/tmp/build`: no such file or directory in the /tmp \
             of its own that a confined worker has",
        ),
    ] {
        let ended = end_of(&mut scheduler, &job).await;
        assert_eq!(ended.cause, i32::from(EndCause::CannotStart), "{ended:?}");
        assert_eq!(ended.reason, reason);
    }
}

/// Who may write to all files of the host's may not leave the groups that hold it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_is_writable_the_kernels_settings_are_not() {
    let shared = tempfile::tempdir_in("/var/lib").unwrap();
    let Some((mut scheduler, agent)) = cluster(&[&ALWAYS[..], &["--writable", "/"]].concat()).await
    else {
        return;
    };
    let script = format!(
        "{TRY}
         try files touch {shared}/made
         try group sh -c 'test -e /sys/fs/cgroup/cgroup.procs && echo $$ > /sys/fs/cgroup/cgroup.procs'
         try group-of-memory sh -c 'echo $$ > /sys/fs/cgroup/memory/cgroup.procs'
         try new-group sh -c 'mkdir /sys/fs/cgroup/berth-x || mkdir /sys/fs/cgroup/memory/berth-x'",
        shared = shared.path().display(),
    );
    let said = say(&mut scheduler, &agent, 1, &script).await;
    assert_eq!(said, ["got files", "no group", "no group-of-memory", "no new-group"]);
}

/// It is sent the signal, and so is what it has started; and the next agent can do it as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confined_worker_is_adopted_and_stopped_by_its_signal() {
    let Some((mut scheduler, mut agent)) = cluster(&ALWAYS).await else { return };
    let script = "trap 'echo asked; exit 3' TERM; sleep 600 & echo > up; wait";
    let job = Job::shell(1, script);
    let before = begin(&mut scheduler, &agent, &job).await;
    agent.kill().await;
    agent.start_again();
    scheduler.session().await;
    assert_eq!(agent.processes(job.id(0)), before);
    scheduler.stop(job.id(0));
    let ended = scheduler.until_ended(job.id(0)).await;
    assert_eq!((ended.exit_code, ended.cause), (Some(3), i32::from(EndCause::Stopped)));
    assert_eq!(agent.stdout(job.id(0)), "asked\n");
    assert_eq!(agent.processes(job.id(0)), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_check_sees_what_its_worker_sees() {
    let arguments = [&ALWAYS[..], &["--worker-user", "nobody"]].concat();
    let Some((mut scheduler, agent)) = cluster(&arguments).await else { return };
    let mut job = Job::shell(1, "echo $$ > pid; echo > /tmp/mine; echo > up; exec sleep 600");
    // A variable that would run the job's code in a process of root's.
    job.task().env.insert("LD_PRELOAD".to_owned(), "/tmp/evil.so".to_owned());
    let script = "kill -0 $(cat pid) && test -e /tmp/mine && \
                  grep -q '^NoNewPrivs:.1' /proc/self/status && test $(id -u) = 65534 && \
                  test $LD_PRELOAD = /tmp/evil.so && touch well";
    job.check_by(script);
    begin(&mut scheduler, &agent, &job).await;
    scheduler.until_ready(job.id(0)).await;
    assert!(agent.task_dir(job.id(0)).join("well").exists());
    for process in agent.processes(job.id(0)) {
        let evil = text(Path::new(&format!("/proc/{}/maps", process.pid))).contains("evil");
        assert!(!evil, "{process:?}");
    }
}

/// Device nodes of the driver's kind, for as long as a test needs them.
struct Nodes(Vec<PathBuf>);

impl Nodes {
    fn make(minors: &[u32]) -> Nodes {
        const DRIVER: u32 = 195;
        let make = |minor: &u32| {
            let node = PathBuf::from(format!("/dev/nvidia{minor}"));
            let _ = fs::remove_file(&node);
            let mode = Mode::from_raw_mode(0o666);
            mknodat(CWD, &node, FileType::CharacterDevice, mode, makedev(DRIVER, *minor)).unwrap();
            node
        };
        Nodes(minors.iter().map(make).collect())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &self.0 {
            let _ = fs::remove_file(node);
        }
    }
}

/// Whoever has no device node of a GPU cannot use it, whatever its variables say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_has_the_device_nodes_of_its_own_gpus_alone() {
    let arguments = [&ALWAYS[..], &["--simulate", "2xH100-80GB"]].concat();
    let Some((mut scheduler, agent, devices)) = begin_cluster(&arguments).await else { return };
    let _nodes = Nodes::make(&[230, 231]);
    script(&agent, "gpu 0 minor 230\ngpu 0 utilization 1\ngpu 1 minor 231\n");
    until_sample(&mut scheduler, 0, |sample| sample.utilization_percent == Some(1)).await;
    let look = "ls /dev | grep nvidia2 | tr '\\n' ' '";
    for (number, mine, expected) in [
        (1, vec![0], "nvidia230 "),
        (2, vec![1], "nvidia231 "),
        (3, vec![0, 1], "nvidia230 nvidia231 "),
        (4, vec![], ""),
    ] {
        let job = Job::shell(number, look);
        let claims = mine.iter().map(|index: &usize| whole(&devices[*index])).collect();
        scheduler.want(&job, vec![job.row_with(0, claims, Vec::new())]);
        let ended = scheduler.until_ended(job.id(0)).await;
        assert_eq!(ended.cause, i32::from(EndCause::Exited), "{ended:?}");
        assert_eq!(agent.stdout(job.id(0)), expected, "{mine:?}");
    }
}
