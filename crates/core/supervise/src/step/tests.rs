//! The table of decisions.

use std::collections::BTreeSet;

use berth_model::{AllocationId, DurationMs, StopPolicy};

use super::*;
use crate::desired::Version;
use crate::lease::Lease;

mod trials;

fn id(instance: u32) -> AllocationId {
    format!("1.0.{instance}.1").parse().unwrap()
}

fn row(order: Order) -> DesiredRow<()> {
    DesiredRow { order, exclusive: false, stop: StopPolicy::default(), payload: () }
}

fn desired(rows: &[(u32, DesiredRow<()>)]) -> Desired<()> {
    Desired {
        version: Version { incarnation: 2, generation: 7 },
        rows: rows.iter().map(|(instance, row)| (id(*instance), row.clone())).collect(),
    }
}

/// The decision for instance 1 alone, at 1000 ms with a lease until 2000 ms.
fn check(row: Option<DesiredRow<()>>, worker: Option<Worker>, expected: &Decision) {
    let mut lease = Lease::none(None);
    lease.renew(AgentMs(0), DurationMs(2000));
    let mut observed = Observed::nothing(lease);
    observed.allocations =
        worker.iter().map(|worker| (id(1), Allocation::new(*worker, 2))).collect();
    let desired = desired(&row.clone().map(|row| (1, row)).into_iter().collect::<Vec<_>>());
    let decision = decide(&desired, &observed, id(1), AgentMs(1000));
    assert_eq!(decision, *expected, "{row:?} {worker:?}");
}

#[test]
fn every_pair_of_wish_and_worker_has_its_decision() {
    use Worker as W;
    let stop = |policy| Decision::Stop { policy, reason: StopReason::Desired };
    let asked = stop(Some(StopPolicy::default()));
    let keep = Decision::Keep;
    let table = [
        (Some(Order::Run), None, Decision::Start),
        (Some(Order::Run), Some(W::Preparing), keep(KeepReason::AsWanted)),
        (Some(Order::Run), Some(W::Launching), keep(KeepReason::AsWanted)),
        (Some(Order::Run), Some(W::Running), keep(KeepReason::AsWanted)),
        (Some(Order::Run), Some(W::Stopping), keep(KeepReason::Ending)),
        (Some(Order::Run), Some(W::Unkillable), keep(KeepReason::Ending)),
        (Some(Order::Run), Some(W::Abandoned), Decision::Sweep),
        (Some(Order::Run), Some(W::Ended), keep(KeepReason::EndKnown)),
        (Some(Order::Stop), None, Decision::EndUnstarted),
        (Some(Order::Stop), Some(W::Preparing), Decision::EndUnstarted),
        (Some(Order::Stop), Some(W::Launching), asked.clone()),
        (Some(Order::Stop), Some(W::Running), asked),
        (Some(Order::Stop), Some(W::Stopping), keep(KeepReason::Ending)),
        (Some(Order::Stop), Some(W::Unkillable), keep(KeepReason::Ending)),
        (Some(Order::Stop), Some(W::Abandoned), Decision::Sweep),
        (Some(Order::Stop), Some(W::Ended), keep(KeepReason::EndKnown)),
        (None, None, keep(KeepReason::Orphan)),
        (None, Some(W::Preparing), Decision::EndUnstarted),
        (None, Some(W::Launching), stop(None)),
        (None, Some(W::Running), stop(None)),
        (None, Some(W::Stopping), keep(KeepReason::Ending)),
        (None, Some(W::Unkillable), keep(KeepReason::Ending)),
        (None, Some(W::Abandoned), Decision::Sweep),
        (None, Some(W::Ended), keep(KeepReason::EndKnown)),
    ];
    for (order, worker, expected) in table {
        check(order.map(row), worker, &expected);
    }
}

#[test]
fn what_only_an_older_incarnation_wanted_is_kept() {
    let mut observed = Observed::nothing(Lease::none(None));
    observed.allocations.insert(id(1), Allocation::new(Worker::Running, 1));
    assert_eq!(
        decide(&desired(&[]), &observed, id(1), AgentMs(0)),
        Decision::Keep(KeepReason::Orphan)
    );
    observed.orphans_to_end.insert(id(2));
    assert_eq!(
        decide(&desired(&[]), &observed, id(1), AgentMs(0)),
        Decision::Keep(KeepReason::Orphan)
    );
    observed.orphans_to_end.insert(id(1));
    assert!(matches!(
        decide(&desired(&[]), &observed, id(1), AgentMs(0)),
        Decision::Stop { reason: StopReason::Desired, .. }
    ));
    // Nothing that an earlier incarnation wanted begins once a later one asked.
    observed.told_incarnation = 3;
    let wished = desired(&[(3, row(Order::Run)), (4, row(Order::Stop))]);
    for wish in [3, 4] {
        let decision = decide(&wished, &observed, id(wish), AgentMs(0));
        assert_eq!(decision, Decision::Keep(KeepReason::Superseded));
    }
    observed.told_incarnation = 2;
    assert_eq!(decide(&wished, &observed, id(3), AgentMs(0)), Decision::Start);
    // What the cluster wants again is no orphan.
    assert_eq!(
        decide(&desired(&[(1, row(Order::Run))]), &observed, id(1), AgentMs(0)),
        Decision::Keep(KeepReason::AsWanted)
    );
    observed.orphans_to_end.clear();
    assert_eq!(observed.note_wanted(&desired(&[(1, row(Order::Run))])), [id(1)]);
    assert!(matches!(
        decide(&desired(&[]), &observed, id(1), AgentMs(0)),
        Decision::Stop { reason: StopReason::Desired, .. }
    ));
    let nothing_known = Desired::<()>::default();
    assert_eq!(
        decide(&nothing_known, &observed, id(1), AgentMs(0)),
        Decision::Keep(KeepReason::Orphan)
    );
}

