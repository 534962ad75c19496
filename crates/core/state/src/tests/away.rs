//! Nodes that come back after their work was given up: of an original and its replacement
//! exactly one goes on, and no device is given twice meanwhile.

use berth_model::{
    AllocationId, AllocationState, ArraySpec, DeviceHealth, Drain, EndCause, EndReport, JobKind,
    JobSpec, NodeId, NodeSpec, OnReturn, Outcome, WallMs,
};

use super::restores::{orphans, restored, take_stock};
use super::world::{World, exited, job, submit};
use crate::{
    AllocationRow, Command, EventKind, JobChange, Observed, Purpose, Reply, Stock, Unknown,
};

pub const RUNS: Observed = Observed::Running { ready: true, started_at: WallMs(1) };
pub const WARMS_UP: Observed = Observed::Running { ready: false, started_at: WallMs(1) };

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

    fn register(&mut self, spec: NodeSpec) {
        let name = super::world::name("node-0");
        let spec = spec.into();
        let register = Command::RegisterNode { name, instance_key: [0; 16], spec };
        assert!(matches!(self.world.one(register), Ok(Reply::Registered { .. })));
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

fn job_named(text: &str) -> JobSpec {
    job(JobKind::Service, text, 1, 1)
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

/// A batch job of one instance whose worker has finished, or was about to, when its node fell
/// silent; the second node has the replacement.
fn finished(act: impl FnOnce(&mut Case)) {
    let mut case = Case::new(&spec(JobKind::Batch, OnReturn::KeepOriginal));
    act(&mut case);
    assert_eq!(case.says(Observed::Ended(exited(0))), 1);
    assert_eq!((case.live(), case.used_gpus(case.silent)), (vec![], 0));
    assert_eq!(case.world.job_state(case.original.job), "succeeded");
    let last = case.world.events.iter().rev().find_map(|event| {
        let EventKind::AllocationEnded { outcome, row, .. } = &event.kind else { return None };
        (row.id == case.original).then_some(*outcome)
    });
    assert_eq!(last, Some(Outcome::Succeeded));
}

#[test]
fn f30_what_has_finished_is_not_done_again_wherever_it_finished() {
    let drain = |case: &mut Case| {
        let purpose = Purpose::Draining(Drain { deadline: None });
        let node = case.silent;
        case.world.one(Command::SetSchedulable { node, purpose }).unwrap();
    };
    finished(|case| {
        case.replace();
        drain(case);
        case.comes_back();
    });
    finished(|case| {
        case.replace();
        case.comes_back();
        let node = case.silent;
        let session = case.world.state.nodes().get(&node).unwrap().session;
        case.world.one(Command::DisconnectNode { node, session }).unwrap();
    });
    finished(|case| {
        let mut spec = super::world::node_spec("node-0", 2);
        spec.devices[0].health = DeviceHealth::Lost;
        case.world.now += 1_000;
        case.register(spec);
    });
    // An order to end that came too late.
    finished(|case| {
        case.comes_back();
        let job = case.original.job;
        let change = JobChange::Restart;
        case.world.one(Command::ChangeJob { job, if_version: None, change }).unwrap();
    });
    // The one whose place the original took has finished first.
    let mut case = Case::new(&spec(JobKind::Batch, OnReturn::KeepOriginal));
    let rival = case.replace();
    case.world.observe(rival, RUNS);
    let node = case.row(rival).unwrap().node;
    case.comes_back();
    case.says(RUNS);
    assert_eq!(case.live(), [case.original]);
    assert_eq!(case.world.observe_from(node, rival, Observed::Ended(exited(0))), 1);
    assert_eq!((case.live(), case.world.job_state(rival.job)), (vec![], "succeeded"));
    assert_eq!((case.used_gpus(node), case.leaving(case.silent).len()), (0, 1));
    assert_eq!(case.says(ended(EndCause::Stopped)), 1);
    assert_eq!(case.used_gpus(case.silent), 0);
}

#[test]
fn f30_what_had_hardly_begun_when_it_was_given_up_and_has_finished_is_done() {
    let mut world = World::new(2);
    let id = world.submit(&spec(JobKind::Batch, OnReturn::KeepLongestRunning));
    let original = world.place(id, 0).unwrap();
    let silent = world.state.allocations().get(&original).unwrap().node;
    let mut case = Case { world, original, silent };
    case.lose();
    case.replace();
    case.comes_back();
    assert_eq!(case.says(Observed::Ended(exited(0))), 1);
    assert_eq!((case.live(), case.world.job_state(id)), (vec![], "succeeded"));
}

#[test]
fn f30_a_limit_of_instances_does_not_forget_what_has_finished() {
    let mut one_at_once = JobSpec { ..job(JobKind::Batch, "a", 2, 1) };
    one_at_once.tasks[0].array = Some(ArraySpec { start: 0, step: 1, parallel_max: Some(1) });
    let mut case = Case::new(&one_at_once);
    let other = case.world.place(case.original.job, 1).unwrap();
    case.comes_back();
    assert_eq!(case.says(Observed::Ended(exited(0))), 1);
    assert_eq!(case.live(), [other]);
    case.world.exit(other, 0);
    assert_eq!(case.world.job_state(other.job), "succeeded");
}

/// The first attempt was lost with one node, the second with the other; then both are back.
#[test]
fn f30_the_original_is_the_attempt_that_was_begun_first() {
    let cases = [
        (OnReturn::KeepOriginal, 1),
        (OnReturn::KeepReplacement, 2),
        (OnReturn::KeepLongestRunning, 1),
    ];
    for (on_return, survivor) in cases {
        let mut case = Case::new(&spec(JobKind::Service, on_return));
        let second = case.replace();
        case.world.observe(second, RUNS);
        let node = case.row(second).unwrap().node;
        let session = case.world.state.nodes().get(&node).unwrap().session;
        case.world.one(Command::DisconnectNode { node, session }).unwrap();
        let (allocations, reason) = (vec![second], "node is silent".to_owned());
        let lost = Command::LoseAllocations { node, session, allocations, reason };
        case.world.one(lost).unwrap();
        case.comes_back();
        case.says(RUNS);
        assert_eq!(case.live(), [case.original], "nothing else is heard of");
        case.world.now += 1_000;
        case.world.register(1);
        assert_eq!(case.world.observe_from(node, second, RUNS), 1);
        let live: Vec<u32> = case.live().iter().map(|id| id.attempt.0).collect();
        assert_eq!(live, [survivor], "{on_return:?}");
    }
}

#[test]
fn f30_an_original_does_not_yield_to_an_attempt_on_a_silent_node() {
    for drained in [false, true] {
        let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepReplacement));
        let rival = case.replace();
        case.world.observe(rival, RUNS);
        let node = case.row(rival).unwrap().node;
        let session = case.world.state.nodes().get(&node).unwrap().session;
        case.world.one(Command::DisconnectNode { node, session }).unwrap();
        if drained {
            let (node, purpose) = (case.silent, Purpose::Draining(Drain { deadline: None }));
            case.world.one(Command::SetSchedulable { node, purpose }).unwrap();
        }
        case.comes_back();
        assert_eq!(case.says(RUNS), 1);
        assert_eq!(case.live(), [case.original], "{drained}");
        case.world.now += 1_000;
        case.world.register(1);
        assert_eq!(case.leaving(node).len(), 1, "{drained}");
    }
}

