//! What has waited for long: it has a place kept where others end by themselves, and starts within
//! a bound however much smaller work keeps coming.

use berth_model::{Gang, GpuRequest, JobKind, PATIENCE};
use berth_state::{AllocationRow, Reply, Reservation};
use proptest::prelude::*;

use super::preemption::{reserve, run_for, urgent};
use super::reference::exit;
use super::*;

pub(super) const MINUTE: u64 = 60_000;

pub(super) fn limited(minutes: u64, task: TaskSpec) -> TaskSpec {
    TaskSpec { time_limit: Some(DurationMs(minutes * MINUTE)), ..task }
}

pub(super) fn on(node: &str, spec: JobSpec) -> JobSpec {
    let constraints = Constraints { node: Some(name(node)), ..Constraints::default() };
    JobSpec { constraints, ..spec }
}

pub(super) fn wait(cluster: &mut Cluster, minutes: u64) {
    cluster.now = cluster.now.after(DurationMs(minutes * MINUTE));
}

fn awaited(outcome: &PlanOutcome) -> Vec<(u64, Vec<String>)> {
    assert!(outcome.reservations.iter().all(|one| one.patient));
    let names = |one: &Reservation| one.awaits.iter().map(ToString::to_string).collect();
    outcome.reservations.iter().map(|one| (one.placement.node.0, names(one))).collect()
}

/// Plans and does all of it, as a leader does.
fn happens(cluster: &mut Cluster) -> PlanOutcome {
    let outcome = plan_all(cluster);
    reserve(cluster, outcome.reservations.clone());
    cluster.place(outcome.placements.clone());
    run_for(cluster, 0);
    outcome
}

fn end(cluster: &mut Cluster, id: &str) {
    let named = |row: &&Arc<AllocationRow>| row.id.to_string() == id;
    let row = cluster.state.allocations().values().find(named).cloned().unwrap();
    cluster.end_allocation(row.node, row.id, exit(0));
}

fn is_live(cluster: &Cluster, job: JobId) -> bool {
    cluster.state.allocations().values().any(|row| row.id.job == job)
}

#[test]
fn after_ten_minutes_a_place_is_kept_and_then_it_starts() {
    let mut cluster = Cluster::with_nodes([gpu_node(4)]);
    cluster.submit(urgent(50, counted(3, gpu_task(1))));
    run_for(&mut cluster, MINUTE);
    let large = cluster.submit(urgent(50, gpu_task(4)));
    wait(&mut cluster, 9);
    let outcome = plan_all(&cluster);
    assert_eq!(awaited(&outcome), []);
    let patient_at = cluster.state.jobs().get(&large).unwrap().submitted_ms.after(PATIENCE);
    assert_eq!(outcome.next_wakeup, Some(patient_at));
    wait(&mut cluster, 1);
    let outcome = happens(&mut cluster);
    let all = ["1.0.0.1", "1.0.1.1", "1.0.2.1"].map(str::to_owned);
    assert_eq!(awaited(&outcome), [(1, all.to_vec())]);
    assert_eq!(outcome.report.waiting[0].why, Why::Reserved);
    assert!(cluster.state.allocations().values().all(|row| row.state.stop_intent().is_none()));
    // What is free of it is nobody else's, nor what becomes free.
    let small = cluster.submit(urgent(50, gpu_task(1)));
    end(&mut cluster, "1.0.1.1");
    let outcome = plan_all(&cluster);
    assert_eq!((outcome.placements.len(), outcome.reservations.len()), (0, 0));
    end(&mut cluster, "1.0.0.1");
    assert!(!is_live(&cluster, large));
    end(&mut cluster, "1.0.2.1");
    assert!(is_live(&cluster, large) && !is_live(&cluster, small));
}

/// Beside an entry nothing is kept, and the leader plans no more unless it is told when to.
#[test]
fn a_plan_beside_an_entry_tells_when_a_place_is_due() {
    let mut cluster = Cluster::with_nodes([gpu_node(4)]);
    cluster.submit(urgent(50, counted(4, gpu_task(1))));
    run_for(&mut cluster, MINUTE);
    let gang = TaskSpec { count: 4, gang: Some(Gang {}), ..gpu_task(1) };
    for task in [gpu_task(4), gang] {
        let large = cluster.submit(urgent(50, task));
        let soft = SoftView::default();
        let (state, now) = (&cluster.state, cluster.now);
        let outcome = plan_jobs(state, &soft, now, Budget::INLINE, &[large]);
        assert_eq!(outcome.next_wakeup, Some(cluster.now.after(PATIENCE)));
        let outcome = plan(state, &soft, now, Budget::INLINE);
        assert_eq!(outcome.next_wakeup, Some(cluster.now.after(PATIENCE)));
    }
}

