//! One row of every table and every optional field, as version 1 was first
//! written. Neither the values nor the bytes may change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use berth_model::node::DeviceUse;
use berth_model::{
    AllocationId, AllocationState, AtBegin, Attempt, AverageUse, Bounds, Claim, Constraints,
    CpuMilli, Device, DeviceClaim, DeviceHealth, Drain, DurationMs, GangSeat, Grant, Guarantee,
    Guards, InstanceIndex, JobId, JobKind, JobSpec, JobState, JoinGrant, Limit, LimitRange,
    Machine, MemoryBytes, Name, NamespaceSpec, NodeId, NodeReservation, NodeSpec, NodeState,
    NodeUse, Policy, PolicyDefaults, PortClaim, PortRange, Quota, RangeSet, ReservedNodes,
    Resource, Role, Scope, ShareMilli, Shut, SpecDigest, StartPhase, StateMs, StopIntent,
    TaskIndex, TaskSpec, TokenId, WallMs,
};
use berth_state::rows::{SchedulerRow, Seat};
use berth_state::{
    AllocationRow, Authority, AwayRow, ClusterRow, Draining, Expiry, FailureDetail, JobPhase,
    JobRow, JobVersionRow, KeptPlace, KeyRow, NamespaceRow, NodeReservationRow, NodeRow, OrphanRow,
    Purpose, ReservationRow, RestoreRow, Retry, RevocationRow, Rollout, ScoreParts, Stored,
    TaskRow, TokenRow, TokenUser,
};

pub(super) const HEX: &str = include_str!("../../../../fixtures/snapshot-v1-every-row.hex");

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn id(instance: u32) -> AllocationId {
    AllocationId {
        job: JobId(300),
        task: TaskIndex(1),
        instance: InstanceIndex(instance),
        attempt: Attempt(2),
    }
}

pub(crate) fn rows() -> Vec<Stored> {
    let phases = [
        JobPhase::Active,
        JobPhase::Ending(JobState::Cancelled),
        JobPhase::Ended { state: JobState::TimedOut, at: StateMs(9) },
        JobPhase::Ended { state: JobState::Succeeded, at: StateMs(9) },
        JobPhase::Ended { state: JobState::Failed, at: StateMs(9) },
        JobPhase::Ending(JobState::Queued),
        JobPhase::Ending(JobState::Running),
    ];
    let states = [
        AllocationState::Planned,
        AllocationState::Starting(StartPhase::Fetch),
        AllocationState::Running { ready: false },
        AllocationState::Running { ready: true },
        AllocationState::Stopping(StopIntent::Drain),
        AllocationState::Unkillable(StopIntent::Cancel),
    ];
    let nodes = [
        (NodeState::Ready, Purpose::Work),
        (NodeState::Disconnected, Purpose::Cordoned),
        (NodeState::Down, Purpose::Draining(Drain { deadline: Some(StateMs(7)) })),
    ];
    let mut rows = vec![Stored::Cluster(cluster())];
    rows.extend(nodes.map(|(state, purpose)| Stored::Node(Arc::new(node(state, purpose)))));
    rows.extend(phases.map(|phase| Stored::Job(Arc::new(job(phase)))));
    rows.push(Stored::Task(JobId(300), TaskIndex(0), Arc::new(TaskRow::default())));
    rows.push(Stored::Task(JobId(300), TaskIndex(1), Arc::new(task())));
    rows.extend(states.map(|state| Stored::Allocation(Arc::new(allocation(state)))));
    for forget_at in [None, Some(StateMs(11))] {
        let row = KeyRow { job: JobId(300), digest: SpecDigest([3; 32]), version: 4, forget_at };
        rows.push(Stored::Key(name("research"), "key-1".into(), Arc::new(row)));
    }
    rows.extend(after_a_restore());
    rows.extend(access());
    rows.push(with_a_kept_place());
    rows.push(namespace());
    rows.push(guaranteed());
    let average = AverageUse { at: StateMs(77), fine: [1 << 33, 1 << 40, 3, 4] };
    rows.push(Stored::Average(name("sure"), Arc::new(average)));
    rows.push(with_policies());
    rows.push(node_reservation());
    rows.push(let_go());
    rows
}

fn node_reservation() -> Stored {
    let spec = NodeReservation {
        name: name("launch"),
        nodes: ReservedNodes::Pool(name("h100")),
        namespaces: [name("research")].into(),
        priority_min: Some(80),
        from: WallMs(7),
        until: Some(WallMs(9)),
        running: AtBegin::End,
    };
    let changed_at = WallMs(5);
    Stored::NodeReservation(Arc::new(NodeReservationRow {
        spec,
        version: 3,
        begun: true,
        changed_at,
    }))
}

