//! Nodes that come back after their work was given up: of an original and its replacement
//! exactly one goes on, and no device is given twice meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{
    AllocationId, AllocationState, EndCause, EndReport, JobId, JobKind, JobSpec, NodeId, NodeState,
    OnReturn, StopIntent, WallMs,
};
use proptest::prelude::*;

use super::world::{World, exited, job, submit};
use crate::{AllocationRow, Command, EventKind, JobChange, Observed, Reply};

const RUNS: Observed = Observed::Running { ready: true, started_at: WallMs(1) };
const WARMS_UP: Observed = Observed::Running { ready: false, started_at: WallMs(1) };

/// Two nodes; the first instance of a job ran on the first of them, which is silent now.
struct Case {
    world: World,
    original: AllocationId,
    silent: NodeId,
}

impl Case {
    fn new(spec: &JobSpec) -> Case {
        let mut world = World::new(2);
        let id = world.submit(spec);
        let original = world.place(id, 0).unwrap();
        world.now += 1_000;
        world.observe(original, RUNS);
        let silent = world.state.allocations().get(&original).unwrap().node;
        let mut case = Case { world, original, silent };
        case.lose();
        case
    }

    fn lose(&mut self) {
        let node = self.silent;
        let session = self.world.state.nodes().get(&node).unwrap().session;
        self.world.one(Command::DisconnectNode { node, session }).unwrap();
        let (allocations, reason) = (vec![self.original], "node is silent".to_owned());
        let lost = Command::LoseAllocations { node, session, allocations, reason };
        self.world.one(lost).unwrap();
        assert!(self.row(self.original).is_none());
    }

    fn replace(&mut self) -> AllocationId {
        self.world.now += 1_000;
        self.world.place(self.original.job, 0).unwrap()
    }

    fn comes_back(&mut self) {
        self.world.now += 1_000;
        self.world.register(0);
    }

    fn says(&mut self, observed: Observed) -> u32 {
        self.world.observe_from(self.silent, self.original, observed)
    }

    fn row(&self, id: AllocationId) -> Option<&AllocationRow> {
        self.world.state.allocations().get(&id).map(|row| &**row)
    }

    /// What is to end on a node, and why.
    fn leaving(&self, node: NodeId) -> Vec<(AllocationId, String)> {
        let row = self.world.state.nodes().get(&node).unwrap();
        let away = self.world.state.away(row);
        away.filter_map(|(row, stop)| Some((row.id, stop?))).collect()
    }

    fn used_gpus(&self, node: NodeId) -> usize {
        self.world.state.nodes().get(&node).unwrap().used.devices.len()
    }

    fn live(&self) -> Vec<AllocationId> {
        self.world.state.allocations().iter().map(|(id, _)| *id).collect()
    }
}

fn ended(cause: EndCause) -> Observed {
    Observed::Ended(EndReport { cause, ..exited(0) })
}

fn spec(kind: JobKind, on_return: OnReturn) -> JobSpec {
    JobSpec { on_return, ..job(kind, "a", 1, 1) }
}

#[test]
fn f30_the_policy_decides_which_of_two_attempts_goes_on() {
    use OnReturn as P;
    let cases = [
        (P::KeepReplacement, Some(RUNS), RUNS, false, "has taken its place (keep-replacement)"),
        (P::KeepReplacement, None, RUNS, false, "has taken its place (keep-replacement)"),
        (P::KeepOriginal, Some(RUNS), RUNS, true, "(keep-original, not attempt 2)"),
        (P::KeepOriginal, Some(RUNS), WARMS_UP, true, "(keep-original, not attempt 2)"),
        (P::KeepLongestRunning, Some(RUNS), RUNS, true, "(keep-longest-running, not attempt 2)"),
        (P::KeepLongestRunning, None, WARMS_UP, true, "(keep-longest-running, not attempt 2)"),
        (P::KeepLongestRunning, Some(RUNS), WARMS_UP, false, "alone is ready"),
    ];
    for (on_return, rival_says, original_says, original_goes_on, why) in cases {
        let mut case = Case::new(&spec(JobKind::Service, on_return));
        let rival = case.replace();
        let rival_node = case.row(rival).unwrap().node;
        if let Some(observed) = rival_says {
            case.world.observe(rival, observed);
        }
        case.comes_back();
        assert_eq!(case.used_gpus(case.silent), 1, "its worker may be there");
        assert_eq!(case.says(original_says), 1);
        let of = format!("{on_return:?}, {why}");
        let (survivor, loser, node) = if original_goes_on {
            (case.original, rival, rival_node)
        } else {
            (rival, case.original, case.silent)
        };
        assert_eq!(case.live(), [survivor], "{of}");
        let leaving = case.leaving(node);
        assert_eq!(leaving.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [loser], "{of}");
        assert!(leaving[0].1.contains(why), "{of}: {leaving:?}");
        if original_goes_on {
            assert!(case.row(survivor).unwrap().reason.contains(why), "{of}");
            let returned = case.world.events.iter().any(|event| {
                matches!(&event.kind, EventKind::AllocationReturned { reason } if reason.contains(why))
            });
            assert!(returned, "{of}");
        }
        assert_eq!((case.used_gpus(case.silent), case.used_gpus(rival_node)), (1, 1), "{of}");
        let ended = ended(EndCause::Stopped);
        assert_eq!(case.world.observe_from(node, loser, ended), 1, "{of}");
        assert_eq!(case.used_gpus(node), 0, "{of}: free when its agent has said so");
        assert_eq!(case.live(), [survivor], "{of}");
        assert_eq!(case.world.job_state(survivor.job), "running", "{of}");
    }
}

