//! Clusters that cannot be reached or cannot answer, and terminals that go away.

use std::future::pending;

use crate::fake::{Behaviour, Fake, data};
use crate::terminal::{ClosedPipe, Outcome, Terminal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const JOB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jobs/good.toml");
/// Its job is known to stay in the queue.
const QUEUED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jobs/sweep.toml");

/// Patient enough to be answered, and no more.
const HASTY: [&str; 2] = ["--timeout", "300ms"];

async fn closed_port() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

/// Answers every connection as an HTTP/1 server does to what it cannot read.
async fn web_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
            });
        }
    });
    address
}

async fn hasty(server: &str, arguments: &[&str]) -> Outcome {
    let arguments: Vec<&str> = arguments.iter().copied().chain(HASTY).collect();
    Terminal::new(server).run(&arguments).await
}

#[tokio::test]
async fn a_follower_leads_to_the_leader() {
    let leader = Fake::start(Behaviour::Answers).await;
    let follower = Fake::start(Behaviour::Redirects(leader.address.clone())).await;
    let outcome = Terminal::new(&follower.address).run(&["run", JOB]).await;
    let stdout = "job 18 (hello) submitted, version 1\n".to_owned();
    assert_eq!(outcome, Outcome { status: 0, stdout, stderr: String::new() });
    assert_eq!(leader.submitted.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn addresses_are_told_with_their_causes() {
    let closed = closed_port().await;
    let web = web_server().await;
    let outcome = hasty(&format!("{closed},{web}"), &["ps"]).await;
    let stderr = format!(
        "error: the cluster cannot be reached\n  {closed}: connection refused\n  \
         {web}: answered, but is not a Berth server\n\
         hint: name its schedulers with --server or BERTH_SERVER; if they speak TLS, give --tls-dir or BERTH_TLS_DIR\n"
    );
    // Whichever was asked last stands last.
    let mut lines: Vec<&str> = outcome.stderr.lines().collect();
    let mut expected: Vec<&str> = stderr.lines().collect();
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!((outcome.status, outcome.stdout.as_str(), lines), (3, "", expected));
    let outcome = hasty(&closed, &["ps", "-o", "json"]).await;
    let stderr = format!(
        "{{\"error\":{{\"code\":\"unreachable\",\"field\":null,\
         \"hint\":\"name its schedulers with --server or BERTH_SERVER; if they speak TLS, give --tls-dir or BERTH_TLS_DIR\",\
         \"message\":\"the cluster cannot be reached ({closed}: connection refused)\",\
         \"problems\":[{{\"field\":null,\
         \"hint\":\"name its schedulers with --server or BERTH_SERVER; if they speak TLS, give --tls-dir or BERTH_TLS_DIR\",\
         \"message\":\"the cluster cannot be reached ({closed}: connection refused)\"}}],\
         \"request_id\":null}}}}\n"
    );
    assert_eq!(outcome, Outcome { status: 3, stdout: String::new(), stderr });
}

#[tokio::test]
async fn a_host_that_does_not_resolve_is_told() {
    // Name servers may be slow: of the attempts of two seconds one is to hear of it.
    let terminal = Terminal::new("no-such-host.invalid:7070");
    let outcome = terminal.run(&["ps", "--timeout", "2s"]).await;
    assert_eq!(outcome.status, 3);
    let cause = "\n  no-such-host.invalid:7070: the name of the host does not resolve\n";
    assert!(outcome.stderr.contains(cause), "{}", outcome.stderr);
}

#[tokio::test]
async fn without_a_leader_stale_reads_are_offered() {
    let scheduler = Fake::start(Behaviour::NoLeader).await;
    let outcome = hasty(&scheduler.address, &["ps"]).await;
    let stderr = format!(
        "error: the cluster has no leader\n  {}: no leader (2 of 3 down since 12:03)\n\
         hint: reads are answered meanwhile with --stale\n",
        scheduler.address
    );
    assert_eq!(outcome, Outcome { status: 3, stdout: String::new(), stderr });
}

#[tokio::test]
async fn a_submit_that_may_have_happened_names_its_key() {
    let scheduler = Fake::start(Behaviour::Loses).await;
    let outcome = hasty(&scheduler.address, &["run", JOB, "--key", "K"]).await;
    let stderr = format!(
        "error: outcome unknown\n  {}: leadership was lost\n\
         hint: repeat with `--key K` to find out\n",
        scheduler.address
    );
    assert_eq!(outcome, Outcome { status: 3, stdout: String::new(), stderr });
    let keys: Vec<String> =
        scheduler.submitted.lock().unwrap().iter().map(|submit| submit.key.clone()).collect();
    assert!(keys.len() > 1 && keys.iter().all(|key| key == "K"), "{keys:?}");
}

#[tokio::test]
async fn ctrl_c_during_a_submit_names_the_key() {
    let scheduler = Fake::start(Behaviour::Silent).await;
    let terminal = Terminal::new(&scheduler.address);
    let outcome = terminal.run_until(&["run", JOB], scheduler.arrived.notified()).await;
    let key = scheduler.submitted.lock().unwrap()[0].key.clone();
    assert!(!key.is_empty());
    let stderr = format!(
        "error: interrupted; outcome unknown\nhint: repeat with `--key {key}` to find out\n"
    );
    assert_eq!(outcome, Outcome { status: 130, stdout: String::new(), stderr });
}

#[tokio::test]
async fn ctrl_c_while_waiting_leaves_the_job_alone() {
    let scheduler = Fake::start(Behaviour::Answers).await;
    let terminal = Terminal::new(&scheduler.address);
    let outcome =
        terminal.run_until(&["run", QUEUED, "--wait"], scheduler.arrived.notified()).await;
    let stderr = "error: interrupted; job 15 goes on\n\
                  hint: `berth job wait 15` waits for it, `berth stop 15` ends it\n"
        .to_owned();
    assert_eq!(outcome, Outcome { status: 130, stdout: String::new(), stderr });
}

#[tokio::test]
async fn a_submitted_command_takes_directory_and_path_and_nothing_else() {
    let scheduler = Fake::start(Behaviour::Answers).await;
    let terminal = Terminal::new(&scheduler.address);
    let arguments =
        ["submit", "--gpus", "A100:2", "--count", "3", "--cpus", "500m", "--memory", "1GiB"];
    let arguments: Vec<&str> =
        arguments.into_iter().chain(["--", "./train.sh", "--epochs", "3"]).collect();
    assert_eq!(terminal.run(&arguments).await.status, 0);
    let request = scheduler.submitted.lock().unwrap()[0].clone();
    let spec = request.spec.unwrap();
    assert_eq!((spec.name.as_str(), spec.namespace.as_str()), ("train.sh", "default"));
    let task = &spec.tasks[0];
    assert_eq!(task.command, ["./train.sh", "--epochs", "3"]);
    assert_eq!(task.workdir.as_deref(), Some("/home/ada"));
    let env: Vec<(&str, &str)> = task.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(env, [("PATH", "/usr/bin:/bin")]);
    assert_eq!((task.count, task.cpu_milli, task.memory_bytes), (3, 500, 1 << 30));
    let gpu = task.gpu.as_ref().unwrap();
    assert_eq!((gpu.count, gpu.models.as_slice()), (2, &["A100".to_owned()][..]));
}

#[tokio::test]
async fn a_job_file_takes_nothing_of_the_environment() {
    let scheduler = Fake::start(Behaviour::Answers).await;
    assert_eq!(Terminal::new(&scheduler.address).run(&["run", JOB]).await.status, 0);
    let request = scheduler.submitted.lock().unwrap()[0].clone();
    let task = request.spec.unwrap().tasks.remove(0);
    assert!(task.env.is_empty() && task.workdir.is_none(), "{task:?}");
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_command_quietly() {
    let scheduler = Fake::start(Behaviour::Answers).await;
    let terminal = Terminal::new(&scheduler.address);
    for arguments in [
        &["ps"][..],
        &["ps", "-o", "json"],
        &["ps", "-o", "yaml"],
        &["events"],
        &["logs", "chat"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let outcome = terminal.run_into(ClosedPipe, arguments, pending()).await;
        assert_eq!(outcome, (141, String::new()), "{arguments:?}");
    }
}

#[tokio::test]
async fn nothing_is_wider_than_the_terminal_or_steers_it() {
    let scheduler = Fake::start(Behaviour::Answers).await;
    let mut terminal = Terminal::new(&scheduler.address);
    terminal.width = Some(20);
    for unicode in [true, false] {
        terminal.unicode = unicode;
        for arguments in
            [&["ps"][..], &["ps", "-o", "wide"], &["node", "list"], &["gpu", "list", "-o", "wide"]]
        {
            let outcome = terminal.run(arguments).await;
            assert_eq!(outcome.status, 0, "{outcome:?}");
            let widest = outcome.stdout.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= 20, "{arguments:?}:\n{}", outcome.stdout);
            assert!(!outcome.stdout.contains('\u{1b}'));
            assert_eq!(outcome.stdout.is_ascii(), !unicode, "{}", outcome.stdout);
        }
    }
}

#[tokio::test]
async fn standard_input_is_read_up_to_its_limit() {
    let mut terminal = Terminal::new("127.0.0.1:1");
    terminal.input = vec![b'#'; (1 << 20) + 1];
    let outcome = terminal.run(&["run", "-"]).await;
    let stderr = "error: the job file is larger than 1 MiB\n".to_owned();
    assert_eq!(outcome, Outcome { status: 2, stdout: String::new(), stderr });
}

#[tokio::test]
async fn a_misspelt_variable_is_told_and_passed_over() {
    let mut terminal = Terminal::new("127.0.0.1:1");
    terminal.environment.push(("BERTH_SERVR".into(), "10.0.0.1:7070".into()));
    let outcome = terminal.run(&["version"]).await;
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "berth 0.1.0\n"));
    assert!(outcome.stderr.starts_with("warning: environment BERTH_SERVR: "), "{outcome:?}");
}

#[tokio::test]
async fn completions_know_every_command() {
    let terminal = Terminal::new("127.0.0.1:1");
    for shell in ["bash", "zsh", "fish"] {
        let outcome = terminal.run(&["completions", shell]).await;
        assert_eq!(outcome.status, 0);
        for command in ["submit", "rollback", "uncordon", "transfer"] {
            assert!(outcome.stdout.contains(command), "{shell}: {command}");
        }
    }
}

#[tokio::test]
async fn the_configuration_tells_where_values_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("berth.toml");
    std::fs::write(&file, "[client]\nnamespace = \"research\"\n").unwrap();
    let terminal = Terminal::new("127.0.0.1:1");
    let file = file.to_str().unwrap();
    let arguments = ["config", "show", "-o", "json", "--config", file, "--timeout", "9s"];
    let outcome = terminal.run(&arguments).await;
    for (key, value, source) in [
        ("client.namespace", "research", format!("{file}:2:1")),
        ("client.server", "127.0.0.1:1", "environment BERTH_SERVER".to_owned()),
        ("client.timeout", "9s", "flag --timeout".to_owned()),
    ] {
        let row = format!(
            "  {{\n    \"key\": \"{key}\",\n    \"source\": \"{source}\",\n    \"value\": \"{value}\"\n  }}"
        );
        assert!(outcome.stdout.contains(&row), "{row} in {}", outcome.stdout);
    }
}

