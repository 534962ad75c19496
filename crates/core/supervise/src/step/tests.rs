//! The table of decisions, and the rules that hold whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, DurationMs, StopPolicy};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::desired::{Offer, Version};
use crate::lease::Lease;

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

/// What can happen to an agent and its cluster.
#[derive(Clone, Debug)]
enum Happening {
    Wish {
        instance: u32,
        exclusive: bool,
    },
    WishEnd {
        pick: usize,
    },
    Drop {
        pick: usize,
    },
    /// The cluster is restored from a backup that knows only some rows.
    Restore {
        keep_every: usize,
    },
    SendFull,
    SendDelta {
        back: usize,
    },
    /// Something said before arrives once more.
    Repeat {
        pick: usize,
    },
    Persisted,
    Launched,
    Ends {
        pick: usize,
    },
    ShimKilled {
        pick: usize,
    },
    Gone,
    Acknowledge,
    LinkUp,
    LinkDown,
    Heartbeat,
    Passes {
        ms: u64,
    },
    CrashAndRestart,
}

/// What is true outside the agent.
#[derive(Clone, Default, Debug)]
struct World {
    started: BTreeMap<AllocationId, u32>,
    alive: BTreeSet<AllocationId>,
    unsupervised: BTreeSet<AllocationId>,
    ended: BTreeSet<AllocationId>,
    /// The incarnation in the record beside the worker.
    recorded: BTreeMap<AllocationId, u64>,
}

struct Trial {
    world: World,
    desired: Desired<()>,
    durable: Desired<()>,
    observed: Observed,
    now: AgentMs,
    cluster: Desired<()>,
    history: Vec<Desired<()>>,
    said: Vec<Offer<(), Digest>>,
    /// What the cluster took back within the present incarnation.
    dropped: BTreeSet<AllocationId>,
}

type Digest = (Version, Vec<(AllocationId, bool)>);

fn digest_of(version: Version, rows: &BTreeMap<AllocationId, DesiredRow<()>>) -> Digest {
    (version, rows.iter().map(|(id, row)| (*id, row.order == Order::Run)).collect())
}

impl Trial {
    fn new() -> Trial {
        let version = Version { incarnation: 1, generation: 1 };
        let cluster = Desired { version, rows: BTreeMap::new() };
        Trial {
            world: World::default(),
            desired: Desired::default(),
            durable: Desired::default(),
            observed: Observed::nothing(Lease::none(None)),
            now: AgentMs(0),
            history: vec![cluster.clone()],
            cluster,
            said: Vec::new(),
            dropped: BTreeSet::new(),
        }
    }

    fn happens(&mut self, happening: &Happening) {
        match happening {
            Happening::Wish { instance, exclusive } => {
                self.wish(*instance, DesiredRow { exclusive: *exclusive, ..row(Order::Run) });
            }
            Happening::WishEnd { pick } => {
                if let Some(id) = nth(self.cluster.rows.keys(), *pick) {
                    self.change(|rows| rows.get_mut(&id).unwrap().order = Order::Stop);
                }
            }
            Happening::Drop { pick } => {
                if let Some(id) = nth(self.cluster.rows.keys(), *pick) {
                    self.change(|rows| rows.retain(|kept, _| *kept != id));
                    self.dropped.insert(id);
                }
            }
            Happening::Restore { keep_every } => self.restore(*keep_every),
            Happening::SendFull => self.arrives(self.full()),
            Happening::SendDelta { back } => self.send_delta(*back),
            Happening::Repeat { pick } => {
                if let Some(offer) = nth(self.said.iter(), *pick) {
                    self.arrives(offer);
                }
            }
            Happening::Persisted => self.persisted(),
            Happening::Launched => self.each(Worker::Launching, Worker::Running),
            Happening::Ends { pick } => {
                if let Some(id) = nth(self.world.alive.iter(), *pick) {
                    self.ends(id);
                }
            }
            Happening::ShimKilled { pick } => self.shim_killed(*pick),
            Happening::Gone => self.stopping_end(),
            Happening::Acknowledge => self.acknowledge(),
            Happening::LinkUp => self.observed.link_up(),
            Happening::LinkDown => self.observed.link = Link::Down,
            Happening::Heartbeat => self.observed.lease.renew(self.now, DurationMs(100)),
            Happening::Passes { ms } => self.now = self.now.after(DurationMs(*ms)),
            Happening::CrashAndRestart => self.crash_and_restart(),
        }
        self.act();
    }

    fn change(&mut self, edit: impl FnOnce(&mut BTreeMap<AllocationId, DesiredRow<()>>)) {
        edit(&mut self.cluster.rows);
        self.cluster.version.generation += 1;
        self.history.push(self.cluster.clone());
    }

    fn wish(&mut self, instance: u32, wished: DesiredRow<()>) {
        // An id that was ever used is never wished for again.
        if self.history.iter().all(|past| !past.rows.contains_key(&id(instance))) {
            self.change(|rows| rows.extend([(id(instance), wished)]));
        }
    }

