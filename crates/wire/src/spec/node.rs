//! What an agent declares about its host.

use berth_model::{
    CpuMilli, Device, DeviceSlice, DeviceWay, MemoryBytes, NodeSpec, PortRange,
    TASKS_PER_DEVICE_MAX_DEFAULT,
};
use berth_proto::v1;

use crate::enumeration;
use crate::problem::{Field, Problems};

/// The message for a node specification.
pub fn node_spec_to_proto(spec: &NodeSpec) -> v1::NodeSpec {
    v1::NodeSpec {
        labels: spec.labels.clone(),
        pool: spec.pool.to_string(),
        zone: spec.zone.to_string(),
        cpu_milli: spec.cpu.0,
        memory_bytes: spec.memory.0,
        devices: spec.devices.iter().map(device_to_proto).collect(),
        port_first: u32::from(spec.ports.first),
        port_last: u32::from(spec.ports.last),
        agent_version: spec.agent_version.clone(),
        address: spec.address.clone(),
        docker_version: spec.docker_version.clone(),
        tasks_per_device_max: Some(spec.tasks_per_device_max)
            .filter(|most| *most != TASKS_PER_DEVICE_MAX_DEFAULT),
    }
}

fn device_to_proto(device: &Device) -> v1::Device {
    v1::Device {
        uuid: device.uuid.clone(),
        index: device.index,
        model: device.model.clone(),
        memory_bytes: device.memory.0,
        health: enumeration::number::<v1::DeviceHealth, _>(device.health),
        health_reason: device.reason.clone(),
        numa_node: device.numa_node,
        ways: device.ways.iter().map(way_to_proto).collect(),
        slice: device.slice.as_ref().map(|slice| v1::DeviceSlice {
            parent: slice.parent.clone(),
            profile: slice.profile.clone(),
        }),
    }
}

fn way_to_proto(way: &DeviceWay) -> v1::DeviceWay {
    let pcie = enumeration::number::<v1::PcieWay, _>(way.pcie);
    v1::DeviceWay { pcie, nvlinks: way.nvlinks }
}

/// Reads the form of a node specification, not its sense.
pub(crate) fn read_node(
    at: Field<'_>,
    proto: v1::NodeSpec,
    problems: &mut Problems,
) -> Option<NodeSpec> {
    let pool = problems.name(at.named("pool"), &proto.pool);
    let zone = problems.name(at.named("zone"), &proto.zone);
    let mut devices = Vec::with_capacity(proto.devices.len());
    for (position, device) in proto.devices.into_iter().enumerate() {
        devices.extend(read_device(at.named("devices").item(position), device, problems));
    }
    let first = problems.port(at.named("port_first"), proto.port_first);
    let last = problems.port(at.named("port_last"), proto.port_last);
    Some(NodeSpec {
        labels: proto.labels,
        pool: pool?,
        zone: zone?,
        cpu: CpuMilli(proto.cpu_milli),
        memory: MemoryBytes(proto.memory_bytes),
        devices,
        ports: PortRange { first: first?, last: last? },
        agent_version: proto.agent_version,
        address: proto.address,
        docker_version: proto.docker_version,
        tasks_per_device_max: proto.tasks_per_device_max.unwrap_or(TASKS_PER_DEVICE_MAX_DEFAULT),
    })
}

fn read_device(at: Field<'_>, proto: v1::Device, problems: &mut Problems) -> Option<Device> {
    let health =
        enumeration::read::<v1::DeviceHealth, _>(at.named("health"), proto.health, problems);
    let mut ways = Vec::with_capacity(proto.ways.len());
    let at_ways = at.named("ways");
    for (position, way) in proto.ways.into_iter().enumerate() {
        let at = at_ways.item(position);
        let pcie = enumeration::read::<v1::PcieWay, _>(at.named("pcie"), way.pcie, problems)?;
        ways.push(DeviceWay { pcie, nvlinks: way.nvlinks });
    }
    Some(Device {
        uuid: proto.uuid,
        index: proto.index,
        model: proto.model,
        memory: MemoryBytes(proto.memory_bytes),
        health: health?,
        reason: proto.health_reason,
        numa_node: proto.numa_node,
        ways,
        slice: proto
            .slice
            .map(|slice| DeviceSlice { parent: slice.parent, profile: slice.profile }),
    })
}