#[test]
fn a_planner_that_has_looked_before_keeps_it_too() {
    let mut cluster = Cluster::with_nodes([gpu_node(4)]);
    cluster.submit(urgent(50, counted(4, gpu_task(1))));
    run_for(&mut cluster, MINUTE);
    cluster.submit(urgent(50, gpu_task(4)));
    let mut planner = Planner::default();
    let budget =
        Budget { candidates_examined_max: 250_000, placements_max: 1024, reservations_max: 64 };
    for second in 0..=600 {
        let soft = SoftView::default();
        let outcome = planner.plan(&cluster.state, &soft, cluster.now, budget);
        assert_eq!(outcome.reservations.len(), usize::from(second == 600), "{second}");
        cluster.now = cluster.now.after(DurationMs(1_000));
    }
}

/// In a busy cluster every plan places something.
#[test]
fn a_place_is_kept_by_a_plan_that_places_others() {
    let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(4)]);
    cluster.submit(on("node-1", urgent(50, gpu_task(2))));
    cluster.submit(on("node-2", urgent(50, counted(3, gpu_task(1)))));
    run_for(&mut cluster, MINUTE);
    cluster.submit(on("node-1", urgent(50, gpu_task(2))));
    wait(&mut cluster, 10);
    cluster.submit(urgent(50, gpu_task(1)));
    let outcome = plan_all(&cluster);
    assert_eq!(
        (nodes_of(&outcome), awaited(&outcome)),
        (vec![2], vec![(1, vec!["1.0.0.1".to_owned()])])
    );
}

#[test]
fn the_place_is_where_others_end_first() {
    let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(2), gpu_node(2), gpu_node(2)]);
    // Two hours more, one that may go on for ever and one that has just begun, half an hour each,
    // and a service.
    cluster.submit(on("node-1", urgent(50, limited(180, gpu_task(2)))));
    cluster.submit(on("node-2", urgent(50, gpu_task(1))));
    cluster.submit(on("node-3", urgent(50, limited(90, counted(2, gpu_task(1))))));
    let service = JobSpec { kind: JobKind::Service, ..urgent(50, gpu_task(1)) };
    cluster.submit(on("node-4", service));
    run_for(&mut cluster, 60 * MINUTE);
    cluster.submit(on("node-2", urgent(50, gpu_task(1))));
    run_for(&mut cluster, 0);
    cluster.submit(urgent(50, gpu_task(2)));
    wait(&mut cluster, 10);
    // The longer something has run, the longer it is taken to go on.
    let both = ["3.0.0.1", "3.0.1.1"].map(str::to_owned);
    assert_eq!(awaited(&plan_all(&cluster)), [(3, both.to_vec())]);
    end(&mut cluster, "2.0.0.1");
    let one = vec!["5.0.0.1".to_owned()];
    assert_eq!(awaited(&plan_all(&cluster)), [(2, one)]);
}

#[test]
fn only_what_might_end_it_takes_its_place() {
    for (priority, takes) in [(50, false), (59, false), (60, true)] {
        let mut cluster = Cluster::with_nodes([gpu_node(4)]);
        let barred = |spec: JobSpec| {
            let preemption = berth_model::Preemption { preemptible: false, ..spec.preemption };
            JobSpec { preemption, ..spec }
        };
        cluster.submit(barred(urgent(50, gpu_task(1))));
        run_for(&mut cluster, MINUTE);
        let large = cluster.submit(urgent(50, gpu_task(4)));
        wait(&mut cluster, 10);
        happens(&mut cluster);
        assert!(cluster.state.is_reserved(large, TaskIndex(0), InstanceIndex(0)));
        let new = cluster.submit(urgent(priority, gpu_task(2)));
        happens(&mut cluster);
        assert_eq!(is_live(&cluster, new), takes, "{priority}");
        let is_kept = cluster.state.is_reserved(large, TaskIndex(0), InstanceIndex(0));
        assert_eq!(is_kept, !takes, "{priority}");
        // And then waits for both.
        let again = happens(&mut cluster);
        assert_eq!(again.reservations.len(), usize::from(takes), "{priority}");
    }
}

