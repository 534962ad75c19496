//! Whatever happens to two nodes: what truly runs holds what it has, and what has finished is
//! done.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{
    AllocationId, Drain, JobId, JobKind, JobSpec, NodeId, NodeState, OnReturn, StopIntent,
};
use proptest::prelude::*;

use super::away::{RUNS, WARMS_UP};
use super::world::{World, exited, job};
use crate::{Command, EventKind, JobChange, Observed, Purpose};

#[derive(Clone, Debug)]
enum Move {
    Place { instance: u32 },
    Begin { which: u8, ready: bool },
    Silence { node: u64 },
    Return { node: u64 },
    Tell { which: u8, code: Option<i32> },
    Stop { which: u8, intent: StopIntent },
    Restart,
    Drain { node: u64, purpose: Purpose },
    Wait { ms: u64 },
}

fn moves() -> impl Strategy<Value = Move> {
    use StopIntent as S;
    let intents = prop::sample::select(vec![S::Cancel, S::TimeOut, S::Drain, S::Replace]);
    prop_oneof![
        6 => (0..2u32).prop_map(|instance| Move::Place { instance }),
        6 => (any::<u8>(), any::<bool>()).prop_map(|(which, ready)| Move::Begin { which, ready }),
        3 => (1..=2u64).prop_map(|node| Move::Silence { node }),
        3 => (1..=2u64).prop_map(|node| Move::Return { node }),
        6 => (any::<u8>(), prop::option::weighted(0.4, 0..2i32))
            .prop_map(|(which, code)| Move::Tell { which, code }),
        1 => (any::<u8>(), intents).prop_map(|(which, intent)| Move::Stop { which, intent }),
        1 => Just(Move::Restart),
        1 => (1..=2u64, prop::sample::select(vec![
            Purpose::Work,
            Purpose::Draining(Drain { deadline: None }),
        ])).prop_map(|(node, purpose)| Move::Drain { node, purpose }),
        2 => (0..90_000u64).prop_map(|ms| Move::Wait { ms }),
    ]
}

/// Two nodes and a job of two instances; what truly runs, and where.
struct Truth {
    world: World,
    job: JobId,
    runs: BTreeMap<AllocationId, NodeId>,
}

impl Truth {
    fn pick(&self, which: u8) -> Option<(AllocationId, NodeId)> {
        let runs: Vec<_> = self.runs.iter().map(|(id, node)| (*id, *node)).collect();
        (!runs.is_empty()).then(|| runs[usize::from(which) % runs.len()])
    }

    fn play(&mut self, step: &Move) {
        match *step {
            Move::Place { instance } => drop(self.world.place(self.job, instance)),
            Move::Begin { which, ready } => {
                let live: Vec<_> = self.world.state.allocations().values().cloned().collect();
                if live.is_empty() {
                    return;
                }
                let row = &live[usize::from(which) % live.len()];
                let is_heard = self.is_ready(row.node);
                if is_heard && row.state.stop_intent().is_none() {
                    self.runs.insert(row.id, row.node);
                    self.world.observe(row.id, if ready { RUNS } else { WARMS_UP });
                }
            }
            Move::Silence { node } => {
                let row = self.world.state.nodes().get(&NodeId(node)).unwrap().clone();
                let (node, session) = (row.id, row.session);
                let _ = self.world.one(Command::DisconnectNode { node, session });
                let (allocations, reason) = (row.live.iter().copied().collect(), "silent".into());
                let _ =
                    self.world.one(Command::LoseAllocations { node, session, allocations, reason });
            }
            Move::Return { node } => self.world.register(usize::try_from(node).unwrap() - 1),
            Move::Tell { which, code } => self.tell(which, code),
            Move::Stop { which, intent } => {
                let Some((id, _)) = self.pick(which) else { return };
                let (allocations, reason) = (vec![id], "r".to_owned());
                let _ = self.world.one(Command::StopAllocations { allocations, intent, reason });
            }
            Move::Restart => {
                let (job, if_version, change) = (self.job, None, JobChange::Restart);
                let _ = self.world.one(Command::ChangeJob { job, if_version, change });
            }
            Move::Drain { node, purpose } => {
                let node = NodeId(node);
                self.world.one(Command::SetSchedulable { node, purpose }).unwrap();
            }
            Move::Wait { ms } => self.world.now += ms,
        }
    }

    /// An end may have been told before its node fell silent, and be heard of after that.
    fn tell(&mut self, which: u8, code: Option<i32>) {
        let heard = self.pick(which).filter(|(_, node)| code.is_some() || self.is_ready(*node));
        let Some((id, node)) = heard else { return };
        if code.is_some() {
            self.runs.remove(&id);
        }
        let was_needed = self.is_needed(id);
        let said = code.map_or(RUNS, |code| Observed::Ended(exited(code)));
        self.world.observe_from(node, id, said);
        if code == Some(0) && was_needed {
            let task = self.world.state.tasks().values().next().unwrap();
            assert!(task.succeeded.contains(id.instance.0), "{id} has finished");
        }
    }

    /// Whether the instance of a batch job is done once this attempt of it is.
    fn is_needed(&self, id: AllocationId) -> bool {
        let state = &self.world.state;
        let spec = &state.jobs().get(&self.job).unwrap().spec;
        let task = state.tasks().values().next().unwrap();
        let mut live = state.allocations().iter().map(|(live, _)| *live);
        let live = live.find(|live| live.instance == id.instance);
        let is_replaced = live.is_some_and(|live| id.attempt < live.attempt);
        spec.kind == JobKind::Batch
            && (live.is_some() || task.pending.contains(id.instance.0))
            && !(is_replaced && spec.on_return == OnReturn::KeepReplacement)
    }

    fn is_ready(&self, node: NodeId) -> bool {
        self.world.state.nodes().get(&node).unwrap().state == NodeState::Ready
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every invariant is checked after every step: no device over its capacity, no instance
    /// twice.
    #[test]
    fn f30_what_truly_runs_holds_its_device_and_what_has_finished_is_done(
        kind in prop_oneof![Just(JobKind::Batch), Just(JobKind::Service)],
        on_return in prop::sample::select(OnReturn::ALL.to_vec()),
        gpus in 1..3u32,
        steps in prop::collection::vec(moves(), 1..80),
    ) {
        let mut world = World::new(2);
        let mut spec = JobSpec { on_return, ..job(kind, "a", 2, gpus) };
        spec.tasks[0].restart.attempts = Some(1_000);
        let job = world.submit(&spec);
        let mut truth = Truth { world, job, runs: BTreeMap::new() };
        for step in &steps {
            truth.play(step);
            let state = &truth.world.state;
            for (id, node) in &truth.runs {
                let row = state.nodes().get(node).unwrap();
                let holds = row.live.contains(id) || row.away.contains_key(id);
                prop_assert!(row.state != NodeState::Ready || holds, "{id} after {step:?}");
            }
        }
        let planned = truth.world.events.iter().filter_map(|event| {
            matches!(event.kind, EventKind::AllocationPlanned).then_some(event.allocation)
        });
        let mut seen = BTreeSet::new();
        for id in planned {
            prop_assert!(seen.insert(id), "{id:?} was begun twice");
        }
    }
}
