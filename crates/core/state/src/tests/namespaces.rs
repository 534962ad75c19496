//! Quotas: whatever comes in whatever order, no namespace gets more than its own.

use std::sync::Arc;

use berth_model::{
    AllocationId, Bounds, CpuMilli, Gang, JobId, JobKind, JobSpec, LeftOut, Limit, LimitRange,
    MemoryBytes, NamespaceSpec, NodeId, Quota, Resource, StopIntent, WallMs,
};

use super::reservations::reservation;
use super::world::{World, job, name, submit};
use crate::{ClusterState, Command, EventKind, JobChange, Observed, Refusal, Reply};

pub fn limits(namespace: &str, amounts: &[(Resource, u64)]) -> NamespaceSpec {
    let limit = Limit { amounts: amounts.iter().copied().collect(), submits_per_second: None };
    NamespaceSpec {
        quota: Quota { limit, ..Quota::default() },
        ..NamespaceSpec::new(name(namespace))
    }
}

pub fn set(world: &mut World, amounts: &[(Resource, u64)]) {
    let spec = Arc::new(limits("default", amounts));
    world.one(Command::ApplyNamespace { spec, if_version: None }).unwrap();
}

fn used(state: &ClusterState, resource: Resource) -> u64 {
    state.quota_use(&name("default")).of(resource)
}

fn refusal(answer: Result<AllocationId, Vec<Refusal>>) -> String {
    answer.unwrap_err().last().map(ToString::to_string).unwrap_or_default()
}

const RUNS: Observed = Observed::Running { ready: true, started_at: WallMs(1) };

#[test]
fn a_quota_is_free_again_when_an_end_is_seen_and_not_before() {
    let mut world = World::new(2);
    set(&mut world, &[(Resource::Gpus, 2000)]);
    let job = world.submit(&job(JobKind::Batch, "a", 4, 1));
    let held = [0, 1].map(|instance| world.place(job, instance).unwrap());
    let full = "namespace `default`: GPUs 2 of 2 in use, 1 asked for";
    assert_eq!(refusal(world.place(job, 2)), full);
    world.observe(held[0], RUNS);
    let (allocations, reason) = (vec![held[0]], "r".to_owned());
    let intent = StopIntent::Replace;
    world.one(Command::StopAllocations { allocations, intent, reason }).unwrap();
    assert_eq!(refusal(world.place(job, 2)), full, "it has yet to end");
    world.exit(held[0], 143);
    let third = world.place(job, 2).unwrap();
    // A silent node's are given up: what was lent to them is free.
    let row = world.state.nodes().get(&world.state.allocations().get(&third).unwrap().node);
    let (node, session) = row.map(|row| (row.id, row.session)).unwrap();
    world.one(Command::DisconnectNode { node, session }).unwrap();
    assert_eq!(refusal(world.place(job, 3)), full, "silence alone ends nothing");
    let live = world.state.nodes().get(&node).unwrap().live.iter().copied().collect::<Vec<_>>();
    let (allocations, reason) = (live.clone(), "silent".to_owned());
    world.one(Command::LoseAllocations { node, session, allocations, reason }).unwrap();
    assert_eq!(used(&world.state, Resource::Gpus), 2000 - 1000 * live.len() as u64);
    world.place(job, 3).unwrap();
}

#[test]
fn every_resource_has_a_limit_of_its_own() {
    let check = |resource: Resource, most: u64, expected: &str| {
        let mut world = World::new(1);
        set(&mut world, &[(resource, most)]);
        let mut spec = job(JobKind::Batch, "a", 2, 1);
        spec.tasks[0].memory = MemoryBytes(1 << 30);
        let job = world.submit(&spec);
        world.place(job, 0).unwrap();
        assert_eq!(refusal(world.place(job, 1)), expected);
    };
    use Resource as R;
    let says = |what: &str| format!("namespace `default`: {what} asked for");
    check(R::Gpus, 1999, &says("GPUs 1 of 1.999 in use, 1"));
    check(R::GpuMemory, 159 << 30, &says("GPU memory 80GiB of 159GiB in use, 80GiB"));
    check(R::Cpu, 150, &says("cores 100m of 150m in use, 100m"));
    check(R::Memory, 1 << 30, &says("memory 1GiB of 1GiB in use, 1GiB"));
    check(R::RunningTasks, 1, &says("running tasks 1 of 1 in use, 1"));
}