#[test]
fn f30_without_a_replacement_the_original_goes_on_whatever_the_policy() {
    for kind in [JobKind::Batch, JobKind::Service] {
        for on_return in OnReturn::ALL {
            let mut case = Case::new(&spec(kind, on_return));
            case.comes_back();
            // The node has room for it, and is what was missing.
            let job = case.original.job;
            assert!(case.world.place(job, 0).is_err(), "its original may be heard of");
            let rival = (on_return == OnReturn::KeepReplacement).then(|| {
                case.world.now += 5_000;
                case.world.place(job, 0).unwrap()
            });
            assert_eq!(case.says(RUNS), 1);
            assert_eq!(case.live(), [case.original]);
            let next = if rival.is_some() { 3 } else { 2 };
            let task = case.world.state.tasks().values().next().unwrap();
            assert!(task.pending.is_empty());
            let original = case.original;
            case.world.observe(original, ended(EndCause::HostRebooted));
            assert_eq!(case.replace().attempt.0, next);
        }
    }
}

#[test]
fn f30_an_attempt_after_the_one_that_came_back_has_an_id_of_its_own() {
    let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepOriginal));
    let second = case.replace();
    case.comes_back();
    case.says(RUNS);
    // The second is still ending when the first is lost and replaced again.
    case.lose();
    let third = case.replace();
    assert_eq!((case.original.attempt.0, second.attempt.0, third.attempt.0), (1, 2, 3));
    case.comes_back();
    case.says(RUNS);
    assert_eq!(case.live(), [case.original]);
    let original = case.original;
    case.world.exit(original, 1);
    case.world.now += 60_000;
    let fourth = case.world.place(original.job, 0).unwrap();
    assert_eq!(fourth.attempt.0, 4);
}

#[test]
fn f30_batch_work_that_was_finished_meanwhile_counts() {
    for (on_return, counts) in
        [(OnReturn::KeepLongestRunning, true), (OnReturn::KeepReplacement, false)]
    {
        let mut case = Case::new(&spec(JobKind::Batch, on_return));
        let rival = case.replace();
        case.world.observe(rival, RUNS);
        case.comes_back();
        assert_eq!(case.says(Observed::Ended(exited(0))), 1);
        assert_eq!(case.used_gpus(case.silent), 0);
        let (live, state) = if counts { (vec![], "succeeded") } else { (vec![rival], "running") };
        assert_eq!((case.live(), case.world.job_state(rival.job)), (live, state));
    }
    let mut case = Case::new(&spec(JobKind::Batch, OnReturn::KeepLongestRunning));
    case.comes_back();
    assert_eq!(case.says(Observed::Ended(exited(3))), 1);
    assert_eq!(case.live(), [], "one that failed meanwhile is as lost as it was");
    assert_eq!(case.world.job_state(case.original.job), "queued");
}

#[test]
fn f30_what_the_job_does_not_want_any_more_ends() {
    let change = |change| {
        move |case: &mut Case| {
            let job = case.original.job;
            case.world.one(Command::ChangeJob { job, if_version: None, change }).unwrap();
        }
    };
    let update = |case: &mut Case| {
        let mut newer = spec(JobKind::Service, OnReturn::KeepOriginal);
        newer.tasks[0].command.push("newer".to_owned());
        case.world.one(submit(&newer, None)).unwrap();
    };
    let stop = change(JobChange::Stop { reason: "by hand".to_owned() });
    let restart = change(JobChange::Restart);
    type Act = Box<dyn FnOnce(&mut Case)>;
    let cases: [(&str, Act); 3] =
        [("stop", Box::new(stop)), ("restart", Box::new(restart)), ("update", Box::new(update))];
    for (what, act) in cases {
        let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepOriginal));
        act(&mut case);
        case.comes_back();
        case.says(RUNS);
        assert_eq!(case.live(), [], "{what}");
        assert_eq!(case.leaving(case.silent).len(), 1, "{what}");
        assert_eq!(case.used_gpus(case.silent), 1, "{what}");
        assert_eq!(case.says(Observed::Ended(exited(0))), 1, "{what}");
        assert_eq!(case.used_gpus(case.silent), 0, "{what}");
    }
}