#[test]
fn what_is_urgent_ends_those_who_are_awaited() {
    let mut cluster = Cluster::with_nodes([gpu_node(2)]);
    cluster.submit(urgent(30, gpu_task(2)));
    run_for(&mut cluster, MINUTE);
    let large = cluster.submit(urgent(30, gpu_task(2)));
    wait(&mut cluster, 10);
    happens(&mut cluster);
    assert!(cluster.state.is_reserved_patiently(AllocationId {
        attempt: Attempt::FIRST,
        ..AllocationId::first_of(large, TaskIndex(0), InstanceIndex(0))
    }));
    for task in [gpu_task(1), TaskSpec { count: 2, gang: Some(Gang {}), ..gpu_task(1) }] {
        let mut cluster = Cluster { state: cluster.state.clone(), now: cluster.now };
        let new = cluster.submit(urgent(90, task));
        let outcome = happens(&mut cluster);
        assert!(outcome.reservations.iter().all(|one| !one.patient));
        assert!(!cluster.state.is_reserved(large, TaskIndex(0), InstanceIndex(0)));
        end(&mut cluster, "1.0.0.1");
        assert!(is_live(&cluster, new) && !is_live(&cluster, large));
    }
}

#[test]
fn room_elsewhere_is_taken_at_once() {
    let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(2)]);
    cluster.submit(on("node-1", urgent(50, gpu_task(2))));
    cluster.submit(on("node-2", urgent(50, gpu_task(1))));
    cluster.submit(on("node-2", urgent(50, gpu_task(1))));
    run_for(&mut cluster, MINUTE);
    let large = cluster.submit(urgent(50, gpu_task(2)));
    wait(&mut cluster, 10);
    happens(&mut cluster);
    let (_, node, _) = cluster.state.reservations().next().unwrap();
    assert_eq!(node, NodeId(1));
    end(&mut cluster, "2.0.0.1");
    end(&mut cluster, "3.0.0.1");
    happens(&mut cluster);
    assert!(is_live(&cluster, large));
    assert_eq!(cluster.state.reservations().count(), 0);
    // And what is there, if others end than those who were awaited.
    let mut cluster = Cluster::with_nodes([gpu_node(3)]);
    cluster.submit(urgent(50, limited(30, gpu_task(1))));
    cluster.submit(urgent(50, limited(90, gpu_task(1))));
    run_for(&mut cluster, MINUTE);
    let large = cluster.submit(urgent(50, gpu_task(2)));
    wait(&mut cluster, 10);
    assert_eq!(awaited(&happens(&mut cluster)), [(1, vec!["1.0.0.1".to_owned()])]);
    end(&mut cluster, "2.0.0.1");
    happens(&mut cluster);
    assert!(is_live(&cluster, large));
}

#[test]
fn a_gang_has_all_its_places_kept_and_starts_as_one() {
    let mut cluster = Cluster::with_nodes((0..3).map(|_| gpu_node(2)));
    cluster.submit(urgent(50, counted(5, gpu_task(1))));
    run_for(&mut cluster, MINUTE);
    let gang = TaskSpec { count: 3, gang: Some(Gang {}), ..gpu_task(2) };
    let gang = cluster.submit(urgent(50, gang));
    wait(&mut cluster, 10);
    let outcome = happens(&mut cluster);
    let awaits: usize = awaited(&outcome).iter().map(|(_, awaits)| awaits.len()).sum();
    assert_eq!((outcome.reservations.len(), awaits), (3, 5));
    cluster.submit(urgent(50, gpu_task(1)));
    for instance in 0..5 {
        assert!(!is_live(&cluster, gang));
        assert_eq!(plan_all(&cluster).placements, []);
        end(&mut cluster, &format!("1.0.{instance}.1"));
    }
    assert_eq!(cluster.state.allocations().len(), 3);
    assert!(is_live(&cluster, gang));
}

