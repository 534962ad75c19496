//! The agent's own test of GPUs that come back, through the interface of NVIDIA's library for
//! computing.

use berth_proto::v1::{Device, DeviceHealth};

use crate::gpus::{cluster, script, until_healths};
use crate::harness::agent::Agent;
use crate::harness::scheduler::Scheduler;
use DeviceHealth::{Cordoned, Fenced, Healthy};

const QUICK: [&str; 2] = ["--gpus-soak-ms", "1500"];
/// What mends itself: the simulated reset takes this line away.
const TO_BE_RESET: &str = "gpu 0 needs_reset yes\n";

/// Until the device is so, with a reason that begins like this.
async fn until_reason(scheduler: &mut Scheduler, health: DeviceHealth, begin: &str) -> Device {
    loop {
        let device = until_healths(scheduler, &[health]).await.remove(0);
        if device.health_reason.starts_with(begin) {
            return device;
        }
    }
}

/// A GPU that was reset and whose test finds that.
async fn reset_and_found(lines: &str, more: &[&str]) -> (Scheduler, Agent) {
    let more = [&QUICK[..], more].concat();
    let (mut scheduler, agent, _) = cluster("1xH100-80GB", &more).await;
    script(&agent, &format!("{lines}{TO_BE_RESET}"));
    until_reason(&mut scheduler, Fenced, "the driver asks for a reset").await;
    (scheduler, agent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f51_memory_that_does_not_keep_what_is_written_keeps_its_gpu_out_of_use() {
    let (mut scheduler, agent) = reset_and_found("gpu 0 bad_memory yes\n", &[]).await;
    until_healths(&mut scheduler, &[Cordoned]).await;
    let found = until_reason(&mut scheduler, Fenced, "its test failed").await;
    let reason = "its test failed: its memory holds 0x10000000 where 0x00000000 was written: \
                  it is to be reset";
    assert_eq!(found.health_reason, reason);
    // Another reset has mended it.
    script(&agent, "");
    let back = until_healths(&mut scheduler, &[Healthy]).await;
    assert_eq!(back[0].health_reason, "");
    assert!(agent.gpu_testers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f51_a_gpu_on_which_nothing_can_be_computed_is_not_given_on() {
    let (mut scheduler, agent) = reset_and_found("fail cuCtxCreate_v2\n", &[]).await;
    let failed = "its test failed: cuCtxCreate: CUDA_ERROR_UNKNOWN";
    until_reason(&mut scheduler, Fenced, failed).await;
    script(&agent, "");
    until_healths(&mut scheduler, &[Healthy]).await;
}

/// A driver that nothing can be computed with is no fault of one GPU's, and is asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f50_a_gpu_that_cannot_be_tested_waits_and_says_why() {
    let (mut scheduler, agent) = reset_and_found("fail cuInit\n", &[]).await;
    let undone = "mended; it has to be quiet for a while, and is tested; no test: cuInit: \
                  CUDA_ERROR_UNKNOWN";
    until_reason(&mut scheduler, Cordoned, undone).await;
    script(&agent, "");
    until_healths(&mut scheduler, &[Healthy]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f55_a_test_that_hangs_in_the_driver_is_ended_and_has_failed() {
    let within = ["--gpus-test-within-ms", "1000"];
    let (mut scheduler, agent) = reset_and_found("hang cuMemcpyDtoH_v2\n", &within).await;
    until_healths(&mut scheduler, &[Cordoned]).await;
    scheduler.until_true("the test to begin", |_| !agent.gpu_testers().is_empty()).await;
    let hung = "its test failed: cuMemcpyDtoH does not return";
    until_reason(&mut scheduler, Fenced, hung).await;
    assert!(agent.gpu_testers().is_empty(), "it was ended");
    script(&agent, "");
    until_healths(&mut scheduler, &[Healthy]).await;
}

/// Whoever wants no test has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_is_not_tested_where_nobody_wants_that() {
    let off = ["--gpus-self-test", "off"];
    let (mut scheduler, _agent) = reset_and_found("gpu 0 bad_memory yes\n", &off).await;
    until_healths(&mut scheduler, &[Cordoned]).await;
    until_healths(&mut scheduler, &[Healthy]).await;
}
