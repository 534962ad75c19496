//! Exclusive work ends with its lease, whoever is there to see it.

use berth_shim::processes_of;
use berth_shim::protocol::{LeaseRequest, Phase, RefusalCode};
use rustix::time::{ClockId, clock_gettime};

use crate::rig::{ID, Rig, ended, phase, refusal, stop};

fn boot_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap() * 1000 + u64::try_from(time.tv_nsec).unwrap() / 1_000_000
}

fn lease(allocation_id: &str, ends_at_boot_ms: u64) -> LeaseRequest {
    LeaseRequest { allocation_id: allocation_id.to_owned(), ends_at_boot_ms }
}

#[test]
fn a_lease_that_nobody_renews_ends_the_whole_tree() {
    let mut rig = Rig::new();
    let mut request = rig.worker("detach", &["hold"]);
    let end = boot_ms() + 300;
    request.lease_ends_at_boot_ms = Some(end);
    rig.shim.start(request).unwrap();
    let (first, second) = (rig.report(), rig.report());
    first.await_end();
    second.await_end();
    assert!(boot_ms() >= end, "not before its end");
    let record = ended(&mut rig.shim, ID);
    assert_eq!(record.signal, Some(15));
    assert!(record.lease_ended && record.stop_requested, "{record:?}");
    assert_eq!(processes_of(&rig.mark()).unwrap(), []);
}

#[test]
fn a_renewed_lease_goes_on_and_an_older_renewal_takes_nothing_away() {
    let (mut renewed, mut lapsing) = (Rig::new(), Rig::new());
    let end = boot_ms() + 500;
    for rig in [&mut renewed, &mut lapsing] {
        let mut request = rig.worker("hold", &[]);
        request.lease_ends_at_boot_ms = Some(end);
        rig.shim.start(request).unwrap();
    }
    let (mut worker, other) = (renewed.report(), lapsing.report());
    renewed.shim.renew_lease(lease(ID, end + 3_600_000)).unwrap();
    renewed.shim.renew_lease(lease(ID, 1)).unwrap();
    // Once the one that was not renewed is over, so would be this one.
    other.await_end();
    assert!(ended(&mut lapsing.shim, ID).lease_ended);
    let state = renewed.shim.attach(ID).unwrap();
    assert_eq!(phase(&state), Phase::Running);
    assert_eq!(state.lease_ends_at_boot_ms, Some(end + 3_600_000));
    worker.exit(0);
    let record = ended(&mut renewed.shim, ID);
    assert!(record.exit_code == Some(0) && !record.lease_ended);
}

#[test]
fn what_had_no_lease_gets_one_and_an_end_without_it_says_so() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("hold", &[])).unwrap();
    let worker = rig.report();
    assert_eq!(rig.shim.attach(ID).unwrap().lease_ends_at_boot_ms, None);
    let other = rig.shim.renew_lease(lease("9.main.0.1", boot_ms()));
    assert_eq!(refusal(other), RefusalCode::WrongAllocation);
    rig.shim.renew_lease(lease(ID, boot_ms() + 3_600_000)).unwrap();
    rig.shim.stop(stop(60_000)).unwrap();
    worker.await_end();
    let record = ended(&mut rig.shim, ID);
    assert!(record.stop_requested && !record.lease_ended, "{record:?}");
}
