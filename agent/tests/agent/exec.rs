//! Commands beside a worker: held by what holds it, and gone with whoever asked.

use std::fs;
use std::path::Path;

use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_proto::v1::{FileKind, FileRequest};
use berth_shim::ProcessIdentity;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use crate::harness::agent::{Agent, until_gone};
use crate::harness::jobs::Job;
use crate::harness::scheduler::Scheduler;
use crate::harness::{cluster, skip, until_file, within};

/// How workers may be held: not at all, as this user alone; as another user; with a view of
/// their own, as root and as another user.
const HOLDS: [&[&str]; 4] = [
    &[],
    &["--worker-user", "nobody"],
    &["--confine", "always"],
    &["--confine", "always", "--worker-user", "nobody"],
];

/// The holds that can be had here.
fn holds() -> &'static [&'static [&'static str]] {
    if rustix::process::geteuid().is_root() {
        return &HOLDS;
    }
    skip("root", "the agent's tests of commands beside held workers need root");
    &HOLDS[..1]
}

/// An agent with a worker that has made the file `up`.
async fn begin(arguments: &[&str], script: &str) -> (Scheduler, Agent, Job) {
    let (mut scheduler, agent) = cluster(arguments).await;
    let job = Job::shell(1, script);
    begin_job(&mut scheduler, &agent, &job).await;
    (scheduler, agent, job)
}

/// Nothing of a command is left beside the worker.
async fn until_no_more(agent: &Agent, job: &Job, before: &[ProcessIdentity]) {
    for process in agent.processes(job.id(0)) {
        if !before.contains(&process) {
            until_gone(process.pid).await;
        }
    }
    // What the worker's shell ran to begin with may have ended since.
    let left = agent.processes(job.id(0));
    assert!(!left.is_empty() && left.iter().all(|one| before.contains(one)), "{left:?}");
}

async fn begin_job(scheduler: &mut Scheduler, agent: &Agent, job: &Job) {
    scheduler.want(job, vec![job.row(0)]);
    let dir = agent.task_dir(job.id(0));
    scheduler.until_ready(job.id(0)).await;
    until_file("its word", &dir, || dir.join("up").exists().then_some(())).await;
}

