use std::collections::BTreeMap;

use berth_model::fits::fits;
use berth_model::{
    AtBegin, CpuMilli, EndCause, EndReport, JobKind, JobSpec, NodeReservation, NodeUse, Policy,
    Preemption, ReservedNodes, StopIntent, TaskSpec, WallMs,
};
use berth_state::{AllocationRow, Command, JobRow, Observation, Observed};
use proptest::prelude::*;

use super::*;
use crate::filters::{Pass, Request, admits};
use crate::fixture::{Cluster, gpu_node, gpu_task, job, name, share_task, task};
use crate::what_if::stopped;
use crate::{Budget, MixCounts, Planner, SoftView};

const UNBOUNDED: RoomLimits =
    RoomLimits { moves_max: 3, tries_max: u64::MAX, worth_milli: i64::MIN };
const BATCH: BatchLimits = BatchLimits { moves_max: 5, of_job_milli: 1000, worth_milli: 10 };

fn everybody(_: &JobRow, _: &AllocationRow) -> Option<u64> {
    Some(1)
}

/// A cluster with holes in it, and what the cluster is asked for.
struct Scene {
    cluster: Cluster,
    soft: SoftView,
}

/// Nodes by how many GPUs they have, of eight cores each; tasks by what they ask for, and whether
/// they end again once all are placed.
fn scene(nodes: &[u32], tasks: &[(TaskSpec, bool)]) -> Scene {
    let node = |gpus: &u32| {
        let spec = gpu_node(*gpus);
        berth_model::NodeSpec { cpu: CpuMilli(8_000), ..spec }
    };
    let mut cluster = Cluster::with_nodes(nodes.iter().map(node));
    let mut counts = MixCounts::default();
    let mut planner = Planner::default();
    let mut placed = Vec::new();
    for (task, ends) in tasks {
        counts.add(task, 1);
        let id = cluster.submit(job(Policy::FirstFit, task.clone()));
        let soft = SoftView::default();
        let (now, budget) = (cluster.now, Budget::UNLIMITED);
        let plan = planner.plan_jobs(&cluster.state, &soft, now, budget, &[id]);
        placed.extend(plan.placements.iter().map(|one| (one.clone(), *ends)));
        cluster.place(plan.placements);
    }
    for (placement, _) in placed.iter().filter(|(_, ends)| *ends) {
        cluster.end(placement, EndReport { exit_code: Some(0), ..ended(EndCause::Exited) });
    }
    let soft = SoftView { mix: counts.mix().into(), ..SoftView::default() };
    Scene { cluster, soft }
}

fn ended(cause: EndCause) -> EndReport {
    EndReport { cause, ..stopped(berth_model::WallMs(0)) }
}

impl Scene {
    fn board(&self) -> Board {
        let mut board = Board::default();
        board.observe(&self.cluster.state, &self.soft, self.cluster.now, &everybody);
        board
    }

    fn room(&self, asked: &TaskSpec) -> Option<Room> {
        let constraints = Default::default();
        self.board().make_room(asked, &constraints, self.cluster.now, UNBOUNDED)
    }

    /// Makes moves one after another: each place has to be free while whoever moves there is
    /// still where it was. What is promised of each node in the end.
    fn replay(&self, moves: &[Move]) -> BTreeMap<NodeId, NodeUse> {
        let state = &self.cluster.state;
        let mut used: BTreeMap<NodeId, NodeUse> =
            state.nodes().iter().map(|(id, row)| (*id, row.used.clone())).collect();
        for one in moves {
            let row = state.nodes().get(&one.to).unwrap();
            let allocation = state.allocations().get(&one.allocation).unwrap();
            let task = &state.jobs().get(&one.allocation.job).unwrap().spec.tasks[0];
            assert_eq!(allocation.node, one.from);
            let there = used.get_mut(&one.to).unwrap();
            assert_eq!(fits(row.capacity(there), task, &one.claim), Ok(()), "{one:?}");
            there.add(&one.claim);
            used.get_mut(&one.from).unwrap().remove(&allocation.claim);
        }
        used
    }
}