fn namespace() -> Stored {
    let amounts = Resource::ALL.into_iter().zip(1_000..).collect();
    let bounds = Bounds { default: Some(1_000), min: Some(500), max: Some(8_000) };
    let spec = NamespaceSpec {
        name: name("research"),
        description: "models and their trials".into(),
        quota: Quota {
            limit: Limit { amounts, submits_per_second: NonZeroU32::new(50) },
            ..Quota::default()
        },
        range: LimitRange([(Resource::Gpus, bounds)].into()),
        weight: NamespaceSpec::WEIGHT_DEFAULT,
    };
    Stored::Namespace(Arc::new(NamespaceRow { spec, version: 3, changed_at: WallMs(12) }))
}

fn guaranteed() -> Stored {
    let amounts = Guarantee::RESOURCES.into_iter().zip(900..).collect();
    let quota = Quota { guaranteed: Guarantee { amounts }, ..Quota::default() };
    let spec = NamespaceSpec { quota, weight: 20, ..NamespaceSpec::new(name("sure")) };
    Stored::Namespace(Arc::new(NamespaceRow { spec, version: 1, changed_at: WallMs(13) }))
}

/// What only a cluster that speaks TLS has.
fn access() -> Vec<Stored> {
    let authority = Authority { certificate: vec![0x30; 5], sealed_key: vec![0x5e; 6] };
    let token = |id, grant, expires, used_by| {
        Stored::Token(Arc::new(TokenRow {
            id: TokenId(id),
            secret_hash: [0x5e; 32],
            label: "laptop".into(),
            grant,
            created_by: "token 1".into(),
            created: WallMs(9),
            expires,
            used_by,
        }))
    };
    let person = |role, scope| Grant::Person { role, scope };
    let join = |machine, name, pool| Grant::Join(JoinGrant { machine, name, pool });
    let some = Scope::Namespaces(BTreeSet::from([name("research"), name("ads")]));
    let soon = Some(Expiry { at: StateMs(10), wall: WallMs(11) });
    let user = TokenUser { key_hash: [0x6b; 32], name: "gpu-01".into() };
    let both = (Some(name("gpu-01")), Some(name("h100")));
    let revoked = |machine, text: &str| {
        let name = text.to_owned();
        Stored::Revocation(Arc::new(RevocationRow { machine, name, times: 12 }))
    };
    vec![
        Stored::Cluster(ClusterRow { authority: Some(Arc::new(authority)), ..cluster() }),
        token(1, person(Role::Admin, Scope::All), None, None),
        token(2, person(Role::Operate, Scope::All), soon, None),
        token(3, person(Role::Submit, some.clone()), None, None),
        token(4, person(Role::Read, some), None, None),
        token(5, join(Machine::Server, None, None), soon, None),
        token(6, join(Machine::Gateway, None, None), soon, None),
        token(u64::MAX, join(Machine::Agent, both.0, both.1), soon, Some(user)),
        revoked(Machine::Agent, "gpu-02"),
        revoked(Machine::Client, "alice"),
    ]
}

/// One that ends when its callers are gone.
fn let_go() -> Stored {
    let draining = Some(Draining { by: StateMs(600_008), since_index: 78 });
    let stopping = allocation(AllocationState::Stopping(StopIntent::Replace));
    Stored::Allocation(Arc::new(AllocationRow { id: id(12), draining, ..stopping }))
}

fn away(instance: u32, stop: Option<&str>) -> (AllocationId, AwayRow) {
    let state = AllocationState::Running { ready: true };
    let row = AllocationRow { id: id(instance), ..allocation(state) };
    (row.id, AwayRow { row: Arc::new(row), stop: stop.map(str::to_owned) })
}

/// One for which others end.
fn with_a_kept_place() -> Stored {
    let score = ScoreParts { policy: "berth".into(), ..ScoreParts::default() };
    // Another holds its share of the device, and its seat there.
    let mut held = NodeUse { cpu: claim().cpu, ..NodeUse::default() };
    held.devices.insert("GPU-1".into(), DeviceUse { tasks: 1, ..DeviceUse::default() });
    let kept = ReservationRow {
        members: BTreeMap::from([(id(11), KeptPlace { claim: claim(), score })]),
        awaits: BTreeSet::from([id(5), id(6)]),
        held,
        patient: true,
    };
    let node = node(NodeState::Ready, Purpose::Work);
    Stored::Node(Arc::new(NodeRow { reservations: vec![kept], ..node }))
}