    fn restore(&mut self, keep_every: usize) {
        let kept = self.cluster.rows.clone().into_iter().enumerate();
        self.cluster.rows =
            kept.filter(|(index, _)| index % keep_every == 0).map(|(_, entry)| entry).collect();
        self.cluster.version.incarnation += 1;
        self.cluster.version.generation += 1 << 20;
        self.history.push(self.cluster.clone());
        self.dropped.clear();
    }

    fn full(&self) -> Offer<(), Digest> {
        let Desired { version, rows } = self.cluster.clone();
        Offer::Full { digest: digest_of(version, &rows), version, rows }
    }

    fn send_delta(&mut self, back: usize) {
        let from = &self.history[self.history.len().saturating_sub(back + 1)];
        let to = self.cluster.clone();
        if from.version.incarnation != to.version.incarnation {
            return;
        }
        let changed = |(id, row): &(AllocationId, DesiredRow<()>)| from.rows.get(id) != Some(row);
        let removed = from.rows.keys().filter(|id| !to.rows.contains_key(*id)).copied().collect();
        let offer = Offer::Delta {
            incarnation: to.version.incarnation,
            from: from.version.generation,
            to: to.version.generation,
            removed,
            digest: digest_of(to.version, &to.rows),
            upserts: to.rows.into_iter().filter(changed).collect(),
        };
        self.arrives(offer);
    }

    fn arrives(&mut self, offer: Offer<(), Digest>) {
        self.said.push(offer.clone());
        let held = self.desired.version;
        if self.desired.take(offer, digest_of).is_ok() {
            let new = self.desired.rows.keys().filter(|id| !self.durable.rows.contains_key(id));
            self.observed.not_durable = new.copied().collect();
            for id in self.observed.note_wanted(&self.desired) {
                self.world.recorded.insert(id, self.desired.version.incarnation);
            }
        }
        assert!(self.desired.version >= held, "a version never goes back");
    }

    fn persisted(&mut self) {
        self.durable = self.desired.clone();
        self.observed.not_durable.clear();
    }

    fn ends(&mut self, id: AllocationId) {
        self.world.alive.remove(&id);
        if self.world.unsupervised.remove(&id) {
            return;
        }
        self.world.ended.insert(id);
        if let Some(allocation) = self.observed.allocations.get_mut(&id) {
            allocation.worker = Worker::Ended;
            allocation.touch();
        }
    }

    fn shim_killed(&mut self, pick: usize) {
        let Some(id) = nth(self.world.alive.iter(), pick) else { return };
        self.world.unsupervised.insert(id);
        if let Some(allocation) = self.observed.allocations.get_mut(&id) {
            allocation.worker = Worker::Abandoned;
        }
    }

    fn stopping_end(&mut self) {
        let alive = self.world.alive.clone();
        let stopping = self.observed.allocations.clone();
        for (id, _) in stopping.iter().filter(|(_, seen)| seen.worker == Worker::Stopping) {
            if alive.contains(id) {
                self.ends(*id);
            }
        }
    }

    fn each(&mut self, from: Worker, to: Worker) {
        for allocation in self.observed.allocations.values_mut() {
            if allocation.worker == from {
                allocation.worker = to;
                allocation.touch();
            }
        }
    }

    fn acknowledge(&mut self) {
        for allocation in self.observed.allocations.values_mut() {
            allocation.acknowledged = allocation.sent.or(allocation.acknowledged);
        }
    }

    /// What a new agent process finds: the durable wishes, the processes, and
    /// the records beside them.
    fn crash_and_restart(&mut self) {
        self.desired = self.durable.clone();
        let mut observed = Observed::nothing(self.observed.lease);
        for (id, wanted_in) in &self.world.recorded {
            let worker = match (self.world.alive.contains(id), self.world.unsupervised.contains(id))
            {
                (true, false) => Worker::Running,
                (true, true) => Worker::Abandoned,
                (false, _) if self.desired.rows.contains_key(id) => Worker::Ended,
                (false, _) => continue,
            };
            observed.allocations.insert(*id, Allocation::new(worker, *wanted_in));
        }
        self.observed = observed;
    }

    fn act(&mut self) {
        for action in step(&self.desired, &self.observed, self.now) {
            self.carry_out(&action);
        }
        let again = step(&self.desired, &self.observed, self.now);
        assert_eq!(again, [], "a second step right after the first has nothing to do");
    }