#[test]
fn nobody_moves_where_it_is_not_let_in() {
    let mut scene =
        scene(&[2, 2], &[(gpu_task(1), false), (gpu_task(1), true), (gpu_task(1), false)]);
    let room = scene.room(&gpu_task(2)).unwrap();
    assert_eq!(room.moves.len(), 1);
    let spec = NodeReservation {
        name: name("maintenance"),
        nodes: ReservedNodes::Pool(name("default")),
        namespaces: Default::default(),
        priority_min: None,
        from: WallMs(0),
        until: None,
        running: AtBegin::Keep,
    };
    let command = Command::ReserveNodes { spec: std::sync::Arc::new(spec), if_version: None };
    scene.cluster.apply(command).unwrap();
    assert_eq!(scene.room(&gpu_task(2)), None);
    let mut board = scene.board();
    let batch = board.batch(&scene.cluster.state, scene.cluster.now, BATCH);
    assert_eq!(batch.moves, []);
}

/// A node in plain numbers, and who is on it.
#[derive(Clone, Debug)]
struct Plain {
    cpu: u64,
    gpus: Vec<u32>,
    tasks: Vec<(TaskSpec, Vec<usize>)>,
}

/// The share of each of how many GPUs.
fn gpus_of(task: &TaskSpec) -> (usize, u32) {
    task.gpu.as_ref().map_or((0, 0), |gpu| (gpu.count as usize, gpu.share.0))
}

/// All that a node can become by taking a task.
fn taking(node: &Plain, task: &TaskSpec) -> Vec<Plain> {
    let (count, share) = gpus_of(task);
    if node.cpu < task.cpu.0 {
        return Vec::new();
    }
    let open: Vec<usize> = (0..node.gpus.len()).filter(|at| node.gpus[*at] >= share).collect();
    let sets: Vec<Vec<usize>> = match count {
        0 => vec![Vec::new()],
        1 => open.iter().map(|at| vec![*at]).collect(),
        _ if open.len() >= count => vec![open[..count].to_vec()],
        _ => Vec::new(),
    };
    let with = |set: &Vec<usize>| {
        let mut node = node.clone();
        node.cpu -= task.cpu.0;
        set.iter().for_each(|at| node.gpus[*at] -= share);
        node
    };
    sets.iter().map(with).collect()
}

/// Whether all of these have places on the nodes together, none on the one that they leave.
fn have_places(nodes: &[Plain], from: usize, tasks: &[TaskSpec]) -> bool {
    let Some((first, rest)) = tasks.split_first() else { return true };
    (0..nodes.len()).filter(|at| *at != from).any(|at| {
        taking(&nodes[at], first).into_iter().any(|taken| {
            let mut nodes = nodes.to_vec();
            nodes[at] = taken;
            have_places(&nodes, from, rest)
        })
    })
}

/// By trying everything: how many have to move off one node, if at most three do.
fn fewest(nodes: &[Plain], asked: &TaskSpec) -> Option<usize> {
    let sets = nodes.iter().enumerate().flat_map(|(at, node)| {
        (0_u32..1 << node.tasks.len()).filter_map(move |set| {
            let inside = |one: &usize| set & (1 << one) != 0;
            let leave: Vec<_> = (0..node.tasks.len()).filter(inside).collect();
            let mut without = node.clone();
            for one in &leave {
                let (task, held) = &node.tasks[*one];
                without.cpu += task.cpu.0;
                held.iter().for_each(|gpu| without.gpus[*gpu] += gpus_of(task).1);
            }
            let tasks: Vec<TaskSpec> = leave.iter().map(|one| node.tasks[*one].0.clone()).collect();
            let will_do = leave.len() <= 3
                && !taking(&without, asked).is_empty()
                && have_places(nodes, at, &tasks);
            will_do.then_some(leave.len())
        })
    });
    sets.min()
}

fn plain(scene: &Scene) -> Vec<Plain> {
    let state = &scene.cluster.state;
    let of = |row: &berth_state::NodeRow| {
        let spec = &row.spec;
        let mut node =
            Plain { cpu: spec.cpu.0, gpus: vec![1000; spec.devices.len()], tasks: Vec::new() };
        for id in &row.live {
            let task = &state.jobs().get(&id.job).unwrap().spec.tasks[0];
            let at = |uuid: &str| spec.devices.iter().position(|one| one.uuid == uuid).unwrap();
            let claim = &state.allocations().get(id).unwrap().claim;
            let held: Vec<usize> = claim.devices.iter().map(|one| at(&one.uuid)).collect();
            node.cpu -= task.cpu.0;
            held.iter().for_each(|gpu| node.gpus[*gpu] -= gpus_of(task).1);
            node.tasks.push((task.clone(), held));
        }
        node
    };
    state.nodes().values().map(|row| of(row)).collect()
}

