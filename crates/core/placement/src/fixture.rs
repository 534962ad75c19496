//! Nodes, jobs and whole views for the tests of this crate, made through the
//! same commands as in a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{
    AllocationId, CpuMilli, Device, EndReport, GpuRequest, JobId, JobKind, JobSpec, MemoryBytes,
    Name, NodeId, NodeSpec, NodeState, NodeUse, Policy, PortRange, ShareMilli, SpecDigest, StateMs,
    TaskSpec, WallMs,
};
use berth_state::{
    ClusterState, Command, Entry, NodeRow, Observation, Observed, Placement, Purpose, Refusal,
    Reply, SubmitJob,
};

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// 64 cores, 512 GiB, `gpu_count` H100 of 80 GiB.
pub(crate) fn gpu_node(gpu_count: u32) -> NodeSpec {
    NodeSpec {
        labels: BTreeMap::new(),
        pool: name("default"),
        zone: name("default"),
        cpu: CpuMilli(64_000),
        memory: MemoryBytes(512 << 30),
        devices: (0..gpu_count).map(|index| device(index, "NVIDIA H100 80GB HBM3")).collect(),
        ports: PortRange::DEFAULT,
        agent_version: "test".to_owned(),
        docker_version: String::new(),
        tasks_per_device_max: berth_model::TASKS_PER_DEVICE_MAX_DEFAULT,
        address: String::new(),
    }
}

pub(crate) fn device(index: u32, model: &str) -> Device {
    Device::new(format!("GPU-{index}"), index, model, MemoryBytes(80 << 30))
}

pub(crate) fn node_row(id: u64, spec: NodeSpec) -> NodeRow {
    NodeRow {
        id: NodeId(id),
        name: name(&format!("node-{id}")),
        instance_key: [0; 16],
        spec: Arc::new(spec),
        state: NodeState::Ready,
        purpose: Purpose::Work,
        session: 1,
        generation: 0,
        used: NodeUse::default(),
        live: BTreeSet::new(),
        since: StateMs(0),
        blocked_ports: BTreeMap::new(),
        rests_until: StateMs(0),
        stock_incarnation: 0,
        orphans: Default::default(),
        reservations: Vec::new(),
        away: Default::default(),
        cordoned_devices: Default::default(),
        guards: Default::default(),
    }
}

pub(crate) fn task() -> TaskSpec {
    TaskSpec::new(name("main"), JobKind::Batch, vec!["true".to_owned()])
}

pub(crate) fn gpu_task(count: u32) -> TaskSpec {
    let gpu = GpuRequest::whole(count);
    TaskSpec { gpu: Some(gpu), ..task() }
}

/// A part of one GPU.
pub(crate) fn share_task(milli: u32) -> TaskSpec {
    let gpu = GpuRequest { share: ShareMilli(milli), ..GpuRequest::whole(1) };
    TaskSpec { gpu: Some(gpu), ..task() }
}

pub(crate) fn job(policy: Policy, task: TaskSpec) -> JobSpec {
    let spec = JobSpec::new(name("job"), name("default"), JobKind::Batch, vec![task]);
    JobSpec { policy, on_return: Default::default(), ..spec }
}

/// A view under construction.
pub(crate) struct Cluster {
    pub state: ClusterState,
    pub now: StateMs,
}

impl Cluster {
    pub fn new() -> Cluster {
        let mut cluster = Cluster { state: ClusterState::default(), now: StateMs(1000) };
        cluster.apply(Command::Found { cluster_id: [7; 16], security: None }).unwrap();
        cluster
    }

    /// Nodes `node-1`, `node-2` and so on.
    pub fn with_nodes(specs: impl IntoIterator<Item = NodeSpec>) -> Cluster {
        let mut cluster = Cluster::new();
        for spec in specs {
            cluster.register(spec);
        }
        cluster
    }

    pub fn register(&mut self, mut spec: NodeSpec) -> NodeId {
        let number = self.state.nodes().len() + 1;
        // A device is on one node.
        for device in &mut spec.devices {
            device.uuid = format!("{}-of-{number}", device.uuid);
        }
        let name = name(&format!("node-{number}"));
        let instance_key = [u8::try_from(number).unwrap(); 16];
        let command = Command::RegisterNode { name, instance_key, spec: Arc::new(spec) };
        let reply = self.apply(command).unwrap();
        let Reply::Registered { node, .. } = reply else { panic!("{reply:?}") };
        node
    }

    pub fn submit(&mut self, spec: JobSpec) -> JobId {
        let reply = self.try_submit(spec).unwrap();
        let Reply::Submitted { job, .. } = reply else { panic!("{reply:?}") };
        job
    }

    pub fn try_submit(&mut self, spec: JobSpec) -> Result<Reply, Refusal> {
        let digest = SpecDigest([1; 32]);
        let submit = SubmitJob { key: None, spec: Arc::new(spec), digest, if_version: None };
        self.apply(Command::Submit(submit))
    }

    /// Applies placements and wants every one of them granted.
    pub fn place(&mut self, placements: Vec<Placement>) {
        let count = placements.len();
        let reply = self.apply(Command::Place { placements }).unwrap();
        let Reply::Placed { granted, refused } = reply else { panic!("{reply:?}") };
        assert_eq!((granted.len(), refused), (count, Vec::new()));
    }

    /// What a placement led to ends.
    pub fn end(&mut self, placement: &Placement, report: EndReport) {
        self.end_allocation(placement.node, placement.allocation(), report);
    }

    pub fn end_allocation(&mut self, node: NodeId, allocation: AllocationId, report: EndReport) {
        let observations = vec![Observation { allocation, observed: Observed::Ended(report) }];
        let reply = self.apply(Command::Observe { node, observations });
        assert_eq!(reply, Ok(Reply::Observed { changed: 1 }));
    }

    pub fn set_purpose(&mut self, node: u64, purpose: Purpose) {
        self.apply(Command::SetSchedulable { node: NodeId(node), purpose }).unwrap();
    }

    /// What the host of a node is short of, each in percent that are in use.
    pub fn set_guards(&mut self, node: u64, cpu: Option<u8>, memory: Option<u8>) {
        let shut = |opens_below_percent| {
            move |used_percent| berth_model::Shut { used_percent, opens_below_percent }
        };
        let guards = berth_model::Guards { cpu: cpu.map(shut(80)), memory: memory.map(shut(85)) };
        self.apply(Command::SetGuards { node: NodeId(node), guards }).unwrap();
    }

    pub fn apply(&mut self, command: Command) -> Result<Reply, Refusal> {
        let entry = Entry {
            state_ms: self.now,
            wall_ms: WallMs(self.now.0),
            proposer: "test".to_owned(),
            commands: vec![command],
        };
        let index = self.state.applied_index() + 1;
        self.state.apply(index, &entry).replies.pop().unwrap()
    }
}
