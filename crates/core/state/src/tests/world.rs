//! A small cluster to apply commands to.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{
    AllocationId, Claim, Constraints, CpuMilli, Device, DeviceClaim, DurationMs, EndCause,
    EndReport, GpuRequest, Grant, InstanceIndex, JobId, JobKind, JobSpec, JoinGrant, Machine,
    MemoryBytes, Name, NodeId, NodeSpec, Policy, PortClaim, PortRange, Role, Scope, ShareMilli,
    SpecDigest, StateMs, TaskIndex, TaskSpec, TokenId, WallMs, fits, open_devices,
};

use crate::{
    Authority, ClusterState, Command, Entry, Event, JobRow, JoinProof, NewToken, NodeRow,
    Observation, Observed, Placement, Refusal, Reply, ScoreParts, Security, SubmitJob, invariants,
};

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub struct World {
    pub state: ClusterState,
    pub now: u64,
    index: u64,
    pub events: Vec<Event>,
}

impl World {
    /// A founded cluster with `nodes` nodes of two GPUs each.
    pub fn new(nodes: usize) -> World {
        World::founded(nodes, None)
    }

    /// The same, with an authority and the token of an admin.
    pub fn secured(nodes: usize) -> World {
        World::founded(nodes, Some(Arc::new(security())))
    }

    fn founded(nodes: usize, security: Option<Arc<Security>>) -> World {
        let mut world = World::of(ClusterState::default());
        world.now = 1_000;
        world.one(Command::Found { cluster_id: [7; 16], security }).unwrap();
        for number in 0..nodes {
            world.register(number);
        }
        world
    }

    /// Goes on from a state.
    pub fn of(state: ClusterState) -> World {
        let (now, index) = (state.cluster().state_ms.0, state.applied_index());
        World { state, now, index, events: Vec::new() }
    }

    pub fn register(&mut self, number: usize) {
        let text = format!("node-{number}");
        let node = Command::RegisterNode {
            name: name(&text),
            instance_key: [u8::try_from(number).unwrap(); 16],
            spec: Arc::new(node_spec(&text, 2)),
        };
        self.one(node).unwrap();
    }

    /// Applies one entry, checks every invariant, and returns its answers.
    pub fn entry(&mut self, commands: Vec<Command>) -> Vec<Result<Reply, Refusal>> {
        self.index += 1;
        let entry = Entry {
            state_ms: StateMs(self.now),
            wall_ms: WallMs(self.now + 1_700_000_000_000),
            proposer: "test".to_owned(),
            commands,
        };
        let applied = self.state.apply(self.index, &entry);
        assert_eq!(invariants::check(&self.state), [], "after {:?}", entry.commands);
        self.events.extend(applied.events);
        applied.replies
    }

    pub fn one(&mut self, command: Command) -> Result<Reply, Refusal> {
        self.entry(vec![command]).remove(0)
    }

    pub fn submit(&mut self, spec: &JobSpec) -> JobId {
        let reply = self.one(submit(spec, None)).unwrap();
        let Reply::Submitted { job, .. } = reply else { panic!("unexpected {reply:?}") };
        job
    }

    /// Places the next attempt of an instance on the first node that takes it.
    pub fn place(&mut self, job: JobId, instance: u32) -> Result<AllocationId, Vec<Refusal>> {
        let nodes: Vec<NodeId> = self.state.nodes().iter().map(|(id, _)| *id).collect();
        let mut refusals = Vec::new();
        for node in nodes {
            let placement = self.placement(job, instance, node);
            let reply = self.one(Command::Place { placements: vec![placement] }).unwrap();
            let Reply::Placed { granted, refused } = reply else { panic!("unexpected {reply:?}") };
            if let Some(id) = granted.first() {
                return Ok(*id);
            }
            refusals.extend(refused);
        }
        Err(refusals)
    }

    pub fn placement(&self, job: JobId, instance: u32, node: NodeId) -> Placement {
        let row = self.state.jobs().get(&job).unwrap();
        let task = self.state.tasks().get(&(job, TaskIndex(0))).unwrap();
        let node_row = self.state.nodes().get(&node).unwrap();
        let devices = row.spec.tasks[0].gpu.as_ref().map_or(Vec::new(), |gpu| {
            open_devices(node_row.capacity(&node_row.used), gpu)
                .take(gpu.count as usize)
                .map(whole)
                .collect()
        });
        Placement {
            job,
            task: TaskIndex(0),
            instance: InstanceIndex(instance),
            attempt: self.state.next_attempt(job, task, instance),
            node,
            devices,
            ports: self.ports(row, node_row, instance),
            score: ScoreParts::default(),
        }
    }

    /// So far apart that instances get none that others have.
    fn ports(&self, job: &JobRow, node: &NodeRow, instance: u32) -> Vec<PortClaim> {
        let first = node.spec.ports.first + u16::try_from(instance % 100).unwrap() * 8;
        let named = job.spec.tasks[0].ports.iter().zip(first..);
        named.map(|(name, port)| PortClaim { name: name.clone(), port }).collect()
    }

