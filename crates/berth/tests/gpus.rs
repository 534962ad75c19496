//! GPUs of a whole cluster: what the driver says is shown, and what befalls one GPU
//! befalls its work alone.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use berth::local::{Gpus, LocalCluster};
use berth_model::GpuRequest;
use berth_nvml_sim::{SCRIPT_VARIABLE, library};
use berth_proto::v1;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use support::gates::Gates;

/// What goes on behind the driver's library of an agent from now on.
fn script(cluster: &LocalCluster, agent: usize, lines: &str) {
    let faults = cluster.agents[agent].data_dir.join("simulated/faults");
    fs::write(faults.with_extension("new"), lines).unwrap();
    fs::rename(faults.with_extension("new"), faults).unwrap();
}

#[tokio::test]
async fn f50_a_gpu_off_the_bus_moves_its_own_work_and_nothing_else() {
    const INSTANCES: u32 = 8;
    let folder = tempfile::tempdir().unwrap();
    let gates = Gates::new(folder.path(), INSTANCES);
    let mut plan = support::plan(folder.path(), 1, 1);
    plan.gpus = Gpus::Simulated("9xH100-80GB".to_owned());
    let cluster = LocalCluster::start(plan).await.unwrap();
    let client = cluster.client();
    let mut spec = support::batch("each", INSTANCES, gates.command());
    spec.tasks[0].gpu = Some(GpuRequest::whole(1));
    let job = support::submit(&client, &spec).await;
    let running = u64::from(INSTANCES);
    support::job_when(&client, job, "runs", |job| job.tasks[0].running == running).await;

    let devices = || async {
        let asked = v1::GetNodeRequest { node: "node-1".to_owned(), consistency: 0 };
        let node = client.get_node(asked).await.ok()?;
        let health = node.spec?.devices.into_iter().map(|device| (device.uuid, device.health));
        let health: BTreeMap<String, i32> = health.collect();
        Some((health, node.devices))
    };
    script(&cluster, 0, "gpu 8 utilization 87\ngpu 8 temperature 61\n");
    let shown = support::until("the load to be shown", || async {
        let (_, devices) = devices().await?;
        devices.into_iter().find(|device| device.utilization_percent == Some(87))
    })
    .await;
    assert_eq!((shown.temperature_celsius, shown.allocated_milli), (Some(61), 0));

    let page = || support::raw::page(&cluster.agents[0].http, "/metrics");
    let gauge = "DCGM_FI_DEV_GPU_UTIL{gpu=\"8\",UUID=\"GPU-sim-node-1-8\",modelName=\"H100\"} 87";
    let text = page().await.unwrap();
    assert!(text.contains(gauge), "{text}");
    assert!(text.contains("DCGM_FI_DEV_FB_USED{gpu=\"0\""), "{text}");
    assert!(text.contains("DCGM_FI_DEV_FB_USED{gpu=\"3\""), "{text}");
    let before = support::allocations(&client, job).await;
    let hit = before.iter().find(|allocation| allocation.devices[0].uuid.ends_with("-3")).unwrap();
    script(&cluster, 0, "gpu 3 xid 79 1\ngpu 3 lost yes\n");
    let moved = support::until("the work of the lost GPU to run elsewhere", || async {
        let now = support::allocations(&client, job).await;
        let mut of = now.into_iter().filter(|one| one.index == hit.index && one.attempt == 2);
        of.next().filter(|one| one.state == "running")
    })
    .await;
    assert_eq!(moved.devices[0].uuid, shown.uuid, "the only one that was free");
    let ill = support::until("the GPU to be lost", || async {
        let (health, _) = devices().await?;
        let healthy = i32::from(v1::DeviceHealth::Healthy);
        let ill = health.into_iter().filter(|(_, health)| *health != healthy);
        let ill: Vec<(String, i32)> = ill.collect();
        ill.iter().any(|(_, health)| *health == i32::from(v1::DeviceHealth::Lost)).then_some(ill)
    })
    .await;
    assert_eq!(ill.len(), 1, "{ill:?}");
    assert_eq!(ill[0].0, hit.devices[0].uuid);
    let text = page().await.unwrap();
    assert!(!text.contains("DCGM_FI_DEV_FB_USED{gpu=\"3\""), "it is gone: {text}");
    assert!(text.contains("DCGM_FI_DEV_FB_USED{gpu=\"0\"") && !text.contains("NaN"), "{text}");
    for index in 0..INSTANCES {
        gates.release(index, 0).await;
    }
    let ended = support::job_when(&client, job, "ends", |job| job.finished_at_ms.is_some()).await;
    assert_eq!((ended.state.as_str(), ended.tasks[0].succeeded), ("succeeded", running));
    assert_eq!(ended.tasks[0].failed, 0, "the loss cost no attempt");
    for index in 0..INSTANCES {
        let starts = if index == hit.index { 2 } else { 1 };
        assert_eq!(gates.pids(index).len(), starts, "starts of instance {index}");
    }
    cluster.stop().await;
}