/// What only a restored cluster has.
fn after_a_restore() -> [Stored; 2] {
    let restore = RestoreRow {
        id: [6; 16],
        awaited: BTreeSet::from([NodeId(1), NodeId(3)]),
        place_from: StateMs(123),
        await_until: StateMs(456),
        floor_jobs: JobId(1_000_000),
        attempt_floor: Attempt(1_000_001),
    };
    let orphan = |stop: Option<String>| OrphanRow {
        claim: claim(),
        spec_digest: stop.is_none().then_some(SpecDigest([4; 32])),
        namespace: "research".into(),
        job_name: "render".into(),
        found_at: WallMs(9),
        why: "the backup does not know its job".into(),
        stop,
    };
    let node = NodeRow {
        stock_incarnation: 2,
        orphans: BTreeMap::from([
            (id(7), orphan(None)),
            (id(8), orphan(Some("by hand".to_owned()))),
        ]),
        away: [away(9, None), away(10, Some("another attempt goes on"))].into(),
        ..node(NodeState::Ready, Purpose::Work)
    };
    [
        Stored::Cluster(ClusterRow { incarnation: 2, restore: Some(restore), ..cluster() }),
        Stored::Node(Arc::new(node)),
    ]
}

fn with_policies() -> Stored {
    let policies = PolicyDefaults {
        cluster: Some(Policy::Fgd),
        pools: [(name("h100"), Policy::Spread), (name("l4"), Policy::Berth)].into(),
    };
    Stored::Cluster(ClusterRow { policies, ..cluster() })
}

fn cluster() -> ClusterRow {
    let scheduler =
        |key, seat| SchedulerRow { instance_key: [key; 16], address: "10.0.0.2:7071".into(), seat };
    let (voter, learner) = (Some(Seat::Voter), Some(Seat::Learner));
    ClusterRow {
        id: *b"sixteen bytes id",
        incarnation: 1,
        cluster_version: 2,
        job_counter: 300,
        node_counter: 3,
        state_ms: StateMs(123_456_789),
        wall_ms: WallMs(1_790_000_000_000),
        schedulers: BTreeMap::from([
            (2, scheduler(2, voter)),
            (300, scheduler(3, voter)),
            (301, scheduler(4, learner)),
            (302, scheduler(5, None)),
        ]),
        restore: None,
        authority: None,
        fences: [("GPU-0".to_owned(), StateMs(4_000)), ("GPU-1".to_owned(), StateMs(5_000))].into(),
        policies: PolicyDefaults::default(),
    }
}

fn spec() -> Arc<JobSpec> {
    let task = TaskSpec::new(name("main"), JobKind::Batch, vec!["true".into()]);
    Arc::new(JobSpec {
        name: name("render"),
        namespace: name("research"),
        kind: JobKind::Batch,
        priority: 50,
        policy: Policy::RoundRobin,
        constraints: Constraints::default(),
        tasks: vec![task],
        deadline: None,
        max_disconnect: DurationMs(10_000),
        on_return: Default::default(),
        policy_origin: Default::default(),
        update: Default::default(),
        exclusive: false,
        preemption: berth_model::Preemption::default(),
        route: berth_model::Route::default(),
        autoscale: None,
    })
}

fn job(phase: JobPhase) -> JobRow {
    let version = JobVersionRow {
        version: 3,
        spec: spec(),
        digest: SpecDigest([1; 32]),
        submitted_at: WallMs(5),
    };
    JobRow {
        id: JobId(300),
        spec: spec(),
        digest: SpecDigest([2; 32]),
        version: 4,
        versions: vec![version],
        key: Some("key-1".into()),
        phase,
        held: true,
        submitted_at: WallMs(6),
        submitted_ms: StateMs(7),
        started_at: Some(WallMs(8)),
        finished_at: Some(WallMs(0)),
        reason: "by hand".into(),
        live: 9,
        rollout: (phase == JobPhase::Active).then_some(Rollout {
            progressed_at: StateMs(10),
            ready_max: 11,
            failed: true,
        }),
        proven: None,
    }
}