#[test]
fn f30_a_late_first_report_does_not_end_a_replacement_that_runs() {
    let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepReplacement));
    case.comes_back();
    case.world.now += 5_000;
    let rival = case.replace();
    case.world.observe(rival, RUNS);
    assert_eq!(case.says(RUNS), 1);
    assert_eq!(case.live(), [rival]);
}

#[test]
fn f30_why_one_is_back_is_not_why_it_fails_later() {
    let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepOriginal));
    case.comes_back();
    case.says(RUNS);
    let original = case.original;
    assert!(case.row(original).unwrap().reason.contains("its node is back"));
    case.world.exit(original, 3);
    let task = case.world.state.tasks().values().next().unwrap();
    let failure = task.failures.back().unwrap();
    assert!(!failure.reason.contains("its node is back"), "{}", failure.reason);
}

#[test]
fn f30_what_has_no_room_any_more_is_told_to_end_and_counts_until_it_has() {
    let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepOriginal));
    let mut smaller = super::world::node_spec("node-0", 2);
    smaller.devices.remove(0);
    case.world.now += 1_000;
    case.register(smaller);
    let cpu = |case: &Case| case.world.state.nodes().get(&case.silent).unwrap().used.cpu.0;
    assert!(cpu(&case) > 0, "its worker may run on");
    let leaving = case.leaving(case.silent);
    assert!(leaving[0].1.contains("no room"), "{leaving:?}");
    let told = |event: &crate::Event| {
        event.allocation == Some(case.original)
            && matches!(&event.kind, EventKind::AllocationStopping { reason } if reason.contains("no room"))
    };
    assert!(case.world.events.iter().any(told));
    assert_eq!(case.says(ended(EndCause::Stopped)), 1);
    assert_eq!((cpu(&case), case.leaving(case.silent).len()), (0, 0));
}

