use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{
    AllocationId, AllocationState, Attempt, Constraints, CpuMilli, Device, DeviceClaim, Drain,
    DurationMs, EndCause, EndReport, GpuRequest, Guards, HealthCheck, HealthProbe, InstanceIndex,
    JobId, JobKind, JobSpec, JobState, MemoryBytes, Name, NodeId, NodeSpec, NodeState, Outcome,
    Policy, PortClaim, PortRange, RestartPolicy, ShareMilli, Shut, StartPhase, StateMs, StopIntent,
    TaskIndex, TaskSpec, WallMs,
};
use berth_proto::v1;
use berth_state::{
    ClusterState, Command, Entry, Event, EventKind, Observation, Observed, Placement, Purpose,
    Reply, ScoreParts, Seat, SubmitJob,
};
use proptest::prelude::*;

use super::*;
use crate::arbitrary;
use crate::spec::{job_spec_from_proto, spec_digest};

/// A cluster with a node `gpu-01` of two devices (positions 4 and 5).
struct World {
    state: ClusterState,
    index: u64,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn task(count: u32) -> TaskSpec {
    TaskSpec {
        count,
        gpu: Some(GpuRequest::whole(1)),
        restart: RestartPolicy { attempts: Some(0), ..RestartPolicy::default_for(JobKind::Batch) },
        ..TaskSpec::new(name("main"), JobKind::Batch, vec!["true".into()])
    }
}

fn spec(kind: JobKind, tasks: Vec<TaskSpec>) -> JobSpec {
    JobSpec {
        name: name("render"),
        namespace: name("research"),
        kind,
        priority: 50,
        policy: Policy::BestFit,
        constraints: Constraints::default(),
        tasks,
        deadline: None,
        max_disconnect: DurationMs(10_000),
        on_return: Default::default(),
        policy_origin: Default::default(),
        update: Default::default(),
        exclusive: false,
        preemption: berth_model::Preemption::default(),
        route: berth_model::Route::default(),
        autoscale: None,
    }
}

fn node_spec() -> NodeSpec {
    let device = |index| Device::new(format!("GPU-{index}"), index, "H100", MemoryBytes(80 << 30));
    NodeSpec {
        labels: BTreeMap::new(),
        pool: name("default"),
        zone: name("a"),
        cpu: CpuMilli(8000),
        memory: MemoryBytes(64 << 30),
        devices: vec![device(4), device(5)],
        ports: PortRange::DEFAULT,
        agent_version: "0.1.0".into(),
        docker_version: String::new(),
        tasks_per_device_max: berth_model::TASKS_PER_DEVICE_MAX_DEFAULT,
        address: "127.0.0.1:1".into(),
    }
}

impl World {
    fn new() -> World {
        let mut world = World { state: ClusterState::default(), index: 0 };
        world.apply(Command::Found { cluster_id: [1; 16], security: None });
        world.apply(Command::RegisterNode {
            name: name("gpu-01"),
            instance_key: [1; 16],
            spec: Arc::new(node_spec()),
        });
        world
    }

    fn apply(&mut self, command: Command) -> (Reply, Vec<Event>) {
        self.index += 1;
        let entry = Entry {
            state_ms: StateMs(self.index * 1000),
            wall_ms: WallMs(self.index * 1000),
            proposer: String::new(),
            commands: vec![command],
        };
        let mut applied = self.state.apply(self.index, &entry);
        (applied.replies.remove(0).unwrap(), applied.events)
    }

    fn submit(&mut self, spec: JobSpec) -> JobId {
        let digest = spec_digest(&spec);
        let key = Some("key-1".to_owned());
        let submit = SubmitJob { key, spec: Arc::new(spec), digest, if_version: None };
        let (reply, _) = self.apply(Command::Submit(submit));
        let Reply::Submitted { job, .. } = reply else {
            panic!("{reply:?}");
        };
        job
    }