#[tokio::test]
async fn a_backup_is_read_back_before_it_gets_its_name() {
    let fake = Fake::start(Behaviour::Answers).await;
    let terminal = Terminal::new(&fake.address);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.backup");
    let path = file.to_string_lossy().into_owned();
    let saved = terminal.run(&["operator", "snapshot", "save", &path]).await;
    assert_eq!((saved.status, saved.stderr.as_str()), (0, ""));
    assert!(saved.stdout.contains("incarnation 1, at index 9"), "{}", saved.stdout);
    assert!(saved.stdout.contains("bytes written and read back"), "{}", saved.stdout);
    assert_eq!(std::fs::read(&file).unwrap(), data::backup());
    let shown = terminal.run(&["operator", "snapshot", "show", &path, "-o", "json"]).await;
    assert!(shown.stdout.contains("\"cluster_id\": \"07070707"), "{}", shown.stdout);
    let again = terminal.run(&["operator", "snapshot", "save", &path]).await;
    assert_eq!(again.status, 1);
    assert!(again.stderr.contains("exists already"), "{}", again.stderr);
    std::fs::write(&file, &data::backup()[..50]).unwrap();
    let damaged = terminal.run(&["operator", "snapshot", "show", &path]).await;
    assert_eq!(damaged.status, 1);
    assert!(damaged.stderr.contains("damaged or cut short"), "{}", damaged.stderr);
    let other = folder.path().join("b.backup");
    let path = other.to_string_lossy().into_owned();
    let salvage = ["operator", "snapshot", "save", &path, "--data-dir"];
    let none = terminal.run(&[&salvage[..], &["/home"]].concat()).await;
    assert_eq!((none.status, none.stderr.as_str()), (1, "error: /home holds no scheduler\n"));
    assert!(!other.exists());
    let offline = terminal.run(&[&salvage[..], &["/var/lib/berth"]].concat()).await;
    assert!(offline.stdout.contains("ends at index 9 of term 2"), "{}", offline.stdout);
    std::fs::remove_file(&other).unwrap();
    let nowhere = folder.path().join("missing/a.backup").to_string_lossy().into_owned();
    assert_eq!(terminal.run(&["operator", "snapshot", "save", &nowhere]).await.status, 1);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing unfinished is left");
}

