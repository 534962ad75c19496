//! An entry with every kind of command and every optional field, as version 1
//! was first written. Neither the value nor the bytes may change.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use berth_model::{
    AllocationId, AtBegin, Attempt, Bounds, Claim, CpuMilli, Device, DeviceClaim, DeviceHealth,
    DeviceSlice, DeviceWay, Drain, DurationMs, EndCause, EndReport, Grant, Guarantee, Guards,
    InstanceIndex, JobId, JobSpec, JoinGrant, LeftOut, Limit, LimitRange, Machine, MemoryBytes,
    Name, NamespaceSpec, NodeId, NodeReservation, NodeSpec, PcieWay, Policy, PolicyOrigin,
    PortClaim, PortRange, Preemption, Quota, ReservedNodes, Resource, Role, Scope, ShareMilli,
    Shut, SpecDigest, StartPhase, StateMs, StopIntent, TaskIndex, TaskSpec, TokenId, WallMs,
};
use berth_state::{
    Authority, Command, DevicePurpose, Entry, JobChange, JoinProof, NewToken, Observation,
    Observed, Placement, Purpose, Reservation, ScoreParts, Seat, Security, Stock, SubmitJob,
    Unknown,
};

mod specs;

use specs::{job, routed, scaled, second_task};

pub(super) const HEX: &str = include_str!("../../../../fixtures/log-v1-every-command.hex");

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

fn node() -> NodeSpec {
    let device = |index, health, reason: &str| Device {
        uuid: format!("GPU-{index}"),
        index,
        model: "NVIDIA H100 80GB HBM3".into(),
        memory: MemoryBytes(80 << 30),
        health,
        reason: reason.to_owned(),
        numa_node: None,
        ways: Vec::new(),
        slice: None,
    };
    let linked = Device {
        numa_node: Some(1),
        ways: vec![
            DeviceWay { pcie: PcieWay::Switch, nvlinks: 18 },
            DeviceWay { pcie: PcieWay::System, nvlinks: 0 },
        ],
        slice: Some(DeviceSlice { parent: "GPU-a".into(), profile: "1g.10gb".into() }),
        ..device(2, DeviceHealth::Lost, "")
    };
    NodeSpec {
        labels: BTreeMap::from([("rack".into(), "r1".into())]),
        pool: name("h100"),
        zone: name("z1"),
        cpu: CpuMilli(64_000),
        memory: MemoryBytes(1 << 40),
        devices: vec![
            device(0, DeviceHealth::Healthy, ""),
            device(1, DeviceHealth::Cordoned, ""),
            linked,
            device(3, DeviceHealth::Suspect, "XID 74"),
            device(4, DeviceHealth::Fenced, "XID 48"),
        ],
        ports: PortRange { first: 20_000, last: 29_999 },
        agent_version: "0.1.0".into(),
        docker_version: "27.1".into(),
        tasks_per_device_max: 4,
        address: "10.0.0.7:7070".into(),
    }
}

/// A submit with everything set.
pub(super) fn submit() -> Command {
    Command::Submit(SubmitJob {
        key: Some("key-1".into()),
        spec: Arc::new(job()),
        digest: SpecDigest([0xd1; 32]),
        if_version: Some(7),
    })
}

/// A submit of about `bytes` bytes.
pub(super) fn padded(bytes: usize) -> Command {
    let mut spec = job();
    spec.tasks = vec![second_task()];
    spec.tasks[0].env.insert("PADDING".into(), "x".repeat(bytes - 200));
    Command::Submit(SubmitJob {
        key: None,
        spec: Arc::new(spec),
        digest: SpecDigest([0; 32]),
        if_version: None,
    })
}

fn schedulers() -> [Command; 3] {
    let address = "10.0.0.3:7071".into();
    [
        Command::AdmitScheduler {
            instance_key: [8; 16],
            address,
            seat: Seat::Learner,
            proof: None,
        },
        Command::PromoteScheduler { scheduler: 3 },
        Command::RemoveScheduler { scheduler: 2 },
    ]
}