#[test]
fn other_namespaces_have_no_part_in_it() {
    let mut world = World::new(1);
    set(&mut world, &[(Resource::Gpus, 0), (Resource::QueuedJobs, 0)]);
    let spec = JobSpec { namespace: name("other"), ..job(JobKind::Batch, "a", 2, 1) };
    let job = world.submit(&spec);
    world.place(job, 0).unwrap();
    world.place(job, 1).unwrap();
    let other = world.state.namespace_use(&name("other"));
    assert_eq!((other.of(Resource::Gpus), other.of(Resource::RunningTasks)), (2000, 2));
    world.exit(AllocationId { job, attempt: berth_model::Attempt::FIRST, ..Default::default() }, 0);
    let change = JobChange::Stop { reason: String::new() };
    world.one(Command::ChangeJob { job, if_version: None, change }).unwrap();
    let live: Vec<_> = world.state.allocations().iter().map(|(id, _)| *id).collect();
    for id in live {
        world.exit(id, 143);
    }
    assert_eq!(world.state.namespaces_in_use().count(), 0, "what holds nothing is forgotten");
}

#[test]
fn a_gang_that_passes_its_quota_has_no_member() {
    let mut world = World::new(2);
    set(&mut world, &[(Resource::Gpus, 3000)]);
    let mut spec = job(JobKind::Batch, "gang", 4, 1);
    spec.tasks[0].gang = Some(Gang {});
    let gang = world.submit(&spec);
    let placements = world.gang(gang, 0);
    let before = world.state.clone();
    let reply = world.one(Command::Place { placements: placements.clone() }).unwrap();
    let Reply::Placed { granted, refused } = reply else { panic!("unexpected {reply:?}") };
    assert_eq!(granted, []);
    let said = "no member of a gang of job 1 starts: \
                namespace `default`: GPUs 3 of 3 in use, 1 asked for";
    assert_eq!(refused[0].to_string(), said);
    assert_eq!(world.state.hash(), before.hash());
    set(&mut world, &[(Resource::Gpus, 4000)]);
    world.one(Command::Place { placements }).unwrap();
    assert_eq!(world.state.allocations().len(), 4);
}

#[test]
fn a_kept_place_counts_and_who_ends_for_it_does_not() {
    let mut world = World::new(2);
    let low = |namespace: &str| JobSpec {
        priority: 10,
        namespace: name(namespace),
        ..job(JobKind::Batch, "low", 1, 2)
    };
    let own = world.submit(&low("default"));
    let own = world.place(own, 0).unwrap();
    let other = world.submit(&low("other"));
    let other = world.place(other, 0).unwrap();
    for id in [own, other] {
        world.observe(id, RUNS);
    }
    world.now += 3_600_000;
    set(&mut world, &[(Resource::Gpus, 2000)]);
    let urgent = |count| JobSpec { priority: 90, ..job(JobKind::Batch, "urgent", count, 2) };
    let urgent = world.submit(&urgent(2));
    let keep = |world: &mut World, instance, awaits: AllocationId| {
        let node = world.state.allocations().get(&awaits).unwrap().node;
        let one = reservation(world, (urgent, instance), node, &[awaits]);
        let reply = world.one(Command::Reserve { reservations: vec![one] }).unwrap();
        let Reply::Placed { granted, refused } = reply else { panic!("unexpected {reply:?}") };
        granted.first().copied().ok_or_else(|| refused[0].to_string())
    };
    let full = "namespace `default`: GPUs 2 of 2 in use, 2 asked for";
    assert_eq!(keep(&mut world, 0, other).unwrap_err(), full);
    assert!(world.state.allocations().get(&other).unwrap().state.stop_intent().is_none());
    let kept = keep(&mut world, 0, own).unwrap();
    assert_eq!(used(&world.state, Resource::Gpus), 2000, "one in place of the other");
    assert_eq!(keep(&mut world, 1, other).unwrap_err(), full);
    world.exit(own, 143);
    assert!(world.state.is_live(kept));
    assert_eq!(used(&world.state, Resource::Gpus), 2000);
}