/// A worker of one process, once it is up: no program of its own writes the file.
const SLEEP: &str = "umask 0; mkfifo held; : > up; exec sleep 600";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_reads_writes_and_ends_as_it_would_anywhere() {
    for hold in holds() {
        let (scheduler, agent, job) = begin(hold, SLEEP).await;
        let id = job.id(0);
        let before = agent.processes(id);
        let mut exec = scheduler.exec_shell(
            id,
            "echo $BERTH_ALLOC_ID $TERM; pwd; cat; echo no terminal >&2; test -t 0; exit $(($? + 2))",
        );
        exec.type_in("one\n");
        exec.until_said("one\n").await;
        exec.type_in("two");
        exec.end_input();
        assert_eq!(exec.until_ended().await, Some(3), "{hold:?}: {}", exec.stderr);
        let dir = agent.task_dir(id);
        assert_eq!(exec.stdout, format!("{id}\n{}\none\ntwo", dir.display()), "{hold:?}");
        assert_eq!(exec.stderr, "no terminal\n", "{hold:?}");
        let to_its_group = "trap '' TERM; kill -TERM 0; exit 5";
        for (script, code) in [("kill -9 $$", 137), ("exit 300", 44), (to_its_group, 5)] {
            assert_eq!(scheduler.exec_shell(id, script).until_ended().await, Some(code));
        }
        let mut none = scheduler.exec(id, &["no-such-program"]);
        assert_eq!(none.until_ended().await, Some(127), "{hold:?}");
        assert!(none.stderr.contains("cannot execute `no-such-program`"), "{}", none.stderr);
        until_no_more(&agent, &job, &before).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_at_a_terminal_has_one_of_its_own() {
    for hold in holds() {
        let (scheduler, agent, job) = begin(hold, SLEEP).await;
        let id = job.id(0);
        let script = "tty; echo $TERM; stty size; trap 'stty size' WINCH; echo ready; \
                      while read line; do echo got $line; done; echo over";
        let mut exec = scheduler.exec_at(id, &["sh", "-c", script], Some((81, 25)));
        exec.until_said("ready").await;
        assert!(exec.stdout.starts_with("/dev/pts/"), "{hold:?}: {}", exec.stdout);
        assert!(exec.stdout.contains("\r\nvt100\r\n25 81\r\n"), "{hold:?}: {}", exec.stdout);
        exec.type_in("word\n");
        // What is typed is shown, and read.
        exec.until_said("word\r\ngot word\r\n").await;
        exec.resize(100, 50);
        // A shell's trap waits for the next line.
        exec.type_in("more\n");
        exec.until_said("50 100\r\n").await;
        exec.end_input();
        assert_eq!(exec.until_ended().await, Some(0), "{hold:?}: {}", exec.stdout);
        assert!(exec.stdout.ends_with("over\r\n"), "{hold:?}: {}", exec.stdout);
        // Ctrl-C is the command's, and a shell has control of its jobs.
        let mut exec = scheduler.exec_at(id, &["bash", "--norc", "-i"], Some((80, 24)));
        // What is typed is shown as well.
        exec.type_in("sh -c 'echo be\"\"gun; exec sleep 600'\n");
        exec.until_said("begun\r\n").await;
        exec.type_in("\u{3}");
        exec.type_in("jobs; echo status $?\nexit 7\n");
        assert_eq!(exec.until_ended().await, Some(7), "{hold:?}: {}", exec.stdout);
        assert!(!exec.stdout.contains("no job control"), "{hold:?}: {}", exec.stdout);
        drop(agent);
    }
}

/// A process of the test's own hears when the last that has the pipe open has gone.
pub async fn holder_of(fifo: &Path) -> pipe::Receiver {
    let mut reader = pipe::OpenOptions::new().open_receiver(fifo).unwrap();
    let mut word = [0; 3];
    within("the word of who holds the pipe", reader.read_exact(&mut word)).await.unwrap();
    reader
}

pub async fn until_let_go(mut reader: pipe::Receiver) {
    let mut rest = [0; 16];
    let read = within("the end of who held the pipe", reader.read(&mut rest)).await;
    assert_eq!(read.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_goes_when_its_caller_the_worker_or_the_agent_goes() {
    for hold in holds() {
        let (mut scheduler, mut agent, job) = begin(hold, SLEEP).await;
        let id = job.id(0);
        let fifo = agent.task_dir(id).join("held");
        let stubborn = "trap '' HUP; exec 9>held; echo up >&9; sleep 600";
        for terminal in [None, Some((80, 24))] {
            let before = agent.processes(id);
            let exec = scheduler.exec_at(id, &["sh", "-c", stubborn], terminal);
            let holder = holder_of(&fifo).await;
            drop(exec);
            until_let_go(holder).await;
            until_no_more(&agent, &job, &before).await;
        }
        // One that cares is left its time.
        let polite = "trap 'sleep 0.3; echo bye > farewell; exit' HUP; exec 9>held; echo up >&9; \
                      sleep 600 & wait";
        let exec = scheduler.exec_shell(id, polite);
        let holder = holder_of(&fifo).await;
        drop(exec);
        until_let_go(holder).await;
        let farewell = fs::read_to_string(agent.task_dir(id).join("farewell"));
        assert_eq!(farewell.unwrap(), "bye\n", "{hold:?}");
        let mut exec = scheduler.exec_shell(id, stubborn);
        let holder = holder_of(&fifo).await;
        scheduler.stop(id);
        scheduler.until_ended(id).await;
        until_let_go(holder).await;
        // By the signal that a stop is, or the last one.
        let code = exec.until_ended().await;
        assert!(matches!(code, Some(143 | 137)), "{hold:?}: {:?}", exec.ended);
        let mut late = scheduler.exec_shell(id, "true");
        assert_eq!(late.until_ended().await, None);
        let expected = format!("allocation {id} does not run on this node");
        assert_eq!(late.ended.unwrap().problem, expected);
        agent.terminate().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_outlives_no_agent_that_ends() {
    let (scheduler, mut agent, job) = begin(&[], SLEEP).await;
    let fifo = agent.task_dir(job.id(0)).join("held");
    let _exec = scheduler.exec_shell(job.id(0), "exec 9>held; echo up >&9; sleep 600");
    let holder = holder_of(&fifo).await;
    agent.terminate().await;
    until_let_go(holder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_goes_both_ways_at_once_and_none_is_lost() {
    let (scheduler, _agent, job) = begin(&[], SLEEP).await;
    let mut exec = scheduler.exec(job.id(0), &["cat"]);
    let line = "0123456789abcde\n".repeat(4096);
    for _ in 0..64 {
        exec.type_in(&line);
    }
    exec.end_input();
    assert_eq!(exec.until_ended().await, Some(0));
    assert_eq!(exec.stdout.len(), 64 * line.len());
    // And of one that ends at once, leaving somebody behind who has its pipes.
    let mut exec = scheduler.exec_shell(job.id(0), "sleep 600 & printf %060000d 0");
    assert_eq!(exec.until_ended().await, Some(0));
    assert_eq!(exec.stdout.len(), 60_000);
}

/// Every hold: a command may and sees what the worker does, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_held_by_what_holds_the_worker() {
    let look = "echo x > /dev/tty; id -u; cat /proc/self/cgroup; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; \
                ls /proc/1/exe 2>&1 | head -c 60; readlink /proc/self/ns/mnt /proc/self/ns/ipc; \
                ulimit -n";
    for hold in holds() {
        let (mut scheduler, agent) = cluster(hold).await;
        let mut job = Job::shell(1, &format!("({look}) > found; {SLEEP}"));
        // A root without CAP_SYS_RESOURCE cannot limit another user's process.
        let is_limited = !hold.contains(&"nobody");
        job.task().limits.open_files = is_limited.then_some(333);
        begin_job(&mut scheduler, &agent, &job).await;
        let mut exec = scheduler.exec_shell(job.id(0), look);
        assert_eq!(exec.until_ended().await, Some(0), "{hold:?}: {}", exec.stderr);
        let found = fs::read_to_string(agent.task_dir(job.id(0)).join("found")).unwrap();
        assert_eq!(exec.stdout, found, "{hold:?}");
        assert_eq!(found.ends_with("\n333\n"), is_limited, "{found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_task_are_told_and_nothing_beyond() {
    let script = "echo word > file; ln -s /etc/passwd out; mkdir sub; exit 1";
    let (mut scheduler, agent) = cluster(&[]).await;
    let job = Job::shell(1, script);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ended(job.id(0)).await;
    let ask = |request_id: &str, path: &str| {
        scheduler.say(ToAgent::FileRequest(FileRequest {
            request_id: request_id.to_owned(),
            allocation_id: job.id(0).to_string(),
            path: path.to_owned(),
        }));
    };
    for (request_id, path) in
        [("dir", ""), ("file", "sub/../file"), ("out", "out"), ("up", "../..")]
    {
        ask(request_id, path);
    }
    let subject = scheduler.log("dir").await.subject.unwrap();
    assert_eq!(subject.kind(), FileKind::Directory);
    let entries = scheduler.log("dir").await.entries;
    let kinds: Vec<_> = entries.iter().map(|entry| (&*entry.name, entry.kind())).collect();
    let expected =
        [("file", FileKind::File), ("out", FileKind::Link), ("sub", FileKind::Directory)];
    assert_eq!(kinds, expected);
    assert_eq!(entries[1].link, "/etc/passwd");
    assert_eq!(scheduler.log("dir").await.end, Some(String::new()));
    assert_eq!(scheduler.log("file").await.subject.unwrap().size_bytes, 5);
    assert_eq!(scheduler.log("file").await.data, "word\n");
    assert_eq!(scheduler.log("file").await.end, Some(String::new()));
    for (request_id, path) in [("out", "out"), ("up", "../..")] {
        let expected = format!("`{path}` leads out of the task's directory");
        assert_eq!(scheduler.log(request_id).await.end, Some(expected));
    }
    drop(agent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_run_where_nobody_knows_how_the_worker_is_held() {
    let Some(hold) = holds().get(2) else { return };
    let (scheduler, agent, job) = begin(hold, SLEEP).await;
    let id = job.id(0);
    assert_eq!(scheduler.exec(id, &["true"]).until_ended().await, Some(0));
    fs::write(agent.allocation(id).join("enclosure"), "torn").unwrap();
    let mut exec = scheduler.exec_shell(id, "touch run");
    assert_eq!(exec.until_ended().await, None, "{}", exec.stdout);
    let problem = exec.ended.unwrap().problem;
    assert!(problem.contains("enclosure: it ends within a header"), "{problem}");
    assert!(!agent.task_dir(id).join("run").exists());
}