#[test]
fn what_ends_in_time_fills_in() {
    let mut cluster = Cluster::with_nodes([gpu_node(4)]);
    cluster.submit(urgent(50, limited(60, gpu_task(1))));
    cluster.submit(urgent(50, limited(75, gpu_task(1))));
    run_for(&mut cluster, 10 * MINUTE);
    let large = cluster.submit(urgent(50, gpu_task(4)));
    wait(&mut cluster, 10);
    happens(&mut cluster);
    // 55 minutes are left, and a start takes half a minute.
    let endless = cluster.submit(urgent(50, gpu_task(1)));
    let long = cluster.submit(urgent(50, limited(55, gpu_task(1))));
    let short = cluster.submit(urgent(50, limited(54, gpu_task(1))));
    let next = cluster.submit(urgent(50, limited(53, gpu_task(2))));
    let last = cluster.submit(urgent(50, limited(1, gpu_task(1))));
    let outcome = happens(&mut cluster);
    let placed: Vec<JobId> = outcome.placements.iter().map(|one| one.job).collect();
    assert_eq!(placed, [short, last]);
    assert_eq!(plan_all(&cluster).placements, []);
    // They are awaited with the others.
    let (_, _, kept) = cluster.state.reservations().next().unwrap();
    assert_eq!(kept.awaits.len(), 4);
    assert_eq!(kept.held.devices.len(), 0);
    end(&mut cluster, "1.0.0.1");
    end(&mut cluster, "2.0.0.1");
    end(&mut cluster, &format!("{last}.0.0.1"));
    assert!(!is_live(&cluster, large));
    // What is left of them decides anew what ends in time.
    assert_eq!(plan_all(&cluster).placements[0].job, next);
    end(&mut cluster, &format!("{short}.0.0.1"));
    assert!(is_live(&cluster, large) && !is_live(&cluster, long) && !is_live(&cluster, endless));
}

#[test]
fn few_nodes_are_kept_at_a_time() {
    let check = |nodes: u32, expected: usize| {
        let mut cluster = Cluster::with_nodes((0..nodes).map(|_| gpu_node(2)));
        cluster.submit(urgent(50, counted(nodes, gpu_task(1))));
        // One on each node.
        let spread = JobSpec { policy: Policy::Spread, ..urgent(50, counted(nodes, gpu_task(1))) };
        cluster.submit(spread);
        run_for(&mut cluster, MINUTE);
        for _ in 0..5 {
            cluster.submit(urgent(50, gpu_task(2)));
        }
        wait(&mut cluster, 10);
        let mut kept = 0;
        loop {
            let more = happens(&mut cluster).reservations.len();
            kept += more;
            if more == 0 {
                break;
            }
        }
        assert_eq!(kept, expected, "{nodes}");
    };
    check(4, 1);
    check(31, 1);
    check(48, 3);
}

#[test]
fn apply_keeps_no_place_patiently_that_is_not_due() {
    let mut cluster = Cluster::with_nodes([gpu_node(2)]);
    cluster.submit(urgent(50, gpu_task(1)));
    let service = JobSpec { kind: JobKind::Service, ..urgent(50, gpu_task(1)) };
    cluster.submit(service);
    run_for(&mut cluster, MINUTE);
    let large = cluster.submit(urgent(50, gpu_task(2)));
    let lonely = cluster.submit(urgent(50, gpu_task(1)));
    wait(&mut cluster, 10);
    let found = plan_all(&cluster).reservations;
    assert_eq!(found.iter().map(|one| one.placement.job).collect::<Vec<_>>(), [lonely]);
    let ask = |cluster: &mut Cluster, one: &Reservation| {
        let reply = cluster.apply(Command::Reserve { reservations: vec![one.clone()] }).unwrap();
        let Reply::Placed { refused, .. } = reply else { panic!("{reply:?}") };
        refused.first().map(ToString::to_string)
    };
    let mut of_large = found[0].clone();
    of_large.placement.job = large;
    of_large.awaits = cluster.state.allocations().values().map(|row| row.id).collect();
    let refusal = ask(&mut cluster, &of_large).unwrap();
    assert!(refusal.contains("a service does not end by itself"), "{refusal}");
    let young = cluster.submit(urgent(50, gpu_task(1)));
    let mut early = found[0].clone();
    early.placement.job = young;
    let refusal = ask(&mut cluster, &early).unwrap();
    assert!(refusal.contains("has not waited for ten minutes"), "{refusal}");
    assert_eq!(ask(&mut cluster, &found[0]), None);
    assert!(ask(&mut cluster, &found[0]).is_some(), "one place for each");
}

/// What runs, ends when it has run for its time.
struct Stream {
    cluster: Cluster,
    /// Minutes that each job runs for.
    times: BTreeMap<JobId, u64>,
    minute: u64,
    started: BTreeMap<JobId, u64>,
}

impl Stream {
    fn submit(&mut self, minutes: u64, spec: JobSpec) -> JobId {
        let job = self.cluster.submit(spec);
        self.times.insert(job, minutes);
        job
    }

