//! Nodes that come back after their work was given up: of an original and its replacement
//! exactly one goes on, and no device is given twice meanwhile.

mod fates;
mod finished;
mod holdings;

use berth_model::{
    AllocationId, EndCause, EndReport, JobKind, JobSpec, NodeId, NodeSpec, OnReturn, WallMs,
};

use super::world::{World, exited, job};
use crate::{AllocationRow, Command, Observed, Reply};

pub const RUNS: Observed = Observed::Running { ready: true, started_at: WallMs(1) };
pub const WARMS_UP: Observed = Observed::Running { ready: false, started_at: WallMs(1) };

/// Two nodes; the first instance of a job ran on the first of them, which is silent now.
struct Case {
    world: World,
    original: AllocationId,
    silent: NodeId,
}

impl Case {
    fn new(spec: &JobSpec) -> Case {
        let mut world = World::new(2);
        let id = world.submit(spec);
        let original = world.place(id, 0).unwrap();
        world.now += 1_000;
        world.observe(original, RUNS);
        let silent = world.state.allocations().get(&original).unwrap().node;
        let mut case = Case { world, original, silent };
        case.lose();
        case
    }

    fn lose(&mut self) {
        let node = self.silent;
        let session = self.world.state.nodes().get(&node).unwrap().session;
        self.world.one(Command::DisconnectNode { node, session }).unwrap();
        let (allocations, reason) = (vec![self.original], "node is silent".to_owned());
        let lost = Command::LoseAllocations { node, session, allocations, reason };
        self.world.one(lost).unwrap();
        assert!(self.row(self.original).is_none());
    }

    fn replace(&mut self) -> AllocationId {
        self.world.now += 1_000;
        self.world.place(self.original.job, 0).unwrap()
    }

    fn comes_back(&mut self) {
        self.world.now += 1_000;
        self.world.register(0);
    }

    fn register(&mut self, spec: NodeSpec) {
        let name = super::world::name("node-0");
        let spec = spec.into();
        let register = Command::RegisterNode { name, instance_key: [0; 16], spec };
        assert!(matches!(self.world.one(register), Ok(Reply::Registered { .. })));
    }

    fn says(&mut self, observed: Observed) -> u32 {
        self.world.observe_from(self.silent, self.original, observed)
    }

    fn row(&self, id: AllocationId) -> Option<&AllocationRow> {
        self.world.state.allocations().get(&id).map(|row| &**row)
    }

    /// What is to end on a node, and why.
    fn leaving(&self, node: NodeId) -> Vec<(AllocationId, String)> {
        let row = self.world.state.nodes().get(&node).unwrap();
        let away = self.world.state.away(row);
        away.filter_map(|(row, stop)| Some((row.id, stop?))).collect()
    }

    fn used_gpus(&self, node: NodeId) -> usize {
        self.world.state.nodes().get(&node).unwrap().used.devices.len()
    }

    fn live(&self) -> Vec<AllocationId> {
        self.world.state.allocations().iter().map(|(id, _)| *id).collect()
    }
}

fn ended(cause: EndCause) -> Observed {
    Observed::Ended(EndReport { cause, ..exited(0) })
}

fn job_named(text: &str) -> JobSpec {
    job(JobKind::Service, text, 1, 1)
}

fn spec(kind: JobKind, on_return: OnReturn) -> JobSpec {
    JobSpec { on_return, ..job(kind, "a", 1, 1) }
}
