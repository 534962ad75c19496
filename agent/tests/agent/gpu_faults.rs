//! GPUs that show faults (the catalogue's F50 to F54, and F61 as far as it is the agent's):
//! the real NVML binding, a library that answers from a script, and the whole way out of use
//! and back.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use berth_model::JobKind;
use berth_proto::v1::{Device, DeviceHealth};

use crate::gpus::{REPORTED_MAX, cluster, script, until_healths, until_sample, whole};
use crate::harness::agent::Agent;
use crate::harness::jobs::Job;
use crate::harness::scheduler::Scheduler;
use DeviceHealth::{Cordoned, Fenced, Healthy, Lost, Suspect};

/// Errors that are only counted: a report of them may be three seconds late.
const COUNTED_MAX: Duration = REPORTED_MAX.saturating_add(Duration::from_secs(3));
/// Quiet for long enough to be seen.
const QUICK: [&str; 2] = ["--gpus-soak-ms", "1500"];

/// A program that tests GPUs: it notes each that it was asked about, and finds wrong what a
/// file beside it names.
struct Tester {
    folder: tempfile::TempDir,
}

impl Tester {
    fn new() -> Tester {
        let folder = tempfile::tempdir().unwrap();
        let tester = Tester { folder };
        let content = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho \"$1\" >>asked\n\
                       if grep -qs \"$1\" wrong; then echo wrong bits; exit 1; fi\n";
        std::fs::write(tester.program(), content).unwrap();
        let executable = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(tester.program(), executable).unwrap();
        tester
    }

    fn program(&self) -> String {
        self.folder.path().join("tester").to_string_lossy().into_owned()
    }

    fn asked(&self) -> Vec<String> {
        let asked = std::fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }

    fn finds_nothing_wrong(&self) {
        std::fs::remove_file(self.folder.path().join("wrong")).unwrap();
    }

    fn finds_wrong(&self, device: &Device) {
        std::fs::write(self.folder.path().join("wrong"), &device.uuid).unwrap();
    }
}

/// Runs a worker on a GPU.
async fn occupy(scheduler: &mut Scheduler, device: &Device) -> Job {
    let job = Job::of(1, JobKind::Batch, &["sleep", "600"]);
    scheduler.want(&job, vec![job.row_with(0, vec![whole(device)], Vec::new())]);
    scheduler.until_ready(job.id(0)).await;
    job
}

/// Until so many looks were made, each of which shows something else of the last GPU; what
/// `lines` say stays.
pub async fn looks(scheduler: &mut Scheduler, agent: &Agent, lines: &str, count: u32) {
    let last = scheduler.samples.len() - 1;
    for percent in 1..=count {
        script(agent, &format!("{lines}gpu {last} utilization {percent}\n"));
        let shown = |scheduler: &Scheduler| {
            scheduler.samples.get(last).and_then(|sample| sample.utilization_percent)
                == Some(percent)
        };
        scheduler.until_true("another look", shown).await;
    }
}

