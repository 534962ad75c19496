//! `berth sim` as a user runs it; what it places is checked by code that shares nothing with it,
//! what it queues against figures that were made elsewhere.
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

/// Places the lists with moves; what is said, the placements and the moves.
fn place_with_moves(nodes: &Path, arrivals: &Path, most: &str) -> (serde_json::Value, [String; 2]) {
    let file = |name: &str| nodes.with_file_name(name).to_str().unwrap().to_owned();
    let (placements, moves) = (file("placed.csv"), file("moved.csv"));
    let lists = ["--nodes", nodes.to_str().unwrap(), "--arrivals", arrivals.to_str().unwrap()];
    let written = ["--placements", &placements, "--moves-max", most, "--moves", &moves];
    let output = berth(&[&["sim", "place"], &lists[..], &written, &["-o", "json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |path: &str| fs::read_to_string(path).unwrap();
    (serde_json::from_slice(&output.stdout).unwrap(), [read(&placements), read(&moves)])
}

/// Shares of all sizes on forty GPUs, some of them of a model that some ask for by name.
fn shared_load() -> (String, String) {
    let mut nodes = "sn,cpu_milli,memory_mib,gpu,model\n".to_owned();
    for number in 0..10 {
        let model = ["A100", "L4"][number % 2];
        writeln!(nodes, "node-{number:02},48000,65536,4,{model}").unwrap();
    }
    let mut tasks = format!("{TASKS}\n");
    for seq in 0..120_usize {
        let share = [470, 230, 650, 1000, 320, 590, 220][seq * 37 % 101 % 7];
        let model = if seq % 5 == 0 { "L4" } else { "" };
        writeln!(tasks, "{seq},task-{seq},2000,512,1,{share},{model}").unwrap();
    }
    (nodes, tasks)
}

#[test]
fn moves_make_room_and_nothing_is_given_twice_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let (nodes, tasks) = shared_load();
    let (nodes_at, tasks_at) = (folder.path().join("nodes.csv"), folder.path().join("tasks.csv"));
    fs::write(&nodes_at, &nodes).unwrap();
    fs::write(&tasks_at, &tasks).unwrap();
    let (without, _) = place(&nodes_at, &tasks_at, "berth");
    for (most, percent) in [("5%", 5), ("2%", 2), ("0", 0)] {
        let (said, [placements, moves]) = place_with_moves(&nodes_at, &tasks_at, most);
        let wrong = capacity::check_with_moves(&nodes, &tasks, &placements, &moves, percent);
        assert!(wrong.is_empty(), "{most}: {}", wrong.join("\n"));
        assert_eq!(said["moved"].as_u64().unwrap(), moves.lines().count() as u64 - 1);
        let gained = said["gpu_allocated_milli"].as_u64() > without["gpu_allocated_milli"].as_u64();
        assert_eq!(gained, percent > 0, "{most}: {said} without: {without}");
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
    let compare = |options: &[&str]| -> Vec<serde_json::Value> {
        let openb = ["sim", "place", "--openb", folder.to_str().unwrap(), "--seeds", "1"];
        let output = berth(&[&openb, options, &["-o", "json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let figure = |outcome: &serde_json::Value| {
        outcome["allocated_percent"]["at_100"]["mean"].as_f64().unwrap()
    };
    let said = compare(&["--workload", "gpuspec33"]);
    assert_eq!(said.len(), 1);
    // Another without moves, and with them.
    let both = compare(&["--workload", "default", "--moves-max", "1%"]);
    assert_eq!(both.len(), 2);
    for outcome in said.iter().chain(&both) {
        let published = outcome["published_fgd_percent"]["at_100"].as_f64().unwrap();
        assert!(figure(outcome) > published + 0.5, "{outcome}");
        assert!(outcome["moved_milli_of_placed"]["mean"].as_f64().unwrap() <= 10.0, "{outcome}");
    }
    assert!(figure(&both[1]) > figure(&both[0]), "{both:?}");
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

const JOBS: &str = "submit_s,duration_s,num_gpus,user";
const QUEUE_POLICIES: [&str; 7] = ["fifo", "backfill", "sjf", "srtf", "srsf", "las2d", "berth"];

/// Runs a list of jobs; what is said of each policy, in their order.
fn queue(trace: &Path, gpus: &str, policies: &[&str], restart: &str) -> Vec<serde_json::Value> {
    let (trace, policies) = (trace.to_str().unwrap(), policies.join(","));
    let list = ["sim", "jobs", "--trace", trace, "--gpus", gpus, "--policy", &policies];
    let output = berth(&[&list[..], &["--restart-cost", restart, "-o", "json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    said["policies"].as_array().unwrap().clone()
}

fn mean_hours(outcome: &serde_json::Value, of: &str) -> f64 {
    outcome[of]["mean"].as_f64().unwrap() / 3.6e6
}

/// Two days of jobs of three users on 16 GPUs: many short ones, some of half a day, some that
/// want most of the pool, and bursts of all.
fn own_jobs() -> (String, f64) {
    let mut list = format!("{JOBS}\n");
    let mut hours = 0.0;
    for number in 0..400_u64 {
        let submitted = number / 8 * 3_456 + number % 8 * number % 700;
        let (minutes, gpus, user) = match number * 7 % 20 {
            0..8 => (2 + number % 5, 1, "ann"),
            8..14 => (20 + number % 30, 1 + number % 3, "ben"),
            14..18 => (60 + number % 100, 2, "cleo"),
            18 => (700, 1, "cleo"),
            _ => (45, 12, "ben"),
        };
        writeln!(list, "{submitted}.25,{},{gpus},{user}", minutes * 60).unwrap();
        hours += minutes as f64 / 60.0;
    }
    (list, hours / 400.0)
}

#[test]
fn every_policy_serves_all_jobs_on_the_gpus_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let (jobs, mean_duration) = own_jobs();
    let trace = folder.path().join("jobs.csv");
    fs::write(&trace, jobs).unwrap();
    let outcomes = queue(&trace, "16", &QUEUE_POLICIES, "30s");
    assert_eq!(outcomes, queue(&trace, "16", &QUEUE_POLICIES, "30s"), "twice the same");
    let mut queued = Vec::new();
    for (outcome, policy) in outcomes.iter().zip(QUEUE_POLICIES) {
        assert_eq!(outcome["policy"], policy);
        assert!(outcome["gpus_used_max"].as_u64().unwrap() <= 16, "{outcome}");
        let used = outcome["utilisation_percent"].as_f64().unwrap();
        assert!((30.0..=100.0).contains(&used), "{outcome}");
        let (waits, all) =
            (mean_hours(outcome, "queueing_ms"), mean_hours(outcome, "completion_ms"));
        assert!((all - waits - mean_duration).abs() < 1e-5, "{outcome}");
        let preempts = outcome["preemptions"].as_u64().unwrap() > 0;
        assert_eq!(preempts, ["srtf", "srsf", "las2d", "berth"].contains(&policy), "{outcome}");
        queued.push(waits);
    }
    let [fifo, backfill, sjf, srtf, _, las2d, own] = queued[..] else { panic!("seven policies") };
    assert!(fifo > backfill && backfill > sjf && sjf > srtf, "{queued:?}");
    assert!(own < las2d && own < backfill, "what jobs teach is worth something: {queued:?}");
}

/// The figures were made by another simulator (hours of completion and queueing, in the mean).
#[test]
fn queueing_on_real_traces_is_as_found_elsewhere_and_better() {
    let name = "queueing_on_real_traces_is_as_found_elsewhere_and_better";
    let Some(traces) = std::env::var_os("BERTH_TRACES").map(PathBuf::from) else {
        return skipped(name, "traces", "BERTH_TRACES names no folder of traces");
    };
    let known =
        [(3.66, 0.80), (3.63, 0.78), (3.36, 0.50), (2.93, 0.08), (2.90, 0.04), (2.94, 0.09)];
    let muri =
        [(207.6, 191.8), (118.9, 103.0), (70.1, 54.2), (61.0, 45.1), (59.8, 43.9), (86.4, 70.5)];
    // What our policy may be queued for, restarts and all: half of what attained service gives
    // without them on the one, no more than it on the other.
    for (file, gpus, known, bar) in [
        ("philly_2017-10-02_1w.csv", "640", known, 0.045),
        ("muri_testbed_400jobs.csv", "64", muri, 70.5),
    ] {
        let trace = traces.join("jobs").join(file);
        for (outcome, (all, waits)) in
            queue(&trace, gpus, &QUEUE_POLICIES[..6], "0").iter().zip(known)
        {
            // Within five percent, or as near as the figures are written.
            let near = |found: f64, known: f64| (found - known).abs() <= (known * 0.05).max(0.005);
            assert!(near(mean_hours(outcome, "completion_ms"), all), "{file}: {outcome}");
            assert!(near(mean_hours(outcome, "queueing_ms"), waits), "{file}: {outcome}");
        }
        let own = &queue(&trace, gpus, &["berth"], "30s")[0];
        assert!(mean_hours(own, "queueing_ms") <= bar, "{file}: {own}");
    }
}

#[test]
fn what_is_wrong_with_jobs_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let check = |file: &str, jobs: &str, options: &[&str], expected: &str| {
        let path = folder.path().join(file);
        fs::write(&path, jobs).unwrap();
        let command = ["sim", "jobs", "--gpus", "8", "--trace", path.to_str().unwrap()];
        let output = berth(&[&command, options].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(expected), "{said}");
    };
    let wrong = |row: &str, expected: &str| {
        check("jobs.csv", &format!("{JOBS}\n0,60,1,ann\n{row}\n"), &[], expected);
    };
    wrong(
        "0,60,9,ann",
        "jobs.csv:3: num_gpus: expected at most the 8 of the pool, as it would wait for ever, found `9`",
    );
    wrong("0,60,0,ann", "jobs.csv:3: num_gpus: expected 1 to");
    wrong("0,60,1.5,ann", "jobs.csv:3: num_gpus: expected a whole number, found `1.5`");
    wrong("0,0,1,ann", "jobs.csv:3: duration_s: expected at least 0.001 seconds, found `0`");
    wrong("0,0.0004,1,ann", "jobs.csv:3: duration_s: expected at least 0.001 seconds");
    wrong("-5,60,1,ann", "jobs.csv:3: submit_s: expected seconds such as 90 or 3.25, found `-5`");
    wrong(
        "0,NaN,1,ann",
        "jobs.csv:3: duration_s: expected seconds such as 90 or 3.25, found `NaN`",
    );
    wrong("1e3,60,1,ann", "jobs.csv:3: submit_s: expected seconds such as 90 or 3.25, found `1e3`");
    wrong(",60,1,ann", "jobs.csv:3: submit_s: expected seconds");
    wrong("99999999999,60,1,ann", "jobs.csv:3: submit_s: expected at most 10000000000 seconds");
    wrong("0,60,1", "jobs.csv");
    check("jobs.csv", "submit_s,num_gpus\n0,1\n", &[], "jobs.csv:1: no column `duration_s`");
    check("jobs.csv", &format!("{JOBS}\n"), &[], "the list has no rows");
    check("jobs.csv.gz", "", &[], "is compressed");
    let good = format!("{JOBS}\n0,60,1,ann\n");
    check("jobs.csv", &good, &["--policy", "best"], "expected one of fifo, backfill, sjf");
    check("jobs.csv", &good, &["--without", "luck"], "expected one of learning, classes");
    check("jobs.csv", &good, &["--restart-cost", "2d"], "at most 1d");
    check("jobs.csv", &good, &["--gpus", "0"], "--gpus");
}

#[test]
fn waiting_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, plot) = (folder.path().join("jobs.csv"), folder.path().join("waits.svg"));
    fs::write(&trace, own_jobs().0).unwrap();
    let (trace, drawn) = (trace.to_str().unwrap(), plot.to_str().unwrap());
    let list = ["sim", "jobs", "--trace", trace, "--gpus", "16", "--policy", "fifo,berth"];
    let output = berth(&[&list[..], &["--plot", drawn, "-o", "wide"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("400 jobs on 16 GPUs") && said.contains("MAKESPAN"), "{said}");
    let svg = fs::read_to_string(plot).unwrap();
    assert!(svg.matches("<polyline").count() == 2 && svg.contains("<title>berth "), "{svg}");
}

/// The runs under each law, in their order.
fn scaled(trace: &Path, scenario: &str, laws: &[&str]) -> Vec<serde_json::Value> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scenario.toml");
    fs::write(&path, format!("{scenario}laws = {laws:?}\n")).unwrap();
    let (trace, path) = (trace.to_str().unwrap(), path.to_str().unwrap());
    let output = berth(&["sim", "serve", "--trace", trace, "--scenario", path, "-o", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs: Vec<serde_json::Value> =
        told["runs"].as_array_mut().unwrap().iter_mut().map(serde_json::Value::take).collect();
    let found: Vec<&str> = runs.iter().map(|run| run["scaling"].as_str().unwrap()).collect();
    assert_eq!(found, laws);
    runs
}

/// Over all seeds.
#[expect(clippy::cast_precision_loss, reason = "a few seeds")]
fn mean(run: &serde_json::Value, figure: &str) -> f64 {
    let runs = run["runs"].as_array().unwrap();
    let sum: f64 = runs.iter().map(|run| run[figure].as_f64().unwrap()).sum();
    sum / runs.len() as f64
}

/// A quiet hour with three bursts of five minutes, under every law.
#[test]
fn replicas_follow_a_load_up_and_down() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("bursts.csv");
    let mut rows = "arrival_s,context_tokens,generated_tokens\n".to_owned();
    for tenth in 0..36_000 {
        let is_burst = (tenth / 10) % 1_200 < 300;
        if is_burst || tenth % 20 == 0 {
            writeln!(rows, "{:.1},100,200", f64::from(tenth) / 10.0).unwrap();
        }
    }
    fs::write(&trace, rows).unwrap();
    let scenario = "fleet = [{ count = 12 }]\npolicies = [\"least-outstanding\"]\nseeds = 1\n\
        [scaling]\ntarget = 4\nstart = \"20s\"\n";
    let laws = ["target-tracking", "step", "half-gap", "pid", "kubernetes", "clairvoyant", "fixed"];
    let runs = scaled(&trace, scenario, &laws);
    let whole = mean(&runs[6], "gpu_hours");
    for run in &runs[..5] {
        assert!(mean(run, "attainment") > 0.95, "{run}");
        assert!(mean(run, "gpu_hours") < 0.5 * whole, "{run}");
        let changes = run["runs"][0]["replicas"].as_array().unwrap();
        let counts: Vec<u64> = changes.iter().map(|one| one["count"].as_u64().unwrap()).collect();
        let last = *counts.last().unwrap();
        assert!(counts.iter().any(|count| *count >= 3) && last <= 2, "{run}");
    }
}

/// On requests that come in bursts, with a minute for each start: more of them in time than under
/// Kubernetes' law, and for at most a twentieth more GPU-hours.
#[test]
fn scaling_on_a_real_trace_meets_more_than_the_law_of_kubernetes() {
    let name = "scaling_on_a_real_trace_meets_more_than_the_law_of_kubernetes";
    let Some(traces) = std::env::var_os("BERTH_TRACES").map(PathBuf::from) else {
        return skipped(name, "traces", "BERTH_TRACES names no folder of traces");
    };
    let trace = traces.join("llm").join("azure2023_code_min00-40.csv");
    for target in [2, 8] {
        let scenario = format!(
            "fleet = [{{ count = 24 }}]\npolicies = [\"least-outstanding\"]\nseeds = 10\n\
             [scaling]\ntarget = {target}\nstart = \"60s\"\n"
        );
        let [own, kubernetes] =
            scaled(&trace, &scenario, &["target-tracking", "kubernetes"]).try_into().unwrap();
        let figures = |run| [mean(run, "attainment"), mean(run, "gpu_hours")];
        let [(met, hours), (met_there, hours_there)] =
            [&own, &kubernetes].map(|run| figures(run).into());
        assert!(met > met_there + 0.05, "{target}: {met} and {met_there}");
        assert!(hours < 1.05 * hours_there, "{target}: {hours} and {hours_there}");
    }
}