#[test]
fn f30_what_is_to_end_takes_no_room_from_what_lives() {
    let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepOriginal));
    let job = case.original.job;
    let change = JobChange::Restart;
    case.world.one(Command::ChangeJob { job, if_version: None, change }).unwrap();
    case.comes_back();
    let node = case.silent;
    // Beside what ends there is room, until the inventory shrinks.
    let other = case.world.submit(&job_named("b"));
    let placement = case.world.placement(other, 0, node);
    let placed = case.world.one(Command::Place { placements: vec![placement] }).unwrap();
    let Reply::Placed { granted, .. } = placed else { panic!("unexpected {placed:?}") };
    let mut smaller = super::world::node_spec("node-0", 2);
    smaller.cpu = case.row(granted[0]).unwrap().claim.cpu;
    case.register(smaller);
    assert_eq!(case.row(granted[0]).unwrap().state, AllocationState::Planned);
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
    assert_eq!(case.says(Observed::Ended(exited(0))), 1);
    assert_eq!(case.world.job_state(case.original.job), "succeeded", "before its lease was over");

    let mut case = Case::new(&exclusive);
    let rival = case.replace();
    case.comes_back();
    assert_eq!(case.says(Observed::Ended(exited(0))), 1);
    assert_eq!(case.live(), [rival], "one that lives is not given up");

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

#[test]
fn f30_a_device_that_has_moved_meanwhile_is_not_given_twice() {
    let mut case = Case::new(&spec(JobKind::Batch, OnReturn::KeepOriginal));
    let node = case.silent;
    let session = case.world.state.nodes().get(&node).unwrap().session;
    case.world.one(Command::DownNode { node, session }).unwrap();
    assert_eq!(case.used_gpus(node), 0, "nothing counts on a node that is down");
    let was = super::world::node_spec("node-0", 2);
    let mut other = super::world::node_spec("node-1", 0);
    other.devices = was.devices.clone();
    let register = Command::RegisterNode {
        name: super::world::name("node-1"),
        instance_key: [1; 16],
        spec: other.into(),
    };
    assert!(matches!(case.world.one(register), Ok(Reply::Registered { .. })));
    let again = case.replace();
    let row = case.row(again).unwrap();
    let (moved_to, uuid) = (row.node, row.claim.devices[0].uuid.clone());
    assert_ne!(moved_to, node);
    assert_eq!(uuid, was.devices[0].uuid, "the device that the original had");
    case.world.observe(again, RUNS);
    case.register(NodeSpec { devices: Vec::new(), ..was });
    assert_eq!((case.says(RUNS), case.used_gpus(node)), (0, 0));
    assert_eq!((case.live(), case.used_gpus(moved_to)), (vec![again], 1));
    assert_eq!(case.leaving(node).len(), 1, "its worker is to end");
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

#[test]
fn f30_of_what_nobody_can_be_told_an_operator_is() {
    let backup = World::new(2);
    let mut world = restored(&backup.state);
    for number in 0..2 {
        take_stock(&mut world, number, Stock { complete: true, ..Stock::default() }).unwrap();
        world.register(number);
    }
    world.now += 600_000;
    let job = world.submit(&spec(JobKind::Service, OnReturn::KeepOriginal));
    let original = world.place(job, 0).unwrap();
    world.observe(original, RUNS);
    let row = world.state.allocations().get(&original).unwrap().clone();
    let mut case = Case { world, original, silent: row.node };
    case.lose();
    let change = JobChange::Stop { reason: "by hand".to_owned() };
    case.world.one(Command::ChangeJob { job, if_version: None, change }).unwrap();
    case.world.now += crate::retention::JOBS_KEPT.0;
    case.world.one(Command::Reap { jobs: vec![job], nodes: vec![], keys: vec![] }).unwrap();
    assert!(case.world.state.jobs().get(&job).is_none());
    assert_eq!(case.leaving(case.silent), [], "its agent could not make sense of it");
    let worker = Unknown {
        allocation: original,
        namespace: "default".to_owned(),
        job_name: "a".to_owned(),
        spec_digest: row.spec_digest,
        claim: row.claim.clone(),
    };
    let stock = Stock { unknown: vec![worker], complete: true, ..Stock::default() };
    take_stock(&mut case.world, 0, stock).unwrap();
    case.world.register(0);
    assert_eq!(orphans(&case.world).into_keys().collect::<Vec<_>>(), [original]);
    assert_eq!(case.used_gpus(case.silent), 1);
}

#[test]
fn f30_a_replica_that_is_back_and_ready_is_progress_of_its_version() {
    let mut world = World::new(2);
    let first = spec(JobKind::Service, OnReturn::KeepOriginal);
    let job = world.submit(&first);
    let mut newer = first.clone();
    newer.tasks[0].command.push("newer".to_owned());
    world.one(submit(&newer, None)).unwrap();
    let original = world.place(job, 0).unwrap();
    world.observe(original, WARMS_UP);
    let silent = world.state.allocations().get(&original).unwrap().node;
    let mut case = Case { world, original, silent };
    case.lose();
    case.comes_back();
    case.says(RUNS);
    let rollout = case.world.state.jobs().get(&job).unwrap().rollout.unwrap();
    assert_eq!((rollout.ready_max, rollout.progressed_at.0), (1, case.world.now));
}
