//! What the host's GPUs mean for the node: which devices it offers, and what
//! heartbeats say of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_model::{
    AllocationId, DEVICES_MAX, Device, DeviceClaim, DeviceHealth, MemoryBytes, NodeSpec,
};
use berth_proto::v1::{DeviceSample, MpsSample, MpsShare};
use tracing::{info, warn};

use super::Node;
use crate::environment::{Environment, environment};
use crate::gpus::{Claims, Seen};
use crate::mps::{self, Mps};
use crate::session::Facts;
use crate::wanted::Wanted;

/// Of a device of which only its work is known.
const UNSEEN_MODEL: &str = "unseen";

/// No more than a node may have, or the whole node would be kept out. Slices that are going go
/// first, then whatever stands last: of ways, which are said of those before, none is lost.
fn keep_within(devices: &mut Vec<Device>) {
    let is_going =
        |device: &Device| device.slice.is_some() && device.health >= DeviceHealth::Cordoned;
    while devices.len() > DEVICES_MAX {
        match devices.iter().rposition(is_going) {
            Some(position) => drop(devices.remove(position)),
            None => devices.truncate(DEVICES_MAX),
        }
    }
}

impl Node {
    /// The GPUs were looked at. Another inventory takes another registration, which
    /// the session makes.
    pub fn saw_gpus(&mut self, seen: Seen) {
        self.gpus = seen;
        self.guard_gpus();
    }

    /// Says what the devices are now, if they are not what they were.
    pub(super) fn renew_devices(&mut self) {
        let mut devices = self.gpus.devices();
        let unseen = self.held_unseen(&devices);
        devices.extend(unseen);
        self.guard.mark(&mut devices);
        let count = devices.len();
        keep_within(&mut devices);
        if devices != self.devices {
            if count > devices.len() {
                let most = DEVICES_MAX;
                warn!(count, most, "this node has more devices than it can offer");
            }
            info!(gpu_count = devices.len(), "devices of this node have changed");
            self.devices = devices;
            self.inventory += 1;
        }
    }

    /// Devices that a worker holds and that were never seen: the file of those that were
    /// is damaged, or of an agent that kept none. They take nothing new, and their work is
    /// left alone; without them the node would be said to have lost them.
    fn held_unseen(&self, seen: &[Device]) -> Vec<Device> {
        let claims = self.claims_here();
        let unseen: BTreeMap<&str, &DeviceClaim> = claims
            .filter(|claim| seen.iter().all(|device| device.uuid != claim.uuid))
            .filter(|claim| !self.gpus.is_cut_away(&claim.uuid))
            .map(|claim| (claim.uuid.as_str(), claim))
            .collect();
        let first = seen.iter().map(|device| device.index + 1).max().unwrap_or(0);
        let device = |(index, (uuid, claim)): (u32, (&str, &DeviceClaim))| Device {
            uuid: uuid.to_owned(),
            index,
            model: UNSEEN_MODEL.to_owned(),
            memory: claim.memory,
            health: DeviceHealth::Cordoned,
            reason: "only its work is known, and the driver has not told of it yet".to_owned(),
            numa_node: None,
            ways: Vec::new(),
            slice: None,
        };
        (first..).zip(unseen).map(device).collect()
    }

    /// What the workers here hold, as far as it is known.
    pub(super) fn claims_here(&self) -> impl Iterator<Item = &DeviceClaim> {
        self.workers_here().filter_map(|(_, worker)| worker.devices()).flatten()
    }

    /// A worker's whole environment, with what its devices add to it.
    pub(super) fn environment(&self, wanted: &Wanted, task_dir: &Path) -> Environment {
        let mut all = environment(wanted, &self.settings.name, task_dir);
        let uuids = wanted.row.devices.iter().map(|claim| claim.uuid.as_str());
        all.extend(self.gpus.environment(uuids));
        let claim = wanted.row.devices.first();
        if let Some((directory, claim)) = self.mps_directory_of(wanted.row.allocation).zip(claim) {
            mps::set(&mut all, directory, claim);
        }
        all
    }

