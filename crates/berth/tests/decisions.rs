//! What a gateway records of its decisions, and what `berth sim replay` makes of it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::Path;
use std::process::{Output, Stdio};

use berth::local::LocalCluster;
use rustix::process::Signal;
use serde_json::Value;
use support::callers::{SHORT, ask, chat, until_answered};
use support::processes;
use tokio::process::Command;

fn berth() -> Command {
    Command::new(env!("CARGO_BIN_EXE_berth"))
}

async fn replay(file: &Path, more: &[&str]) -> Output {
    berth().args(["sim", "replay"]).arg(file).args(more).output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_decided_is_decided_again() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let client = cluster.client();
    let job = support::submit(&client, &chat("1")).await;
    let record = folder.path().join("decisions");
    let edge = format!("127.0.0.1:{}", berth::local::free_ports(1).unwrap()[0]);
    let mut gateway = berth()
        .args(["gateway", "--servers", &cluster.servers().join(","), "--listen", &edge])
        .args(["--log-level", &support::log_level(), "--record"])
        .arg(&record)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    until_answered(&edge).await;

    // A new version comes meanwhile.
    let asked = async {
        for _ in 0..25 {
            let asked = (0..8).map(|_| ask(&edge, SHORT));
            futures::future::join_all(asked).await;
        }
    };
    let submitted = client.submit(support::request(&chat("2"), ""));
    let (_, submitted) = tokio::join!(asked, submitted);
    assert_eq!(submitted.unwrap().job_id, job);

    // It writes all that it has decided before it ends.
    processes::send(gateway.id().unwrap(), Signal::TERM);
    assert!(gateway.wait().await.unwrap().success());
    let replayed = replay(&record, &["-o", "json"]).await;
    let shown = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert!(replayed.status.success(), "{shown}{}", String::from_utf8_lossy(&replayed.stderr));
    let told: Value = serde_json::from_str(&shown).unwrap();
    let pool = &told["pools"][0];
    assert_eq!((told["same"].as_bool(), told["pools"].as_array().unwrap().len()), (Some(true), 1));
    assert_eq!(pool["service"], "default/chat");
    assert!(pool["decisions"].as_u64().unwrap() > 200, "{told}");

    // One of them was another.
    let text = std::fs::read_to_string(&record).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let last = lines.iter().rposition(|line| line.contains("\"picked\"")).unwrap();
    let mut picked: Value = serde_json::from_str(&lines[last]).unwrap();
    picked["reason"] = "turn".into();
    lines[last] = picked.to_string();
    std::fs::write(&record, lines.join("\n") + "\n").unwrap();
    let replayed = replay(&record, &[]).await;
    let shown = String::from_utf8_lossy(&replayed.stdout);
    assert_eq!(replayed.status.code(), Some(1), "{shown}");
    let expected = format!("(line {}) was ", last + 1);
    assert!(shown.contains("different") && shown.contains(&expected), "{shown}");

    std::fs::write(&record, lines[..last].join("\n")).unwrap();
    let replayed = replay(&record, &[]).await;
    let shown = String::from_utf8_lossy(&replayed.stdout);
    assert!(replayed.status.success() && shown.contains("is not whole"), "{shown}");
}