    /// Places for all members of a gang, as far as there are any: on the nodes in turn from this
    /// one on.
    pub fn gang(&self, job: JobId, from: usize) -> Vec<Placement> {
        let nodes: Vec<_> = self.state.nodes().values().cloned().collect();
        let mut used: Vec<_> = nodes.iter().map(|node| node.used.clone()).collect();
        let task = &self.state.jobs().get(&job).unwrap().spec.tasks[0];
        let mut placements = Vec::new();
        for instance in 0..task.count {
            let at = (0..nodes.len()).map(|step| (from + step) % nodes.len()).find_map(|at| {
                let node = nodes[at].capacity(&used[at]);
                let mut placement = self.placement(job, instance, nodes[at].id);
                if let Some(gpu) = &task.gpu {
                    let open = open_devices(node, gpu).take(gpu.count as usize);
                    placement.devices = open.map(whole).collect();
                }
                if instance == 0 {
                    let own = |port: &u16| placement.ports.iter().any(|claim| claim.port == *port);
                    let free = |port: &u16| !used[at].ports.contains(port) && !own(port);
                    let port = (20_000..).find(free)?;
                    placement.ports.push(PortClaim { name: name("master"), port });
                }
                let claim = Claim {
                    cpu: task.cpu,
                    memory: task.memory,
                    devices: placement.devices.clone(),
                    ports: placement.ports.clone(),
                };
                let asked = task.of_instance(InstanceIndex(instance));
                fits(node, &asked, &claim).is_ok().then_some((at, claim, placement))
            });
            let Some((at, claim, placement)) = at else { break };
            used[at].add(&claim);
            placements.push(placement);
        }
        placements
    }

    pub fn observe(&mut self, allocation: AllocationId, observed: Observed) -> u32 {
        let Some(node) = self.state.allocations().get(&allocation).map(|row| row.node) else {
            return 0;
        };
        self.observe_from(node, allocation, observed)
    }

    pub fn observe_from(
        &mut self,
        node: NodeId,
        allocation: AllocationId,
        observed: Observed,
    ) -> u32 {
        let observations = vec![Observation { allocation, observed }];
        let reply = self.one(Command::Observe { node, observations }).unwrap();
        let Reply::Observed { changed } = reply else { panic!("unexpected {reply:?}") };
        changed
    }

    pub fn exit(&mut self, allocation: AllocationId, code: i32) -> u32 {
        self.observe(allocation, Observed::Ended(exited(code)))
    }

    pub fn job_state(&self, job: JobId) -> &'static str {
        self.state.jobs().get(&job).unwrap().state().name()
    }
}

fn whole(device: &Device) -> DeviceClaim {
    DeviceClaim { uuid: device.uuid.clone(), share: ShareMilli::WHOLE, memory: device.memory }
}

pub fn security() -> Security {
    let authority = Authority { certificate: vec![1; 500], sealed_key: vec![2; 200] };
    let admin = NewToken {
        grant: Grant::Person { role: Role::Admin, scope: Scope::All },
        ttl: None,
        ..join_token(1, Machine::Agent)
    };
    Security { authority, tokens: vec![admin] }
}

/// A token for any machine of a kind.
pub fn join_token(id: u8, machine: Machine) -> NewToken {
    NewToken {
        id: TokenId(u64::from(id)),
        secret_hash: [id; 32],
        label: format!("token {id}"),
        grant: Grant::Join(JoinGrant { machine, name: None, pool: None }),
        ttl: Some(DurationMs(60_000)),
        created_by: "admin".to_owned(),
    }
}

/// What whoever holds the secret of [`join_token`] shows, with a key of their
/// own.
pub fn proof(id: u8, key: u8) -> JoinProof {
    JoinProof { token: TokenId(u64::from(id)), secret_hash: [id; 32], key_hash: [key; 32] }
}

pub fn submit(spec: &JobSpec, key: Option<&str>) -> Command {
    // Any injective function serves as a digest here.
    let mut digest = [0_u8; 32];
    let text = format!("{spec:?}");
    for (position, byte) in text.bytes().enumerate() {
        digest[position % 32] = digest[position % 32].wrapping_mul(31) ^ byte;
    }
    Command::Submit(SubmitJob {
        key: key.map(str::to_owned),
        spec: Arc::new(spec.clone()),
        digest: SpecDigest(digest),
        if_version: None,
    })
}

pub fn job(kind: JobKind, text: &str, count: u32, gpus: u32) -> JobSpec {
    let gpu = (gpus > 0).then_some(GpuRequest::whole(gpus));
    let command = vec!["true".to_owned()];
    JobSpec {
        policy_origin: Default::default(),
        name: name(text),
        namespace: name("default"),
        kind,
        priority: 50,
        policy: Policy::default(),
        constraints: Constraints::default(),
        tasks: vec![TaskSpec { count, gpu, ..TaskSpec::new(name("main"), kind, command) }],
        deadline: None,
        max_disconnect: JobSpec::MAX_DISCONNECT_DEFAULT,
        on_return: Default::default(),
        update: Default::default(),
        exclusive: false,
        preemption: berth_model::Preemption::default(),
        route: berth_model::Route::default(),
        autoscale: None,
    }
}

/// Of a node by this name.
pub fn node_spec(text: &str, gpus: u32) -> NodeSpec {
    NodeSpec {
        labels: BTreeMap::new(),
        pool: name("default"),
        zone: name("default"),
        cpu: CpuMilli(4000),
        memory: MemoryBytes(16 << 30),
        devices: (0..gpus)
            .map(|index| {
                Device::new(format!("GPU-{text}-{index}"), index, "H100", MemoryBytes(80 << 30))
            })
            .collect(),
        ports: PortRange::DEFAULT,
        agent_version: "test".to_owned(),
        docker_version: String::new(),
        tasks_per_device_max: berth_model::TASKS_PER_DEVICE_MAX_DEFAULT,
        address: String::new(),
    }
}

pub fn exited(code: i32) -> EndReport {
    EndReport {
        cause: EndCause::Exited,
        exit_code: Some(code),
        signal: None,
        reason: String::new(),
        stderr_tail: String::new(),
        started_at: Some(WallMs(5)),
        finished_at: WallMs(6),
    }
}