fn any_task() -> impl Strategy<Value = TaskSpec> {
    let gpu = prop_oneof![
        Just(task()),
        Just(share_task(250)),
        Just(share_task(250)),
        Just(share_task(500)),
        Just(share_task(500)),
        Just(gpu_task(1)),
        Just(gpu_task(2)),
    ];
    let cores = prop_oneof![3 => 1..2_u64, 1 => 1..5_u64];
    (gpu, cores).prop_map(|(task, cores)| TaskSpec { cpu: CpuMilli(cores * 1000), ..task })
}

fn any_scene() -> impl Strategy<Value = Scene> {
    let nodes = prop::collection::vec(prop_oneof![1 => 0..1_u32, 4 => 1..3_u32], 2..5);
    let tasks = prop::collection::vec((any_task(), prop::bool::weighted(0.45)), 4..24);
    (nodes, tasks).prop_map(|(nodes, tasks)| scene(&nodes, &tasks))
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}", plain(self))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn room_takes_the_fewest_moves_and_never_more_than_there_is(
        scene in any_scene(),
        asked in any_task(),
    ) {
        let expected = fewest(&plain(&scene), &asked);
        let room = scene.room(&asked);
        prop_assert_eq!(room.as_ref().map(|room| room.moves.len()), expected.filter(|one| *one > 0));
        prop_assert_eq!(&room, &scene.room(&asked), "twice the same");
        if let Some(room) = room {
            let used = scene.replay(&room.moves);
            let constraints = Default::default();
            let request = Request { task: &asked, constraints: &constraints, kind: JobKind::Batch, pass: Pass::default() };
            let row = scene.cluster.state.nodes().get(&room.node).unwrap();
            prop_assert_eq!(admits(row, &used[&room.node], scene.cluster.now, request), Ok(()));
        }
    }

    #[test]
    fn a_batch_leaves_less_of_no_use_and_never_takes_more_than_there_is(scene in any_scene()) {
        let (state, now) = (&scene.cluster.state, scene.cluster.now);
        let batch = scene.board().batch(state, now, BATCH);
        prop_assert_eq!(&batch, &scene.board().batch(state, now, BATCH), "twice the same");
        scene.replay(&batch.moves);
        prop_assert!(batch.moves.len() <= 5);
        let gain = batch.lost_before_milli - batch.lost_after_milli;
        // Of each of two nodes it is rounded to a thousandth.
        prop_assert!(gain >= 8 * batch.moves.len() as i64, "{:?}", batch);
        // It is what a cluster is that was changed in truth.
        let mut moved = Scene { cluster: Cluster { state: state.clone(), now }, soft: scene.soft.clone() };
        batch.moves.iter().for_each(|one| moved.make(one));
        let again = moved.board().batch(&moved.cluster.state, now, BATCH);
        prop_assert_eq!(again.lost_before_milli, batch.lost_after_milli);
    }

    #[test]
    fn a_board_that_was_kept_is_one_that_is_made_anew(scene in any_scene(), asked in any_task()) {
        let mut scene = scene;
        let mut kept = scene.board();
        let batch = kept.batch(&scene.cluster.state, scene.cluster.now, BATCH);
        batch.moves.iter().for_each(|one| scene.make(one));
        kept.observe(&scene.cluster.state, &scene.soft, scene.cluster.now, &everybody);
        let constraints = Default::default();
        let now = scene.cluster.now;
        prop_assert_eq!(kept.make_room(&asked, &constraints, now, UNBOUNDED), scene.room(&asked));
    }
}

