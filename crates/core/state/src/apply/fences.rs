//! The brake on fencing. An agent that finds a GPU faulty says so, and the GPU's work is
//! moved; a health check that is wrong everywhere at once would stop the whole cluster so.
//! A GPU that is lost is no opinion, and needs no brake: nothing can run on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{
    Device, DeviceHealth, DurationMs, HEALTH_REASON_BYTES_MAX, Misfit, NodeId, NodeSpec,
};

use super::Step;
use crate::event::EventKind;
use crate::node::NodeRow;

/// Fences within this time count together.
const WINDOW: DurationMs = DurationMs::from_secs(10 * 60);
/// Of the GPUs of the cluster, one in so many may be fenced within the window.
const ONE_OF: usize = 10;
/// And so many in any case: in a small cluster one host's fault is not to be held back.
const FENCES_MIN: usize = 2;

impl Step<'_> {
    /// What an agent says of its devices, as the cluster takes it: a GPU whose fence is
    /// held back stays in use as a suspect. It is asked again when its node registers
    /// again.
    pub(super) fn brake_fences(&mut self, row: &NodeRow, spec: &Arc<NodeSpec>) -> Arc<NodeSpec> {
        let known: BTreeMap<&str, DeviceHealth> =
            row.spec.devices.iter().map(|device| (device.uuid.as_str(), device.health)).collect();
        let is_new = |device: &Device| {
            let before = known.get(device.uuid.as_str());
            device.health == DeviceHealth::Fenced
                && matches!(
                    before,
                    Some(DeviceHealth::Healthy | DeviceHealth::Suspect | DeviceHealth::Cordoned)
                )
        };
        if !spec.devices.iter().any(is_new) {
            return spec.clone();
        }
        let now = self.now;
        let most = (self.gpu_count() / ONE_OF).max(FENCES_MIN);
        let fences = &mut self.state.cluster.fences;
        fences.retain(|_, at| now.since(*at) < WINDOW);
        let mut held_back = BTreeSet::new();
        for device in spec.devices.iter().filter(|device| is_new(device)) {
            // One that comes and goes is one, and so are all parts of one.
            let whole = whole_of(device);
            if fences.contains_key(whole) || fences.len() < most {
                fences.entry(whole.to_owned()).or_insert(now);
            } else {
                held_back.insert(device.uuid.as_str());
            }
        }
        if held_back.is_empty() {
            return spec.clone();
        }
        let mut braked = NodeSpec::clone(spec);
        let is_held_back = |device: &&mut Device| held_back.contains(device.uuid.as_str());
        for device in braked.devices.iter_mut().filter(is_held_back) {
            // It takes no more than before.
            let before = known.get(device.uuid.as_str()).copied();
            device.health = before.unwrap_or(DeviceHealth::Suspect).max(DeviceHealth::Suspect);
            let reason = format!("not fenced, too many were in ten minutes: {}", device.reason);
            device.reason = super::bounded(&reason, HEALTH_REASON_BYTES_MAX);
        }
        Arc::new(braked)
    }

    /// The GPUs of the cluster; all parts of one are one. Grows with the number of devices, and
    /// is asked only when one is to be fenced.
    fn gpu_count(&self) -> usize {
        let nodes = self.state.nodes.values();
        let count = |row: &Arc<NodeRow>| {
            row.spec.devices.iter().map(whole_of).collect::<BTreeSet<&str>>().len()
        };
        nodes.map(count).sum()
    }

    /// Says which devices of a node are not what they were.
    pub(super) fn tell_of_devices(&mut self, node: NodeId, before: &NodeSpec, now: &NodeSpec) {
        for device in &now.devices {
            let was = before.device(&device.uuid);
            let (health, reason) = was.map_or((DeviceHealth::Healthy, ""), |device| {
                (device.health, device.reason.as_str())
            });
            if (health, reason) != (device.health, device.reason.as_str()) {
                let (uuid, reason) = (device.uuid.clone(), device.reason.clone());
                let health = device.health;
                self.emit_node(node, EventKind::DeviceHealthChanged { uuid, health, reason });
            }
        }
    }
}

/// The GPU that a device is, or is a part of.
fn whole_of(device: &Device) -> &str {
    device.slice.as_ref().map_or(&device.uuid, |slice| &slice.parent)
}

/// Why work has to leave a node whose inventory is another one now.
pub(super) fn reason_to_leave(spec: &NodeSpec, misfit: &Misfit) -> String {
    let device = if let Misfit::DeviceGone { uuid } = misfit { spec.device(uuid) } else { None };
    match device {
        Some(device) if device.reason.is_empty() => {
            format!("GPU {} is {}", device.uuid, device.health.name())
        }
        Some(device) => {
            format!("GPU {} is {}: {}", device.uuid, device.health.name(), device.reason)
        }
        None => format!("the node's inventory changed: {misfit}"),
    }
}
