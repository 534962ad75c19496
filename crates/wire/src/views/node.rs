//! Nodes and what is in use of them.

use berth_model::{Guards, NodeState, Shut};
use berth_proto::v1;
use berth_state::{NodeRow, Purpose};

use crate::spec::node_spec_to_proto;

/// A node. When it was last heard of and what its devices measure is for the
/// leader to add.
pub fn node(row: &NodeRow) -> v1::Node {
    let device = |device: &berth_model::Device| v1::DeviceStatus {
        uuid: device.uuid.clone(),
        allocated_milli: row.used.devices.get(&device.uuid).map_or(0, |held| held.share.0),
        memory_used_bytes: None,
        utilization_percent: None,
        temperature_celsius: None,
        cordoned: row.cordoned_devices.contains(&device.uuid),
        memory_errors: None,
        unwatched: None,
        mps: None,
    };
    v1::Node {
        id: row.id.0,
        name: row.name.to_string(),
        state: state_name(row).to_owned(),
        schedulable: row.accepts_work() && row.guards.are_open(),
        spec: Some(node_spec_to_proto(&row.spec)),
        allocated_cpu_milli: row.used.cpu.0,
        allocated_memory_bytes: row.used.memory.0,
        devices: row.spec.devices.iter().map(device).collect(),
        last_report_ms: None,
        allocations: u32::try_from(row.live.len()).unwrap_or(u32::MAX),
        generation: row.generation,
        agent_refused: None,
        drain_waits: Vec::new(),
        guards: guards(row.guards),
        cpu_used_percent: None,
        memory_used_percent: None,
        cordoned: row.purpose != Purpose::Work,
    }
}

fn guards(guards: Guards) -> Vec<v1::NodeGuard> {
    let shut = [("cpu", guards.cpu), ("memory", guards.memory)];
    let shut = shut.into_iter().filter_map(|(resource, shut)| {
        let Shut { used_percent, opens_below_percent } = shut?;
        Some(v1::NodeGuard {
            resource: resource.to_owned(),
            used_percent: u32::from(used_percent),
            opens_below_percent: u32::from(opens_below_percent),
        })
    });
    shut.collect()
}

/// A node that is gone is gone, whatever it was being emptied for.
fn state_name(row: &NodeRow) -> &'static str {
    match (row.state, row.purpose) {
        (NodeState::Ready, Purpose::Draining(_)) => "draining",
        (NodeState::Ready, Purpose::Work | Purpose::Cordoned)
        | (NodeState::Disconnected | NodeState::Down, _) => row.state.name(),
    }
}