pub(super) fn entry() -> Entry {
    let mut commands = vec![
        Command::Found { cluster_id: *b"sixteen bytes id", security: None },
        Command::AdmitScheduler {
            instance_key: [9; 16],
            address: "10.0.0.2:7071".into(),
            seat: Seat::Voter,
            proof: None,
        },
        Command::RaiseClusterVersion { version: 2 },
        submit(),
        Command::RegisterNode {
            name: name("gpu-01"),
            instance_key: [7; 16],
            spec: Arc::new(node()),
        },
        Command::DisconnectNode { node: NodeId(1), session: 2 },
        Command::DownNode { node: NodeId(1), session: 2 },
        Command::LoseAllocations {
            node: NodeId(1),
            session: 2,
            allocations: vec![id(0), AllocationId::default()],
            reason: "silent for 10 s".into(),
        },
        place(),
        Command::Observe { node: NodeId(1), observations: observations() },
        Command::ExpireJob { job: JobId(300) },
        Command::FailUpdate { job: JobId(300), version: 2, reason: "not ready".into() },
        Command::Reap {
            jobs: vec![JobId(1), JobId(u64::MAX)],
            nodes: vec![NodeId(4)],
            keys: vec![(name("research"), "key-0".into())],
        },
    ];
    commands.extend(changes());
    commands.extend(purposes());
    commands.extend(stops());
    commands.extend(schedulers());
    commands.extend(after_a_restore());
    commands.extend(access());
    commands.extend(devices());
    commands.extend(guards());
    commands.extend(preemptions());
    commands.extend(namespaces());
    commands.push(guaranteed());
    commands.extend(policies());
    commands.extend(node_reservations());
    commands.extend(routed());
    commands.extend(scaled());
    Entry {
        state_ms: StateMs(123_456_789),
        wall_ms: WallMs(1_790_000_000_000),
        proposer: "0.1.0".into(),
        commands,
    }
}

fn namespace() -> NamespaceSpec {
    let amounts = Resource::ALL.into_iter().zip(1_000..).collect();
    let bounds = Bounds { default: Some(1_000), min: Some(500), max: Some(8_000) };
    NamespaceSpec {
        name: name("research"),
        description: "models and their trials".into(),
        quota: Quota {
            limit: Limit { amounts, submits_per_second: NonZeroU32::new(50) },
            ..Quota::default()
        },
        range: LimitRange([(Resource::Gpus, bounds)].into()),
        weight: NamespaceSpec::WEIGHT_DEFAULT,
    }
}

fn guarantee() -> Guarantee {
    Guarantee { amounts: Guarantee::RESOURCES.into_iter().zip(900..).collect() }
}

fn guaranteed() -> Command {
    let quota = Quota { guaranteed: guarantee(), ..Quota::default() };
    let spec = NamespaceSpec { quota, weight: 20, ..NamespaceSpec::new(name("research")) };
    Command::ApplyNamespace { spec: Arc::new(spec), if_version: None }
}

fn node_reservations() -> [Command; 4] {
    let launch = || name("launch");
    let spec = NodeReservation {
        name: launch(),
        nodes: ReservedNodes::Named([name("gpu-1"), name("gpu-2")].into()),
        namespaces: [name("research")].into(),
        priority_min: Some(80),
        from: WallMs(1_700_000_000_000),
        until: Some(WallMs(1_700_000_600_000)),
        running: AtBegin::End,
    };
    let closed = NodeReservation {
        nodes: ReservedNodes::Pool(name("h100")),
        namespaces: Default::default(),
        priority_min: None,
        until: None,
        running: AtBegin::Keep,
        ..spec.clone()
    };
    let set = |spec, if_version| Command::ReserveNodes { spec: Arc::new(spec), if_version };
    [
        set(spec, None),
        set(closed, Some(1)),
        Command::FreeNodes { name: launch(), if_version: Some(2) },
        Command::TurnNodeReservation { name: launch() },
    ]
}

fn policies() -> [Command; 4] {
    let mut left_out = job();
    left_out.policy_origin = PolicyOrigin::LeftOut;
    let set =
        |pool: Option<&str>, policy| Command::SetPolicyDefault { pool: pool.map(name), policy };
    [
        Command::Submit(SubmitJob {
            key: None,
            spec: Arc::new(left_out),
            digest: SpecDigest([0xd4; 32]),
            if_version: None,
        }),
        set(None, Some(Policy::LeastLoaded)),
        set(Some("h100"), Some(Policy::Fgd)),
        set(Some("h100"), None),
    ]
}

fn namespaces() -> [Command; 4] {
    let nothing = NamespaceSpec::new(name("research"));
    let mut left_out = job();
    left_out.tasks[0].left_out = LeftOut { cpu: true, memory: true };
    [
        Command::Submit(SubmitJob {
            key: None,
            spec: Arc::new(left_out),
            digest: SpecDigest([0xd3; 32]),
            if_version: None,
        }),
        Command::ApplyNamespace { spec: Arc::new(namespace()), if_version: Some(0) },
        Command::ApplyNamespace { spec: Arc::new(nothing), if_version: None },
        Command::DeleteNamespace { name: name("research"), if_version: Some(2) },
    ]
}

