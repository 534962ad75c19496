//! `berth exec` and `berth files`: as somebody at a terminal, a script, and the cluster see them.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use berth::local::LocalCluster;
use berth_client::ClientError;
use berth_model::{Grant, JobSpec, JoinGrant, Machine, Role, Scope};
use berth_proto::v1;
use berth_proto::v1::exec_output::Output as Said;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use support::secure::{SecureAgent, SecureScheduler, is_ready, token_file};

/// Far above what anything here takes on a busy machine.
const BOUND: Duration = Duration::from_secs(30);

/// A job with one worker that waits, in whose directory there is something.
fn sleeper(name: &str) -> JobSpec {
    let script = "mkdir models; echo weights > models/file; ln -s /etc/passwd out; mkfifo held; \
                  : > up; exec sleep 600";
    support::batch(name, 1, support::shell(script))
}

async fn begin(cluster: &LocalCluster) -> u64 {
    let client = cluster.client();
    let job = support::submit(&client, &sleeper("sleeper")).await;
    support::job_when(&client, job, "runs", |job| job.tasks[0].running == 1).await;
    let id = support::allocations(&client, job).await.remove(0).id;
    let up = cluster.agents[0].data_dir.join("allocs").join(id).join("task/up");
    support::until("its word", || async { up.exists().then_some(()) }).await;
    job
}

fn berth(servers: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(["--server", servers]).args(arguments).env_clear().env("TERM", "vt100");
    command
}

fn run(servers: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = berth(servers, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_script_gets_what_a_command_beside_a_worker_says_and_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 3, 1)).await.unwrap();
    let job = begin(&cluster).await.to_string();
    // Whichever is asked first: followers say who leads.
    for server in cluster.servers() {
        let script = "cat; echo $BERTH_JOB_NAME >&2; exit 3";
        let output = run(&server, &["exec", &job, "--", "sh", "-c", script], "word\n");
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!((text(&output.stdout), text(&output.stderr)), ("word\n", "sleeper\n"));
    }
    let servers = cluster.servers().join(",");
    let output = run(&servers, &["exec", "sleeper", "--no-stdin", "--", "cat"], "unread");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), ""), "{output:?}");
    for (arguments, code, complaint) in [
        (&["exec", "nobody", "--", "true"][..], 1, "no job `nobody`"),
        (&["exec", &job, "--index", "7", "--", "true"], 5, "instance 7 of job 1 does not run"),
        (&["exec", &job, "--", ""], 2, "command: a command is missing"),
        (&["exec", &job], 2, "<CMD>"),
        (&["exec", &job, "--", "no-such-program"], 127, "cannot execute `no-such-program`"),
    ] {
        let output = run(&servers, arguments, "");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(text(&output.stderr).contains(complaint), "{arguments:?}: {output:?}");
    }
    check_record(&cluster);
    cluster.stop().await;
}

/// Who ran what beside which worker is written down; what passed is not.
fn check_record(cluster: &LocalCluster) {
    let mut audit = String::new();
    for scheduler in &cluster.schedulers {
        for entry in fs::read_dir(scheduler.data_dir.join("audit")).unwrap() {
            audit.push_str(&fs::read_to_string(entry.unwrap().path()).unwrap());
        }
    }
    let mut records = audit.lines().filter(|line| line.contains("Jobs/Exec"));
    assert!(records.clone().any(|line| line.contains("default/sleeper: sh\"")), "{audit}");
    assert!(!records.any(|line| line.contains("BERTH_JOB_NAME") || line.contains("word")));
}

/// The command at a terminal, and this end of it.
struct AtTerminal {
    child: Child,
    near: File,
    far: OwnedFd,
}

impl AtTerminal {
    fn begin(servers: &str, arguments: &[&str]) -> AtTerminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let near = openpt(flags).unwrap();
        unlockpt(&near).unwrap();
        let far = ioctl_tiocgptpeer(&near, flags).unwrap();
        let size = Winsize { ws_row: 25, ws_col: 81, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&near, size).unwrap();
        let copy = || far.try_clone().unwrap();
        let mut command = berth(servers, arguments);
        command.stdin(copy()).stdout(copy()).stderr(copy());
        AtTerminal { child: command.spawn().unwrap(), near: near.into(), far }
    }

    /// Reads on until all that was read ends in this. Blocks.
    fn until_said(&mut self, read: &mut String, end: &str) {
        while !read.ends_with(end) {
            let mut bytes = [0; 256];
            let length = self.near.read(&mut bytes).unwrap();
            read.push_str(text(&bytes[..length]));
        }
    }
}

#[tokio::test]
async fn somebody_at_a_terminal_is_at_the_commands_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let job = begin(&cluster).await.to_string();
    let servers = cluster.servers().join(",");
    let script = "echo $TERM; stty size; read line; echo got $line; read line; exit 9";
    let mut terminal = AtTerminal::begin(&servers, &["exec", &job, "--", "sh", "-c", script]);
    let before = tcgetattr(&terminal.far).unwrap();
    let (code, after) = tokio::task::spawn_blocking(move || {
        let mut read = String::new();
        terminal.until_said(&mut read, "vt100\r\n25 81\r\n");
        // Nothing here is shown that was not written there.
        terminal.near.write_all(b"word\r").unwrap();
        terminal.until_said(&mut read, "word\r\ngot word\r\n");
        terminal.near.write_all(&[4]).unwrap();
        (terminal.child.wait().unwrap().code(), tcgetattr(&terminal.far).unwrap())
    })
    .await
    .unwrap();
    assert_eq!(code, Some(9));
    assert_eq!(format!("{before:?}"), format!("{after:?}"), "the terminal is as it was");
    cluster.stop().await;
}

