//! Workers that share a GPU, through the real NVML binding and a library that answers from a
//! script: each keeps its part, what one leaves is given on when it is free, and whoever uses
//! more memory than its own is ended alone.

use berth_model::{DeviceClaim, MemoryBytes, ShareMilli};
use berth_proto::v1::observation::State;
use berth_proto::v1::{Device, EndCause};
use berth_shim::ProcessIdentity;

use crate::gpu_faults::looks;
use crate::gpus::{cluster, script, whole};
use crate::harness::agent::{Agent, until_gone};
use crate::harness::jobs::Job;
use crate::harness::scheduler::Scheduler;
use crate::harness::skip;

/// Ends well when it is asked to, as if nothing was wrong.
const POLITE: &str = "trap 'exit 0' TERM; echo $BERTH_GPU_VRAM_BYTES $CUDA_VISIBLE_DEVICES; \
                      while :; do sleep 0.05; done";
/// As before, once it may.
const SLOW: &str = "trap 'echo asked; until [ -e go ]; do sleep 0.01; done; exit 0' TERM; \
                    while :; do sleep 0.05; done";
const GB: u64 = 1_000_000_000;

pub fn part(device: &Device, milli: u32) -> DeviceClaim {
    let memory = MemoryBytes(device.memory_bytes * u64::from(milli) / 1000);
    DeviceClaim { uuid: device.uuid.clone(), share: ShareMilli(milli), memory }
}

/// Wants a worker with this claim.
fn want(scheduler: &mut Scheduler, number: u64, script: &str, claim: DeviceClaim) -> Job {
    let job = Job::shell(number, script);
    scheduler.want(&job, vec![job.row_with(0, vec![claim], Vec::new())]);
    job
}

/// The process that a worker is: those around it, which confine it, are not.
fn main_process(agent: &Agent, job: &Job) -> ProcessIdentity {
    let is_shell = |process: &ProcessIdentity| {
        let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        line.starts_with(b"sh\0")
    };
    agent.processes(job.id(0)).into_iter().find(is_shell).unwrap()
}