/// What is urgent, and what ends for it.
fn preemptions() -> [Command; 4] {
    let Command::Place { placements } = place() else { unreachable!("it is a placement") };
    let reserve = |placement| Reservation { placement, awaits: vec![id(6), id(7)], patient: true };
    let min_run = DurationMs(90_000);
    let preemption = Preemption { preempts: false, preemptible: true, min_run };
    [
        Command::Submit(SubmitJob {
            key: None,
            spec: Arc::new(JobSpec { preemption, ..job() }),
            digest: SpecDigest([0xd2; 32]),
            if_version: None,
        }),
        Command::Reserve { reservations: placements.into_iter().map(reserve).collect() },
        Command::Unreserve { allocations: vec![id(8)], reason: "it waits no longer".into() },
        Command::StopAllocations {
            allocations: vec![id(9)],
            intent: StopIntent::Preempt,
            reason: "more is urgent".into(),
        },
    ]
}

fn place() -> Command {
    let device = |uuid: &str| DeviceClaim {
        uuid: uuid.into(),
        share: ShareMilli(1000),
        memory: MemoryBytes(80 << 30),
    };
    Command::Place {
        placements: vec![Placement {
            job: JobId(300),
            task: TaskIndex(1),
            instance: InstanceIndex(5),
            attempt: Attempt(2),
            node: NodeId(1),
            devices: vec![device("GPU-0"), device("GPU-1")],
            ports: vec![PortClaim { name: name("http"), port: 20_001 }],
            score: ScoreParts {
                policy: "best-fit".into(),
                parts: vec![("free_gpus".into(), -3), ("free_cpu".into(), i64::MIN)],
                view_index: 42,
            },
        }],
    }
}

fn observations() -> Vec<Observation> {
    let end = |cause| EndReport {
        cause,
        exit_code: Some(-1),
        signal: Some(9),
        reason: "ended".into(),
        stderr_tail: "last words".into(),
        started_at: Some(WallMs(0)),
        finished_at: WallMs(1_790_000_000_001),
    };
    let causes = [
        EndCause::Exited,
        EndCause::Stopped,
        EndCause::CannotStart,
        EndCause::PortTaken,
        EndCause::OutOfMemory,
        EndCause::HostRebooted,
        EndCause::Unseen,
        EndCause::Fenced,
    ];
    let alive = [
        Observed::Starting(StartPhase::Fetch),
        Observed::Starting(StartPhase::Launch),
        Observed::Starting(StartPhase::WarmUp),
        Observed::Running { ready: true, started_at: WallMs(9) },
        Observed::Running { ready: false, started_at: WallMs(0) },
        Observed::Unhealthy { detail: "3 failures".into() },
        Observed::Stopping,
        Observed::Unkillable,
    ];
    let ended = causes.into_iter().map(|cause| Observed::Ended(end(cause)));
    alive
        .into_iter()
        .chain(ended)
        .zip(0..)
        .map(|(observed, instance)| Observation { allocation: id(instance), observed })
        .collect()
}

fn changes() -> impl Iterator<Item = Command> {
    let changes = [
        JobChange::Stop { reason: "by hand".into() },
        JobChange::Restart,
        JobChange::Hold,
        JobChange::Release,
        JobChange::Rollback { to_version: 3 },
        JobChange::Purge,
    ];
    changes
        .into_iter()
        .zip([None, Some(0), Some(9)].into_iter().cycle())
        .map(|(change, if_version)| Command::ChangeJob { job: JobId(300), if_version, change })
}

fn after_a_restore() -> [Command; 4] {
    let report = EndReport {
        cause: EndCause::Exited,
        exit_code: Some(0),
        signal: None,
        reason: String::new(),
        stderr_tail: String::new(),
        started_at: None,
        finished_at: WallMs(7),
    };
    let unknown = Unknown {
        allocation: id(3),
        namespace: "research".into(),
        job_name: "llama-8b".into(),
        spec_digest: SpecDigest([4; 32]),
        claim: Claim {
            cpu: CpuMilli(500),
            memory: MemoryBytes(1 << 30),
            devices: vec![DeviceClaim {
                uuid: "GPU-0".into(),
                share: ShareMilli(1000),
                memory: MemoryBytes(80 << 30),
            }],
            ports: vec![PortClaim { name: name("http"), port: 20_001 }],
        },
    };
    let stock = Stock {
        ended: vec![(id(1), report)],
        absent: vec![id(2)],
        unknown: vec![unknown],
        complete: true,
    };
    let spec = Arc::new(node());
    [
        Command::TakeStock { name: name("gpu-01"), instance_key: [7; 16], spec, stock },
        Command::StopOrphans { node: NodeId(1), orphans: vec![id(3)], reason: "by hand".into() },
        Command::ForgetOrphans { node: NodeId(1), session: 2, orphans: vec![id(3)] },
        Command::StopAwaiting,
    ]
}