/// Ctrl-C in a script's place, and a caller that is killed: the command hears of either.
#[tokio::test]
async fn a_command_ends_with_whoever_runs_it() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let job = begin(&cluster).await.to_string();
    let servers = cluster.servers().join(",");
    let id = support::allocations(&cluster.client(), &job).await.remove(0).id;
    let held = cluster.agents[0].data_dir.join("allocs").join(id).join("task/held");
    for (signal, code) in
        [(Signal::INT, Some(130)), (Signal::TERM, Some(130)), (Signal::KILL, None)]
    {
        let script = "exec 9>held; echo up >&9; exec sleep 600";
        let mut child = berth(&servers, &["exec", &job, "--", "sh", "-c", script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let path = held.clone();
        // Ends when nobody has the pipe open any more.
        let let_go = tokio::task::spawn_blocking(move || {
            let mut pipe = File::open(&path).unwrap();
            let mut word = [0; 3];
            pipe.read_exact(&mut word).unwrap();
            support::processes::send(child.id(), signal);
            pipe.read_to_end(&mut Vec::new()).unwrap();
            child.wait().unwrap().code()
        });
        let ended = tokio::time::timeout(BOUND, let_go).await;
        assert_eq!(ended.expect("the command goes").unwrap(), code);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn files_are_listed_and_printed_while_it_runs_and_when_it_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let job = begin(&cluster).await.to_string();
    let servers = cluster.servers().join(",");
    for stopped in [false, true] {
        if stopped {
            assert!(run(&servers, &["stop", &job], "").status.success());
            let client = cluster.client();
            let id = job.parse().unwrap();
            support::job_when(&client, id, "ends", |job| job.state == "cancelled").await;
        }
        let output = run(&servers, &["files", &job], "");
        let names: Vec<&str> = text(&output.stdout)
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3))
            .collect();
        assert_eq!(names, ["NAME", "held", "models", "out", "up"], "{output:?}");
        let output = run(&servers, &["-o", "json", "files", &job, "models"], "");
        let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&listed[0]["name"], &listed[0]["kind"], &listed[0]["size_bytes"]),
            (&"file".into(), &"file".into(), &8.into()),
            "{listed}"
        );
        let output = run(&servers, &["files", &job, "models/file"], "");
        assert_eq!(text(&output.stdout), "weights\n", "{output:?}");
        let output = run(&servers, &["files", &job, "out"], "");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.contains("`out` leads out of the task's directory"), "{said}");
    }
    cluster.stop().await;
}

/// A token that is taken back ends what was begun with it.
#[tokio::test]
async fn a_command_ends_when_its_callers_token_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = SecureScheduler::found(folder.path().join("s1")).await;
    let joins = Grant::Join(JoinGrant { machine: Machine::Agent, name: None, pool: None });
    let join = token_file(&scheduler, joins, folder.path().join("join")).await;
    let agent = SecureAgent::start(folder.path(), "gpu-1", &[&scheduler.grpc], Some(&join));
    let admin = scheduler.admin().unwrap();
    is_ready(&admin, "gpu-1").await;
    let job = support::submit(&admin, &sleeper("sleeper")).await;
    support::job_when(&admin, job, "runs", |job| job.tasks[0].running == 1).await;
    let grant = Grant::Person { role: Role::Submit, scope: Scope::All };
    let token = scheduler.token(grant, None).await;
    let credentials = scheduler.credentials(Machine::Client, "alice", 0);
    let alice = scheduler.client(credentials, Some(&token.to_text()));
    let start = v1::ExecStart {
        job: support::reference(&job.to_string()),
        command: support::shell("echo here; exec sleep 600"),
        ..v1::ExecStart::default()
    };
    let (_inputs, mut outputs) = alice.exec(start.clone()).await.unwrap();
    assert!(matches!(outputs.next().await.unwrap(), Some(Said::Begun(_))));
    let said = outputs.next().await.unwrap();
    assert!(matches!(said, Some(Said::Stdout(_))), "{said:?}");
    // Nobody reads what this one says.
    let id = support::allocations(&admin, job).await.remove(0).id;
    let held = agent.data_dir.join("allocs").join(id).join("task/held");
    let script = "exec 9>held; echo up >&9; exec yes";
    let start = v1::ExecStart { command: support::shell(script), ..start };
    let _unread = alice.exec(start).await.unwrap();
    let (up, is_up) = tokio::sync::oneshot::channel();
    let let_go = tokio::task::spawn_blocking(move || {
        let mut pipe = File::open(&held).unwrap();
        pipe.read_exact(&mut [0; 3]).unwrap();
        up.send(()).unwrap();
        pipe.read_to_end(&mut Vec::new()).unwrap();
    });
    is_up.await.unwrap();
    admin.revoke_token(v1::RevokeTokenRequest { id: token.id.0 }).await.unwrap();
    let ended = tokio::time::timeout(BOUND, outputs.next()).await.unwrap();
    let Err(ClientError::Refused(refusal)) = ended else { panic!("it goes on: {ended:?}") };
    assert_eq!(refusal.code, tonic::Code::Unauthenticated, "{refusal:?}");
    tokio::time::timeout(BOUND, let_go).await.expect("it goes unread as well").unwrap();
}
