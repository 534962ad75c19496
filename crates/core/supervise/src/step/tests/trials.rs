//! The rules that hold whatever happens to an agent and its cluster.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, DurationMs};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::desired::{Offer, Version};
use crate::lease::Lease;

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