fn access() -> Vec<Command> {
    let new = |id, grant, ttl| NewToken {
        id: TokenId(id),
        secret_hash: [0x5e; 32],
        label: "laptop".into(),
        grant,
        ttl,
        created_by: "token 1".into(),
    };
    let person = |role, scope| Grant::Person { role, scope };
    let join = |machine, name, pool| Grant::Join(JoinGrant { machine, name, pool });
    let some = Scope::Namespaces(BTreeSet::from([name("research"), name("ads")]));
    let authority = Authority { certificate: vec![0x30; 5], sealed_key: vec![0x5e; 6] };
    let tokens = vec![
        new(1, person(Role::Admin, Scope::All), None),
        new(2, person(Role::Operate, Scope::All), Some(DurationMs(0))),
    ];
    let proof = JoinProof { token: TokenId(5), secret_hash: [0x5e; 32], key_hash: [0x6b; 32] };
    let minute = Some(DurationMs(60_000));
    vec![
        Command::Found {
            cluster_id: *b"sixteen bytes id",
            security: Some(Arc::new(Security { authority, tokens })),
        },
        Command::AdmitScheduler {
            instance_key: [9; 16],
            address: "10.0.0.2:7071".into(),
            seat: Seat::Voter,
            proof: Some(proof.clone()),
        },
        Command::CreateToken(new(3, person(Role::Read, some.clone()), minute)),
        Command::CreateToken(new(4, person(Role::Submit, some), None)),
        Command::CreateToken(new(5, join(Machine::Server, None, None), minute)),
        Command::CreateToken(new(
            u64::MAX,
            join(Machine::Agent, Some(name("gpu-01")), Some(name("h100"))),
            minute,
        )),
        Command::CreateToken(new(7, join(Machine::Gateway, Some(name("front")), None), minute)),
        Command::RevokeToken { token: TokenId(u64::MAX) },
        Command::UseJoinToken {
            proof: proof.clone(),
            machine: Machine::Agent,
            name: name("gpu-01"),
            pool: Some(name("h100")),
        },
        Command::UseJoinToken { proof, machine: Machine::Gateway, name: name("front"), pool: None },
        Command::RevokeMachine { machine: Machine::Client, name: "alice".into() },
        Command::RevokeMachine { machine: Machine::Server, name: "3".into() },
    ]
}

fn purposes() -> impl Iterator<Item = Command> {
    let purposes = [
        Purpose::Work,
        Purpose::Cordoned,
        Purpose::Draining(Drain { deadline: None }),
        Purpose::Draining(Drain { deadline: Some(StateMs(99)) }),
    ];
    purposes.into_iter().map(|purpose| Command::SetSchedulable { node: NodeId(1), purpose })
}

fn devices() -> impl Iterator<Item = Command> {
    [DevicePurpose::Work, DevicePurpose::Cordoned]
        .into_iter()
        .map(|purpose| Command::SetDevicePurpose { node: NodeId(1), uuid: "GPU-0".into(), purpose })
}

fn guards() -> impl Iterator<Item = Command> {
    let shut = |used_percent, opens_below_percent| Some(Shut { used_percent, opens_below_percent });
    let all = [
        Guards::default(),
        Guards { cpu: shut(91, 80), memory: None },
        Guards { cpu: shut(100, 80), memory: shut(93, 85) },
    ];
    all.into_iter().map(|guards| Command::SetGuards { node: NodeId(1), guards })
}

fn stops() -> impl Iterator<Item = Command> {
    let intents = [
        StopIntent::Cancel,
        StopIntent::TimeOut,
        StopIntent::Drain,
        StopIntent::Replace,
        StopIntent::Unhealthy,
    ];
    intents.into_iter().map(|intent| Command::StopAllocations {
        allocations: vec![id(1)],
        intent,
        reason: "asked to".into(),
    })
}

/// The placement of a member of a gang, with large ids; the first says how it was chosen.
pub(super) fn member(instance: u32, task: &TaskSpec) -> Placement {
    let device = |device: u32| DeviceClaim {
        uuid: format!("GPU-{instance:08x}-0000-0000-0000-{device:012x}"),
        share: ShareMilli::WHOLE,
        memory: MemoryBytes(180 << 30),
    };
    let port = |name: &Name| PortClaim { name: name.clone(), port: 29_999 };
    let asked = task.of_instance(InstanceIndex(instance));
    let score = ScoreParts {
        policy: "berth".into(),
        parts: vec![("cost_milli".into(), 99_999), ("idle_gpus".into(), 8)],
        view_index: 1 << 40,
    };
    Placement {
        job: JobId(1 << 27),
        task: TaskIndex(63),
        instance: InstanceIndex(instance),
        attempt: Attempt(10_000),
        node: NodeId(2_000_000),
        devices: (0..asked.gpu.as_ref().map_or(0, |gpu| gpu.count)).map(device).collect(),
        ports: asked.ports.iter().map(port).collect(),
        score: if instance == 0 { score } else { ScoreParts::default() },
    }
}