/// `berth dev fault` with these words; what it says on an error.
async fn fault(data_dir: &Path, words: &[&str]) -> Result<(), (i32, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(["dev", "fault", "--agent", "node-1"]).args(words);
    let output = command.env("BERTH_DEV_DATA_DIR", data_dir).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err((output.status.code().unwrap(), said)) }
}

/// F61: a health check that is wrong everywhere takes two GPUs of eight out of use, and no
/// more; each says why.
#[tokio::test]
async fn f61_faults_everywhere_at_once_fence_two_gpus_of_eight() {
    const FAULTY: u32 = 6;
    let folder = tempfile::tempdir().unwrap();
    let mut plan = support::plan(folder.path(), 1, 1);
    plan.gpus = Gpus::Simulated("8xH100-80GB".to_owned());
    let cluster = LocalCluster::start(plan).await.unwrap();
    let client = cluster.client();
    let mut spec = support::batch("each", 8, support::shell("exec sleep 600"));
    spec.tasks[0].gpu = Some(GpuRequest::whole(1));
    let job = support::submit(&client, &spec).await;
    support::job_when(&client, job, "runs", |job| job.tasks[0].running == 8).await;
    fault(cluster.data_dir(), &["--gpu", "0", "--xid", "48"]).await.unwrap();
    let more = |gpu: u32| format!("gpu {gpu} xid 48 {}\n", gpu + 1);
    script(&cluster, 0, &(0..FAULTY).map(more).collect::<String>());
    let told = support::until("every fault to be told", || async {
        let asked = v1::GetNodeRequest { node: "node-1".to_owned(), consistency: 0 };
        let devices = client.get_node(asked).await.ok()?.spec?.devices;
        let told: Vec<v1::Device> =
            devices.into_iter().filter(|device| !device.health_reason.is_empty()).collect();
        (told.len() == FAULTY as usize).then_some(told)
    })
    .await;
    let of = |health: v1::DeviceHealth| -> Vec<&v1::Device> {
        told.iter().filter(|device| device.health == i32::from(health)).collect()
    };
    // Two are fenced, or have been reset already.
    let suspects = of(v1::DeviceHealth::Suspect);
    let out = [of(v1::DeviceHealth::Fenced), of(v1::DeviceHealth::Cordoned)].concat();
    assert_eq!((out.len(), suspects.len()), (2, 4), "{told:?}");
    for suspect in suspects {
        let why = "not fenced, too many were in ten minutes: XID 48: it is to be reset";
        assert_eq!(suspect.health_reason, why);
        let asked = v1::GetDeviceRequest { device: suspect.uuid.clone(), consistency: 0 };
        let shown = client.get_device(asked).await.unwrap();
        assert_eq!((shown.uuid.as_str(), shown.allocations.len()), (suspect.uuid.as_str(), 1));
    }
    // The work of two has nowhere to go.
    let job = support::job_when(&client, job, "goes on", |job| job.tasks[0].running == 6).await;
    assert_eq!((job.tasks[0].failed, job.state.as_str()), (0, "running"));
    for (words, code, part) in [
        (&["--gpu", "8", "--xid", "48"][..], 2, "there is no GPU 8: expected 0 to 7"),
        (&["--gpu", "1"], 2, "missing argument: <--xid <NUMBER>|--lost"),
        (&["--gpu", "1", "--remap", "maybe"], 2, "one of done, pending, failed"),
        (&["--gpu", "1", "--lost", "--data-dir", "/nowhere"], 2, "no agent node-1 in /nowhere"),
    ] {
        let (found, said) = fault(cluster.data_dir(), words).await.unwrap_err();
        assert!(found == code && said.contains(part), "{words:?}: {found}: {said}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_cordoned_gpu_keeps_its_work_and_gets_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let client = cluster.client();
    let submit = async |name: &str| {
        let mut spec = support::batch(name, 1, support::shell("exec sleep 600"));
        spec.tasks[0].gpu = Some(GpuRequest::whole(1));
        support::submit(&client, &spec).await
    };
    let uuid_of = async |job: u64| {
        let job = support::job_when(&client, job, "runs", |job| job.tasks[0].running == 1).await;
        support::allocations(&client, job.id).await.remove(0).devices.remove(0).uuid
    };
    let first = submit("first").await;
    let held = uuid_of(first).await;
    let refused = |asked: &str| {
        let asked = v1::DeviceRef { device: asked.to_owned() };
        let client = client.clone();
        async move { client.cordon_device(asked).await.unwrap_err().to_string() }
    };
    assert!(refused("GPU-sim-node-1").await.contains("stands for several GPUs"));
    assert!(refused("node-1:7").await.contains("no GPU `node-1:7`"));
    assert!(refused("node-9:0").await.contains("no node `node-9`"));

    // By uuid, and by place.
    let by_uuid = v1::DeviceRef { device: held.clone() };
    let node = client.cordon_device(by_uuid.clone()).await.unwrap();
    let cordoned: Vec<bool> = node.devices.iter().map(|device| device.cordoned).collect();
    assert_eq!(cordoned.iter().filter(|cordoned| **cordoned).count(), 1);
    let other = if held.ends_with("-0") { 1 } else { 0 };
    let by_place = v1::DeviceRef { device: format!("node-1:{other}") };
    client.cordon_device(by_place.clone()).await.unwrap();
    let waits = submit("waits").await;

    // It holds over a restart of the agent.
    cluster.agents[0].child.kill().await.unwrap();
    cluster.restart_agent("node-1").unwrap();
    support::until("the agent to be back", || async {
        (support::node_state(&client, "node-1").await? == "ready").then_some(())
    })
    .await;
    let asked = v1::ExplainRequest { job: support::reference(&waits.to_string()), consistency: 0 };
    let why = client.explain(asked).await.unwrap();
    assert!(format!("{why:?}").contains("GPU"), "{why:?}");
    let running = support::job(&client, first).await.unwrap();
    assert_eq!(running.tasks[0].running, 1, "what runs there is left alone");

    client.uncordon_device(by_place).await.unwrap();
    assert_eq!(uuid_of(waits).await, format!("GPU-sim-node-1-{other}"));
    client.uncordon_device(by_uuid).await.unwrap();
    cluster.stop().await;
}

/// F59: work on a part of a GPU ends with that part, and goes on in another one.
#[tokio::test]
async fn f59_work_leaves_a_part_of_a_gpu_that_is_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = support::plan(folder.path(), 1, 1);
    plan.gpus = Gpus::Simulated("1xH100-80GB".to_owned());
    let cluster = LocalCluster::start(plan).await.unwrap();
    let client = cluster.client();
    script(&cluster, 0, "gpu 0 mig on\ngpu 0 slice 0 MIG-a 1g.10gb 10737418240\n");
    let submit = async |name: &str, models: &[&str]| {
        let mut spec = support::batch(name, 1, support::shell("exec sleep 600"));
        let models = models.iter().map(|model| (*model).to_owned()).collect();
        spec.tasks[0].gpu = Some(GpuRequest {
            count: 1,
            models,
            memory_min: None,
            share: berth_model::ShareMilli::WHOLE,
        });
        support::submit(&client, &spec).await
    };
    let whole = submit("whole", &["H100"]).await;
    let part = submit("part", &["1g.10gb"]).await;
    let on = |uuid: &'static str| {
        let client = client.clone();
        support::until("it to run there", move || {
            let client = client.clone();
            async move {
                let now = support::allocations(&client, part).await;
                now.into_iter().find(|one| one.state == "running" && one.devices[0].uuid == uuid)
            }
        })
    };
    on("MIG-a").await;
    script(&cluster, 0, "gpu 0 mig on\ngpu 0 slice 1 MIG-b 1g.10gb 10737418240\n");
    let moved = on("MIG-b").await;
    let job = support::job(&client, part).await.unwrap();
    assert_eq!((moved.attempt, job.tasks[0].failed), (2, 0), "it cost no attempt");
    // Whoever asks for a GPU gets no part of one, and gets it when it is whole again.
    let waiting = support::job(&client, whole).await.unwrap();
    assert_eq!(waiting.state, "queued");
    script(&cluster, 0, "gpu 0 mig off\n");
    support::job_when(&client, whole, "runs", |job| job.tasks[0].running == 1).await;
    cluster.stop().await;
}

