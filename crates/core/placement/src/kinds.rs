//! The kinds of devices that a cluster has, by number, so that what a request accepts is
//! asked once for each kind and not for each device.

use std::collections::BTreeMap;

use berth_model::fits::suits;
use berth_model::{Device, GpuRequest, MemoryBytes};

/// What a request can ask about a device, its state aside.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct DeviceKind {
    model: String,
    memory: MemoryBytes,
    /// Of a part of a device: its profile.
    slice: Option<String>,
}

/// Kinds by number, in the order in which they were first seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kinds {
    numbers: BTreeMap<DeviceKind, usize>,
    /// One device of each.
    kinds: Vec<Device>,
}

impl Kinds {
    /// The number of a device's kind, a new one if none is like it.
    pub fn number(&mut self, device: &Device) -> usize {
        let kind = DeviceKind {
            model: device.model.clone(),
            memory: device.memory,
            slice: device.slice.as_ref().map(|slice| slice.profile.clone()),
        };
        let kinds = &mut self.kinds;
        *self.numbers.entry(kind).or_insert_with(|| {
            kinds.push(device.clone());
            kinds.len() - 1
        })
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether a request accepts each kind.
    pub fn suiting(&self, gpu: &GpuRequest) -> Vec<bool> {
        self.kinds.iter().map(|device| suits(gpu, device)).collect()
    }
}