#[test]
fn a_kept_place_is_nobody_elses_share_of_the_quota() {
    let mut world = World::new(2);
    let low =
        JobSpec { priority: 10, namespace: name("other"), ..job(JobKind::Batch, "low", 1, 2) };
    let low = world.submit(&low);
    let victim = world.place(low, 0).unwrap();
    world.observe(victim, RUNS);
    world.now += 3_600_000;
    set(&mut world, &[(Resource::Gpus, 2000)]);
    let urgent = world.submit(&JobSpec { priority: 90, ..job(JobKind::Batch, "urgent", 1, 2) });
    let late = world.submit(&job(JobKind::Batch, "late", 1, 1));
    let one = reservation(&world, (urgent, 0), NodeId(1), &[victim]);
    world.one(Command::Reserve { reservations: vec![one] }).unwrap();
    let full = "namespace `default`: GPUs 2 of 2 in use, 1 asked for";
    assert_eq!(refusal(world.place(late, 0)), full);
    // Lowered meanwhile: it does not start, and says why.
    set(&mut world, &[(Resource::Gpus, 1000)]);
    world.exit(victim, 143);
    let dropped = world.events.iter().find_map(|event| {
        let EventKind::ReservationDropped { reason } = &event.kind else { return None };
        Some(reason.clone())
    });
    assert_eq!(dropped.unwrap(), "namespace `default`: GPUs 0 of 1 in use, 2 asked for");
    world.place(late, 0).unwrap();
}

#[test]
fn a_submit_beyond_the_queue_leaves_nothing_behind() {
    let mut world = World::new(1);
    set(&mut world, &[(Resource::QueuedJobs, 2)]);
    let batch = |text: &str| job(JobKind::Batch, text, 1, 1);
    let commands = ["a", "b", "c"].map(|text| submit(&batch(text), Some(text)));
    let replies = world.entry(commands.to_vec());
    assert!(replies[0].is_ok() && replies[1].is_ok());
    let full = "namespace `default`: queued jobs 2 of 2 in use, 1 asked for";
    assert_eq!(replies[2].as_ref().unwrap_err().to_string(), full);
    assert_eq!(world.state.jobs().len(), 2);
    assert_eq!(world.state.keys().len(), 2, "its key is free");
    // Whoever repeats one that was taken hears so.
    let again = world.one(submit(&batch("a"), Some("a"))).unwrap();
    assert!(matches!(again, Reply::Submitted { existed: true, .. }));
    world.place(JobId(1), 0).unwrap();
    world.one(submit(&batch("c"), Some("c"))).unwrap();
}

#[test]
fn a_new_version_is_queued_only_where_its_job_was_over() {
    let mut world = World::new(1);
    set(&mut world, &[(Resource::QueuedJobs, 1)]);
    let service = |gpus| job(JobKind::Service, "service", 1, gpus);
    let id = world.submit(&service(1));
    world.submit(&service(2));
    let change = JobChange::Stop { reason: String::new() };
    world.one(Command::ChangeJob { job: id, if_version: None, change }).unwrap();
    world.submit(&job(JobKind::Batch, "other", 1, 1));
    let full = "namespace `default`: queued jobs 1 of 1 in use, 1 asked for";
    let refused = world.one(submit(&service(1), None)).unwrap_err();
    assert_eq!(refused.to_string(), full);
    let change = JobChange::Rollback { to_version: 1 };
    let refused = world.one(Command::ChangeJob { job: id, if_version: None, change }).unwrap_err();
    assert_eq!(refused.to_string(), full);
}

#[test]
fn a_quota_below_what_is_used_ends_nothing_and_starts_nothing() {
    let mut world = World::new(2);
    let job = world.submit(&job(JobKind::Batch, "a", 4, 1));
    let held = [0, 1, 2].map(|instance| world.place(job, instance).unwrap());
    set(&mut world, &[(Resource::Gpus, 1000)]);
    assert_eq!(world.state.allocations().len(), 3);
    let said = "namespace `default`: GPUs 3 of 1 in use, 1 asked for";
    assert_eq!(refusal(world.place(job, 3)), said);
    for (left, id) in [(2, held[0]), (1, held[1])] {
        world.exit(id, 0);
        let said = format!("namespace `default`: GPUs {left} of 1 in use, 1 asked for");
        assert_eq!(refusal(world.place(job, 3)), said);
    }
    world.exit(held[2], 0);
    world.place(job, 3).unwrap();
}

