//! What the scripted cluster holds.

use berth_proto::v1::*;

/// 2026-01-02T03:04:05.678Z.
pub const SUBMITTED_MS: u64 = 1_767_323_045_678;
pub const NOW_MS: u64 = SUBMITTED_MS + 3 * 3_600_000;

pub fn jobs() -> Vec<Job> {
    vec![service(), failed(), queued()]
}

fn service() -> Job {
    Job {
        id: 17,
        name: "chat".into(),
        namespace: "default".into(),
        kind: JobKind::Service.into(),
        state: "running".into(),
        version: 3,
        priority: 50,
        submitted_at_ms: SUBMITTED_MS,
        started_at_ms: Some(SUBMITTED_MS + 1_000),
        spec: Some(service_spec()),
        tasks: vec![TaskStatus {
            name: "main".into(),
            count: 2,
            live: 2,
            running: 2,
            ready: 2,
            ..TaskStatus::default()
        }],
        ..Job::default()
    }
}

/// As it was let in: its policy is the cluster's.
fn service_spec() -> JobSpec {
    let name = |text: &str| berth_model::Name::new(text).unwrap();
    let kind = berth_model::JobKind::Service;
    let task = berth_model::TaskSpec::new(name("main"), kind, vec!["serve".to_owned()]);
    let spec = berth_model::JobSpec::new(name("chat"), name("default"), kind, vec![task]);
    let (policy, policy_origin) = (berth_model::Policy::Fgd, berth_model::PolicyOrigin::Cluster);
    let spec = berth_model::JobSpec { policy, policy_origin, ..spec };
    berth_wire::spec::job_spec_to_proto(&spec)
}

fn failed() -> Job {
    Job {
        id: 16,
        name: "train".into(),
        namespace: "default".into(),
        kind: JobKind::Batch.into(),
        state: "failed".into(),
        reason: "1 of 2 instances failed".into(),
        version: 1,
        priority: 70,
        submitted_at_ms: SUBMITTED_MS - 3_600_000,
        started_at_ms: Some(SUBMITTED_MS - 3_599_000),
        finished_at_ms: Some(SUBMITTED_MS - 60_000),
        tasks: vec![TaskStatus {
            name: "main".into(),
            count: 2,
            succeeded: 1,
            failed: 1,
            failures: vec![Failure {
                allocation_id: "16.main.1.1".into(),
                node: "gpu-01".into(),
                reason: "exit code 3".into(),
                exit_code: Some(3),
                signal: None,
                stderr_tail: "loading\nout of cheese\n".into(),
                finished_at_ms: SUBMITTED_MS - 60_000,
            }],
            ..TaskStatus::default()
        }],
        key: "nightly-1".into(),
        ..Job::default()
    }
}

fn queued() -> Job {
    Job {
        id: 15,
        name: "sweep".into(),
        namespace: "default".into(),
        kind: JobKind::Batch.into(),
        state: "queued".into(),
        reason: "no node has 16 GPUs".into(),
        version: 1,
        priority: 50,
        submitted_at_ms: SUBMITTED_MS - 86_400_000 * 3,
        held: true,
        tasks: vec![TaskStatus {
            name: "main".into(),
            count: 20,
            pending: 20,
            ..TaskStatus::default()
        }],
        ..Job::default()
    }
}

pub fn allocations() -> Vec<Allocation> {
    let claim = |uuid: &str| DeviceClaim {
        uuid: uuid.into(),
        share_milli: 1000,
        memory_bytes: 80_000_000_000,
    };
    vec![
        Allocation {
            id: "17.main.0.1".into(),
            job_id: 17,
            task: "main".into(),
            index: 0,
            attempt: 1,
            node: "gpu-01".into(),
            state: "running".into(),
            ready: true,
            job_version: 3,
            devices: vec![claim("GPU-aa")],
            device_indices: vec![0],
            ports: vec![PortClaim { name: "http".into(), port: 20_001 }],
            started_at_ms: Some(SUBMITTED_MS + 1_000),
            ..Allocation::default()
        },
        Allocation {
            id: "17.main.1.2".into(),
            job_id: 17,
            task: "main".into(),
            index: 1,
            attempt: 2,
            node: "gpu-02".into(),
            state: "failed".into(),
            reason: "killed".into(),
            job_version: 3,
            signal: Some(9),
            started_at_ms: Some(SUBMITTED_MS + 1_000),
            finished_at_ms: Some(SUBMITTED_MS + 2_500),
            ..Allocation::default()
        },
    ]
}

fn memory_errors() -> MemoryErrors {
    MemoryErrors {
        corrected_volatile: Some(5),
        uncorrected_volatile: Some(0),
        corrected_aggregate: Some(120),
        uncorrected_aggregate: Some(1),
        rows_remapped_corrected: Some(1),
        rows_remapped_uncorrected: Some(0),
        remap_pending: Some(true),
        remap_failed: Some(false),
    }
}