    /// What part of the processors a worker is to have that begins now, where MPS can hold it to
    /// that. Where the daemon is not there it is begun without, as a client would go on without:
    /// whoever shares a GPU is told so, and its neighbours are where they would be without MPS.
    pub(super) fn share_by_mps(&mut self, wanted: &Wanted) -> Option<u32> {
        let share = wanted.row.devices.first()?.share;
        let directory = self.mps.as_ref().filter(|_| share.is_part())?.directory.clone();
        self.look_at_mps(directory);
        let is_there = self.mps.as_ref().is_some_and(|mps| mps.missing.is_none());
        is_there.then(|| mps::percent_of(share))
    }

    /// Looks whether the daemon is there, and says when that has changed.
    pub(super) fn look_at_mps(&mut self, directory: PathBuf) {
        let now = Mps::at(directory);
        if self.mps.as_ref() != Some(&now) {
            match &now.missing {
                None => info!(directory = %now.directory.display(), "MPS is there"),
                Some(problem) => warn!(problem, "shared GPUs are time-sliced: MPS is not there"),
            }
        }
        self.mps = Some(now);
    }

    /// Where a worker that is a client of MPS finds the daemon.
    pub(super) fn mps_directory_of(&self, id: AllocationId) -> Option<&Path> {
        self.workers.get(&id)?.mps_percent?;
        self.mps.as_ref().map(|mps| mps.directory.as_path())
    }

    /// What is said of MPS beside a device: of those that share it, who is a client.
    fn mps_of(&self, uuid: &str) -> Option<MpsSample> {
        let mps = self.mps.as_ref()?;
        let shares = self.workers_here().filter_map(|(id, worker)| {
            let on_it = worker.devices()?.iter().any(|claim| claim.uuid == uuid);
            let percent = worker.mps_percent.filter(|_| on_it)?;
            Some(MpsShare { allocation_id: id.to_string(), percent })
        });
        Some(MpsSample {
            missing: mps.missing.clone().unwrap_or_default(),
            shares: shares.collect(),
        })
    }

    /// What the node is now.
    pub(super) fn spec(&self) -> NodeSpec {
        NodeSpec { devices: self.devices.clone(), ..self.settings.spec.clone() }
    }

    /// What heartbeats say.
    pub(super) fn facts(&self) -> Facts {
        Facts {
            generation: self.wishes.version.generation,
            inventory: self.inventory,
            devices: self.samples(),
        }
    }

    fn samples(&self) -> Vec<DeviceSample> {
        let mut samples = self.gpus.samples();
        for sample in &mut samples {
            let blind = self.sharers.blind(&sample.uuid);
            sample.unwatched = blind.map(|blind| blind.reason().to_owned());
            sample.mps = self.mps_of(&sample.uuid);
        }
        samples
    }

    /// Simulated GPUs use what is claimed of them.
    pub(super) fn tell_claims(&self) {
        let Some(told) = &self.settings.claims else { return };
        let claims: Vec<&DeviceClaim> = self.claims_here().collect();
        let of = |uuid: &str| -> MemoryBytes {
            let claims = claims.iter().filter(|claim| claim.uuid == uuid);
            MemoryBytes(claims.map(|claim| claim.memory.0).sum())
        };
        let now: Claims = self
            .devices
            .iter()
            // Those that the script has: no parts, and none that only a worker knows of.
            .filter(|device| self.gpus.index_of(&device.uuid).is_some())
            .map(|device| (device.index, of(&device.uuid)))
            .collect::<BTreeMap<_, _>>();
        told.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use berth_model::DeviceSlice;

    use super::*;

    #[test]
    fn a_node_says_no_more_devices_than_it_may_have() {
        let device = |index: u32, health| Device {
            uuid: format!("MIG-{index}"),
            index,
            model: "H100".to_owned(),
            memory: MemoryBytes(1),
            health,
            reason: String::new(),
            numa_node: None,
            ways: Vec::new(),
            slice: Some(DeviceSlice { parent: "GPU-a".to_owned(), profile: String::new() }),
        };
        let going = |index: u32| match index % 2 {
            0 => DeviceHealth::Cordoned,
            _ => DeviceHealth::Healthy,
        };
        for (count, healthy) in [(64, 32), (100, 50), (140, 64)] {
            let mut devices = (0..count).map(|index| device(index, going(index))).collect();
            keep_within(&mut devices);
            assert_eq!(devices.len(), DEVICES_MAX, "{count}");
            let is_healthy = |device: &&Device| device.health == DeviceHealth::Healthy;
            assert_eq!(devices.iter().filter(is_healthy).count(), healthy, "{count}");
        }
    }
}
