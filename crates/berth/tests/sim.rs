//! `berth sim place` as a user runs it; what it writes is checked by code that shares nothing
//! with it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use berth_tests::capacity;
use berth_tests::skip::skipped;

const TASKS: &str = "seq,name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec";

fn berth(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(arguments)
        .env_remove("BERTH_CONFIG")
        .output()
        .unwrap()
}

/// Places the lists under a policy; what is said and what was written.
fn place(nodes: &Path, arrivals: &Path, policy: &str) -> (serde_json::Value, String) {
    let placements = nodes.with_file_name(format!("{policy}.csv"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (nodes, arrivals, written) = (text(nodes), text(arrivals), text(&placements));
    let output = berth(&[
        "sim",
        "place",
        "--nodes",
        &nodes,
        "--arrivals",
        &arrivals,
        "--policy",
        policy,
        "--placements",
        &written,
        "-o",
        "json",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (serde_json::from_slice(&output.stdout).unwrap(), fs::read_to_string(placements).unwrap())
}

/// Nodes of three kinds and more work of all kinds than they can take.
fn own_load() -> (String, String) {
    let mut nodes = "sn,cpu_milli,memory_mib,gpu,model\n".to_owned();
    for number in 0..24 {
        let (gpus, model) = [(8, "A100"), (4, "L4"), (0, "")][number % 3];
        let cpu = 16_000 + 8_000 * gpus;
        writeln!(nodes, "node-{number:02},{cpu},{},{gpus},{model}", 65_536).unwrap();
    }
    let mut tasks = format!("{TASKS}\n");
    for seq in 0..400_usize {
        let (gpus, share, models) = [
            (1, 300, ""),
            (1, 1000, "A100"),
            (0, 0, ""),
            (1, 500, "L4|A100"),
            (2, 1000, ""),
            (1, 1000, ""),
            (4, 1000, "A100"),
        ][seq * 5 % 7];
        let cpu = 1_000 + 700 * (seq % 9);
        writeln!(tasks, "{seq},task-{seq},{cpu},1024,{gpus},{share},{models}").unwrap();
    }
    (nodes, tasks)
}

#[test]
fn no_policy_gives_anything_twice_or_refuses_what_fits() {
    let folder = tempfile::tempdir().unwrap();
    let (nodes, tasks) = own_load();
    let (nodes_at, tasks_at) = (folder.path().join("nodes.csv"), folder.path().join("tasks.csv"));
    fs::write(&nodes_at, &nodes).unwrap();
    fs::write(&tasks_at, &tasks).unwrap();
    for policy in ["berth", "fgd", "best-fit", "gpu-packing", "first-fit", "spread"] {
        let (said, placements) = place(&nodes_at, &tasks_at, policy);
        let wrong = capacity::check(&nodes, &tasks, &placements);
        assert!(wrong.is_empty(), "{policy}: {}", wrong.join("\n"));
        let placed = placements.lines().skip(1).filter(|line| !line.ends_with(",,")).count();
        assert_eq!((&said["policy"], &said["placed"]), (&policy.into(), &placed.into()));
        assert!(said["refused"].as_u64().unwrap() > 0, "the load is more than there is");
    }
}

/// One run of the trace that the policy was measured on, and one of another workload.
#[test]
fn on_a_real_cluster_more_is_allocated_than_published() {
    let name = "on_a_real_cluster_more_is_allocated_than_published";
    let Some(traces) = std::env::var_os("BERTH_TRACES").map(PathBuf::from) else {
        return skipped(name, "traces", "BERTH_TRACES names no folder of traces");
    };
    let folder = traces.join("openb");
    let folder = folder.to_str().unwrap();
    let output = berth(&[
        "sim",
        "place",
        "--openb",
        folder,
        "--workload",
        "default,gpuspec33",
        "--seeds",
        "1",
        "--policy",
        "berth",
        "-o",
        "json",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for outcome in said.as_array().unwrap() {
        let found = outcome["allocated_percent"]["at_100"]["mean"].as_f64().unwrap();
        let published = outcome["published_fgd_percent"]["at_100"].as_f64().unwrap();
        assert!(found > published + 0.5, "{outcome}");
    }
    assert_eq!(said.as_array().unwrap().len(), 2);
}

#[test]
fn what_is_wrong_with_a_list_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = folder.path().join("nodes.csv");
    fs::write(&nodes, "sn,cpu_milli,memory_mib,gpu,model\na,4000,1024,1,L4\n").unwrap();
    let check = |tasks: &str, expected: &str| {
        let path = folder.path().join("tasks.csv");
        fs::write(&path, tasks).unwrap();
        let (nodes, path) = (nodes.to_str().unwrap(), path.to_str().unwrap());
        let output = berth(&["sim", "place", "--nodes", nodes, "--arrivals", path]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(expected), "{said}");
    };
    let task = |text: &str| format!("{TASKS}\n{text}\n");
    check(
        &task("0,x,many,1,0,0,"),
        "tasks.csv:2: cpu_milli: expected a whole number, found `many`",
    );
    check(&task("0,x,1000,1,1,1500,"), "tasks.csv:2: gpu_milli: expected 0 to 1000, found `1500`");
    check(&task("0,x,1000,1,2,500,"), "expected 1000 where several GPUs are asked for");
    check(&task("0,x,1000,1,1,0,"), "expected 1 to 1000 thousandths of each GPU");
    check(&task("0,../x,1000,1,0,0,"), "tasks.csv:2: name: ");
    check(&task("0,x,1000,1,0,0"), "tasks.csv");
    check("seq,name\n0,x\n", "tasks.csv:1: no column `cpu_milli`");
    check(&format!("{TASKS}\n"), "the list has no rows");
    check(&task("0,x,NaN,1,0,0,"), "expected a whole number, found `NaN`");
    check(&task("0,x,1000,99999999999999999999,0,0,"), "memory_mib");
}