    fn minute(&mut self, budget: Budget) {
        let rows: Vec<_> = self.cluster.state.allocations().values().cloned().collect();
        for row in rows {
            let begun = *self.started.entry(row.id.job).or_insert(self.minute);
            if begun + self.times[&row.id.job] <= self.minute {
                self.cluster.end_allocation(row.node, row.id, exit(0));
            }
        }
        loop {
            let cluster = &mut self.cluster;
            let outcome = plan(&cluster.state, &SoftView::default(), cluster.now, budget);
            if outcome.placements.is_empty() && outcome.reservations.is_empty() {
                break;
            }
            reserve(cluster, outcome.reservations);
            cluster.place(outcome.placements);
        }
        for row in self.cluster.state.allocations().values() {
            self.started.entry(row.id.job).or_insert(self.minute);
        }
        assert_eq!(berth_state::invariants::check(&self.cluster.state), []);
        self.minute += 1;
        wait(&mut self.cluster, 1);
    }
}

/// So many wait at any time, and are before the first of the large ones when that comes.
const AHEAD: usize = 4;

/// When the large ones have started, in minutes, while there is always more of what is small.
fn starts(
    nodes: &[u32],
    small: &[(u32, u64)],
    large: &[(u32, u64)],
    budget: Budget,
) -> Vec<Option<u64>> {
    let cluster = Cluster::with_nodes(nodes.iter().map(|gpus| gpu_node(*gpus)));
    let mut stream =
        Stream { cluster, times: BTreeMap::new(), minute: 0, started: BTreeMap::new() };
    let task = |gpus| TaskSpec { gpu: Some(GpuRequest::whole(gpus)), ..task() };
    let mut next = small.iter().cycle();
    let mut jobs = Vec::new();
    for minute in 0..300 {
        while stream.cluster.state.queue().count() < AHEAD {
            let (gpus, minutes) = *next.next().unwrap();
            // Of every other it is known when it ends at the latest.
            let task = match stream.times.len() % 2 {
                0 => limited(minutes, task(gpus)),
                _ => task(gpus),
            };
            stream.submit(minutes, urgent(50, task));
        }
        if minute == 30 {
            let of =
                |(gpus, minutes): &(u32, u64)| stream.submit(*minutes, urgent(50, task(*gpus)));
            jobs = large.iter().map(of).collect();
        }
        stream.minute(budget);
    }
    jobs.iter().map(|job| stream.started.get(job).map(|at| at - 30)).collect()
}

/// With places kept one after the other each waits at most its ten minutes, and for each of those
/// before it and itself for the longest that something runs on the place.
fn bound(longest: u64, before: usize) -> u64 {
    // A minute for starts and graces.
    10 + (longest + 1) * (AHEAD + before + 1) as u64
}

/// What begins in a plan is nobody yet who ends: a place that was not found beside it is not left to
/// one that came later.
#[test]
fn who_comes_later_gets_no_place_for_what_begins_just_now() {
    for minutes in [1, 11, 30] {
        let started = starts(&[2], &[(1, 11)], &[(2, minutes)], Budget::UNLIMITED)[0];
        assert!(started.is_some_and(|waited| waited <= bound(11, 0)), "{started:?}");
    }
}

#[test]
fn a_stream_of_small_work_keeps_nothing_from_starting() {
    let small: Vec<(u32, u64)> = (0..7).map(|n| (1, 13 + 5 * n)).collect();
    let without = Budget { reservations_max: 0, ..Budget::UNLIMITED };
    assert_eq!(starts(&[4], &small, &[(4, 20)], without), [None]);
    let with = starts(&[4], &small, &[(4, 20)], Budget::UNLIMITED);
    assert!(with[0].is_some_and(|waited| (10..=bound(43, 0)).contains(&waited)), "{with:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_starts_within_its_bound(
        nodes in prop::collection::vec(2..5_u32, 1..4),
        small in prop::collection::vec((1..3_u32, 1..30_u64), 1..8),
        large in prop::collection::vec((2..5_u32, 1..30_u64), 1..4),
    ) {
        let most = nodes.iter().max().copied().unwrap();
        let large: Vec<_> =
            large.into_iter().map(|(gpus, minutes)| (gpus.min(most), minutes)).collect();
        for (at, started) in starts(&nodes, &small, &large, Budget::UNLIMITED).into_iter().enumerate() {
            let bound = bound(30, at);
            prop_assert!(started.is_some_and(|at| at <= bound), "{at}: {started:?}");
        }
    }
}
