//! Faults of the process around a scheduler.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::process::{Command, Stdio};

use berth::local::{TRIAL_SETTINGS, free_ports};
use berth_client::{Client, Options};
use berth_proto::v1;

/// Enough lines to fill the pipe many times over.
const JOBS: u32 = 300;

/// Standard error is a pipe that is full and stays so: log lines are dropped and
/// counted, and everything else goes on.
#[tokio::test]
async fn f26_a_scheduler_whose_log_nobody_reads_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let ports = free_ports(2).unwrap();
    let (grpc, http) = (format!("127.0.0.1:{}", ports[0]), format!("127.0.0.1:{}", ports[1]));
    let data_dir = folder.path().join("s1").display().to_string();
    let mut process = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["scheduler", "--bootstrap", "--data-dir", &data_dir, "--listen", &grpc])
        .args(["--http", &http, "--log-level", "trace", "--stop-on-fd-close", "0"])
        .envs(TRIAL_SETTINGS)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let client = Client::new(Options::new(vec![grpc]));
    support::until("the scheduler to serve", || async {
        client.status(v1::StatusRequest { consistency: 0 }).await.ok()
    })
    .await;
    for number in 0..JOBS {
        let spec = support::batch(&format!("job-{number}"), 1, support::shell("true"));
        support::submit(&client, &spec).await;
    }
    let status = client.status(v1::StatusRequest { consistency: 0 }).await.unwrap();
    assert_eq!(status.jobs, u64::from(JOBS));
    assert!(process.try_wait().unwrap().is_none(), "it ended");
    // What was said meanwhile is more than the pipe and the queue hold.
    support::until("lines to be dropped and counted", || async {
        let metrics = support::raw::page(&http, "/metrics").await.ok()?;
        let lines = metrics.lines();
        let counted = lines.filter_map(|line| line.strip_prefix("berth_log_lines_dropped_total "));
        let dropped: u64 = counted.map(|count| count.parse::<u64>().unwrap()).sum();
        (dropped > 0).then_some(())
    })
    .await;
    drop(process.stdin.take());
    process.wait().unwrap();
}
