//! A cluster with work that runs, waits, and has places kept for it: what its leader has decided
//! is captured, and decided anew elsewhere by the program alone.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use berth::local::LocalCluster;
use berth_client::Client;
use berth_model::{DurationMs, Gang, GpuRequest, JobSpec, Preemption};
use berth_proto::v1;
use serde_json::Value;
use support::schedulers::{kill, leader_after};
use tokio::process::Command;

/// Runs until it is asked to end, and then until it may.
fn work(folder: &Path, name: &str, priority: u8, gpus: (u32, u32)) -> JobSpec {
    let (count, gpus) = gpus;
    let script = format!(
        "trap 'while [ ! -e {}/may-end ]; do sleep 0.05; done; exit 143' TERM; \
         while :; do sleep 600 & wait $!; done",
        folder.display()
    );
    let mut spec = support::batch(name, count, support::shell(&script));
    spec.tasks[0].gpu = Some(GpuRequest::whole(gpus));
    spec.tasks[0].stop.grace = DurationMs(60_000);
    spec.tasks[0].env = [("SECRET".to_owned(), "of-nobody-else".to_owned())].into();
    let preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
    JobSpec { priority, preemption, ..spec }
}

async fn runs(client: &Client, job: u64, count: u64) {
    support::job_when(client, job, "all run", |job| job.tasks[0].running == count).await;
}

/// Its places are kept until others have ended.
async fn is_kept(client: &Client, job: u64) {
    let kept = || async {
        let job = support::reference(&job.to_string());
        let said = client.explain(v1::ExplainRequest { job, consistency: 0 }).await.unwrap();
        said.reasons.iter().any(|reason| reason.code == "reserved").then_some(())
    };
    support::until("places to be kept", kept).await;
}

async fn berth(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_berth");
    Command::new(program).args(arguments).kill_on_drop(true).output().await.unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

async fn capture(servers: &str, file: &Path, more: &[&str]) -> Vec<u8> {
    let path = file.to_string_lossy();
    let arguments = ["operator", "debug", "capture", "--server", servers, "--out", &path];
    let output = berth(&[&arguments[..], more].concat()).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(" decisions, "), "{}", text(&output.stderr));
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    fs::read(file).unwrap()
}

/// Every decision in the file is made anew, and is the same.
async fn replayed(file: &Path) -> Value {
    let path = file.to_string_lossy();
    let output = berth(&["sim", "replay", &path, "-o", "json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["same"], true);
    let table = berth(&["sim", "replay", &path, "--decision", "1"]).await;
    assert_eq!(table.status.code(), Some(0));
    assert!(text(&table.stdout).contains("the same"), "{}", text(&table.stdout));
    said
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn what_a_leader_has_decided_is_decided_anew_from_its_capture() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 2)).await.unwrap();
    let client = cluster.client();
    let files = tempfile::tempdir().unwrap();
    // Four GPUs: all of them run something, one job waits, and for a gang places are kept.
    let first = support::submit(&client, &work(files.path(), "first-work", 20, (3, 1))).await;
    runs(&client, first, 3).await;
    let second = support::submit(&client, &work(files.path(), "second-work", 22, (1, 1))).await;
    runs(&client, second, 1).await;
    let waits = support::submit(&client, &work(files.path(), "waiting-work", 21, (1, 2))).await;
    let mut gang = work(files.path(), "urgent-gang", 60, (2, 1));
    gang.tasks[0].gang = Some(Gang {});
    let gang = support::submit(&client, &gang).await;
    is_kept(&client, gang).await;

    let servers = cluster.servers().join(",");
    let out = tempfile::tempdir().unwrap();
    let (named, redacted) = (out.path().join("named"), out.path().join("redacted"));
    let bytes = capture(&servers, &named, &[]).await;
    assert!(has(&bytes, "first-work"));
    for secret in ["of-nobody-else", "SECRET", "may-end"] {
        assert!(!has(&bytes, secret), "{secret}");
    }
    let said = replayed(&named).await;
    check_decisions(&said, waits, gang);

    let bytes = capture(&servers, &redacted, &["--redact"]).await;
    let nodes = client.list_nodes(v1::ListNodesRequest::default()).await.unwrap().nodes;
    let uuids = nodes.iter().flat_map(|node| &node.devices).map(|device| device.uuid.clone());
    let names = nodes.iter().map(|node| node.name.clone());
    let others = ["first-work", "second-work", "waiting-work", "urgent-gang", "default", "main"];
    for name in uuids.chain(names).chain(others.map(str::to_owned)) {
        assert!(!has(&bytes, &name), "{name} is left");
    }
    let said = replayed(&redacted).await;
    assert_eq!(said["redacted"], true);
    check_decisions(&said, waits, gang);

    // One that is there is left alone; another leader answers for what it has decided itself.
    let path = named.to_string_lossy();
    let again =
        berth(&["operator", "debug", "capture", "--server", &servers, "--out", &path]).await;
    assert_eq!(again.status.code(), Some(1));
    let old = leader_after(&cluster, None).await;
    kill(&mut cluster, &[old]).await;
    leader_after(&cluster, Some(old)).await;
    capture(&servers, &named, &["--overwrite"]).await;
    let said = replayed(&named).await;
    let last = said["decisions"].as_array().unwrap().last().unwrap();
    assert_eq!(last["made"], "capture");
    fs::write(files.path().join("may-end"), "").unwrap();
    runs(&client, gang, 2).await;
    cluster.stop().await;
}

/// What was placed with an entry, what was kept for the gang, and who waits now.
fn check_decisions(said: &Value, waits: u64, gang: u64) {
    let decisions = said["decisions"].as_array().unwrap();
    let places = |one: &Value| one["places"].as_array().unwrap().clone();
    let with_an_entry = decisions.iter().filter(|one| one["made"] == "entry");
    assert!(with_an_entry.flat_map(places).count() >= 4, "{said}");
    let by_the_planner = decisions.iter().filter(|one| one["made"] == "planner");
    let kept: Vec<Value> =
        by_the_planner.flat_map(places).filter(|place| place["kept"] == true).collect();
    assert_eq!(kept.len(), 2, "{said}");
    let after: usize = kept.iter().map(|one| one["after"].as_array().unwrap().len()).sum();
    assert_eq!(after, 2, "{said}");
    for place in kept {
        assert!(place["allocation_id"].as_str().unwrap().starts_with(&format!("{gang}.0.")));
    }
    let last = decisions.last().unwrap();
    assert_eq!((&last["made"], places(last).len()), (&Value::from("capture"), 0));
    let why = |job: u64| {
        let waiting = last["waiting"].as_array().unwrap().clone();
        let of_job = waiting.into_iter().find(|one| one["job_id"] == job);
        of_job.map(|one| one["why"].as_str().unwrap().to_owned())
    };
    assert_eq!(why(waits).as_deref(), Some("no-node"), "{said}");
    assert_eq!(why(gang).as_deref(), Some("reserved"), "{said}");
}