/// What is behind the library now.
fn faults(agent: &Agent) -> String {
    std::fs::read_to_string(agent.data().join("simulated/faults")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f50_a_gpu_off_the_bus_is_fenced_alone_and_comes_back_quiet_and_tested() {
    let tester = Tester::new();
    let program = tester.program();
    let more = [&QUICK[..], &["--gpus-test-program", &program]].concat();
    let (mut scheduler, mut agent, devices) = cluster("3xH100-80GB", &more).await;
    script(&agent, "gpu 1 xid 79 1\n");
    let fell = Instant::now();
    let told = until_healths(&mut scheduler, &[Healthy, Fenced, Healthy]).await;
    assert!(fell.elapsed() < REPORTED_MAX, "{:?}", fell.elapsed());
    assert_eq!(told[1].health_reason, "XID 79: the host must be started again");
    let kept = || std::fs::read(agent.data().join("gpu-faults")).unwrap_or_default();
    let evidence = || kept().windows(6).any(|window| window == b"XID 79");
    scheduler.until_true("the fence to be on disk", |_| evidence()).await;
    let fenced = kept();
    script(&agent, "gpu 1 xid 79 1\ngpu 1 lost yes\n");
    until_healths(&mut scheduler, &[Healthy, Lost, Healthy]).await;
    scheduler.until_true("the loss to be on disk", |_| kept() != fenced).await;
    // Somebody brings it back, and an agent that begins anew knows that it was away.
    agent.kill().await;
    script(&agent, "");
    agent.start_again();
    let told = until_healths(&mut scheduler, &[Healthy, Cordoned, Healthy]).await;
    assert_eq!(told[1].health_reason, "mended; it has to be quiet for a while, and is tested");
    let told = until_healths(&mut scheduler, &[Healthy, Healthy, Healthy]).await;
    assert_eq!(told[1].health_reason, "");
    assert_eq!(tester.asked(), [devices[1].uuid.as_str()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f51_a_memory_error_moves_the_work_and_then_the_gpu_is_reset() {
    let tester = Tester::new();
    let program = tester.program();
    let more = [&QUICK[..], &["--gpus-test-program", &program]].concat();
    let (mut scheduler, agent, devices) = cluster("2xH100-80GB", &more).await;
    let job = occupy(&mut scheduler, &devices[1]).await;
    // Contained: it ends the application that it met, by itself. Rows to be exchanged wait.
    let before = "gpu 1 xid 94 1\ngpu 1 xid 63 2\ngpu 1 remap pending\n";
    looks(&mut scheduler, &agent, before, 3).await;
    let lines = "gpu 1 xid 48 3\ngpu 1 recovery reset\ngpu 1 remap pending\n";
    script(&agent, lines);
    let told = until_healths(&mut scheduler, &[Healthy, Fenced]).await;
    assert!(told[1].health_reason.ends_with("it is to be reset"), "{}", told[1].health_reason);
    looks(&mut scheduler, &agent, lines, 4).await;
    assert!(faults(&agent).contains("recovery reset"), "not under the feet of its worker");
    script(&agent, lines);
    // The cluster takes the work away; then nobody holds it any more.
    tester.finds_wrong(&devices[1]);
    scheduler.stop(job.id(0));
    scheduler.until_ended(job.id(0)).await;
    scheduler.change(Vec::new(), vec![job.id(0)]);
    until_healths(&mut scheduler, &[Healthy, Cordoned]).await;
    assert_eq!(faults(&agent), "gpu 1 xid 48 3\n", "the reset mended the rest");
    let told = until_healths(&mut scheduler, &[Healthy, Fenced]).await;
    let reason = &told[1].health_reason;
    assert_eq!(reason, "its test failed: tester: wrong bits: it is to be reset");
    tester.finds_nothing_wrong();
    until_healths(&mut scheduler, &[Healthy, Healthy]).await;
    script(&agent, "gpu 1 remap failed\n");
    let told = until_healths(&mut scheduler, &[Healthy, Fenced]).await;
    let reason = &told[1].health_reason;
    assert_eq!(reason, "no spare rows of memory are left: it is to be exchanged");
}

/// The driver counts what it does not report; an agent that was away meanwhile notices it too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f51_memory_errors_without_a_report_are_noticed_by_their_count() {
    let (mut scheduler, mut agent, devices) = cluster("3xH100-80GB", &[]).await;
    // Whoever is fenced stays so.
    occupy(&mut scheduler, &devices[0]).await;
    let count = |counts: [u64; 3]| -> String {
        let line = |(gpu, count): (u32, u64)| format!("gpu {gpu} ecc_uncorrected {count} 9\n");
        (0..).zip(counts).map(line).collect()
    };
    let shows = |first: u64| {
        move |scheduler: &Scheduler| {
            let errors = scheduler.samples.first().and_then(|sample| sample.memory_errors);
            errors.and_then(|errors| errors.uncorrected_volatile) == Some(first)
        }
    };
    script(&agent, &count([2, 0, 7]));
    scheduler.until_true("the first count", shows(2)).await;
    let errors = scheduler.samples[0].memory_errors.unwrap();
    assert_eq!((errors.uncorrected_aggregate, errors.corrected_volatile), (Some(9), None));
    // One rises, the other one's report has come.
    script(&agent, &(count([3, 4, 7]) + "gpu 1 xid 94 1\n"));
    let rose = Instant::now();
    let told = until_healths(&mut scheduler, &[Fenced, Healthy, Healthy]).await;
    assert!(rose.elapsed() < COUNTED_MAX, "{:?}", rose.elapsed());
    let reason = "uncorrected errors of its memory without an XID: it is to be reset";
    assert_eq!(told[0].health_reason, reason);
    // Nobody looks for a while.
    agent.kill().await;
    script(&agent, &(count([3, 4, 8]) + "gpu 1 xid 94 1\n"));
    agent.start_again();
    until_healths(&mut scheduler, &[Fenced, Healthy, Fenced]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f52_faults_of_applications_fence_nothing() {
    let (mut scheduler, agent, devices) = cluster("1xH100-80GB", &QUICK).await;
    let job = occupy(&mut scheduler, &devices[0]).await;
    let before = agent.processes(job.id(0));
    let many = |xid: u64, numbers: std::ops::Range<u64>| -> String {
        numbers.map(|number| format!("gpu 0 xid {xid} {number}\n")).collect()
    };
    let errors = [many(45, 1..101), many(13, 101..150), many(31, 150..160)].concat();
    // What comes after them is told first.
    script(&agent, &(errors + "gpu 0 xid 74 160\n"));
    let hello = scheduler.session().await;
    let told = &hello.spec.unwrap().devices[0];
    assert_eq!(told.health, i32::from(Suspect), "{}", told.health_reason);
    assert!(told.health_reason.starts_with("XID 74"), "{}", told.health_reason);
    assert_eq!(agent.processes(job.id(0)), before, "the same process goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f53_a_broken_link_takes_no_work_across_gpus_and_is_reset_when_nobody_is_there() {
    let (mut scheduler, agent, devices) = cluster("2xH100-80GB", &QUICK).await;
    let job = occupy(&mut scheduler, &devices[0]).await;
    script(&agent, "gpu 0 xid 145 1\n");
    let broke = Instant::now();
    let told = until_healths(&mut scheduler, &[Suspect, Healthy]).await;
    assert!(broke.elapsed() < REPORTED_MAX, "{:?}", broke.elapsed());
    assert_eq!(told[0].health_reason, "XID 145: its way to other GPUs is broken");
    scheduler.send_full();
    scheduler.stop(job.id(0));
    scheduler.until_ended(job.id(0)).await;
    scheduler.change(Vec::new(), vec![job.id(0)]);
    // That it is fenced may be told while the end is awaited.
    until_healths(&mut scheduler, &[Cordoned, Healthy]).await;
    until_healths(&mut scheduler, &[Healthy, Healthy]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f54_what_the_driver_says_that_a_gpu_needs_is_obeyed() {
    let (mut scheduler, agent, _) = cluster("4xH100-80GB", &QUICK).await;
    let lines = "gpu 0 xid 154 1\ngpu 0 recovery reboot\ngpu 1 recovery drain-peers\n\
                 gpu 2 recovery nothing\ngpu 3 xid 109 2\n";
    script(&agent, lines);
    let told = until_healths(&mut scheduler, &[Fenced, Suspect, Healthy, Suspect]).await;
    let reasons: Vec<&str> = told.iter().map(|device| device.health_reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "the driver asks for a reboot: the host must be started again",
            "the driver asks for no work across GPUs",
            "",
            "XID 109",
        ]
    );
    script(&agent, &format!("{lines}gpu 3 xid 119 3\ngpu 3 recovery reset\n"));
    until_healths(&mut scheduler, &[Fenced, Suspect, Healthy, Fenced]).await;
}

/// F61: what the cluster goes on using is not reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f61_a_gpu_whose_fence_is_held_back_is_left_alone() {
    let (mut scheduler, agent, devices) = cluster("1xH100-80GB", &QUICK).await;
    scheduler.hold_back(&[&devices[0].uuid]);
    script(&agent, "gpu 0 recovery reset\n");
    until_healths(&mut scheduler, &[Fenced]).await;
    // For longer than it takes when the cluster agrees.
    looks(&mut scheduler, &agent, "gpu 0 recovery reset\n", 4).await;
    assert!(faults(&agent).starts_with("gpu 0 recovery reset\n"), "{}", faults(&agent));
    // Asked again, the cluster agrees.
    scheduler.hold_back(&[]);
    scheduler.hang_up();
    until_healths(&mut scheduler, &[Cordoned]).await;
    until_healths(&mut scheduler, &[Healthy]).await;
}

/// F58: what a worker held is given to nobody before it was seen free, and one that does not
/// come free is said to be held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f58_a_gpu_is_given_on_when_its_memory_was_seen_free() {
    let (mut scheduler, agent, devices) = cluster("1xH100-80GB", &QUICK).await;
    let first = occupy(&mut scheduler, &devices[0]).await;
    // Something goes on holding a part of it.
    script(&agent, "gpu 0 memory_used 9000000000\ngpu 0 process 4711 9000000000\n");
    until_sample(&mut scheduler, 0, |sample| sample.memory_used_bytes == Some(9_000_000_000)).await;
    scheduler.stop(first.id(0));
    let next = Job::of(2, JobKind::Batch, &["sleep", "600"]);
    let row = next.row_with(0, vec![whole(&devices[0])], Vec::new());
    scheduler.want(&next, vec![row]);
    scheduler.until_ended(first.id(0)).await;
    let held = "gpu 0 memory_used 9000000000\ngpu 0 process 4711 9000000000\n";
    looks(&mut scheduler, &agent, held, 3).await;
    assert!(agent.processes(next.id(0)).is_empty(), "it waits");
    script(&agent, "");
    scheduler.until_ready(next.id(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f60_a_gpu_that_is_slow_from_heat_becomes_a_suspect() {
    let (mut scheduler, agent, devices) = cluster("3xH100-80GB", &QUICK).await;
    let job = occupy(&mut scheduler, &devices[0]).await;
    let before = agent.processes(job.id(0));
    script(&agent, "gpu 0 slowdown heat\ngpu 1 slowdown limit\ngpu 2 slowdown power\n");
    let told = until_healths(&mut scheduler, &[Suspect, Healthy, Suspect]).await;
    assert_eq!(told[0].health_reason, "slowed down by heat");
    assert_eq!(told[2].health_reason, "slowed down by its power supply");
    assert_eq!(agent.processes(job.id(0)), before, "nobody is ended for it");
}

/// F58: and one that does not come free is fenced and says who holds it, until it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f58_a_gpu_that_does_not_come_free_is_fenced_and_names_who_holds_it() {
    let quick = [&QUICK[..], &["--gpus-stuck-after-ms", "1000"]].concat();
    let (mut scheduler, agent, devices) = cluster("1xH100-80GB", &quick).await;
    let first = occupy(&mut scheduler, &devices[0]).await;
    let held = "gpu 0 memory_used 9000000000\ngpu 0 process 4711 9000000000\n";
    script(&agent, held);
    until_sample(&mut scheduler, 0, |sample| sample.memory_used_bytes == Some(9_000_000_000)).await;
    scheduler.stop(first.id(0));
    let told = until_healths(&mut scheduler, &[Fenced]).await;
    let reason = &told[0].health_reason;
    assert!(reason.starts_with("its memory is in use (8.3GiB)"), "{reason}");
    assert!(reason.ends_with("by 4711: it is to be reset"), "{reason}");
    looks(&mut scheduler, &agent, held, 4).await;
    assert!(faults(&agent).contains("process 4711"), "it is not reset under anybody");
    script(&agent, "");
    until_healths(&mut scheduler, &[Healthy]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f54_a_gpu_that_only_says_that_it_has_to_be_reset_is_reset() {
    let (mut scheduler, agent, devices) = cluster("3xL40-48GB", &QUICK).await;
    let job = occupy(&mut scheduler, &devices[1]).await;
    let lines = "gpu 1 needs_reset yes\n";
    script(&agent, lines);
    let told = until_healths(&mut scheduler, &[Healthy, Fenced, Healthy]).await;
    assert_eq!(told[1].health_reason, "the driver asks for a reset: it is to be reset");
    looks(&mut scheduler, &agent, lines, 4).await;
    assert!(faults(&agent).contains(lines), "not under the feet of its worker");
    scheduler.stop(job.id(0));
    scheduler.until_ended(job.id(0)).await;
    scheduler.change(Vec::new(), vec![job.id(0)]);
    until_healths(&mut scheduler, &[Healthy, Cordoned, Healthy]).await;
    assert!(!faults(&agent).contains(lines), "the reset mended it");
    until_healths(&mut scheduler, &[Healthy, Healthy, Healthy]).await;
}

/// A reset takes the NVLinks down that others use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_is_reset_when_nobody_is_on_those_that_it_is_linked_with() {
    let (mut scheduler, agent, devices) = cluster("3xH100-80GB", &QUICK).await;
    let job = occupy(&mut scheduler, &devices[0]).await;
    let lines = "gpu 1 recovery reset\n";
    script(&agent, lines);
    until_healths(&mut scheduler, &[Healthy, Fenced, Healthy]).await;
    looks(&mut scheduler, &agent, lines, 4).await;
    assert!(faults(&agent).contains(lines), "a worker is on one of the others");
    // And then a process that is nobody's here.
    let stranger = format!("{lines}gpu 2 process 4711 1024\n");
    script(&agent, &stranger);
    scheduler.stop(job.id(0));
    scheduler.until_ended(job.id(0)).await;
    scheduler.change(Vec::new(), vec![job.id(0)]);
    looks(&mut scheduler, &agent, &stranger, 4).await;
    assert!(faults(&agent).contains(lines), "a process is on one of the others");
    script(&agent, lines);
    until_healths(&mut scheduler, &[Healthy, Cordoned, Healthy]).await;
    assert!(!faults(&agent).contains(lines), "the reset mended it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_without_links_is_reset_while_others_are_at_work() {
    let (mut scheduler, agent, devices) = cluster("2xL40-48GB", &QUICK).await;
    let job = occupy(&mut scheduler, &devices[0]).await;
    let before = agent.processes(job.id(0));
    script(&agent, "gpu 1 recovery reset\n");
    until_healths(&mut scheduler, &[Healthy, Cordoned]).await;
    assert_eq!(faults(&agent), "", "the reset mended it");
    assert_eq!(agent.processes(job.id(0)), before, "the same process goes on");
}

/// The library says nothing, and the kernel does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f50_what_only_the_kernel_tells_of_counts_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("kmsg");
    rustix::fs::mkfifoat(rustix::fs::CWD, &log, rustix::fs::Mode::RWXU).unwrap();
    // Open for both: the agent finds somebody at the other end.
    let mut kernel = std::fs::File::options().read(true).write(true).open(&log).unwrap();
    let more = [&QUICK[..], &["--gpus-kernel-log", log.to_str().unwrap()]].concat();
    let (mut scheduler, agent, _) = cluster("3xH100-80GB", &more).await;
    let fell = "NVRM: Xid (PCI:0000:02:00): 79, pid=7, GPU has fallen off the bus.";
    // The first is of a program that pretends to be the kernel.
    let pretended = fell.replace("02:00", "01:00");
    write!(kernel, "12,6,70,-;{pretended}\n4,7,71,-;{fell}\n").unwrap();
    let told = until_healths(&mut scheduler, &[Healthy, Fenced, Healthy]).await;
    assert_eq!(told[1].health_reason, "XID 79: the host must be started again");
    drop(agent);
}