fn device(uuid: &str, index: u32) -> Device {
    Device {
        uuid: uuid.into(),
        index,
        model: "NVIDIA H100 80GB".into(),
        memory_bytes: 80 << 30,
        health: DeviceHealth::Healthy.into(),
        health_reason: String::new(),
        numa_node: None,
        ways: Vec::new(),
        slice: None,
    }
}

pub fn nodes() -> Vec<Node> {
    let faulty = Device {
        health: DeviceHealth::Fenced.into(),
        health_reason: "XID 48: it is to be reset".into(),
        numa_node: Some(1),
        ways: vec![DeviceWay { pcie: PcieWay::NumaNode.into(), nvlinks: 18 }],
        ..device("GPU-ab", 1)
    };
    let status = |uuid: &str, allocated_milli, memory_used_bytes| DeviceStatus {
        uuid: uuid.into(),
        allocated_milli,
        memory_used_bytes,
        utilization_percent: memory_used_bytes.map(|_| 87),
        temperature_celsius: memory_used_bytes.map(|_| 61),
        cordoned: memory_used_bytes.is_none(),
        memory_errors: memory_used_bytes.is_none().then(memory_errors),
        unwatched: None,
        mps: memory_used_bytes.map(|_| "its control daemon listens".to_owned()),
    };
    let gpu_01 = Node {
        id: 1,
        name: "gpu-01".into(),
        state: "ready".into(),
        schedulable: true,
        spec: Some(NodeSpec {
            labels: [("disk".to_owned(), "nvme".to_owned())].into(),
            pool: "default".into(),
            cpu_milli: 32_000,
            memory_bytes: 256 << 30,
            devices: vec![device("GPU-aa", 0), faulty],
            port_first: 20_000,
            port_last: 29_999,
            agent_version: "0.1.0".into(),
            docker_version: "27.1".into(),
            address: "10.0.0.11:7073".into(),
            ..NodeSpec::default()
        }),
        allocated_cpu_milli: 4_500,
        allocated_memory_bytes: 33 << 30,
        devices: vec![status("GPU-aa", 1000, Some(40 << 30)), status("GPU-ab", 0, None)],
        last_report_ms: Some(212),
        allocations: 1,
        generation: 9,
        ..Node::default()
    };
    let cpu_01 = Node {
        id: 2,
        name: "cpu-01".into(),
        state: "draining".into(),
        spec: Some(NodeSpec {
            pool: "default".into(),
            cpu_milli: 8_000,
            memory_bytes: 16 << 30,
            agent_version: "0.1.0".into(),
            ..NodeSpec::default()
        }),
        agent_refused: Some(AgentRefusal {
            reason: "node name `cpu-01` belongs to another machine".into(),
            ms_ago: 4_200,
        }),
        drain_waits: vec![DrainWait {
            allocation_id: "7.0.0.1".into(),
            reason: "waits for a place elsewhere: 2 GPUs are busy on 1 node".into(),
        }],
        ..Node::default()
    };
    vec![gpu_01, cpu_01]
}

pub fn status() -> ClusterStatus {
    let member = |id, role: &str, healthy, index| Member {
        id,
        address: format!("10.0.0.{id}:7070"),
        role: role.into(),
        healthy,
        last_log_index: index,
        applied_index: index,
        version: if healthy { "0.1.0" } else { "" }.into(),
        cluster_version_max: healthy.then_some(2),
    };
    ClusterStatus {
        cluster_id: "5f0c".into(),
        leader_id: Some(2),
        term: 4,
        members: vec![
            member(1, "follower", true, Some(120)),
            member(2, "leader", true, Some(121)),
            member(3, "follower", false, None),
        ],
        nodes: 2,
        jobs: 3,
        allocations: 2,
        queued: 1,
        answered_by: 2,
        applied_index: 121,
        stale_ms: None,
        version: "0.1.0".into(),
        removed: vec![4],
        warnings: vec!["voters that do not answer: 3; the loss of 0 more is borne".into()],
        incarnation: 2,
        awaited_nodes: vec!["gpu-02".into(), "gpu-03".into()],
        awaited_for_ms: Some(431_500),
        orphans: 1,
        places_in_ms: None,
        cluster_version: 1,
        cluster_version_max: 2,
    }
}

pub fn finalized() -> FinalizeReply {
    FinalizeReply { cluster_version: 2, raised: true, held_back_by: vec![3] }
}