/// Where the loader finds NVIDIA's library, a trial has the host's own GPUs.
#[tokio::test]
async fn a_trial_has_the_hosts_gpus_where_there_are_any_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let lines = |index: u32| {
        let name = "NVIDIA H100 80GB HBM3";
        format!(
            "gpu {index} uuid GPU-{index}\ngpu {index} name {name}\ngpu {index} memory_total 9\n"
        )
    };
    let script = folder.path().join("script");
    fs::write(&script, lines(0) + &lines(1)).unwrap();
    fs::write(folder.path().join("libnvidia-ml.so.1"), library()).unwrap();
    // A GPU belongs to one node, so that several agents pretend.
    for (agents, expected) in [
        ("1", "with this host's GPUs (2 × NVIDIA H100 80GB HBM3)"),
        ("2", "with simulated GPUs (8xH100-80GB each)"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.args(["dev", "--agents", agents, "--log-level", "off"]);
        command.env("LD_LIBRARY_PATH", folder.path()).env(SCRIPT_VARIABLE, &script);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut dev = command.spawn().unwrap();
        let mut said = BufReader::new(dev.stderr.take().unwrap()).lines();
        let line = tokio::time::timeout(support::LIMIT, said.next_line()).await.unwrap();
        let line = line.unwrap().unwrap();
        assert!(line.contains(expected), "{line}");
        support::processes::send(dev.id().unwrap(), rustix::process::Signal::INT);
        let ended = tokio::time::timeout(support::LIMIT, dev.wait()).await.unwrap();
        assert!(ended.unwrap().success());
    }
}