    fn place(&mut self, job: JobId, instance: u32, uuid: &str) -> AllocationId {
        self.place_with(job, instance, uuid, Vec::new())
    }

    fn place_with(
        &mut self,
        job: JobId,
        instance: u32,
        uuid: &str,
        ports: Vec<PortClaim>,
    ) -> AllocationId {
        let placement = Placement {
            job,
            task: TaskIndex(0),
            instance: InstanceIndex(instance),
            attempt: Attempt::FIRST,
            node: NodeId(1),
            devices: vec![DeviceClaim {
                uuid: uuid.into(),
                share: ShareMilli::WHOLE,
                memory: MemoryBytes(80 << 30),
            }],
            ports,
            score: ScoreParts::default(),
        };
        let (reply, _) = self.apply(Command::Place { placements: vec![placement] });
        let Reply::Placed { granted, refused } = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(refused, []);
        granted[0]
    }

    fn observe(&mut self, allocation: AllocationId, observed: Observed) {
        let observations = vec![Observation { allocation, observed }];
        self.apply(Command::Observe { node: NodeId(1), observations });
    }

    fn job(&self, id: JobId) -> v1::Job {
        job(&self.state, self.state.jobs().get(&id).unwrap())
    }

    fn allocation(&self, id: AllocationId) -> v1::Allocation {
        allocation(&self.state, self.state.allocations().get(&id).unwrap())
    }
}

fn failed() -> EndReport {
    EndReport {
        cause: EndCause::Exited,
        exit_code: Some(3),
        signal: None,
        reason: String::new(),
        stderr_tail: "no such file".into(),
        started_at: Some(WallMs(5)),
        finished_at: WallMs(6),
    }
}

#[test]
fn a_job_shows_the_progress_of_its_tasks() {
    let mut world = World::new();
    let id = world.submit(spec(JobKind::Batch, vec![task(4)]));
    let queued = world.job(id);
    assert_eq!((queued.state.as_str(), queued.tasks[0].pending), ("queued", 4));
    assert_eq!((queued.name.as_str(), queued.namespace.as_str()), ("render", "research"));
    assert_eq!((queued.key.as_str(), queued.submitted_at_ms), ("key-1", 3000));
    let first = world.place(id, 0, "GPU-4");
    let second = world.place(id, 1, "GPU-5");
    world.observe(first, Observed::Running { ready: true, started_at: WallMs(5) });
    world.observe(second, Observed::Ended(failed()));
    let shown = world.job(id);
    let status = &shown.tasks[0];
    assert_eq!(shown.state, "running");
    assert_eq!((status.name.as_str(), status.count, status.pending), ("main", 4, 2));
    assert_eq!((status.running, status.ready, status.live, status.failed), (1, 1, 1, 1));
    let failure = &status.failures[0];
    assert_eq!((failure.node.as_str(), failure.exit_code), ("gpu-01", Some(3)));
    assert_eq!(failure.stderr_tail, "no such file");
    let row = world.state.jobs().get(&id).unwrap();
    assert_eq!(listed_job(&world.state, row).tasks[0].failures, []);
}

/// A replica that ends what it was asked is none that is ready, and is said to drain.
#[test]
fn a_service_is_told_with_those_that_let_their_callers_go() {
    let mut world = World::new();
    let reached = TaskSpec { ports: vec![name("http")], ..task(2) };
    let job = world.submit(spec(JobKind::Service, vec![reached]));
    let claim = |port| vec![PortClaim { name: name("http"), port }];
    let first = world.place_with(job, 0, "GPU-4", claim(20_000));
    let second = world.place_with(job, 1, "GPU-5", claim(20_010));
    for id in [first, second] {
        world.observe(id, Observed::Running { ready: true, started_at: WallMs(5) });
    }
    let told = |world: &World| {
        let row = world.state.jobs().get(&job).unwrap();
        let told = service(&world.state, row).unwrap();
        let states = told.replicas.iter().map(|one| one.allocation.clone().unwrap().state);
        ((told.replicas_wanted, told.replicas_ready, told.replicas_draining), states.collect())
    };
    let states = |states: [&str; 2]| states.map(str::to_owned).to_vec();
    assert_eq!(told(&world), ((2, 2, 0), states(["running", "running"])));
    let intent = StopIntent::Replace;
    let (allocations, reason) = (vec![first], "r".to_owned());
    world.apply(Command::StopAllocations { allocations, intent, reason });
    assert_eq!(told(&world), ((2, 1, 1), states(["draining", "running"])));
    let (allocations, reason) = (vec![first], "r".to_owned());
    world.apply(Command::LetGo { allocations, reason });
    assert_eq!(told(&world), ((2, 1, 0), states(["stopping", "running"])));
}

/// Of a service with a port on the node, one replica that is ready and one that is not.
#[test]
fn routes_lead_to_the_replicas_that_are_ready() {
    let mut world = World::new();
    let ports = ["metrics", "http"].map(name).to_vec();
    let probe = HealthProbe::Http { path: "/healthz".into(), port: name("http") };
    let health = HealthCheck {
        probe,
        interval: DurationMs(1_000),
        timeout: DurationMs(500),
        failures: 3,
        start_period: DurationMs(0),
    };
    let reached = TaskSpec { ports: ports.clone(), health: Some(health), ..task(2) };
    let job = world.submit(spec(JobKind::Service, vec![reached]));
    assert_eq!(routes(&world.state).services[0].replicas, []);
    let claim = |first: u16| {
        let claims = ports.iter().zip(first..);
        claims.map(|(name, port)| PortClaim { name: name.clone(), port }).collect::<Vec<_>>()
    };
    let first = world.place_with(job, 0, "GPU-4", claim(20_000));
    let second = world.place_with(job, 1, "GPU-5", claim(20_010));
    world.observe(first, Observed::Running { ready: true, started_at: WallMs(5) });
    world.observe(second, Observed::Running { ready: false, started_at: WallMs(5) });
    let told = routes(&world.state);
    assert_eq!(told.index, world.index);
    let [service] = told.services.as_slice() else { panic!("{told:?}") };
    assert_eq!((service.namespace.as_str(), service.name.as_str()), ("research", "render"));
    assert_eq!((service.model.as_str(), service.health_path.as_str()), ("render", "/healthz"));
    let replica =
        v1::ServiceReplica { allocation_id: first.to_string(), address: "127.0.0.1:20001".into() };
    assert_eq!(service.replicas, [replica]);
    world.observe(second, Observed::Running { ready: true, started_at: WallMs(5) });
    assert_eq!(routes(&world.state).services[0].replicas.len(), 2);
    assert_eq!(service.balance(), v1::RoutingPolicy::Auto);
    assert_eq!(service.timeout_ms, 600_000);
    // What it says itself.
    let route = berth_model::Route {
        model: Some("org/large".to_owned()),
        port: Some(name("metrics")),
        balance: berth_model::RoutingPolicy::Priority,
        timeout: DurationMs(5_000),
        drain: DurationMs(0),
        ..berth_model::Route::default()
    };
    let mut world = World::new();
    let reached = TaskSpec { ports: ports.clone(), ..task(1) };
    let job = world.submit(JobSpec { route, ..spec(JobKind::Service, vec![reached]) });
    let only = world.place_with(job, 0, "GPU-4", claim(20_000));
    world.observe(only, Observed::Running { ready: true, started_at: WallMs(5) });
    let [service] = routes(&world.state).services.try_into().unwrap();
    assert_eq!((service.model.as_str(), service.timeout_ms), ("org/large", 5_000));
    assert_eq!(service.balance(), v1::RoutingPolicy::Priority);
    assert_eq!(service.replicas[0].address, "127.0.0.1:20000");
    // What nobody can reach, or is no service, is not told of.
    let mut world = World::new();
    world.submit(spec(JobKind::Batch, vec![TaskSpec { ports, ..task(1) }]));
    assert_eq!(routes(&world.state).services, []);
}

#[test]
fn an_allocation_shows_where_and_how_far_it_is() {
    let mut world = World::new();
    let id = world.submit(spec(JobKind::Batch, vec![task(1)]));
    let placed = world.place(id, 0, "GPU-5");
    let shown = world.allocation(placed);
    assert_eq!((shown.state.as_str(), shown.phase.as_str()), ("planned", ""));
    assert_eq!((shown.id.as_str(), shown.task.as_str()), ("1.0.0.1", "main"));
    assert_eq!((shown.node.as_str(), shown.device_indices.as_slice()), ("gpu-01", &[5][..]));
    assert_eq!(shown.isolation, "whole GPU");
    world.observe(placed, Observed::Starting(StartPhase::WarmUp));
    let shown = world.allocation(placed);
    assert_eq!((shown.state.as_str(), shown.phase.as_str()), ("starting", "warm-up"));
    world.observe(placed, Observed::Running { ready: false, started_at: WallMs(5) });
    let shown = world.allocation(placed);
    assert_eq!((shown.state.as_str(), shown.ready), ("running", false));
    assert_eq!((shown.phase.as_str(), shown.started_at_ms), ("", Some(5)));
    // An ended one, shown by its last row when all around it is forgotten.
    let row = world.state.allocations().get(&placed).unwrap();
    let shown = allocation(&ClusterState::default(), row);
    assert_eq!((shown.task.as_str(), shown.node.as_str()), ("0", "1"));
    assert!(shown.device_indices.is_empty());
}

#[test]
fn a_node_shows_what_is_used_of_it() {
    let mut world = World::new();
    let id = world.submit(spec(JobKind::Batch, vec![task(1)]));
    world.place(id, 0, "GPU-5");
    let shown = |world: &World| node(world.state.nodes().get(&NodeId(1)).unwrap());
    let used = shown(&world);
    assert_eq!((used.state.as_str(), used.schedulable, used.allocations), ("ready", true, 1));
    assert_eq!((used.allocated_cpu_milli, used.allocated_memory_bytes), (100, 128 << 20));
    let milli: Vec<u32> = used.devices.iter().map(|device| device.allocated_milli).collect();
    assert_eq!(milli, [0, 1000]);
    let set = |purpose| Command::SetSchedulable { node: NodeId(1), purpose };
    world.apply(set(Purpose::Cordoned));
    assert_eq!((shown(&world).state.as_str(), shown(&world).schedulable), ("ready", false));
    world.apply(set(Purpose::Draining(Drain { deadline: None })));
    assert_eq!(shown(&world).state, "draining");
    world.apply(Command::DisconnectNode { node: NodeId(1), session: 1 });
    assert_eq!(shown(&world).state, "disconnected");
}

#[test]
fn versions_are_listed_with_the_current_one_last() {
    let mut world = World::new();
    let service = |count| {
        let main = TaskSpec { count, ..task(1) };
        spec(JobKind::Service, vec![main])
    };
    let submit = |world: &mut World, spec: JobSpec| {
        let digest = spec_digest(&spec);
        let submit = SubmitJob { key: None, spec: Arc::new(spec), digest, if_version: None };
        world.apply(Command::Submit(submit));
    };
    submit(&mut world, service(1));
    submit(&mut world, service(2));
    let listed = versions(world.state.jobs().get(&JobId(1)).unwrap());
    let shown: Vec<(u32, bool, u64)> = listed
        .iter()
        .map(|version| (version.version, version.current, version.submitted_at_ms))
        .collect();
    assert_eq!(shown, [(1, false, 3000), (2, true, 4000)]);
    assert_eq!(job_spec_from_proto(listed[1].spec.clone().unwrap()), Ok(service(2)));
}

fn planned() -> berth_state::AllocationRow {
    berth_state::AllocationRow {
        id: AllocationId::default(),
        node: NodeId(1),
        job_version: 1,
        spec_digest: Default::default(),
        claim: Default::default(),
        state: AllocationState::Planned,
        reason: String::new(),
        planned_at: StateMs(0),
        running_since: None,
        started_at: None,
        score: ScoreParts::default(),
        seat: None,
        draining: None,
    }
}

#[test]
fn every_kind_of_event_has_its_sentence() {
    let state = World::new().state;
    let row = Arc::new(planned());
    let ended = |outcome, reason: &str| EventKind::AllocationEnded {
        outcome,
        reason: reason.into(),
        row: row.clone(),
        report: None,
    };
    let changed = |state| EventKind::AllocationStateChanged { state };
    let check = |kind: EventKind, expected: &str| {
        let one = Event { job: Some(JobId(7)), allocation: None, node: Some(NodeId(1)), kind };
        let shown = event(&state, &one, "9-0", WallMs(3));
        assert_eq!(shown.message, expected);
        assert_eq!((shown.token.as_str(), shown.at_ms, shown.job_id), ("9-0", 3, Some(7)));
        assert_eq!((shown.node.as_str(), shown.allocation_id.as_str()), ("gpu-01", ""));
        assert_eq!(shown.kind, one.kind.name());
    };
    let submitted = EventKind::JobSubmitted { namespace: name("a"), name: name("b") };
    check(submitted, "job b was submitted to namespace a");
    check(EventKind::JobUpdated { version: 2 }, "the job is now at version 2");
    let scaled = |reason: &str| EventKind::ReplicasScaled { from: 1, to: 3, reason: reason.into() };
    check(scaled("it is asked"), "scaled from 1 to 3 replicas: it is asked");
    check(EventKind::JobHeld, "nothing more of the job is placed until it is released");
    check(EventKind::JobReleased, "the job may be placed again");
    let reason = || "by hand".to_owned();
    check(EventKind::JobStopping { reason: reason() }, "the job is being stopped: by hand");
    let state_changed =
        |state, reason: &str| EventKind::JobStateChanged { state, reason: reason.into() };
    check(state_changed(JobState::TimedOut, "1h"), "the job is now timed out: 1h");
    check(state_changed(JobState::Queued, ""), "the job is now queued");
    check(EventKind::JobReaped, "the ended job was forgotten");
    check(EventKind::InstancesQueued { count: 1 }, "1 instance waits for a place");
    check(EventKind::InstancesQueued { count: 10 }, "10 instances wait for a place");
    check(EventKind::AllocationPlanned, "placed on node gpu-01");
    check(changed(AllocationState::Starting(StartPhase::Fetch)), "is starting (fetch)");
    check(changed(AllocationState::Running { ready: true }), "is running and ready");
    check(changed(AllocationState::Stopping(StopIntent::Drain)), "is draining");
    check(
        changed(AllocationState::Unkillable(StopIntent::Cancel)),
        "does not end although it was killed, and keeps its devices",
    );
    check(EventKind::AllocationStopping { reason: reason() }, "is being stopped: by hand");
    check(ended(Outcome::Failed, "exit code 1"), "failed: exit code 1");
    check(ended(Outcome::Succeeded, ""), "succeeded");
    check(EventKind::RetryScheduled { wait_ms: 1500 }, "will be tried again in 1.500 s");
    check(EventKind::RetryScheduled { wait_ms: 0 }, "will be tried again at once");
    check(EventKind::NodeRegistered { name: name("n") }, "node n has registered");
    check(EventKind::NodeStateChanged { state: NodeState::Down }, "node gpu-01 is down");
    let drain = Purpose::Draining(Drain { deadline: None });
    check(EventKind::NodePurposeChanged { purpose: drain }, "node gpu-01 is being emptied");
    let shut = Some(Shut { used_percent: 91, opens_below_percent: 80 });
    let guarded = |cpu| EventKind::NodeGuarded { guards: Guards { cpu, memory: None } };
    let pauses = "node gpu-01: CPU 91 % in use, pauses new placements until below 80 %";
    check(guarded(shut), pauses);
    check(guarded(None), "the host of node gpu-01 has enough of everything again");
    check(EventKind::NodeReaped, "node gpu-01 was forgotten");
    let desired = EventKind::DesiredChanged { generation: 5 };
    check(desired, "what should be on node gpu-01 has generation 5");
    check(EventKind::ClusterFounded, "the cluster was founded");
    let admitted = |seat| EventKind::SchedulerAdmitted { scheduler: 4, seat };
    check(admitted(Seat::Voter), "scheduler 4 was admitted");
    check(admitted(Seat::Learner), "scheduler 4 was admitted without a vote");
    check(EventKind::SchedulerPromoted { scheduler: 4 }, "scheduler 4 is to have a vote");
    check(EventKind::SchedulerRemoved { scheduler: 4 }, "scheduler 4 was removed");
    check(EventKind::ClusterVersionRaised { version: 2 }, "the cluster is now at version 2");
}

#[test]
fn an_update_that_fails_says_why() {
    let kind = EventKind::UpdateFailed { version: 2, reason: "none got ready".to_owned() };
    let one = Event { job: Some(JobId(7)), allocation: None, node: None, kind };
    let shown = event(&World::new().state, &one, "9-0", WallMs(3));
    assert_eq!(shown.message, "the update to version 2 has failed: none got ready");
    assert_eq!(shown.kind, "update-failed");
}

#[test]
fn what_comes_back_says_why_it_goes_on() {
    let kind = EventKind::AllocationReturned { reason: "its node is back".to_owned() };
    let one = Event { job: None, allocation: None, node: Some(NodeId(1)), kind };
    let shown = event(&World::new().state, &one, "9-0", WallMs(3));
    assert_eq!(shown.message, "goes on: its node is back");
    assert_eq!((shown.kind.as_str(), shown.node.as_str()), ("allocation-returned", "gpu-01"));
}

#[test]
fn a_difference_names_fields_and_hides_environments() {
    let old = spec(JobKind::Service, vec![task(1)]);
    let mut new = old.clone();
    assert_eq!(spec_diff(&old, &new), Vec::<String>::new());
    new.priority = 60;
    new.tasks[0].count = 2;
    new.tasks[0].gpu = None;
    new.tasks[0].env.insert("TOKEN".into(), "secret".into());
    new.tasks[0].command = vec!["x".repeat(200)];
    new.tasks[0].workdir = Some("/a\nb".into());
    let lines = spec_diff(&old, &new);
    let expected = [
        "priority: 50 -> 60".to_owned(),
        format!("tasks.main.command: [\"true\"] -> [\"{}…", "x".repeat(78)),
        "tasks.main.count: 1 -> 2".to_owned(),
        "tasks.main.env.TOKEN: added".to_owned(),
        "tasks.main.gpu.count: 1 -> (none)".to_owned(),
        "tasks.main.gpu.type: [] -> (none)".to_owned(),
        "tasks.main.workdir: (none) -> \"/a\\nb\"".to_owned(),
    ];
    assert_eq!(lines, expected);
    let mut newer = new.clone();
    newer.tasks[0].env.insert("TOKEN".into(), "other".into());
    assert_eq!(spec_diff(&new, &newer), ["tasks.main.env.TOKEN: changed"]);
    newer.tasks[0].env = (0..300).map(|key| (format!("K{key}"), String::new())).collect();
    let lines = spec_diff(&old, &newer);
    assert_eq!(lines.len(), 201);
    assert_eq!(lines[200], "and 106 more");
}

/// Each takes one field over from another specification.
const FIELDS: [fn(&mut JobSpec, &JobSpec); 38] = [
    |to, from| to.kind = from.kind,
    |to, from| to.priority = from.priority,
    |to, from| to.policy = from.policy,
    |to, from| to.policy_origin = from.policy_origin,
    |to, from| to.constraints.labels.clone_from(&from.constraints.labels),
    |to, from| to.constraints.pool.clone_from(&from.constraints.pool),
    |to, from| to.constraints.node.clone_from(&from.constraints.node),
    |to, from| to.deadline = from.deadline,
    |to, from| to.max_disconnect = from.max_disconnect,
    |to, from| to.on_return = from.on_return,
    |to, from| to.update.progress_deadline = from.update.progress_deadline,
    |to, from| to.update.min_ready = from.update.min_ready,
    |to, from| to.update.on_failure = from.update.on_failure,
    |to, from| to.exclusive = from.exclusive,
    |to, from| to.preemption.preempts = from.preemption.preempts,
    |to, from| to.preemption.preemptible = from.preemption.preemptible,
    |to, from| to.preemption.min_run = from.preemption.min_run,
    |to, from| to.autoscale.clone_from(&from.autoscale),
    |to, from| to.tasks[0].name.clone_from(&from.tasks[0].name),
    |to, from| to.tasks[0].driver.clone_from(&from.tasks[0].driver),
    |to, from| to.tasks[0].command.clone_from(&from.tasks[0].command),
    |to, from| to.tasks[0].env.clone_from(&from.tasks[0].env),
    |to, from| to.tasks[0].workdir.clone_from(&from.tasks[0].workdir),
    |to, from| to.tasks[0].artifacts.clone_from(&from.tasks[0].artifacts),
    |to, from| to.tasks[0].count = from.tasks[0].count,
    |to, from| to.tasks[0].array = from.tasks[0].array,
    |to, from| to.tasks[0].gang = from.tasks[0].gang,
    |to, from| to.tasks[0].cpu = from.tasks[0].cpu,
    |to, from| to.tasks[0].memory = from.tasks[0].memory,
    |to, from| to.tasks[0].left_out = from.tasks[0].left_out,
    |to, from| to.tasks[0].limits = from.tasks[0].limits,
    |to, from| to.tasks[0].gpu.clone_from(&from.tasks[0].gpu),
    |to, from| to.tasks[0].ports.clone_from(&from.tasks[0].ports),
    |to, from| to.tasks[0].stop = from.tasks[0].stop,
    |to, from| to.tasks[0].restart = from.tasks[0].restart,
    |to, from| to.tasks[0].health.clone_from(&from.tasks[0].health),
    |to, from| to.tasks[0].time_limit = from.tasks[0].time_limit,
    |to, from| to.tasks.truncate(from.tasks.len()),
];

/// How many replicas a service has that follow its load is nothing that was asked for.
fn without_load(spec: &JobSpec) -> JobSpec {
    let mut spec = spec.clone();
    if let Some((position, _)) = spec.scaled() {
        spec.tasks[position].count = 0;
    }
    spec
}

proptest! {
    #[test]
    fn no_field_is_left_out_of_a_difference(
        old in arbitrary::spec::job(),
        other in arbitrary::spec::job(),
    ) {
        prop_assume!(!old.tasks.is_empty() && !other.tasks.is_empty());
        prop_assert!(spec_diff(&old, &old).is_empty());
        // Tasks are told apart by their names.
        let names: std::collections::BTreeSet<&Name> =
            old.tasks.iter().chain(&other.tasks).map(|task| &task.name).collect();
        prop_assume!(names.len() == old.tasks.len() + other.tasks.len());
        for (position, take) in FIELDS.iter().enumerate() {
            let mut new = old.clone();
            take(&mut new, &other);
            let lines = spec_diff(&old, &new);
            let same = without_load(&new) == without_load(&old);
            prop_assert_eq!(lines.is_empty(), same, "field {}: {:?}", position, lines);
        }
    }
}