impl Scene {
    /// Makes a move through the commands that would make it.
    fn make(&mut self, one: &Move) {
        let id = one.allocation;
        let (allocations, reason) = (vec![id], String::new());
        let intent = StopIntent::Drain;
        self.cluster.apply(Command::StopAllocations { allocations, intent, reason }).unwrap();
        self.cluster.end_allocation(one.from, id, ended(EndCause::Stopped));
        let row = self.cluster.state.tasks().get(&(id.job, id.task)).unwrap().clone();
        let attempt = self.cluster.state.next_attempt(id.job, &row, id.instance.0);
        let next = AllocationId { attempt, ..id };
        let claim = one.claim.clone();
        let placement = berth_state::Placement::new(next, one.to, claim, Default::default());
        self.cluster.place(vec![placement]);
    }
}

fn shares(milli: &[u32]) -> Vec<(TaskSpec, bool)> {
    milli.iter().map(|milli| (share_task(*milli), false)).collect()
}

#[test]
fn of_sets_that_are_as_small_the_one_is_taken_that_leaves_most_of_use() {
    let full = scene(&[1, 1, 1], &shares(&[700, 600, 500]));
    assert_eq!(full.room(&gpu_task(2)), None, "no node has two");
    assert_eq!(full.room(&gpu_task(1)), None, "nobody has a place elsewhere");
    let mut tasks = shares(&[700, 600, 500, 400]);
    tasks[1].1 = true;
    let scene = scene(&[1, 1, 1], &tasks);
    let room = scene.room(&gpu_task(1)).unwrap();
    assert_eq!((room.moves.len(), room.node), (1, NodeId(2)));
    assert_eq!(room.moves[0].to, NodeId(3), "400 beside 500");
}

#[test]
fn where_one_is_not_enough_several_move_and_none_gets_the_place_of_another() {
    let check = |held: &[u32], expected: Option<usize>| {
        // On each node but the last, of one GPU, so much is held and as much of the rest was.
        let pair = |milli: &u32| [(share_task(*milli), false), (share_task(1000 - milli), true)];
        let mut tasks: Vec<(TaskSpec, bool)> = held.iter().flat_map(pair).collect();
        tasks.extend(shares(&[250, 250, 250]));
        let scene = scene(&vec![1; held.len() + 1], &tasks);
        let room = scene.room(&gpu_task(1));
        assert_eq!(room.as_ref().map(|room| room.moves.len()), expected, "{held:?}: {room:?}");
        let room = room.filter(|room| room.moves.len() > 1);
        room.into_iter().for_each(|room| drop(scene.replay(&room.moves)));
    };
    check(&[750, 750, 750], Some(3));
    check(&[750, 750], None);
    check(&[500, 750], Some(3));
    check(&[500, 750, 750, 600], Some(3));
    check(&[500, 500, 750], Some(1));
}

#[test]
fn the_cheapest_place_is_left_to_whom_no_other_would_do() {
    let of = |milli, gibibytes: u64| {
        let memory = berth_model::MemoryBytes(gibibytes << 30);
        TaskSpec { memory, ..share_task(milli) }
    };
    // Half of each of two GPUs is free; only beside the first is memory for the smaller of two.
    let tasks = [
        (of(500, 300), false),
        (of(500, 1), true),
        (of(500, 500), false),
        (of(500, 1), true),
        (of(500, 1), false),
        (of(250, 100), false),
    ];
    let scene = scene(&[1, 1, 1], &tasks);
    let room = scene.room(&gpu_task(1)).unwrap();
    let places: Vec<(u64, NodeId)> =
        room.moves.iter().map(|one| (one.allocation.job.0, one.to)).collect();
    assert_eq!(places, [(5, NodeId(2)), (6, NodeId(1))]);
}

#[test]
fn what_is_not_worth_a_move_is_not_moved_for() {
    let scene = scene(&[1, 1], &shares(&[600, 400, 300]));
    let limits = RoomLimits { worth_milli: 1, ..UNBOUNDED };
    let room = |asked: &TaskSpec, limits| {
        scene.board().make_room(asked, &Default::default(), scene.cluster.now, limits)
    };
    // A task that asks for nothing but cores gains no GPU.
    let cores = TaskSpec { cpu: CpuMilli(7_950), ..task() };
    assert!(room(&cores, UNBOUNDED).is_none_or(|room| room.gain_milli <= 0));
    assert_eq!(room(&cores, limits), None);
    assert_eq!(room(&share_task(700), limits), None, "it fits as it is");
    assert_eq!(room(&gpu_task(1), RoomLimits { moves_max: 0, ..limits }), None);
    assert_eq!(room(&gpu_task(1), RoomLimits { tries_max: 0, ..limits }), None);
}