#[test]
fn what_is_set_has_versions_and_goes_when_nobody_needs_it() {
    let mut world = World::new(1);
    let spec = |most| Arc::new(limits("team", &[(Resource::Gpus, most)]));
    let mut apply = |most, if_version| {
        let reply = world.one(Command::ApplyNamespace { spec: spec(most), if_version });
        reply.map_err(|refusal| refusal.to_string())
    };
    let at = |version| Ok(Reply::NamespaceSet { version });
    assert_eq!(apply(1, Some(1)), Err("namespace `team` is at version 0, not 1".to_owned()));
    assert_eq!(apply(1, Some(0)), at(1));
    assert_eq!(apply(1, Some(0)), at(1), "who repeats it is answered alike");
    assert_eq!(apply(2, Some(0)), Err("namespace `team` is at version 1, not 0".to_owned()));
    assert_eq!(apply(2, Some(1)), at(2));
    assert_eq!(apply(3, None), at(3));
    let id = world.submit(&JobSpec { namespace: name("team"), ..job(JobKind::Batch, "a", 1, 0) });
    let delete = |world: &mut World, if_version| {
        let reply = world.one(Command::DeleteNamespace { name: name("team"), if_version });
        reply.map_err(|refusal| refusal.to_string())
    };
    let in_use = "namespace `team` is in use: jobs that have not ended: 1".to_owned();
    assert_eq!(delete(&mut world, None), Err(in_use));
    let change = JobChange::Stop { reason: String::new() };
    world.one(Command::ChangeJob { job: id, if_version: None, change }).unwrap();
    let conflict = "namespace `team` is at version 3, not 2".to_owned();
    assert_eq!(delete(&mut world, Some(2)), Err(conflict));
    assert_eq!(delete(&mut world, Some(3)), Ok(Reply::Done));
    assert_eq!(delete(&mut world, None), Err("nothing is set for namespace `team`".to_owned()));
    let names: Vec<_> = world.events.iter().map(|event| event.kind.name()).collect();
    let count = |kind: &str| names.iter().filter(|name| **name == kind).count();
    assert_eq!((count("namespace-changed"), count("namespace-deleted")), (3, 1));
}

fn set_range(world: &mut World, resource: Resource, bounds: Bounds) {
    let range = LimitRange([(resource, bounds)].into());
    let spec = Arc::new(NamespaceSpec { range, ..limits("default", &[]) });
    world.one(Command::ApplyNamespace { spec, if_version: None }).unwrap();
}

#[test]
fn defaults_are_filled_in_and_make_another_version() {
    let mut world = World::new(1);
    let bounds = |default| Bounds { default: Some(default), ..Bounds::default() };
    set_range(&mut world, Resource::Cpu, bounds(700));
    let mut spec = job(JobKind::Service, "a", 1, 0);
    spec.tasks[0].left_out = LeftOut { cpu: true, memory: false };
    let id = world.submit(&spec);
    let row = |world: &World| world.state.jobs().get(&id).unwrap().clone();
    let (cpu, digest) = (row(&world).spec.tasks[0].cpu, row(&world).digest);
    assert_eq!(cpu, CpuMilli(700));
    let Command::Submit(asked) = submit(&spec, None) else { unreachable!("it is a submit") };
    assert_ne!(digest, asked.digest, "agents know it by this alone");
    world.place(id, 0).unwrap();
    assert_eq!(world.state.namespace_use(&name("default")).of(Resource::Cpu), 700);
    // The same once more is the same, and with another default another version.
    let again = |world: &mut World| world.one(submit(&spec, None)).unwrap();
    assert!(matches!(again(&mut world), Reply::Submitted { version: 1, existed: true, .. }));
    set_range(&mut world, Resource::Cpu, bounds(800));
    assert!(matches!(again(&mut world), Reply::Submitted { version: 2, existed: false, .. }));
    assert_ne!(row(&world).digest, digest);
    // A key is known by what was asked, whatever was made of it.
    let keyed = |world: &mut World| world.one(submit(&spec, Some("key"))).unwrap();
    keyed(&mut world);
    set_range(&mut world, Resource::Cpu, bounds(900));
    assert!(matches!(keyed(&mut world), Reply::Submitted { existed: true, .. }));
}