/// Three want a half each of the one GPU. Two run on it; the third has its turn when the one that
/// takes more of the memory than its own has been ended, and only that one.
#[tokio::test]
async fn f40_jobs_share_a_gpu_and_the_one_over_its_share_is_ended_alone() {
    const GB: u64 = 1_000_000_000;
    let folder = tempfile::tempdir().unwrap();
    let mut plan = support::plan(folder.path(), 1, 1);
    plan.gpus = Gpus::Simulated("1xH100-80GB".to_owned());
    let cluster = LocalCluster::start(plan).await.unwrap();
    let client = cluster.client();
    let trace = |name: &str| folder.path().join(name);
    let submit = async |name: &str| {
        // It ends as if all was well when it is asked to.
        let script = format!(
            "trap 'exit 0' TERM; echo $$ >> {}; while :; do sleep 0.05; done",
            trace(name).display()
        );
        let mut spec = support::batch(name, 1, support::shell(&script));
        let share = berth_model::ShareMilli(500);
        spec.tasks[0].gpu = Some(GpuRequest { share, ..GpuRequest::whole(1) });
        support::submit(&client, &spec).await
    };
    let runs = async |job: u64| {
        support::job_when(&client, job, "runs", |job| job.tasks[0].running == 1).await;
        support::allocations(&client, job).await.remove(0)
    };
    let pid = async |name: &str| {
        let path = trace(name);
        support::until("its pid", || async { fs::read_to_string(&path).ok()?.trim().parse().ok() })
            .await
    };
    let (hog, neighbour) = (submit("hog").await, submit("neighbour").await);
    for allocation in [runs(hog).await, runs(neighbour).await] {
        let [device] = allocation.devices.as_slice() else { panic!("{allocation:?}") };
        assert_eq!((device.share_milli, device.memory_bytes), (500, 40 * GB));
    }
    let third = submit("third").await;
    support::until("why it waits to be known", || async {
        let job = support::reference(&third.to_string());
        let why = client.explain(v1::ExplainRequest { job, consistency: 0 }).await.ok()?;
        (!why.reasons.is_empty()).then_some(())
    })
    .await;
    let nodes = client.list_nodes(v1::ListNodesRequest { consistency: 0 }).await.unwrap().nodes;
    assert_eq!(nodes[0].devices[0].allocated_milli, 1000);
    assert_eq!(support::job(&client, third).await.unwrap().state, "queued");

    let (first, second): (u32, u32) = (pid("hog").await, pid("neighbour").await);
    let theirs = format!("gpu 0 process {second} {}\n", 40 * GB);
    script(&cluster, 0, &format!("gpu 0 process {first} {}\n{theirs}", 39 * GB));
    support::until("both to be watched", || async {
        let isolation = &support::allocations(&client, hog).await[0].isolation;
        (isolation == "time-sliced, memory is watched").then_some(())
    })
    .await;
    script(&cluster, 0, &format!("gpu 0 process {first} {}\n{theirs}", 47 * GB));
    let ended = support::job_when(&client, hog, "ends", |job| job.finished_at_ms.is_some()).await;
    let reason =
        "used 43.7GiB of GPU memory on GPU-sim-node-1-0, its share is 37.2GiB (exit code 0)";
    assert_eq!(ended.state, "failed");
    let failure = &ended.tasks[0].failures[0];
    assert_eq!((failure.reason.as_str(), failure.exit_code), (reason, Some(0)), "{failure:?}");

    script(&cluster, 0, &format!("gpu 0 memory_used {}\n{theirs}", 40 * GB));
    assert_eq!(runs(third).await.devices[0].uuid, "GPU-sim-node-1-0");
    assert_eq!(runs(neighbour).await.attempt, 1);
    let traces = fs::read_to_string(trace("neighbour")).unwrap();
    assert_eq!(traces, format!("{second}\n"), "it was not disturbed");
    cluster.stop().await;
}
