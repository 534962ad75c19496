//! Quotas: a namespace that has none left waits alone, and what is planned is granted.

use std::sync::Arc;

use berth_model::{
    Gang, GpuRequest, Limit, MemoryBytes, Name, NamespaceSpec, Preemption, Quota, Resource,
};
use berth_state::Reply;
use proptest::prelude::*;

use super::*;
use crate::explain::explain;
use crate::fixture::gpu_node;
use crate::quota::{passes_quota, waits_for_quota};

pub(super) fn limit(cluster: &mut Cluster, namespace: &str, amounts: &[(Resource, u64)]) {
    let limit = Limit { amounts: amounts.iter().copied().collect(), submits_per_second: None };
    let quota = Quota { limit, ..Quota::default() };
    let spec = NamespaceSpec { quota, ..NamespaceSpec::new(name(namespace)) };
    let spec = Arc::new(spec);
    cluster.apply(Command::ApplyNamespace { spec, if_version: None }).unwrap();
}

fn of(namespace: &str, task: TaskSpec) -> JobSpec {
    JobSpec { namespace: name(namespace), ..job(Policy::BestFit, task) }
}

fn whys(outcome: &PlanOutcome) -> Vec<(u64, Why)> {
    outcome.report.waiting.iter().map(|waiting| (waiting.job.0, waiting.why)).collect()
}

fn placed(outcome: &PlanOutcome) -> Vec<u64> {
    outcome.placements.iter().map(|placement| placement.job.0).collect()
}

#[test]
fn a_namespace_without_quota_left_holds_up_nobody_else() {
    let mut cluster = Cluster::with_nodes([gpu_node(8)]);
    limit(&mut cluster, "research", &[(Resource::Gpus, 2000)]);
    let first = cluster.submit(of("research", counted(4, gpu_task(1))));
    let second = cluster.submit(of("research", task()));
    let third = cluster.submit(of("other", counted(3, gpu_task(1))));
    let outcome = plan_all(&cluster);
    let mut found = placed(&outcome);
    found.sort_unstable();
    assert_eq!(found, [first, first, second, third, third, third].map(|id| id.0));
    assert_eq!(whys(&outcome), [(first.0, Why::Quota)]);
    cluster.place(outcome.placements);
    assert_eq!(plan_all(&cluster).placements, []);
    limit(&mut cluster, "research", &[(Resource::Gpus, 3000)]);
    assert_eq!(placed(&plan_all(&cluster)), [first.0]);
}

#[test]
fn a_gang_waits_for_the_quota_of_all_its_members() {
    let mut cluster = Cluster::with_nodes([gpu_node(8)]);
    limit(&mut cluster, "research", &[(Resource::Gpus, 3000)]);
    let gang = TaskSpec { gang: Some(Gang {}), ..counted(4, gpu_task(1)) };
    let gang = cluster.submit(of("research", gang));
    let single = cluster.submit(of("research", gpu_task(1)));
    let outcome = plan_all(&cluster);
    assert_eq!((placed(&outcome), whys(&outcome)), (vec![single.0], vec![(gang.0, Why::Quota)]));
}

/// Which device it will be is not known beforehand: the largest counts.
#[test]
fn the_memory_of_whole_gpus_is_that_of_the_largest_that_suits() {
    let mut cluster = Cluster::with_nodes([gpu_node(8)]);
    let check = |cluster: &mut Cluster, most: u64, task: TaskSpec, expected: usize| {
        limit(cluster, "research", &[(Resource::GpuMemory, most << 30)]);
        let id = cluster.submit(of("research", task));
        let outcome = plan_all(cluster);
        let count = outcome.placements.iter().filter(|one| one.job == id).count();
        assert_eq!(count, expected, "{most} GiB");
        let change = JobChange::Stop { reason: String::new() };
        cluster.apply(Command::ChangeJob { job: id, if_version: None, change }).unwrap();
    };
    check(&mut cluster, 159, counted(3, gpu_task(1)), 1);
    check(&mut cluster, 160, counted(3, gpu_task(1)), 2);
    check(&mut cluster, 79, gpu_task(1), 0);
    let memory_min = Some(MemoryBytes(10 << 30));
    let part =
        GpuRequest { memory_min, share: berth_model::ShareMilli(250), ..GpuRequest::whole(1) };
    check(&mut cluster, 25, counted(4, TaskSpec { gpu: Some(part), ..task() }), 2);
}

