//! Whether what an agent declares makes sense.

use std::collections::BTreeSet;

use super::{CPU_MILLI_MAX, Complaints, MEMORY_MAX, Violation};
use crate::node::{DEVICES_MAX, Device, HEALTH_REASON_BYTES_MAX, NVLINKS_MAX, NodeSpec};

/// Everything wrong with what an agent declares; empty when it may register.
pub fn validate_node(spec: &NodeSpec) -> Vec<Violation> {
    let mut complaints = Complaints(Vec::new());
    if spec.cpu.0 == 0 || spec.cpu.0 > CPU_MILLI_MAX {
        complaints.add(
            "cpu",
            format!("expected 1m to {} cores, found {}", CPU_MILLI_MAX / 1000, spec.cpu),
        );
    }
    if spec.memory.0 == 0 || spec.memory > MEMORY_MAX {
        complaints.add("memory", format!("expected 1B to {MEMORY_MAX}, found {}", spec.memory));
    }
    if spec.devices.len() > DEVICES_MAX {
        complaints
            .add("devices", format!("at most {DEVICES_MAX} devices, found {}", spec.devices.len()));
    }
    if spec.ports.first > spec.ports.last || spec.ports.first < 1024 {
        complaints.add(
            "ports",
            format!(
                "expected a range from at least 1024, found {}-{}",
                spec.ports.first, spec.ports.last
            ),
        );
    }
    if spec.tasks_per_device_max == 0 {
        complaints.add("tasks_per_device_max", "expected at least 1");
    }
    check_devices(&spec.devices, &mut complaints);
    if spec.labels.len() > 64
        || spec.labels.iter().any(|(key, value)| key.is_empty() || key.len() + value.len() > 256)
    {
        complaints.add("labels", "at most 64 labels of 1 to 256 characters each");
    }
    if spec.agent_version.len() > 64 || spec.address.len() > 256 {
        complaints.add(
            "agent_version",
            "expected at most 64 characters, and at most 256 for the address",
        );
    }
    if spec.docker_version.len() > 64 {
        complaints.add("docker_version", "expected at most 64 characters");
    }
    complaints.0
}

pub(super) fn check_devices(devices: &[Device], complaints: &mut Complaints) {
    let mut uuids = BTreeSet::new();
    let uuids_of_all: BTreeSet<&str> = devices.iter().map(|device| device.uuid.as_str()).collect();
    for (position, device) in devices.iter().enumerate() {
        check_ways(position, device, complaints);
        check_slice(device, &uuids_of_all, complaints);
        if device.uuid.is_empty() || device.uuid.len() > 128 {
            complaints.add("devices.uuid", "expected 1 to 128 characters");
        }
        if !uuids.insert(&device.uuid) {
            complaints.add("devices.uuid", format!("two devices have the uuid `{}`", device.uuid));
        }
        if device.memory.0 == 0 || device.memory > MEMORY_MAX {
            complaints.add(
                "devices.memory",
                format!("device `{}` declares {}", device.uuid, device.memory),
            );
        }
        if device.reason.len() > HEALTH_REASON_BYTES_MAX {
            complaints.add(
                "devices.reason",
                format!(
                    "device `{}`: expected at most {HEALTH_REASON_BYTES_MAX} bytes",
                    device.uuid
                ),
            );
        }
        if device.model.is_empty() || device.model.len() > 128 {
            complaints.add(
                "devices.model",
                format!("device `{}`: expected a model of 1 to 128 characters", device.uuid),
            );
        }
    }
}

fn check_ways(position: usize, device: &Device, complaints: &mut Complaints) {
    let count = device.ways.len();
    if count != 0 && count != position {
        complaints.add(
            "devices.ways",
            format!(
                "device `{}`: expected none, or one to each of the {position} devices before it, \
                 found {count}",
                device.uuid
            ),
        );
    }
    if let Some(way) = device.ways.iter().find(|way| way.nvlinks > NVLINKS_MAX) {
        complaints.add(
            "devices.ways",
            format!(
                "device `{}`: expected at most {NVLINKS_MAX} NVLinks, found {}",
                device.uuid, way.nvlinks
            ),
        );
    }
}

fn check_slice(device: &Device, uuids: &BTreeSet<&str>, complaints: &mut Complaints) {
    let Some(slice) = &device.slice else { return };
    let lengths = [slice.parent.len(), slice.profile.len()];
    if slice.parent.is_empty() || lengths.iter().any(|length| *length > 128) {
        complaints.add(
            "devices.slice",
            format!("device `{}`: expected a parent, and at most 128 characters", device.uuid),
        );
    }
    if uuids.contains(slice.parent.as_str()) {
        complaints.add(
            "devices.slice",
            format!(
                "device `{}` is a part of `{}`, which is offered too",
                device.uuid, slice.parent
            ),
        );
    }
}