/// A line that says what a worker uses of the GPU.
fn uses(agent: &Agent, job: &Job, bytes: u64) -> String {
    format!("gpu 0 process {} {bytes}\n", main_process(agent, job).pid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_a_worker_over_its_share_of_a_gpu_is_ended_and_its_neighbour_is_not() {
    one_over_its_share_is_ended(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f40_a_confined_worker_over_its_share_of_a_gpu_is_ended_as_well() {
    if !rustix::process::geteuid().is_root() {
        return skip("root", "workers are confined by root alone");
    }
    one_over_its_share_is_ended(&["--confine", "always"]).await;
}

async fn one_over_its_share_is_ended(more: &[&str]) {
    let (mut scheduler, agent, devices) = cluster("1xH100-80GB", more).await;
    let hog = want(&mut scheduler, 1, POLITE, part(&devices[0], 250));
    let neighbour = want(&mut scheduler, 2, POLITE, part(&devices[0], 500));
    scheduler.until_ready(hog.id(0)).await;
    scheduler.until_ready(neighbour.id(0)).await;
    let told = format!("20000000000 {}\n", devices[0].uuid);
    scheduler.until_true("its output", |_| agent.stdout(hog.id(0)) == told).await;
    let begun = |_: &Scheduler| !agent.stdout(neighbour.id(0)).is_empty();
    scheduler.until_true("its neighbour's", begun).await;
    let before = main_process(&agent, &neighbour);

    // A context of the driver's own is nobody's fault, nor is a stranger's memory.
    let at_most = uses(&agent, &hog, 20 * GB + (512 << 20)) + &uses(&agent, &neighbour, 40 * GB);
    let stranger = format!("gpu 0 process {} {}\n", std::process::id(), 9 * GB);
    looks(&mut scheduler, &agent, &(at_most + &stranger), 4).await;
    assert!(!agent.processes(hog.id(0)).is_empty(), "it is within what it was given");

    script(&agent, &(uses(&agent, &hog, 26 * GB) + &uses(&agent, &neighbour, 40 * GB)));
    let ended = scheduler.until_ended(hog.id(0)).await;
    let uuid = &devices[0].uuid;
    assert_eq!(ended.reason, format!("used 24.2GiB of GPU memory on {uuid}, its share is 18.6GiB"));
    assert_eq!((ended.cause(), ended.exit_code), (EndCause::OutOfMemory, Some(0)), "{ended:?}");
    // Nobody else is ended for it, however often one looks.
    let rest = uses(&agent, &neighbour, 40 * GB);
    looks(&mut scheduler, &agent, &rest, 3).await;
    assert_eq!(main_process(&agent, &neighbour), before, "the same process goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f58_a_part_is_given_on_when_what_is_used_is_the_others() {
    let (mut scheduler, agent, devices) = cluster("1xH100-80GB", &[]).await;
    let one = want(&mut scheduler, 1, POLITE, part(&devices[0], 500));
    let other = want(&mut scheduler, 2, POLITE, part(&devices[0], 500));
    scheduler.until_ready(one.id(0)).await;
    scheduler.until_ready(other.id(0)).await;
    let before = main_process(&agent, &other);
    let theirs = uses(&agent, &other, 20 * GB);
    script(&agent, &format!("gpu 0 memory_used {}\n{theirs}", 60 * GB));
    // The cluster gives the one up; its place is another's, and a whole GPU is wanted too.
    scheduler.stop(one.id(0));
    let next = want(&mut scheduler, 3, POLITE, part(&devices[0], 500));
    let all = want(&mut scheduler, 4, POLITE, whole(&devices[0]));
    scheduler.until_ended(one.id(0)).await;
    let held = format!("gpu 0 memory_used {}\n{theirs}", 60 * GB);
    looks(&mut scheduler, &agent, &held, 4).await;
    assert!(agent.processes(next.id(0)).is_empty(), "40 GB are in use and nobody's");
    script(&agent, &format!("gpu 0 memory_used {}\n{theirs}", 20 * GB));
    scheduler.until_ready(next.id(0)).await;
    assert_eq!(main_process(&agent, &other), before, "the same process goes on");
    assert!(agent.processes(all.id(0)).is_empty(), "a whole GPU is for one alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sharers_outlive_their_agent_and_so_does_why_one_was_ended() {
    let (mut scheduler, mut agent, devices) = cluster("1xH100-80GB", &[]).await;
    let hog = want(&mut scheduler, 1, SLOW, part(&devices[0], 500));
    let neighbour = want(&mut scheduler, 2, POLITE, part(&devices[0], 500));
    scheduler.until_ready(hog.id(0)).await;
    scheduler.until_ready(neighbour.id(0)).await;
    let first = |job: &Job| main_process(&agent, job);
    let before = (first(&hog), first(&neighbour));
    let lines = uses(&agent, &hog, 10 * GB) + &uses(&agent, &neighbour, 10 * GB);
    script(&agent, &lines);
    agent.kill().await;
    agent.start_again();
    scheduler.session().await;
    scheduler.send_full();
    let next = want(&mut scheduler, 3, POLITE, part(&devices[0], 500));
    looks(&mut scheduler, &agent, &lines, 3).await;
    let first = |job: &Job| main_process(&agent, job);
    assert_eq!((first(&hog), first(&neighbour)), before, "the same processes go on");
    assert!(agent.processes(next.id(0)).is_empty(), "there is no third half");

    script(&agent, &(uses(&agent, &hog, 44 * GB) + &uses(&agent, &neighbour, 10 * GB)));
    let stopping = |state: &State| matches!(state, State::Stopping(_)).then_some(());
    scheduler.until("is stopping", hog.id(0), stopping).await;
    scheduler.until_true("it to be asked", |_| agent.stdout(hog.id(0)) == "asked\n").await;
    agent.kill().await;
    std::fs::write(agent.task_dir(hog.id(0)).join("go"), "").unwrap();
    until_gone(before.0.pid).await;
    let rest = uses(&agent, &neighbour, 10 * GB);
    script(&agent, &format!("gpu 0 memory_used {}\n{rest}", 10 * GB));
    agent.start_again();
    scheduler.session().await;
    scheduler.send_full();
    let ended = scheduler.until_ended(hog.id(0)).await;
    assert!(ended.reason.starts_with("used 40.9GiB of GPU memory on GPU-sim-"), "{ended:?}");
    assert_eq!(ended.cause(), EndCause::OutOfMemory);
    scheduler.until_ready(next.id(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_ended_for_what_nobody_can_say_and_that_is_told() {
    let (mut scheduler, agent, devices) = cluster("1xH100-80GB", &[]).await;
    let one = want(&mut scheduler, 1, POLITE, part(&devices[0], 500));
    scheduler.until_ready(one.id(0)).await;
    let own = uses(&agent, &one, 10 * GB);
    // Of a namespace of processes that is another's; with it nobody knows how much is the one's.
    let unseen = format!("gpu 0 process {} {}\n", u32::MAX, 70 * GB);
    for (lines, why) in [
        (own.clone() + &unseen, "that the agent cannot see"),
        (format!("gpu 0 memory_used {}\n", 70 * GB), "by nobody whom the driver names"),
        ("fail nvmlDeviceGetComputeRunningProcesses_v3\n".to_owned(), "which processes use it"),
    ] {
        script(&agent, &lines);
        let told = |scheduler: &Scheduler| {
            let reason = scheduler.samples[0].unwatched.clone().unwrap_or_default();
            reason.contains(why)
        };
        scheduler.until_true("why it is not watched", told).await;
    }
    script(&agent, &own);
    let watched = |scheduler: &Scheduler| scheduler.samples[0].unwatched.is_none();
    scheduler.until_true("it to be watched", watched).await;
    assert!(!agent.processes(one.id(0)).is_empty(), "nobody was ended for it");
}