#[test]
fn nobody_ends_for_what_its_quota_does_not_let_begin() {
    let mut cluster = Cluster::with_nodes([gpu_node(2)]);
    let low = JobSpec { priority: 10, ..of("other", counted(2, gpu_task(1))) };
    let low = JobSpec {
        preemption: Preemption { min_run: DurationMs(0), ..Preemption::default() },
        ..low
    };
    cluster.submit(low);
    let outcome = plan_all(&cluster);
    cluster.place(outcome.placements);
    limit(&mut cluster, "research", &[(Resource::Gpus, 1000)]);
    cluster.submit(JobSpec { priority: 90, ..of("research", counted(2, gpu_task(1))) });
    let outcome = plan_all(&cluster);
    assert_eq!(outcome.reservations.len(), 1);
    assert_eq!(whys(&outcome), [(2, Why::Quota)]);
    let reservations = outcome.reservations;
    let reply = cluster.apply(Command::Reserve { reservations }).unwrap();
    assert!(matches!(reply, Reply::Placed { refused, .. } if refused.is_empty()));
    let outcome = plan_all(&cluster);
    assert_eq!((outcome.placements.len(), outcome.reservations.len()), (0, 0));
}

#[test]
fn what_waits_for_quota_is_told_the_sum() {
    let mut cluster = Cluster::with_nodes([gpu_node(8)]);
    limit(&mut cluster, "research", &[(Resource::Gpus, 3000)]);
    cluster.submit(of("research", gpu_task(2)));
    let outcome = plan_all(&cluster);
    cluster.place(outcome.placements);
    let check = |cluster: &mut Cluster, gpus, expected: &str| {
        let id = cluster.submit(of("research", gpu_task(gpus)));
        let told = explain(&cluster.state, &SoftView::default(), cluster.now, id).unwrap();
        assert_eq!(told.smallest_change, expected);
        let codes: Vec<_> = told.reasons.iter().map(|one| (one.code, one.nodes)).collect();
        assert_eq!(codes, [("quota", 0), ("fits", 1)]);
        assert!(told.summary.contains(expected), "{}", told.summary);
        let row = cluster.state.jobs().get(&id).unwrap();
        assert_eq!(waits_for_quota(&cluster.state, row).as_deref(), Some(expected));
    };
    let waits = "wait: namespace `research`: GPUs 2 of 3 in use, 2 asked for";
    check(&mut cluster, 2, waits);
    let never = "namespace `research`: GPUs 2 of 3 in use, 4 asked for, more than its quota: \
                 raise it, or ask for less";
    check(&mut cluster, 4, never);
    let warned = |gpus| passes_quota(&cluster.state, &of("research", gpu_task(gpus)));
    assert_eq!((warned(4), warned(3)), (Some(never.to_owned()), None));
}

fn any_amounts() -> impl Strategy<Value = Vec<(Resource, u64)>> {
    let gpus = (0..9u64).prop_map(|count| (Resource::Gpus, count * 500));
    let tasks = (0..9u64).prop_map(|count| (Resource::RunningTasks, count));
    let cpu = (0..9u64).prop_map(|count| (Resource::Cpu, count * 100));
    let memory = (0..9u64).prop_map(|count| (Resource::GpuMemory, count * (40 << 30)));
    prop::collection::vec(prop_oneof![gpus, tasks, cpu, memory], 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing is proposed that apply refuses for its quota, and in the end nothing waits that
    /// both nodes and quotas have room for.
    #[test]
    fn what_is_planned_within_quotas_is_granted(
        limits in prop::collection::vec(any_amounts(), 2),
        jobs in prop::collection::vec((0..3usize, 0..3u32, 1..4u32, 0..3u8, prop::bool::ANY), 1..12),
    ) {
        let mut cluster = Cluster::with_nodes([gpu_node(3), gpu_node(2)]);
        let names = ["research", "production", "other"];
        for (namespace, amounts) in names.iter().zip(&limits) {
            limit(&mut cluster, namespace, amounts);
        }
        for (which, gpus, count, priority, gang) in jobs {
            let one = if gpus == 0 { task() } else { gpu_task(gpus) };
            let gang = (gang && count > 1).then_some(Gang {});
            let spec = of(names[which], TaskSpec { gang, ..counted(count, one) });
            let priority = 10 + 40 * priority;
            let preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
            cluster.submit(JobSpec { priority, preemption, ..spec });
            let PlanOutcome { placements, reservations, .. } = plan_all(&cluster);
            cluster.place(placements);
            let count = reservations.len();
            let reply = cluster.apply(Command::Reserve { reservations }).unwrap();
            let Reply::Placed { granted, refused } = reply else { panic!("{reply:?}") };
            prop_assert_eq!((granted.len(), refused), (count, vec![]));
            for namespace in names {
                let name: Name = name(namespace);
                let used = cluster.state.quota_use(&name);
                let Some(row) = cluster.state.namespace(&name) else { continue };
                for (resource, most) in &row.spec.quota.limit.amounts {
                    prop_assert!(used.of(*resource) <= *most, "{name}: {resource:?}");
                }
            }
        }
    }
}