#[test]
fn a_request_out_of_range_is_refused_before_anything_is_there() {
    let mut world = World::new(1);
    let bounds = Bounds { max: Some(1000), ..Bounds::default() };
    set_range(&mut world, Resource::Gpus, bounds);
    world.submit(&job(JobKind::Batch, "a", 1, 1));
    let (before, spec) = (world.state.hash(), job(JobKind::Batch, "b", 1, 2));
    let refused = world.one(submit(&spec, Some("key"))).unwrap_err();
    let said = "tasks.main.gpu: namespace `default` lets a task ask for at most 1 GPUs, found 2";
    assert_eq!((refused.to_string().as_str(), world.state.hash()), (said, before));
    // What was filled in has to make sense beside the rest.
    let mut spec = job(JobKind::Batch, "c", 1, 0);
    spec.tasks[0].left_out.cpu = true;
    spec.tasks[0].limits.cpu = Some(CpuMilli(500));
    let bounds = Bounds { default: Some(700), ..Bounds::default() };
    set_range(&mut world, Resource::Cpu, bounds);
    let refused = world.one(submit(&spec, None)).unwrap_err();
    assert!(refused.to_string().contains("at least `cpu` (700m)"), "{refused}");
}

#[test]
fn a_service_with_more_replicas_than_its_quota_is_refused() {
    let mut world = World::new(2);
    set(&mut world, &[(Resource::Gpus, 2000)]);
    let batch = world.submit(&job(JobKind::Batch, "turns", 9, 1));
    world.place(batch, 0).unwrap();
    let service = |count| job(JobKind::Service, "service", count, 1);
    let before = world.state.hash();
    let refused = world.one(submit(&service(1_000_000), None)).unwrap_err();
    let said = "namespace `default`: GPUs 1 of 2 in use, 1000000 asked for";
    assert_eq!((refused.to_string().as_str(), world.state.hash()), (said, before));
    // It waits for the one that is in use; none at all are always within it.
    let id = world.submit(&service(2));
    world.submit(&service(0));
    let refused = world.one(submit(&service(3), None)).unwrap_err();
    assert_eq!(refused.to_string(), "namespace `default`: GPUs 1 of 2 in use, 3 asked for");
    assert_eq!(world.state.jobs().get(&id).unwrap().version, 2);
}

#[test]
fn rows_without_use_are_the_same_state() {
    let mut world = World::new(1);
    set(&mut world, &[(Resource::Gpus, 2000)]);
    let job = world.submit(&job(JobKind::Batch, "a", 3, 1));
    world.place(job, 0).unwrap();
    let rows: Vec<_> = world.state.rows().collect();
    let again = ClusterState::from_rows(world.state.applied_index(), rows).unwrap();
    assert_eq!(again.hash(), world.state.hash());
    assert_eq!(used(&again, Resource::Gpus), 1000);
    assert_eq!(again.namespace(&name("default")).unwrap().version, 1);
}

#[test]
fn a_gang_that_others_end_for_keeps_to_its_quota() {
    let check = |gpus: u64, granted: usize| {
        let (mut world, held, urgent, kept) = super::gang_places::urgent_gang();
        // One of four is free; what ends for it is of the same namespace, and counts no longer.
        set(&mut world, &[(Resource::Gpus, gpus * 1000)]);
        let before = world.state.hash();
        let reply = world.one(Command::Reserve { reservations: kept }).unwrap();
        let Reply::Placed { granted: found, refused } = reply else { panic!("{reply:?}") };
        assert_eq!(found.len(), granted, "{refused:?}");
        if granted == 0 {
            assert_eq!(world.state.hash(), before);
            return;
        }
        assert_eq!(world.state.quota_use(&name("default")).of(Resource::Gpus), 4000);
        for victim in held {
            world.exit(victim, 143);
        }
        assert_eq!(world.state.allocations_of(urgent).count(), 4);
        assert_eq!(used(&world.state, Resource::Gpus), 4000);
    };
    check(4, 4);
    check(3, 0);
}