fn task() -> TaskRow {
    let set = |ranges: &[(u32, u32)]| {
        let mut set = RangeSet::new();
        for (first, last) in ranges {
            assert!(set.insert_range(*first, *last));
        }
        set
    };
    let retry = |attempt, not_before| Retry {
        attempt: Attempt(attempt),
        failures: attempt - 1,
        not_before: StateMs(not_before),
    };
    let failure = FailureDetail {
        allocation: id(6),
        node: NodeId(1),
        reason: "exit code 1".into(),
        exit_code: Some(1),
        signal: Some(-1),
        stderr_tail: "no such file".into(),
        finished_at: WallMs(10),
    };
    TaskRow {
        pending: set(&[(0, 0), (2, 2), (1000, 70_000)]),
        succeeded: set(&[(1, 1)]),
        failed: set(&[(6, 7)]),
        cancelled: set(&[(u32::MAX, u32::MAX)]),
        timed_out: set(&[(8, 9), (11, 12)]),
        lost: set(&[(20, 30)]),
        retries: BTreeMap::from([
            (0, retry(2, 5000)),
            (5, retry(3, 10)),
            (1000, retry(1, u64::MAX)),
        ]),
        failures: VecDeque::from([failure]),
        live: 1,
    }
}

fn claim() -> Claim {
    Claim {
        cpu: CpuMilli(500),
        memory: MemoryBytes(1 << 30),
        devices: vec![DeviceClaim {
            uuid: "GPU-0".into(),
            share: ShareMilli(1000),
            memory: MemoryBytes(80 << 30),
        }],
        ports: vec![PortClaim { name: name("http"), port: 20_000 }],
    }
}

fn allocation(state: AllocationState) -> AllocationRow {
    AllocationRow {
        id: id(5),
        node: NodeId(1),
        job_version: 4,
        spec_digest: SpecDigest([2; 32]),
        claim: claim(),
        state,
        reason: "drain".into(),
        planned_at: StateMs(8),
        running_since: Some(StateMs(9)),
        started_at: Some(WallMs(10)),
        score: ScoreParts {
            policy: "round-robin".into(),
            parts: vec![("turn".into(), -1)],
            view_index: 77,
        },
        seat: Some(GangSeat {
            rank: 3,
            world_size: 8,
            node_rank: 1,
            node_count: 4,
            local_rank: 1,
            local_world_size: 2,
            master_address: "10.0.0.7".into(),
            master_port: 20_001,
        }),
        draining: None,
    }
}

fn node(state: NodeState, purpose: Purpose) -> NodeRow {
    let claim = claim();
    let device = Device {
        uuid: "GPU-0".into(),
        index: 0,
        model: "NVIDIA H100 80GB HBM3".into(),
        memory: MemoryBytes(80 << 30),
        health: DeviceHealth::Healthy,
        reason: String::new(),
        numa_node: None,
        ways: Vec::new(),
        slice: None,
    };
    let used = DeviceUse { share: ShareMilli(1000), memory: MemoryBytes(80 << 30), tasks: 1 };
    NodeRow {
        id: NodeId(1),
        name: name("gpu-01"),
        instance_key: [7; 16],
        spec: Arc::new(NodeSpec {
            labels: BTreeMap::from([("rack".into(), "r1".into())]),
            pool: name("h100"),
            zone: name("z1"),
            cpu: CpuMilli(64_000),
            memory: MemoryBytes(1 << 40),
            devices: vec![device],
            ports: PortRange { first: 20_000, last: 29_999 },
            agent_version: "0.1.0".into(),
            docker_version: String::new(),
            tasks_per_device_max: berth_model::TASKS_PER_DEVICE_MAX_DEFAULT,
            address: "10.0.0.7:7070".into(),
        }),
        state,
        purpose,
        session: 12,
        generation: 13,
        used: NodeUse {
            cpu: claim.cpu,
            memory: claim.memory,
            devices: BTreeMap::from([("GPU-0".into(), used)]),
            ports: BTreeSet::from([20_000]),
        },
        live: BTreeSet::from([id(5)]),
        since: StateMs(14),
        blocked_ports: BTreeMap::from([(20_001, StateMs(15))]),
        rests_until: StateMs(0),
        stock_incarnation: 0,
        orphans: BTreeMap::new(),
        away: BTreeMap::new(),
        reservations: Vec::new(),
        cordoned_devices: match state {
            NodeState::Disconnected => BTreeSet::from(["GPU-9".into()]),
            NodeState::Ready | NodeState::Down => BTreeSet::new(),
        },
        guards: match purpose {
            Purpose::Cordoned => Guards {
                cpu: None,
                memory: Some(Shut { used_percent: 93, opens_below_percent: 85 }),
            },
            Purpose::Work | Purpose::Draining(_) => Guards::default(),
        },
    }
}