#[test]
fn f30_what_is_exclusive_or_had_not_begun_does_not_come_back() {
    let mut exclusive = spec(JobKind::Batch, OnReturn::KeepOriginal);
    exclusive.exclusive = true;
    let mut case = Case::new(&exclusive);
    case.comes_back();
    assert_eq!((case.says(RUNS), case.used_gpus(case.silent)), (0, 1));
    assert_eq!(case.leaving(case.silent).len(), 1);

    let mut world = World::new(1);
    let id = world.submit(&spec(JobKind::Batch, OnReturn::KeepOriginal));
    let original = world.place(id, 0).unwrap();
    let silent = world.state.allocations().get(&original).unwrap().node;
    let mut case = Case { world, original, silent };
    case.lose();
    case.comes_back();
    assert_eq!((case.says(RUNS), case.used_gpus(case.silent)), (0, 1));
    assert_eq!(case.leaving(case.silent).len(), 1);
    assert_eq!(case.says(ended(EndCause::Stopped)), 1);
    assert_eq!((case.live().len(), case.used_gpus(case.silent)), (0, 0));
}

#[test]
fn f30_of_a_node_that_is_silent_again_only_an_end_is_believed() {
    let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepOriginal));
    case.comes_back();
    let node = case.silent;
    let session = case.world.state.nodes().get(&node).unwrap().session;
    case.world.one(Command::DisconnectNode { node, session }).unwrap();
    assert_eq!((case.says(RUNS), case.used_gpus(node)), (0, 0));
    assert_eq!(case.says(ended(EndCause::Exited)), 1);
    case.comes_back();
    assert_eq!((case.says(RUNS), case.used_gpus(node), case.live().len()), (0, 0, 0));
}

#[derive(Clone, Debug)]
enum Move {
    Place { instance: u32 },
    Begin { which: u8, ready: bool },
    Silence { node: u64 },
    Return { node: u64 },
    Tell { which: u8, code: Option<i32> },
    Stop { which: u8, intent: StopIntent },
    Restart,
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
            Move::Tell { which, code } => {
                let Some((id, node)) = self.pick(which).filter(|(_, node)| self.is_ready(*node))
                else {
                    return;
                };
                if code.is_some() {
                    self.runs.remove(&id);
                }
                let said = code.map_or(RUNS, |code| Observed::Ended(exited(code)));
                self.world.observe_from(node, id, said);
            }
            Move::Stop { which, intent } => {
                let Some((id, _)) = self.pick(which) else { return };
                let (allocations, reason) = (vec![id], "r".to_owned());
                let _ = self.world.one(Command::StopAllocations { allocations, intent, reason });
            }
            Move::Restart => {
                let (job, if_version, change) = (self.job, None, JobChange::Restart);
                let _ = self.world.one(Command::ChangeJob { job, if_version, change });
            }
            Move::Wait { ms } => self.world.now += ms,
        }
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
    fn f30_what_truly_runs_on_a_ready_node_holds_its_device(
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

#[test]
fn f30_a_device_that_has_moved_meanwhile_is_not_given_twice() {
    let mut case = Case::new(&spec(JobKind::Batch, OnReturn::KeepOriginal));
    let node = case.silent;
    let session = case.world.state.nodes().get(&node).unwrap().session;
    case.world.one(Command::DownNode { node, session }).unwrap();
    assert_eq!(case.used_gpus(node), 0, "nothing counts on a node that is down");
    let mut spec = super::world::node_spec("node-0", 2);
    spec.devices.clear();
    let register = Command::RegisterNode {
        name: super::world::name("node-0"),
        instance_key: [0; 16],
        spec: spec.into(),
    };
    assert!(matches!(case.world.one(register), Ok(Reply::Registered { .. })));
    assert_eq!((case.says(RUNS), case.used_gpus(node)), (0, 0));
}

#[test]
fn f30_what_the_agent_no_longer_knows_is_forgotten() {
    let mut case = Case::new(&spec(JobKind::Batch, OnReturn::KeepOriginal));
    case.comes_back();
    let node = case.silent;
    let session = case.world.state.nodes().get(&node).unwrap().session;
    let orphans = vec![case.original];
    case.world.one(Command::ForgetOrphans { node, session, orphans }).unwrap();
    assert_eq!(case.used_gpus(node), 0);
    case.world.now += 5_000;
    let again = case.replace();
    assert_eq!(case.row(again).map(|row| row.state), Some(AllocationState::Planned));
}
