//! The host's GPUs, through the real NVML binding and a library that answers from a
//! script: what changes there is reported, and nothing that goes wrong with a driver
//! touches what runs.

use std::time::{Duration, Instant};

use berth_model::{DeviceClaim, JobKind, MemoryBytes, ShareMilli};
use berth_proto::v1::{Device, DeviceHealth, DeviceSample, PcieWay};

use crate::harness::agent::{Agent, until_gone};
use crate::harness::cluster_with_hello;
use crate::harness::jobs::Job;
use crate::harness::scheduler::Scheduler;

/// Looks are a second apart, and what changed is told at the next one: two seconds on a
/// host of its own. The tests of this crate share two cores.
pub const REPORTED_MAX: Duration = Duration::from_secs(4);
/// A part that is gone was missing in three looks, and the next one is told.
const CUT_MAX: Duration = Duration::from_secs(5 + 2);
/// The catalogue's bound of what follows a driver that hangs.
const SILENT_MAX: Duration = Duration::from_secs(15);

/// An agent with so many simulated GPUs.
pub async fn cluster(gpus: &str, more: &[&str]) -> (Scheduler, Agent, Vec<Device>) {
    let arguments = [&["--simulate", gpus][..], more].concat();
    let (scheduler, agent, hello) = cluster_with_hello(&arguments).await;
    (scheduler, agent, hello.spec.unwrap().devices)
}

pub fn whole(device: &Device) -> DeviceClaim {
    let memory = MemoryBytes(device.memory_bytes);
    DeviceClaim { uuid: device.uuid.clone(), share: ShareMilli::WHOLE, memory }
}

/// What goes on behind the library from now on.
pub fn script(agent: &Agent, lines: &str) {
    let faults = agent.data().join("simulated/faults");
    std::fs::write(faults.with_extension("new"), lines).unwrap();
    std::fs::rename(faults.with_extension("new"), faults).unwrap();
}

/// The devices, once the health of each is this.
pub async fn until_healths(scheduler: &mut Scheduler, expected: &[DeviceHealth]) -> Vec<Device> {
    let expected: Vec<i32> = expected.iter().map(|health| i32::from(*health)).collect();
    loop {
        let hello = scheduler.session().await;
        scheduler.send_full();
        let devices = hello.spec.unwrap().devices;
        if devices.iter().map(|device| device.health).eq(expected.iter().copied()) {
            return devices;
        }
    }
}