pub fn orphans() -> Vec<Orphan> {
    let orphan = |id: &str, stop_reason: Option<&str>| Orphan {
        allocation_id: id.into(),
        node: "gpu-01".into(),
        namespace: "research".into(),
        job_name: "late-sweep".into(),
        why: "the backup does not know its job".into(),
        found_at_ms: NOW_MS - 90_000,
        cpu_milli: 4000,
        memory_bytes: 32 << 30,
        devices: vec![DeviceClaim {
            uuid: "GPU-7".into(),
            share_milli: 1000,
            memory_bytes: 80 << 30,
        }],
        ports: vec![PortClaim { name: "http".into(), port: 20_001 }],
        stop_reason: stop_reason.map(str::to_owned),
    };
    vec![orphan("9.0.0.1", None), orphan("9.0.1.1", Some("an operator ended it"))]
}

/// Two moves, or as many as are asked for.
pub fn defrag(moves_max: Option<u32>) -> PlanDefragReply {
    let one = |id: &str, share_milli: u32, lost_gpu_ms: u64| PlannedMove {
        allocation_id: id.into(),
        namespace: "research".into(),
        job_name: "sweep".into(),
        from: "gpu-01".into(),
        to: "gpu-02".into(),
        devices: vec![DeviceClaim { uuid: "GPU-7".into(), share_milli, memory_bytes: 40 << 30 }],
        lost_gpu_ms,
        next_id: String::new(),
    };
    let mut moves = vec![one("17.0.3.1", 500, 65_000), one("18.0.0.1", 250, 7_500)];
    moves.truncate(moves_max.unwrap_or(2) as usize);
    PlanDefragReply {
        moves,
        lost_before_milli: 1_930,
        lost_after_milli: 1_000,
        capacity_milli: 16_000,
        moves_unseen: 3,
        staying: vec![Staying { why: "a member of a gang".into(), allocations: 4 }],
    }
}

/// One move, which is made by the next look.
pub fn moved(asked: &DefragRequest) -> DefragReply {
    let watched = asked.watched.iter();
    let states = watched.map(|id| MoveState { next_id: id.clone(), state: "running".into() });
    let mut moves = match asked.moves_max {
        Some(0) | None => Vec::new(),
        Some(_) => defrag(Some(1)).moves,
    };
    moves.iter_mut().for_each(|one| one.next_id = "17.0.3.2".into());
    DefragReply { moves, refused: Vec::new(), under_way: 0, states: states.collect() }
}

/// Three decisions that were made up: none of them is what anybody would decide.
pub fn capture() -> Vec<u8> {
    of_hex(include_str!("../../../../wire/fixtures/capture-v1.hex"))
}

/// A backup of a cluster that was just founded.
pub fn backup() -> Vec<u8> {
    of_hex(include_str!("../../../../wire/fixtures/backup-v1.hex"))
}

fn of_hex(lines: &str) -> Vec<u8> {
    let hex = lines.replace('\n', "");
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
    (0..hex.len() / 2).map(byte).collect()
}

pub fn reasons() -> Vec<Reason> {
    vec![
        Reason {
            code: "gpu-count".into(),
            nodes: 1,
            detail: "the largest has 2".into(),
            also: vec![AlsoAgainst { code: "cordoned".into(), nodes: 1 }],
        },
        Reason { code: "draining".into(), nodes: 1, ..Reason::default() },
    ]
}

pub fn explanation() -> ExplainReply {
    ExplainReply {
        job_id: 15,
        summary: "waits: no node can hold an instance".into(),
        position: Some(1),
        expected_start_ms: None,
        reasons: reasons(),
        nodes_total: 2,
        smallest_change: "a node with 16 GPUs".into(),
        placed: Vec::new(),
        policy: "fgd".into(),
        policy_origin: PolicyOrigin::Pool.into(),
    }
}

/// There are nodes in one pool alone.
pub fn policy_set(
    SetPolicyDefaultRequest { pool, policy }: SetPolicyDefaultRequest,
) -> SetPolicyDefaultReply {
    let strange = pool.filter(|pool| pool != "h100" && policy.is_some());
    let warnings = strange.map(|pool| format!("no node is in pool `{pool}`")).into_iter();
    SetPolicyDefaultReply { warnings: warnings.collect() }
}

pub fn policy_defaults() -> ListPolicyDefaultsReply {
    let set = |pool: Option<&str>, policy: Policy| PolicyDefault {
        pool: pool.map(str::to_owned),
        policy: policy.into(),
    };
    let defaults = vec![set(None, Policy::Fgd), set(Some("h100"), Policy::GpuPacking)];
    ListPolicyDefaultsReply { defaults, stale_ms: None }
}

pub fn events() -> Vec<Event> {
    vec![
        Event {
            token: "e-1".into(),
            at_ms: SUBMITTED_MS,
            kind: "job-submitted".into(),
            job_id: Some(17),
            message: "version 3".into(),
            ..Event::default()
        },
        Event {
            token: "e-2".into(),
            at_ms: SUBMITTED_MS + 20,
            kind: "allocation-placed".into(),
            job_id: Some(17),
            allocation_id: "17.main.0.1".into(),
            node: "gpu-01".into(),
            message: String::new(),
        },
    ]
}
