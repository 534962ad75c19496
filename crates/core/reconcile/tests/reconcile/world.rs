//! A small cluster to look at, and the leader's side of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{
    AllocationId, Constraints, CpuMilli, DurationMs, EndCause, EndReport, InstanceIndex, JobId,
    JobKind, JobSpec, MemoryBytes, Name, NodeId, NodeSpec, Policy, PortClaim, PortRange,
    SpecDigest, StateMs, StopIntent, TaskIndex, TaskSpec, WallMs,
};
use berth_reconcile::{HasPlace, LivenessRules, SoftState, tick};
use berth_state::{
    ClusterState, Command, Entry, Observation, Observed, Placement, Purpose, Refusal, Reply,
    ScoreParts, SubmitJob, invariants,
};

#[derive(Clone)]
pub struct World {
    pub state: ClusterState,
    pub soft: SoftState,
    pub rules: LivenessRules,
    pub now: u64,
    /// Whether what moves finds another place.
    pub room_elsewhere: bool,
    index: u64,
}

impl World {
    /// A founded cluster; every node of it is ready and has just been heard.
    pub fn new(nodes: u64) -> World {
        let now = 1_000;
        let mut world = World {
            state: ClusterState::default(),
            soft: SoftState::new(StateMs(now)),
            rules: LivenessRules::default(),
            now,
            room_elsewhere: true,
            index: 0,
        };
        world.one(Command::Found { cluster_id: [7; 16], security: None }).unwrap();
        for number in 1..=nodes {
            world.register(number);
        }
        world
    }

    pub fn register(&mut self, number: u64) {
        let command = Command::RegisterNode {
            name: name(&format!("node-{number}")),
            instance_key: [u8::try_from(number).unwrap(); 16],
            spec: Arc::new(node_spec()),
        };
        let reply = self.one(command).unwrap();
        let Reply::Registered { node, .. } = reply else { panic!("unexpected {reply:?}") };
        assert!(node.0 <= number, "nodes are numbered as they come");
        self.soft.hear(node, StateMs(self.now));
    }

    /// Applies one entry and checks every invariant.
    pub fn entry(&mut self, commands: Vec<Command>) -> Vec<Result<Reply, Refusal>> {
        self.index += 1;
        let entry = Entry {
            state_ms: StateMs(self.now),
            wall_ms: WallMs(self.now),
            proposer: "test".to_owned(),
            commands,
        };
        let applied = self.state.apply(self.index, &entry);
        assert_eq!(invariants::check(&self.state), [], "after {:?}", entry.commands);
        applied.replies
    }

    pub fn one(&mut self, command: Command) -> Result<Reply, Refusal> {
        self.entry(vec![command]).remove(0)
    }

    /// What the leader wants now.
    pub fn tick(&self) -> Vec<Command> {
        self.tick_with(&mut |_| self.room_elsewhere)
    }

    pub fn tick_with(&self, has_place: &mut HasPlace<'_>) -> Vec<Command> {
        tick(&self.state, &self.soft, &self.rules, has_place, StateMs(self.now))
    }

    /// What the leader wants now, and gets.
    pub fn step(&mut self) -> Vec<Command> {
        let commands = self.tick();
        for reply in self.entry(commands.clone()) {
            assert!(reply.is_ok(), "{reply:?} to one of {commands:?}");
        }
        commands
    }

    /// Time passes with every node heard.
    pub fn pass(&mut self, ms: u64) {
        self.now += ms;
        let nodes: Vec<NodeId> = self.state.nodes().values().map(|node| node.id).collect();
        for node in nodes {
            self.soft.hear(node, StateMs(self.now));
        }
    }

    pub fn submit(&mut self, spec: JobSpec) -> JobId {
        self.submit_keyed(spec, None)
    }

    pub fn submit_keyed(&mut self, spec: JobSpec, key: Option<String>) -> JobId {
        let reply = self.one(submission(spec, key)).unwrap();
        let Reply::Submitted { job, .. } = reply else { panic!("unexpected {reply:?}") };
        job
    }

    /// Places the next attempt of an instance of the first task.
    pub fn place(&mut self, job: JobId, instance: u32, node: u64) -> AllocationId {
        let placed = self.try_place(job, instance, node);
        placed.unwrap_or_else(|| panic!("{job} instance {instance} is not placed on {node}"))
    }