#[test]
fn nothing_begins_on_a_device_that_another_worker_has_not_left() {
    let desired = desired(&[(1, row(Order::Run)), (2, row(Order::Stop))]);
    let mut observed = Observed::nothing(Lease::none(None));
    observed.occupied = BTreeSet::from([id(1), id(2)]);
    let waits = Decision::Keep(KeepReason::Occupied);
    assert_eq!(decide(&desired, &observed, id(1), AgentMs(0)), waits);
    assert_eq!(decide(&desired, &observed, id(2), AgentMs(0)), Decision::EndUnstarted);
    observed.occupied.clear();
    assert_eq!(decide(&desired, &observed, id(1), AgentMs(0)), Decision::Start);
}

#[test]
fn exclusive_work_needs_the_lease_and_other_work_does_not() {
    let exclusive = DesiredRow { exclusive: true, ..row(Order::Run) };
    let desired = desired(&[(1, exclusive), (2, row(Order::Run))]);
    let mut observed = Observed::nothing(Lease::none(None));
    let start = |observed: &Observed, at| step(&desired, observed, AgentMs(at));
    assert_eq!(start(&observed, 0), [WorkerAction::Start(id(2))]);
    observed.lease.renew(AgentMs(0), DurationMs(500));
    assert_eq!(start(&observed, 0), [WorkerAction::Start(id(1)), WorkerAction::Start(id(2))]);
    for instance in [1, 2] {
        observed.allocations.insert(id(instance), Allocation::new(Worker::Running, 2));
    }
    assert_eq!(start(&observed, 499), []);
    let policy = Some(StopPolicy::default());
    let fenced = WorkerAction::Stop { allocation: id(1), policy, reason: StopReason::Fenced };
    assert_eq!(start(&observed, 500), [fenced]);
}

#[test]
fn after_the_hosts_limit_of_silence_everything_stops() {
    let mut observed = Observed::nothing(Lease::none(Some(DurationMs(900))));
    observed.lease.renew(AgentMs(0), DurationMs(500));
    observed.allocations.insert(id(1), Allocation::new(Worker::Running, 2));
    observed.allocations.insert(id(2), Allocation::new(Worker::Running, 0));
    let desired = desired(&[(1, row(Order::Run)), (3, row(Order::Run))]);
    let stops = |at| {
        step(&desired, &observed, AgentMs(at))
            .into_iter()
            .filter(|action| {
                matches!(action, WorkerAction::Stop { reason: StopReason::Fenced, .. })
            })
            .count()
    };
    assert_eq!(stops(899), 0);
    assert_eq!(stops(900), 2);
    assert!(!step(&desired, &observed, AgentMs(900)).contains(&WorkerAction::Start(id(3))));
}

#[test]
fn an_end_is_said_until_it_is_acknowledged_and_forgotten_when_nobody_asks() {
    let mut observed = Observed::nothing(Lease::none(None));
    observed.allocations.insert(id(1), Allocation::new(Worker::Ended, 2));
    let (wanted, dropped) = (desired(&[(1, row(Order::Run))]), desired(&[]));
    assert_eq!(step(&wanted, &observed, AgentMs(0)), [], "nobody listens");
    observed.link_up();
    assert_eq!(step(&wanted, &observed, AgentMs(0)), [WorkerAction::Report(id(1))]);
    let sent = Allocation { sent: Some(1), ..observed.allocations[&id(1)] };
    observed.allocations.insert(id(1), sent);
    assert_eq!(step(&dropped, &observed, AgentMs(0)), [], "sent once over one link");
    observed.link_up();
    assert_eq!(step(&dropped, &observed, AgentMs(0)), [WorkerAction::Report(id(1))]);
    let acknowledged = Allocation { acknowledged: Some(1), ..sent };
    observed.allocations.insert(id(1), acknowledged);
    assert_eq!(step(&wanted, &observed, AgentMs(0)), [], "its row must not start it again");
    assert_eq!(step(&dropped, &observed, AgentMs(0)), [WorkerAction::Retire(id(1))]);
}
