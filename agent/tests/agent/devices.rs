//! Accelerators that a command lists: real scripts, and what becomes of what they say.

use std::os::unix::fs::PermissionsExt as _;

use berth_proto::v1::{Device, DeviceHealth};
use tempfile::TempDir;

use crate::gpus::{until_healths, until_sample, whole};
use crate::harness::agent::Agent;
use crate::harness::jobs::Job;
use crate::harness::scheduler::Scheduler;
use crate::harness::{cluster_with_hello, skip};
use DeviceHealth::{Cordoned, Healthy, Lost};

/// A script that prints what lies beside it, or does what it is told there.
struct Script {
    folder: TempDir,
}

impl Script {
    fn new(text: &str) -> Script {
        let script = Script { folder: tempfile::tempdir().unwrap() };
        script.says(text);
        let content = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\n[ ! -e do ] || . ./do\ncat list\n";
        std::fs::write(script.program(), content).unwrap();
        let executable = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(script.program(), executable).unwrap();
        script
    }

    fn program(&self) -> String {
        self.folder.path().join("script").to_string_lossy().into_owned()
    }

    fn says(&self, text: &str) {
        self.write("list", text);
    }

    fn does(&self, command: &str) {
        self.write("do", command);
    }

    fn write(&self, file: &str, text: &str) {
        let file = self.folder.path().join(file);
        std::fs::write(file.with_extension("new"), text).unwrap();
        std::fs::rename(file.with_extension("new"), file).unwrap();
    }
}

fn row(index: u32, more: &str) -> String {
    format!(
        "{{\"uuid\": \"GPU-{index}\", \"model\": \"AMD Instinct MI300X\", \
         \"memory_total_bytes\": 206141652992, \"nodes\": [\"/dev/kmsg\"], \
         \"environment\": {{\"ROCR_VISIBLE_DEVICES\": \"{index}\"}}{more}}}"
    )
}

fn list(rows: &[String]) -> String {
    format!("{{\"devices\": [{}]}}", rows.join(", "))
}

async fn cluster(script: &Script, more: &[&str]) -> (Scheduler, Agent, Vec<Device>) {
    let program = script.program();
    let arguments = [&["--list-devices", &program][..], more].concat();
    let (scheduler, agent, hello) = cluster_with_hello(&arguments).await;
    (scheduler, agent, hello.spec.unwrap().devices)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_a_command_lists_are_given_with_what_they_bring_along() {
    let used = ", \"memory_used_bytes\": 7, \"utilization\": 87, \"temperature_celsius\": 61";
    let script = Script::new(&list(&[row(0, ""), row(1, used)]));
    let (mut scheduler, agent, devices) = cluster(&script, &[]).await;
    let told: Vec<_> = devices.iter().map(|one| (one.uuid.as_str(), one.index)).collect();
    assert_eq!(told, [("GPU-0", 0), ("GPU-1", 1)]);
    assert_eq!(devices[0].model, "AMD Instinct MI300X");
    until_sample(&mut scheduler, 1, |sample| sample.utilization_percent == Some(87)).await;
    let sample = &scheduler.samples[1];
    assert_eq!((sample.memory_used_bytes, sample.temperature_celsius), (Some(7), Some(61)));

    let job = Job::shell(1, "echo \"$CUDA_VISIBLE_DEVICES $ROCR_VISIBLE_DEVICES\"");
    let both = devices.iter().map(whole).collect();
    scheduler.want(&job, vec![job.row_with(0, both, Vec::new())]);
    scheduler.until_ended(job.id(0)).await;
    assert_eq!(agent.stdout(job.id(0)), "GPU-0,GPU-1 0,1\n");

    // One is ill, and then it is gone.
    script.says(&list(&[row(0, ""), row(1, ", \"healthy\": false, \"reason\": \"too hot\"")]));
    let told = until_healths(&mut scheduler, &[Healthy, Cordoned]).await;
    assert_eq!(told[1].health_reason, "too hot");
    script.says(&list(&[row(0, "")]));
    until_healths(&mut scheduler, &[Healthy, Lost]).await;
}

/// As with a driver that hangs or is gone: what runs is left alone, and nothing new comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_says_nothing_of_use_leaves_the_devices_as_they_were() {
    let good = list(&[row(0, "")]);
    let script = Script::new(&good);
    let (mut scheduler, agent, devices) = cluster(&script, &[]).await;
    let job = Job::shell(1, "exec sleep 600");
    scheduler.want(&job, vec![job.row_with(0, vec![whole(&devices[0])], Vec::new())]);
    scheduler.until_ready(job.id(0)).await;
    let before = agent.processes(job.id(0));
    // Six changes, of which no more are told at once.
    for (text, command, problem) in [
        ("{\"devices\": [", "", "prints is no list: EOF while parsing"),
        (&*good, "sleep 600", "does not end within 2000 ms"),
        (&*good, "head -c 1500000 /dev/zero", "prints more than 1048576 bytes"),
    ] {
        script.says(text);
        script.does(command);
        let told = until_healths(&mut scheduler, &[Cordoned]).await;
        assert!(told[0].health_reason.contains(problem), "{}", told[0].health_reason);
        script.says(&good);
        script.does("");
        until_healths(&mut scheduler, &[Healthy]).await;
    }
    assert_eq!(agent.processes(job.id(0)), before, "the same process goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confined_worker_gets_the_nodes_of_its_devices_and_no_others() {
    if !rustix::process::geteuid().is_root() {
        return skip("root", "workers are confined by root alone");
    }
    let without = row(1, "").replace("\"/dev/kmsg\"", "");
    let script = Script::new(&list(&[row(0, ""), without]));
    let (mut scheduler, agent, devices) = cluster(&script, &["--confine", "always"]).await;
    let look = "[ -e /dev/kmsg ] && echo \"$ROCR_VISIBLE_DEVICES has it\" || echo lacks it";
    for (number, held, said) in [
        (1, &devices[..1], "0 has it\n"),
        (2, &devices[1..], "lacks it\n"),
        (3, &[][..], "lacks it\n"),
    ] {
        let job = Job::shell(number, look);
        let claims = held.iter().map(whole).collect();
        scheduler.want(&job, vec![job.row_with(0, claims, Vec::new())]);
        let ended = scheduler.until_ended(job.id(0)).await;
        assert_eq!(agent.stdout(job.id(0)), said, "{ended:?}");
    }
}