pub async fn until_sample(scheduler: &mut Scheduler, index: usize, is: fn(&DeviceSample) -> bool) {
    let seen = |scheduler: &Scheduler| scheduler.samples.get(index).is_some_and(is);
    scheduler.until_true("the sample to show it", seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_and_memory_follow_the_driver_within_two_reports() {
    let (mut scheduler, agent, devices) = cluster("2xH100-80GB", &[]).await;
    let told: Vec<_> = devices.iter().map(|one| (one.index, one.model.as_str())).collect();
    assert_eq!(told, [(0, "H100"), (1, "H100")]);
    assert_eq!(devices[0].memory_bytes, 80_000_000_000);
    until_sample(&mut scheduler, 1, |sample| sample.memory_used_bytes == Some(0)).await;
    assert_eq!(scheduler.samples[1].utilization_percent, None, "it does not tell");

    script(&agent, "gpu 1 utilization 87\ngpu 1 memory_used 123\ngpu 1 temperature 61\n");
    let changed = Instant::now();
    until_sample(&mut scheduler, 1, |sample| sample.utilization_percent == Some(87)).await;
    assert!(changed.elapsed() < REPORTED_MAX, "{:?}", changed.elapsed());
    let sample = &scheduler.samples[1];
    assert_eq!((sample.memory_used_bytes, sample.temperature_celsius), (Some(123), Some(61)));
    assert_eq!(scheduler.samples[0].utilization_percent, None, "the other one is another");

    // What is claimed of a simulated GPU is used on it.
    script(&agent, "");
    let job = Job::of(1, JobKind::Batch, &["sleep", "600"]);
    scheduler.want(&job, vec![job.row_with(0, vec![whole(&devices[0])], Vec::new())]);
    until_sample(&mut scheduler, 0, |sample| sample.memory_used_bytes == Some(80_000_000_000))
        .await;
}

/// What each device says of those before it: what the bus leads through, and NVLinks.
fn ways(devices: &[Device]) -> Vec<Vec<(PcieWay, u32)>> {
    let ways = devices.iter().map(|device| &device.ways);
    ways.map(|ways| ways.iter().map(|way| (way.pcie(), way.nvlinks)).collect()).collect()
}

/// Until the devices say this of each other.
async fn until_ways(scheduler: &mut Scheduler, expected: &[Vec<(PcieWay, u32)>]) -> Vec<Device> {
    loop {
        let hello = scheduler.session().await;
        scheduler.send_full();
        let devices = hello.spec.unwrap().devices;
        if ways(&devices) == expected {
            return devices;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_gpus_reach_each_other_is_told_with_the_first_inventory_and_with_another_one() {
    use PcieWay::{NumaNode, Switch, System};
    let (mut scheduler, mut agent, devices) = cluster("5xH100-80GB", &[]).await;
    let linked = |pcie: &[PcieWay]| pcie.iter().map(|pcie| (*pcie, 18)).collect();
    let all_to_all = [
        linked(&[]),
        linked(&[Switch]),
        linked(&[NumaNode, NumaNode]),
        linked(&[NumaNode, NumaNode, Switch]),
        linked(&[System, System, System, System]),
    ];
    assert_eq!(ways(&devices), all_to_all);
    let nodes: Vec<_> = devices.iter().map(|device| device.numa_node).collect();
    assert_eq!(nodes, [Some(0), Some(0), Some(0), Some(0), Some(1)]);

    // Two more come, which have NVLinks to each other only.
    let fresh_one = |index: u32| {
        let facts = [
            format!("uuid GPU-new-{index}"),
            "name H100".to_owned(),
            "memory_total 85899345920".to_owned(),
            format!("bus 00000000:A{index}:00.0"),
        ];
        facts.map(|fact| format!("gpu {index} {fact}\n")).concat()
    };
    let fresh = fresh_one(5) + &fresh_one(6) + "gpu 5 ancestor 0 host-bridge\ngpu 6 nvlinks 5 4\n";
    script(&agent, &fresh);
    let nothing = (PcieWay::Unknown, 0);
    let sixth = vec![(PcieWay::HostBridge, 0), nothing, nothing, nothing, nothing];
    let last = vec![nothing, nothing, nothing, nothing, nothing, (PcieWay::Unknown, 4)];
    let with_them = [&all_to_all[..], &[sixth, last]].concat();
    let devices = until_ways(&mut scheduler, &with_them).await;
    assert_eq!((devices[6].uuid.as_str(), devices[6].numa_node), ("GPU-new-6", None));

    // A call that fails takes nobody's links away.
    let failing = fresh_one(7) + "fail nvmlDeviceGetNvLinkState\n";
    script(&agent, &(fresh.clone() + &failing));
    let with_it = [&with_them[..], &[vec![nothing; 7]]].concat();
    until_ways(&mut scheduler, &with_it).await;

    // An agent that begins without a driver knows it, except of what was only pretended.
    agent.kill().await;
    script(&agent, &format!("{fresh}init no-driver\n"));
    agent.start_again();
    until_ways(&mut scheduler, &all_to_all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_that_falls_off_the_bus_is_lost_and_the_others_are_not() {
    use DeviceHealth::{Healthy, Lost};
    let (mut scheduler, agent, devices) = cluster("3xH100-80GB", &[]).await;
    script(&agent, "gpu 1 lost yes\n");
    let lost = Instant::now();
    until_healths(&mut scheduler, &[Healthy, Lost, Healthy]).await;
    assert!(lost.elapsed() < REPORTED_MAX, "{:?}", lost.elapsed());
    until_sample(&mut scheduler, 1, |sample| sample.memory_used_bytes.is_none()).await;
    assert_eq!(scheduler.samples[1].uuid, devices[1].uuid, "it is still known which one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f55_a_driver_that_hangs_takes_nothing_new_and_keeps_what_runs() {
    use DeviceHealth::{Cordoned, Healthy};
    let quick = ["--gpus-silent-after-ms", "2500"];
    let (mut scheduler, agent, _) = cluster("1xH100-80GB", &quick).await;
    let job = Job::of(1, JobKind::Batch, &["sleep", "600"]);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(job.id(0)).await;
    let before = agent.processes(job.id(0));
    script(&agent, "hang nvmlDeviceGetMemoryInfo_v2\n");
    let hangs = Instant::now();
    until_healths(&mut scheduler, &[Cordoned]).await;
    assert!(hangs.elapsed() < SILENT_MAX, "{:?}", hangs.elapsed());
    // The agent is as quick as ever.
    let after = Job::shell(2, "exit 0");
    scheduler.want(&after, vec![after.row(0)]);
    scheduler.until_ended(after.id(0)).await;
    assert_eq!(agent.probers().len(), 1, "none is started beside one that hangs");
    script(&agent, "");
    until_healths(&mut scheduler, &[Healthy]).await;
    assert_eq!(agent.processes(job.id(0)), before, "the same process goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f56_a_driver_that_is_gone_leaves_the_node_its_gpus_until_it_is_back() {
    use DeviceHealth::{Cordoned, Healthy};
    let quick = ["--gpus-retry-ms", "100"];
    let (mut scheduler, mut agent, _) = cluster("1xH100-80GB", &quick).await;
    let job = Job::of(1, JobKind::Batch, &["sleep", "600"]);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(job.id(0)).await;
    let before = agent.processes(job.id(0));
    script(&agent, "init mismatch\n");
    until_healths(&mut scheduler, &[Cordoned]).await;
    // An agent that starts without a driver knows what the one before it saw.
    agent.kill().await;
    script(&agent, "init no-driver\n");
    agent.start_again();
    until_healths(&mut scheduler, &[Cordoned]).await;
    script(&agent, "");
    until_healths(&mut scheduler, &[Healthy]).await;
    assert_eq!(agent.processes(job.id(0)), before, "the same process goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_prober_ends_with_its_agent_and_is_replaced_when_it_ends() {
    let (mut scheduler, mut agent, _) = cluster("1xH100-80GB", &[]).await;
    until_sample(&mut scheduler, 0, |sample| sample.memory_used_bytes.is_some()).await;
    let first = agent.probers();
    assert_eq!(first.len(), 1);
    let pid = rustix::process::Pid::from_raw(i32::try_from(first[0]).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until_healths(&mut scheduler, &[DeviceHealth::Cordoned]).await;
    until_healths(&mut scheduler, &[DeviceHealth::Healthy]).await;
    let second = agent.probers();
    assert!(second.len() == 1 && second != first, "{second:?}");
    agent.kill().await;
    until_gone(second[0]).await;
}

/// The file of the GPUs that were seen is gone, and so is the driver: what a worker holds
/// is on the node all the same, so that nobody moves the work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_only_its_worker_knows_is_still_the_nodes() {
    use DeviceHealth::{Cordoned, Healthy};
    let quick = ["--gpus-retry-ms", "100"];
    let (mut scheduler, mut agent, devices) = cluster("1xH100-80GB", &quick).await;
    let job = Job::of(1, JobKind::Batch, &["sleep", "600"]);
    scheduler.want(&job, vec![job.row_with(0, vec![whole(&devices[0])], Vec::new())]);
    scheduler.until_ready(job.id(0)).await;
    let before = agent.processes(job.id(0));
    agent.kill().await;
    std::fs::remove_file(agent.data().join("gpus")).unwrap();
    script(&agent, "init no-driver\n");
    agent.start_again();
    until_healths(&mut scheduler, &[Cordoned]).await;
    script(&agent, "");
    until_healths(&mut scheduler, &[Healthy]).await;
    assert_eq!(agent.processes(job.id(0)), before, "the same process goes on");
}

/// Lines for a GPU that is cut up into these parts: number, uuid, profile.
pub fn cut(gpu: u32, slices: &[(u32, &str, &str)]) -> String {
    let line = |(number, uuid, profile): &(u32, &str, &str)| {
        format!("gpu {gpu} slice {number} {uuid} {profile} 10737418240\n")
    };
    format!("gpu {gpu} mig on\n") + &slices.iter().map(line).collect::<String>()
}

/// Until the node has these devices, all of them healthy.
pub async fn until_uuids(scheduler: &mut Scheduler, expected: &[&str]) -> Vec<Device> {
    loop {
        let hello = scheduler.session().await;
        scheduler.send_full();
        let devices = hello.spec.unwrap().devices;
        let healthy = |device: &Device| device.health() == DeviceHealth::Healthy;
        let uuids = devices.iter().map(|device| device.uuid.as_str());
        if uuids.eq(expected.iter().copied()) && devices.iter().all(healthy) {
            return devices;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f59_a_gpu_that_is_cut_up_is_offered_in_parts_which_come_and_go() {
    use DeviceHealth::{Fenced, Healthy};
    let (mut scheduler, mut agent, devices) =
        cluster("2xH100-80GB", &["--gpus-retry-ms", "100"]).await;
    let whole_uuid = devices[0].uuid.as_str();
    let first = cut(1, &[(0, "MIG-a", "1g.10gb"), (2, "MIG-b", "1g.10gb")]);
    script(&agent, &first);
    let told = until_uuids(&mut scheduler, &[whole_uuid, "MIG-a", "MIG-b"]).await;
    let slice = told[2].slice.clone().unwrap();
    assert_eq!((slice.parent, slice.profile.as_str()), (devices[1].uuid.clone(), "1g.10gb"));
    let shown = (told[2].index, told[2].memory_bytes, told[2].model.as_str());
    assert_eq!(shown, (202, 10 << 30, "H100 MIG 1g.10gb"));
    until_sample(&mut scheduler, 1, |sample| sample.memory_used_bytes == Some(0)).await;

    let job = Job::shell(1, "echo $CUDA_VISIBLE_DEVICES; exec sleep 600");
    scheduler.want(&job, vec![job.row_with(0, vec![whole(&told[1])], Vec::new())]);
    scheduler.until_ready(job.id(0)).await;
    scheduler.until_true("its output", |_| agent.stdout(job.id(0)) == "MIG-a\n").await;

    // It is cut up anew; what runs is the cluster's to end.
    let again = cut(1, &[(0, "MIG-c", "3g.40gb"), (2, "MIG-b", "1g.10gb")]);
    script(&agent, &again);
    let changed = Instant::now();
    until_uuids(&mut scheduler, &[whole_uuid, "MIG-c", "MIG-b"]).await;
    assert!(changed.elapsed() < CUT_MAX, "{:?}", changed.elapsed());
    assert!(!agent.processes(job.id(0)).is_empty());

    // An agent that begins without a driver knows them, and leaves what runs alone.
    agent.kill().await;
    script(&agent, &(again.clone() + "init no-driver\n"));
    agent.start_again();
    let hello = scheduler.session().await;
    scheduler.send_full();
    let known = hello.spec.unwrap().devices;
    for uuid in [whole_uuid, "MIG-a", "MIG-b", "MIG-c"] {
        let device = known.iter().find(|device| device.uuid == uuid).unwrap();
        assert_eq!(device.health(), DeviceHealth::Cordoned, "{uuid}");
    }

    // What befalls the whole befalls its parts.
    script(&agent, &again);
    until_uuids(&mut scheduler, &[whole_uuid, "MIG-c", "MIG-b"]).await;
    script(&agent, &(again + "gpu 1 xid 48 1\n"));
    let told = until_healths(&mut scheduler, &[Healthy, Fenced, Fenced]).await;
    assert!(told[1].health_reason.starts_with("XID 48: "), "{}", told[1].health_reason);
}