#[tokio::test]
async fn a_capture_is_read_back_and_replayed() {
    let fake = Fake::start(Behaviour::Answers).await;
    let terminal = Terminal::new(&fake.address);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.capture");
    let path = file.to_string_lossy().into_owned();
    let capture = ["operator", "debug", "capture", "--out", &path];
    let made = terminal.run(&capture).await;
    assert_eq!((made.status, made.stdout.as_str()), (0, ""));
    let length = data::capture().len();
    let told = format!(
        "{path}: {length} bytes, at index 4, 1 jobs that have not ended, 1 nodes, 3 decisions, with all names\n"
    );
    assert_eq!(made.stderr, told);
    assert_eq!(std::fs::read(&file).unwrap(), data::capture());
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = terminal.run(&capture).await;
    assert_eq!(again.status, 1);
    assert!(again.stderr.contains("exists already\nhint: name another"), "{}", again.stderr);
    let again = terminal.run(&[&capture[..], &["--overwrite", "-o", "json"]].concat()).await;
    assert!(again.stdout.contains("\"decisions\": 3"), "{}", again.stdout);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing unfinished is left");

    // What stands in it was made up: nobody would decide so.
    let replayed = terminal.run(&["sim", "replay", &path]).await;
    assert_eq!((replayed.status, replayed.stderr.as_str()), (1, ""));
    assert!(
        replayed.stdout.contains(
            "decision 2: 1.0.0.1: name-node with name-GPU-1 name-port=20000 master=20001 kept until \
             1.0.0.1 end then, no place now"
        ),
        "{}",
        replayed.stdout
    );
    let one = terminal.run(&["sim", "replay", &path, "--decision", "3", "-o", "json"]).await;
    // The last one waits for a job that was held, as anybody would.
    assert_eq!(one.status, 0);
    assert!(one.stdout.contains("\"decision\": 3") && !one.stdout.contains("\"decision\": 2"));
    let first = terminal.run(&["sim", "replay", &path, "--decision", "1"]).await;
    assert_eq!(first.status, 1);
    let waits = "waits: task 0 of job 1 (name-job): 1 for budget";
    assert!(first.stdout.contains(waits), "{}", first.stdout);
    let none = terminal.run(&["sim", "replay", &path, "--decision", "4"]).await;
    let message = "error: expected a decision from 1 to 3, found 4\n";
    assert_eq!((none.status, none.stderr.as_str()), (2, message));

    let mut damaged = data::capture();
    damaged[200] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    let refused = terminal.run(&["sim", "replay", &path]).await;
    assert_eq!((refused.status, refused.stdout.as_str()), (2, ""));
    assert!(refused.stderr.contains("is damaged at byte "), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: copy it anew"), "{}", refused.stderr);
    damaged[8] = 2;
    std::fs::write(&file, &damaged).unwrap();
    let refused = terminal.run(&["sim", "replay", &path]).await;
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("has format 2, and this build reads 1"), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: replay it with the version"), "{}", refused.stderr);
}