#[test]
fn a_job_is_not_moved_as_a_whole() {
    // Three nodes of two GPUs with a half on each, all of one job.
    let halves = TaskSpec { count: 6, cpu: CpuMilli(100), ..share_task(500) };
    let mut cluster = Cluster::with_nodes([gpu_node(1), gpu_node(1), gpu_node(1), gpu_node(1)]);
    let id = cluster.submit(JobSpec { policy: Policy::Spread, ..job(Policy::Spread, halves) });
    let mut counts = MixCounts::default();
    counts.add(&gpu_task(1), 4);
    counts.add(&share_task(500), 1);
    let soft = SoftView { mix: counts.mix().into(), ..SoftView::default() };
    let plan = crate::plan_jobs(&cluster.state, &soft, cluster.now, Budget::UNLIMITED, &[id]);
    cluster.place(plan.placements);
    let scene = Scene { cluster, soft };
    let moves = |of_job_milli, moves_max| {
        let limits = BatchLimits { of_job_milli, moves_max, worth_milli: 1 };
        let batch = scene.board().batch(&scene.cluster.state, scene.cluster.now, limits);
        batch.moves.len()
    };
    assert_eq!((moves(1000, 10), moves(100, 10), moves(0, 10), moves(1000, 0)), (1, 1, 1, 0));
}

#[test]
fn who_stays_where_it_is() {
    let check = |spec: JobSpec, replicas: usize, expected: Result<(), Stays>| {
        let mut cluster = Cluster::with_nodes([gpu_node(8)]);
        let id = cluster.submit(spec);
        let soft = SoftView::default();
        let plan = crate::plan_jobs(&cluster.state, &soft, cluster.now, Budget::UNLIMITED, &[id]);
        let placed = plan.placements.clone();
        cluster.place(plan.placements);
        let found = |cluster: &Cluster| {
            let row = cluster.state.allocations().get(&placed[0].allocation()).unwrap();
            let job = cluster.state.jobs().get(&id).unwrap();
            may_move(&cluster.state, job, row, cluster.now).map(|_| ())
        };
        if expected != Err(Stays::Gang) && expected != Err(Stays::Daemon) {
            let first = found(&cluster);
            assert!(matches!(first, Err(Stays::NotRunning | Stays::NotPreemptible)), "{first:?}");
        }
        for placement in placed.iter().take(replicas) {
            run(&mut cluster, placement);
        }
        if expected == Ok(()) {
            assert_eq!(found(&cluster), Err(Stays::TooYoung));
        }
        cluster.now = cluster.now.after(Preemption::MIN_RUN_DEFAULT);
        assert_eq!(found(&cluster), expected);
    };
    let again = |attempts| {
        let mut task = TaskSpec { count: 2, ..gpu_task(1) };
        task.restart.attempts = attempts;
        task
    };
    let of = |task| job(Policy::Berth, task);
    check(of(again(None)), 2, Ok(()));
    check(of(again(Some(1))), 1, Ok(()));
    check(of(again(Some(0))), 2, Err(Stays::NoRestart));
    let service = |task| JobSpec { kind: JobKind::Service, ..of(task) };
    check(service(again(None)), 2, Ok(()));
    check(service(again(None)), 1, Err(Stays::OnlyReplica));
    let kept = Preemption { preemptible: false, ..Preemption::default() };
    check(JobSpec { preemption: kept, ..of(again(None)) }, 2, Err(Stays::NotPreemptible));
    let gang = TaskSpec { gang: Some(berth_model::Gang {}), ..again(None) };
    check(of(gang), 2, Err(Stays::Gang));
    let daemon = TaskSpec { count: 1, ..again(None) };
    check(JobSpec { kind: JobKind::Daemon, ..of(daemon) }, 1, Err(Stays::Daemon));
}

fn run(cluster: &mut Cluster, placement: &berth_state::Placement) {
    let observed = Observed::Running { ready: true, started_at: berth_model::WallMs(0) };
    let allocation = placement.allocation();
    let observations = vec![Observation { allocation, observed }];
    cluster.apply(Command::Observe { node: placement.node, observations }).unwrap();
}