    pub fn try_place(&mut self, job: JobId, instance: u32, node: u64) -> Option<AllocationId> {
        let task = TaskIndex(0);
        let row = self.state.tasks().get(&(job, task))?;
        let attempt = self.state.next_attempt(job, row, instance);
        let named = &self.state.jobs().get(&job)?.spec.tasks[0].ports;
        let free = (20_000..).filter(|port| {
            self.state.nodes().get(&NodeId(node)).is_none_or(|row| !row.used.ports.contains(port))
        });
        let ports = named.iter().zip(free);
        let ports = ports.map(|(name, port)| PortClaim { name: name.clone(), port }).collect();
        let placement = Placement {
            job,
            task,
            instance: InstanceIndex(instance),
            attempt,
            node: NodeId(node),
            devices: Vec::new(),
            ports,
            score: ScoreParts::default(),
        };
        let reply = self.one(Command::Place { placements: vec![placement] }).unwrap();
        let Reply::Placed { granted, .. } = reply else { panic!("unexpected {reply:?}") };
        granted.first().copied()
    }

    /// A placed instance that runs and is ready.
    pub fn run(&mut self, job: JobId, instance: u32, node: u64) -> AllocationId {
        let id = self.place(job, instance, node);
        self.ready(id);
        id
    }

    pub fn ready(&mut self, id: AllocationId) {
        self.observe(id, Observed::Running { ready: true, started_at: WallMs(self.now) });
    }

    pub fn observe(&mut self, id: AllocationId, observed: Observed) {
        let Some(row) = self.state.allocations().get(&id) else { return };
        let node = row.node;
        let observations = vec![Observation { allocation: id, observed }];
        self.one(Command::Observe { node, observations }).unwrap();
    }

    pub fn exit(&mut self, id: AllocationId, code: i32) {
        self.observe(id, Observed::Ended(exited(code)));
    }

    pub fn set(&mut self, node: u64, purpose: Purpose) {
        self.one(Command::SetSchedulable { node: NodeId(node), purpose }).unwrap();
    }

    pub fn session(&self, node: u64) -> u64 {
        self.state.nodes().get(&NodeId(node)).unwrap().session
    }

    pub fn disconnect(&mut self, node: u64) {
        let session = self.session(node);
        self.one(Command::DisconnectNode { node: NodeId(node), session }).unwrap();
    }

    pub fn is_live(&self, id: AllocationId) -> bool {
        self.state.allocations().get(&id).is_some()
    }
}

/// The allocations that are ordered to stop with this intent, in order.
pub fn stopped(commands: &[Command], wanted: StopIntent) -> Vec<AllocationId> {
    let mut stopped = Vec::new();
    for command in commands {
        if let Command::StopAllocations { allocations, intent, .. } = command
            && *intent == wanted
        {
            stopped.extend(allocations);
        }
    }
    stopped
}

pub fn submission(spec: JobSpec, key: Option<String>) -> Command {
    // Any function serves as a digest that tells these few specs apart.
    let mut digest = [0_u8; 32];
    for (position, byte) in format!("{spec:?}").bytes().enumerate() {
        digest[position % 32] = digest[position % 32].wrapping_mul(31) ^ byte;
    }
    let digest = SpecDigest(digest);
    Command::Submit(SubmitJob { key, spec: Arc::new(spec), digest, if_version: None })
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn job(kind: JobKind, text: &str, count: u32) -> JobSpec {
    let task = TaskSpec::new(name("main"), kind, vec!["true".to_owned()]);
    JobSpec {
        name: name(text),
        namespace: name("default"),
        kind,
        priority: JobSpec::PRIORITY_DEFAULT,
        policy: Policy::default(),
        constraints: Constraints::default(),
        tasks: vec![TaskSpec { count, cpu: CpuMilli(1), memory: MemoryBytes(1), ..task }],
        deadline: None,
        max_disconnect: DurationMs::from_secs(10),
        on_return: Default::default(),
        policy_origin: Default::default(),
        update: Default::default(),
        exclusive: false,
        preemption: berth_model::Preemption::default(),
        route: berth_model::Route::default(),
        autoscale: None,
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

fn node_spec() -> NodeSpec {
    NodeSpec {
        labels: BTreeMap::new(),
        pool: name("default"),
        zone: name("default"),
        cpu: CpuMilli(64_000),
        memory: MemoryBytes(64 << 30),
        devices: Vec::new(),
        ports: PortRange::DEFAULT,
        agent_version: "test".to_owned(),
        docker_version: String::new(),
        tasks_per_device_max: berth_model::TASKS_PER_DEVICE_MAX_DEFAULT,
        address: String::new(),
    }
}
