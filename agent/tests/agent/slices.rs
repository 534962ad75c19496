//! GPUs that are cut up (MIG), as a driver tells of them that is not always up to it.

use berth_proto::v1::DeviceHealth::{Cordoned, Fenced, Healthy};
use berth_proto::v1::EndCause;

use crate::gpus::{cluster, cut, script, until_healths, until_sample, until_uuids, whole};
use crate::harness::jobs::Job;

/// A driver that does not say for a while whether a GPU is cut up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f59_a_gpu_that_does_not_say_whether_it_is_cut_up_is_as_it_was() {
    let (mut scheduler, mut agent, _) = cluster("1xH100-80GB", &["--gpus-retry-ms", "100"]).await;
    script(&agent, &cut(0, &[(0, "MIG-a", "1g.10gb")]));
    let devices = until_uuids(&mut scheduler, &["MIG-a"]).await;
    let job = Job::shell(1, "exec sleep 600");
    scheduler.want(&job, vec![job.row_with(0, vec![whole(&devices[0])], Vec::new())]);
    scheduler.until_ready(job.id(0)).await;

    let silent = "gpu 0 temperature 61\nfail nvmlDeviceGetMigMode\n";
    script(&agent, silent);
    until_sample(&mut scheduler, 0, |sample| sample.temperature_celsius == Some(61)).await;
    assert_eq!(scheduler.samples.len(), 1);
    assert_eq!(scheduler.samples[0].uuid, "MIG-a");

    // One that nobody has seen before may be cut up.
    agent.kill().await;
    std::fs::remove_file(agent.data().join("gpus")).unwrap();
    script(&agent, silent);
    agent.start_again();
    let devices = until_healths(&mut scheduler, &[Cordoned, Cordoned]).await;
    let reasons = devices.iter().map(|device| device.health_reason.as_str());
    assert!(reasons.into_iter().any(|reason| reason.contains("whether it is cut up")));
    script(&agent, &cut(0, &[(0, "MIG-a", "1g.10gb")]));
    until_uuids(&mut scheduler, &["MIG-a"]).await;
}

/// Its work is the cluster's to end, which takes a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f59_a_gpu_is_given_as_a_whole_once_nobody_is_on_what_was_a_part_of_it() {
    let (mut scheduler, agent, _) = cluster("1xH100-80GB", &[]).await;
    script(&agent, &cut(0, &[(0, "MIG-a", "1g.10gb")]));
    let devices = until_uuids(&mut scheduler, &["MIG-a"]).await;
    let first = Job::shell(1, "exec sleep 600");
    scheduler.want(&first, vec![first.row_with(0, vec![whole(&devices[0])], Vec::new())]);
    scheduler.until_ready(first.id(0)).await;

    script(&agent, "gpu 0 mig off\n");
    let devices = until_healths(&mut scheduler, &[Healthy]).await;
    assert_ne!(devices[0].uuid, "MIG-a", "it is whole");
    let second = Job::shell(2, "exec sleep 600");
    scheduler.want(&second, vec![second.row_with(0, vec![whole(&devices[0])], Vec::new())]);
    script(&agent, "gpu 0 temperature 61\n");
    until_sample(&mut scheduler, 0, |sample| sample.temperature_celsius == Some(61)).await;
    assert!(agent.processes(second.id(0)).is_empty(), "somebody is on it");
    assert!(!agent.processes(first.id(0)).is_empty());

    scheduler.stop(first.id(0));
    let ended = scheduler.until_ended(first.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::Stopped), "{ended:?}");
    scheduler.until_ready(second.id(0)).await;
}

/// The driver names the GPU, and not the part on which it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f52_a_fault_of_an_application_on_a_part_is_not_that_of_the_others() {
    let (mut scheduler, agent, _) = cluster("1xH100-80GB", &[]).await;
    let uuids = ["MIG-a", "MIG-b", "MIG-c"];
    let slices = [0, 1, 2].map(|number| (number, uuids[number as usize], "1g.10gb"));
    script(&agent, &cut(0, &slices));
    let devices = until_uuids(&mut scheduler, &uuids).await;
    for (number, device) in (1..).zip(&devices) {
        let job = Job::shell(number, "exec sleep 600");
        scheduler.want(&job, vec![job.row_with(0, vec![whole(device)], Vec::new())]);
        scheduler.until_ready(job.id(0)).await;
    }
    // What comes after it is told first.
    script(&agent, &(cut(0, &slices) + "gpu 0 xid 31 1\ngpu 0 xid 74 2\n"));
    let hello = scheduler.session().await;
    for device in hello.spec.unwrap().devices {
        assert!(device.health_reason.starts_with("XID 74"), "{}", device.health_reason);
    }
}

/// What somebody has made is not taken away by a repair.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_that_is_cut_up_is_reset_when_its_parts_were_taken_away() {
    let (mut scheduler, agent, _) = cluster("1xH100-80GB", &[]).await;
    let parts = cut(0, &[(0, "MIG-a", "1g.10gb")]);
    script(&agent, &parts);
    until_uuids(&mut scheduler, &["MIG-a"]).await;
    script(&agent, &(parts + "gpu 0 xid 48 1\n"));
    let told = loop {
        let told = until_healths(&mut scheduler, &[Fenced]).await;
        if told[0].health_reason != "XID 48: it is to be reset" {
            break told;
        }
    };
    let why = "XID 48: its parts would not outlive a reset: it is reset once they are taken away";
    assert_eq!(told[0].health_reason, why);
    script(&agent, "gpu 0 xid 48 1\n");
    until_healths(&mut scheduler, &[Cordoned]).await;
}

/// No reset is made of a part, and none is promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f58_a_part_whose_memory_does_not_come_free_waits_for_that_alone() {
    let more = ["--gpus-stuck-after-ms", "1000"];
    let (mut scheduler, agent, _) = cluster("1xH100-80GB", &more).await;
    let parts = cut(0, &[(0, "MIG-a", "1g.10gb"), (1, "MIG-b", "1g.10gb")]);
    script(&agent, &parts);
    let devices = until_uuids(&mut scheduler, &["MIG-a", "MIG-b"]).await;
    let job = Job::shell(1, "exec sleep 600");
    scheduler.want(&job, vec![job.row_with(0, vec![whole(&devices[0])], Vec::new())]);
    scheduler.until_ready(job.id(0)).await;
    script(&agent, &format!("{parts}gpu 0 slice_used 0 9000000000\n"));
    until_sample(&mut scheduler, 0, |sample| sample.memory_used_bytes == Some(9_000_000_000)).await;
    scheduler.stop(job.id(0));
    let told = until_healths(&mut scheduler, &[Fenced, Healthy]).await;
    let reason = "its memory is in use (8.3GiB) long after its worker ended, by nobody: it is used \
                  again once that is free";
    assert_eq!(told[0].health_reason, reason);
    script(&agent, &parts);
    until_healths(&mut scheduler, &[Healthy, Healthy]).await;
}