    fn carry_out(&mut self, action: &WorkerAction) {
        let incarnation = self.desired.version.incarnation;
        match action {
            WorkerAction::Start(id) => {
                let count = self.world.started.entry(*id).or_default();
                *count += 1;
                assert_eq!(*count, 1, "{id} was started twice");
                assert!(!self.world.ended.contains(id), "{id} was started after its end");
                assert!(self.durable.rows.contains_key(id), "{id} was started before its intent");
                self.world.alive.insert(*id);
                self.world.recorded.insert(*id, incarnation);
                let allocation = Allocation::new(Worker::Launching, incarnation);
                self.observed.allocations.insert(*id, allocation);
            }
            WorkerAction::EndUnstarted(id) => {
                assert!(!self.world.started.contains_key(id), "{id} has begun");
                self.world.recorded.insert(*id, incarnation);
                self.world.ended.insert(*id);
                let allocation = Allocation::new(Worker::Ended, incarnation);
                self.observed.allocations.insert(*id, allocation);
            }
            WorkerAction::Stop { allocation, .. } => {
                assert!(self.world.alive.contains(allocation), "{allocation} is not alive");
                let allocation = self.observed.allocations.get_mut(allocation).unwrap();
                allocation.worker = Worker::Stopping;
                allocation.touch();
                allocation.sent = (self.observed.link == Link::Up).then_some(allocation.revision);
            }
            WorkerAction::Sweep(id) => {
                self.world.alive.remove(id);
                self.world.unsupervised.remove(id);
                self.world.ended.insert(*id);
                let allocation = self.observed.allocations.get_mut(id).unwrap();
                allocation.worker = Worker::Ended;
                allocation.touch();
                allocation.sent = (self.observed.link == Link::Up).then_some(allocation.revision);
            }
            WorkerAction::Report(id) => {
                assert_eq!(self.observed.link, Link::Up);
                let allocation = self.observed.allocations.get_mut(id).unwrap();
                allocation.sent = Some(allocation.revision);
            }
            WorkerAction::Retire(id) => {
                assert!(!self.world.alive.contains(id), "{id} is forgotten while it runs");
                self.observed.allocations.remove(id);
            }
        }
        // Reports of what an action itself changed go out with it.
        for allocation in self.observed.allocations.values_mut() {
            if self.observed.link == Link::Up {
                allocation.sent = Some(allocation.revision);
            }
        }
    }

    /// Everything works again: what must come about does.
    fn heal(&mut self) {
        let healing = [
            Happening::LinkUp,
            Happening::SendFull,
            Happening::Persisted,
            Happening::Heartbeat,
            Happening::Launched,
            Happening::Gone,
            Happening::Acknowledge,
            Happening::Acknowledge,
        ];
        healing.iter().for_each(|happening| self.happens(happening));
        let incarnation = self.cluster.version.incarnation;
        for id in &self.dropped {
            // What this incarnation took back before the agent ever heard of
            // it from this incarnation is an orphan to the agent.
            let known = self.world.recorded.get(id) == Some(&incarnation);
            assert!(!known || !self.world.alive.contains(id), "{id} was taken back and runs");
        }
        for (id, row) in &self.cluster.rows {
            let begun = self.world.started.contains_key(id) || self.world.ended.contains(id);
            assert!(begun, "{id} is wanted and was never acted on");
            assert!(row.order == Order::Run || !self.world.alive.contains(id), "{id} must end");
        }
        let known =
            self.observed.allocations.keys().filter(|id| {
                !self.cluster.rows.contains_key(*id) && !self.world.alive.contains(*id)
            });
        assert_eq!(known.count(), 0, "ended, acknowledged, dropped: forgotten");
    }
}

fn nth<T: Clone>(
    values: impl Iterator<Item = impl std::borrow::Borrow<T>>,
    pick: usize,
) -> Option<T> {
    let values: Vec<T> = values.map(|value| value.borrow().clone()).collect();
    values.get(pick % values.len().max(1)).cloned()
}

fn happening() -> impl Strategy<Value = Happening> {
    let pick = 0..64_usize;
    prop_oneof![
        6 => (0..40_u32, any::<bool>())
            .prop_map(|(instance, exclusive)| Happening::Wish { instance, exclusive }),
        2 => pick.clone().prop_map(|pick| Happening::WishEnd { pick }),
        2 => pick.clone().prop_map(|pick| Happening::Drop { pick }),
        1 => (1..4_usize).prop_map(|keep_every| Happening::Restore { keep_every }),
        3 => Just(Happening::SendFull),
        6 => (0..3_usize).prop_map(|back| Happening::SendDelta { back }),
        2 => pick.clone().prop_map(|pick| Happening::Repeat { pick }),
        5 => Just(Happening::Persisted),
        4 => Just(Happening::Launched),
        3 => pick.clone().prop_map(|pick| Happening::Ends { pick }),
        1 => pick.prop_map(|pick| Happening::ShimKilled { pick }),
        2 => Just(Happening::Gone),
        4 => Just(Happening::Acknowledge),
        2 => Just(Happening::LinkUp),
        1 => Just(Happening::LinkDown),
        3 => Just(Happening::Heartbeat),
        2 => (1..200_u64).prop_map(|ms| Happening::Passes { ms }),
        2 => Just(Happening::CrashAndRestart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn nothing_starts_twice_and_everything_dropped_ends(
        happenings in vec(happening(), 1..120),
    ) {
        let mut trial = Trial::new();
        happenings.iter().for_each(|happening| trial.happens(happening));
        trial.heal();
    }
}
