//! Nodes that are not there: what a plan would be if they were.

use std::sync::Arc;

use berth_model::node::DEVICES_MAX;
use berth_model::{
    CpuMilli, Device, DeviceHealth, IMAGINED_MAX, MemoryBytes, Name, NodeSpec, PortRange, StateMs,
    TASKS_PER_DEVICE_MAX_DEFAULT,
};
use berth_state::{ClusterState, Command, Refusal, Stock};

use crate::what_if::apply_one;

/// Nodes of one kind, in the default pool and zone, with nothing on them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImaginedNodes {
    /// At most [`IMAGINED_MAX`].
    pub count: u32,
    /// On each, at most [`DEVICES_MAX`].
    pub gpus: u32,
    pub model: String,
    pub gpu_memory: MemoryBytes,
    pub cpu: CpuMilli,
    pub memory: MemoryBytes,
}

/// The view with these nodes beside those that there are, named `what-if-1` and so on.
///
/// # Errors
/// What apply would refuse them with.
pub fn with_nodes(
    view: &ClusterState,
    now: StateMs,
    imagined: &[ImaginedNodes],
) -> Result<ClusterState, Refusal> {
    let mut copy = view.clone();
    let mut number: u32 = 0;
    for kind in imagined {
        for _ in 0..kind.count.min(IMAGINED_MAX) {
            number += 1;
            let text = format!("what-if-{number}");
            let name = Name::new(&text).map_err(|error| Refusal::Invalid(error.to_string()))?;
            let spec = Arc::new(spec_of(kind, &text));
            // No agent has one that begins like this.
            let instance_key = (u128::MAX - u128::from(number)).to_be_bytes();
            if copy.cluster().incarnation > 1 {
                let stock = Stock { complete: true, ..Stock::default() };
                let (name, spec) = (name.clone(), spec.clone());
                let take = Command::TakeStock { name, instance_key, spec, stock };
                apply_one(&mut copy, now, take)?;
            }
            apply_one(&mut copy, now, Command::RegisterNode { name, instance_key, spec })?;
        }
    }
    Ok(copy)
}

fn spec_of(kind: &ImaginedNodes, name: &str) -> NodeSpec {
    let device = |index: u32| Device {
        uuid: format!("GPU-{name}-{index}"),
        index,
        model: kind.model.clone(),
        memory: kind.gpu_memory,
        health: DeviceHealth::Healthy,
        reason: String::new(),
        numa_node: None,
        ways: Vec::new(),
        slice: None,
    };
    let devices = (0..kind.gpus).take(DEVICES_MAX).map(device).collect();
    let default = Name::new("default").expect("a word of letters is a name");
    NodeSpec {
        labels: Default::default(),
        pool: default.clone(),
        zone: default,
        cpu: kind.cpu,
        memory: kind.memory,
        devices,
        ports: PortRange::DEFAULT,
        agent_version: String::new(),
        // Whatever the job needs of that kind.
        docker_version: "imagined".to_owned(),
        tasks_per_device_max: TASKS_PER_DEVICE_MAX_DEFAULT,
        address: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use berth_model::{Gang, GpuRequest, JobSpec, Policy, TaskSpec};

    use super::*;
    use crate::fixture::{Cluster, gpu_node, gpu_task, job};
    use crate::soft::SoftView;
    use crate::what_if::what_would_happen;

    fn h100(count: u32, gpus: u32) -> ImaginedNodes {
        ImaginedNodes {
            count,
            gpus,
            model: "H100".to_owned(),
            gpu_memory: MemoryBytes(80_000_000_000),
            cpu: CpuMilli(16_000 * u64::from(gpus)),
            memory: MemoryBytes((128 << 30) * u64::from(gpus)),
        }
    }

    #[test]
    fn what_has_no_room_is_placed_on_nodes_that_are_imagined() {
        let cluster = Cluster::with_nodes([gpu_node(2)]);
        let before = cluster.state.hash();
        let gpu = GpuRequest { models: vec!["H100".to_owned()], ..GpuRequest::whole(8) };
        let gang = TaskSpec { gpu: Some(gpu), count: 2, gang: Some(Gang {}), ..gpu_task(8) };
        let spec: Arc<JobSpec> = Arc::new(job(Policy::Berth, gang));
        let check = |imagined: &[ImaginedNodes], expected: &[&str]| {
            let view = with_nodes(&cluster.state, cluster.now, imagined).unwrap();
            let soft = SoftView::default();
            let planned = what_would_happen(&view, &soft, cluster.now, &spec).unwrap();
            let name = |node| view.nodes().get(node).unwrap().name.to_string();
            let nodes = planned.placements.iter().map(|one| name(&one.node));
            assert_eq!(nodes.collect::<Vec<_>>(), expected, "{imagined:?}");
        };
        check(&[], &[]);
        check(&[h100(1, 8)], &[]);
        check(&[h100(2, 8)], &["what-if-1", "what-if-2"]);
        check(&[h100(1, 8), h100(1, 16)], &["what-if-2", "what-if-2"]);
        let other = ImaginedNodes { model: "A100".to_owned(), ..h100(4, 8) };
        check(&[other], &[]);
        assert_eq!(cluster.state.hash(), before, "they are not there");
    }
}
