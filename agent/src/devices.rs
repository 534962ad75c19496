//! The accelerators of the host and where the knowledge of them comes from.

use std::collections::BTreeMap;

use berth_config::units::SimulatedGpus;
use berth_model::{AllocationId, CpuMilli, Device, DeviceClaim, DeviceHealth, MemoryBytes, Name};
use berth_proto::v1::DeviceSample;

use crate::host;

/// What a simulated GPU brings along unless told otherwise: the cores and the
/// memory of a common eight-GPU host, by GPU.
const CPU_PER_SIMULATED_GPU: CpuMilli = CpuMilli(16_000);
const MEMORY_PER_SIMULATED_GPU: MemoryBytes = MemoryBytes(128 << 30);

/// Where devices are learnt of.
#[derive(Clone, Debug)]
pub enum DeviceSource {
    /// Pretended ones.
    Simulated(SimulatedGpus),
    /// The host has none.
    None,
}

impl DeviceSource {
    /// The devices of the node `name`. A simulated one keeps its uuid over
    /// restarts and differs from those of every other node.
    pub fn devices(&self, name: &Name) -> Vec<Device> {
        match self {
            DeviceSource::None => Vec::new(),
            DeviceSource::Simulated(gpus) => (0..gpus.count)
                .map(|index| Device {
                    uuid: format!("GPU-sim-{name}-{index}"),
                    index,
                    model: gpus.model.clone(),
                    memory: MemoryBytes(gpus.memory_bytes),
                    health: DeviceHealth::Healthy,
                })
                .collect(),
        }
    }

    /// Cores offered to workers, unless told otherwise.
    pub fn cpu(&self) -> CpuMilli {
        match self {
            DeviceSource::None => host::cpu(),
            DeviceSource::Simulated(gpus) => {
                CpuMilli(CPU_PER_SIMULATED_GPU.0 * u64::from(gpus.count))
            }
        }
    }

    /// Memory offered to workers, unless told otherwise.
    pub fn memory(&self) -> MemoryBytes {
        match self {
            DeviceSource::None => host::memory(),
            DeviceSource::Simulated(gpus) => {
                MemoryBytes(MEMORY_PER_SIMULATED_GPU.0 * u64::from(gpus.count))
            }
        }
    }
}

/// What a heartbeat says of `devices`. A simulated device uses exactly what
/// was claimed of it; it has no utilisation and no temperature to measure.
pub fn samples(
    devices: &[Device],
    claims: &BTreeMap<AllocationId, Vec<DeviceClaim>>,
) -> Vec<DeviceSample> {
    devices
        .iter()
        .map(|device| {
            let of_device = claims.values().flatten().filter(|claim| claim.uuid == device.uuid);
            DeviceSample {
                uuid: device.uuid.clone(),
                memory_used_bytes: Some(of_device.map(|claim| claim.memory.0).sum()),
                utilization_percent: None,
                temperature_celsius: None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use berth_config::units::simulated_gpus;
    use berth_model::ShareMilli;

    use super::*;

    #[test]
    fn simulated_devices_are_stable_and_bring_a_host_along() {
        let source = DeviceSource::Simulated(simulated_gpus("2xH100-80GB").unwrap());
        let name: Name = "node-a".parse().unwrap();
        let devices = source.devices(&name);
        let uuids: Vec<&str> = devices.iter().map(|device| device.uuid.as_str()).collect();
        assert_eq!(uuids, ["GPU-sim-node-a-0", "GPU-sim-node-a-1"]);
        assert_eq!(devices, source.devices(&name));
        assert_eq!(devices[0].model, "H100");
        assert_eq!((source.cpu(), source.memory()), (CpuMilli(32_000), MemoryBytes(256 << 30)));
        let claim = DeviceClaim {
            uuid: uuids[1].to_owned(),
            share: ShareMilli::WHOLE,
            memory: MemoryBytes(7),
        };
        let claims = [("1.0.0.1".parse().unwrap(), vec![claim])].into();
        let used: Vec<_> =
            samples(&devices, &claims).iter().map(|sample| sample.memory_used_bytes).collect();
        assert_eq!(used, [Some(0), Some(7)]);
    }
}
