//! The one question that planning and apply share: does this work fit there?
//! Planning asks it to choose, apply asks it again before anything is granted.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::guard::Shut;
use crate::name::Name;
use crate::node::{Device, DeviceHealth, DeviceUse, NodeCapacity, NodeSpec, NodeUse};
use crate::quantity::{CpuMilli, MemoryBytes, ShareMilli};
use crate::spec::{Constraints, GpuRequest, TaskSpec};
use crate::time::DurationMs;

/// What a placement takes of its node.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Claim {
    pub cpu: CpuMilli,
    pub memory: MemoryBytes,
    pub devices: Vec<DeviceClaim>,
    pub ports: Vec<PortClaim>,
}

impl Claim {
    /// What it has of GPUs, in thousandths of one.
    pub fn gpu_milli(&self) -> u64 {
        self.devices.iter().map(|device| u64::from(device.share.0)).sum()
    }
}

/// A share of one device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DeviceClaim {
    pub uuid: String,
    pub share: ShareMilli,
    pub memory: MemoryBytes,
}

/// A named port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PortClaim {
    pub name: Name,
    pub port: u16,
}

/// Why something does not fit a node. The order is the order of explanations:
/// what can never fit before what is only busy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Error)]
pub enum Misfit {
    #[error("the job asks for node `{asked}`")]
    OtherNode { asked: String },
    #[error("the job asks for pool `{asked}`, the node is in `{found}`")]
    OtherPool { asked: String, found: String },
    #[error("label `{key}` is not `{asked}`")]
    Label { key: String, asked: String },
    #[error("no Docker engine answers there")]
    NoDocker,
    #[error("no GPU of model {asked}")]
    GpuModel { asked: String },
    #[error("no GPU with at least {asked} of memory")]
    GpuMemory { asked: MemoryBytes },
    #[error("has {found} suitable GPUs, {asked} are asked for")]
    GpuCount { asked: u32, found: u32 },
    #[error("has {found} cores, {asked} are asked for")]
    CpuCapacity { asked: CpuMilli, found: CpuMilli },
    #[error("has {found} of memory, {asked} is asked for")]
    MemoryCapacity { asked: MemoryBytes, found: MemoryBytes },
    #[error("the node is not ready")]
    NotReady,
    #[error("the node is cordoned")]
    Cordoned,
    #[error("the node is being drained")]
    Draining,
    #[error("the node could not start a worker a moment ago and is left alone for a while")]
    Resting,
    #[error("the node is reserved (`{reservation}`), and not for such jobs")]
    Reserved { reservation: String },
    #[error("the node is reserved (`{reservation}`) in {}, and only what ends before by its time limit is let in", minutes(*left))]
    ReservedSoon { reservation: String, left: DurationMs },
    #[error("CPU {}", shut(*free_percent, *opens_below_percent))]
    CpuPressure { free_percent: u8, opens_below_percent: u8 },
    #[error("memory {}", shut(*free_percent, *opens_below_percent))]
    MemoryPressure { free_percent: u8, opens_below_percent: u8 },
    #[error("{free} suitable GPUs are free, {asked} are asked for")]
    GpuBusy { asked: u32, free: u32 },
    #[error("no suitable GPU has {asked} thousandths and the memory that belongs to them left")]
    GpuShareBusy { asked: u32 },
    #[error("{free} cores are free, {asked} are asked for")]
    CpuBusy { asked: CpuMilli, free: CpuMilli },
    #[error("{free} of memory is free, {asked} is asked for")]
    MemoryBusy { asked: MemoryBytes, free: MemoryBytes },
    #[error("{free} ports are free, {asked} are asked for")]
    PortsBusy { asked: u32, free: u32 },
    #[error("device `{uuid}` is not on the node, or not healthy")]
    DeviceGone { uuid: String },
    #[error("device `{uuid}` has {free} thousandths free, {asked} are claimed")]
    DeviceBusy { uuid: String, asked: u32, free: u32 },
    #[error("device `{uuid}` is shared by {tasks} tasks already, as many as its node allows")]
    DeviceCrowded { uuid: String, tasks: u32 },
    #[error("port {port} is taken or outside the node's range")]
    PortTaken { port: u16 },
    #[error("the claim is not what the task asks for")]
    ClaimMismatch,
}

fn minutes(span: DurationMs) -> String {
    format!("{} min", span.0 / 60_000)
}

/// What a guard says; by what is free, as the order of `Misfit` ends in the amount of which more
/// is nearer.
fn shut(free_percent: u8, opens_below_percent: u8) -> Shut {
    Shut { used_percent: 100_u8.saturating_sub(free_percent), opens_below_percent }
}

/// Whether a task could ever run on a node, were it empty and ready.
///
/// # Errors
/// The first reason, in the order of `Misfit`, why it could not.
pub fn eligible(
    name: &Name,
    node: &NodeSpec,
    constraints: &Constraints,
    task: &TaskSpec,
) -> Result<(), Misfit> {
    if let Some(asked) = constraints.node.as_ref().filter(|asked| *asked != name) {
        return Err(Misfit::OtherNode { asked: asked.to_string() });
    }
    if let Some(asked) = constraints.pool.as_ref().filter(|asked| **asked != node.pool) {
        return Err(Misfit::OtherPool { asked: asked.to_string(), found: node.pool.to_string() });
    }
    for (key, asked) in &constraints.labels {
        if node.labels.get(key) != Some(asked) {
            return Err(Misfit::Label { key: key.clone(), asked: asked.clone() });
        }
    }
    if task.driver.image().is_some() && node.docker_version.is_empty() {
        return Err(Misfit::NoDocker);
    }
    if let Some(gpu) = &task.gpu {
        gpus_exist(node, gpu)?;
    }
    if task.cpu > node.cpu {
        return Err(Misfit::CpuCapacity { asked: task.cpu, found: node.cpu });
    }
    if task.memory > node.memory {
        return Err(Misfit::MemoryCapacity { asked: task.memory, found: node.memory });
    }
    Ok(())
}

fn gpus_exist(node: &NodeSpec, gpu: &GpuRequest) -> Result<(), Misfit> {
    if !node.devices.iter().any(|device| model_matches(gpu, device)) {
        return Err(Misfit::GpuModel { asked: models_text(gpu) });
    }
    let suited = node.devices.iter().filter(|device| suits(gpu, device)).count();
    if suited == 0 {
        let asked = gpu.memory_min.unwrap_or_default();
        return Err(Misfit::GpuMemory { asked });
    }
    let found = u32::try_from(suited).unwrap_or(u32::MAX);
    if found < gpu.count {
        return Err(Misfit::GpuCount { asked: gpu.count, found });
    }
    Ok(())
}

fn models_text(gpu: &GpuRequest) -> String {
    if gpu.models.is_empty() { "any".to_owned() } else { gpu.models.join(" or ") }
}

/// Whether a device is of a kind that the request accepts, busy or not.
pub fn suits(gpu: &GpuRequest, device: &Device) -> bool {
    model_matches(gpu, device) && gpu.memory_min.is_none_or(|least| device.memory >= least)
}

/// What a request for any part of a device says.
const ANY_SLICE: &str = "MIG";

/// Whether a model that is asked for is a part of a device: any, or one by its profile such as
/// `1g.10gb`.
pub(crate) fn names_slice(asked: &str) -> bool {
    let is_profile = |(slices, memory): (&str, &str)| {
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let memory = memory.to_ascii_lowercase();
        digits(slices) && memory.strip_suffix("gb").is_some_and(digits)
    };
    asked.eq_ignore_ascii_case(ANY_SLICE)
        || asked.split_once("g.").or_else(|| asked.split_once("G.")).is_some_and(is_profile)
}

/// `H100` matches `H100`, `NVIDIA H100 80GB HBM3` and `H100-80GB`, not `GH100X`. A part of a
/// device is for whoever asks for one by its profile, or for any of them: who asks for a GPU
/// means a whole one. And for one at a time: CUDA uses no more than one in a process. It is
/// not shared: whoever wants less than a slice asks for a smaller one.
fn model_matches(gpu: &GpuRequest, device: &Device) -> bool {
    if let Some(slice) = &device.slice {
        let names_it = |asked: &String| {
            asked.eq_ignore_ascii_case(ANY_SLICE) || asked.eq_ignore_ascii_case(&slice.profile)
        };
        return gpu.count == 1 && !gpu.is_shared() && gpu.models.iter().any(names_it);
    }
    let model = &device.model;
    gpu.models.is_empty()
        || gpu.models.iter().any(|asked| {
            model.eq_ignore_ascii_case(asked)
                || model.split([' ', '-']).any(|word| word.eq_ignore_ascii_case(asked))
        })
}

/// Whether a device takes work that asks for so many of them.
pub fn takes_work(node: NodeCapacity<'_>, device: &Device, asked: usize) -> bool {
    let is_well = match device.health {
        DeviceHealth::Healthy => true,
        DeviceHealth::Suspect => asked == 1,
        DeviceHealth::Cordoned | DeviceHealth::Fenced | DeviceHealth::Lost => false,
    };
    is_well && !node.cordoned.contains(&device.uuid)
}

/// Devices of the request's kind with room for what it asks of each, in the driver's order:
/// wholly free ones, or for a share of one those with so much of share and memory left.
pub fn open_devices<'a>(
    node: NodeCapacity<'a>,
    gpu: &'a GpuRequest,
) -> impl Iterator<Item = &'a Device> {
    node.spec.devices.iter().filter(move |device| {
        takes_work(node, device, gpu.count as usize)
            && suits(gpu, device)
            && has_room_for(node, gpu, device)
    })
}

fn has_room_for(node: NodeCapacity<'_>, gpu: &GpuRequest, device: &Device) -> bool {
    let Some(held) = node.used.devices.get(&device.uuid) else { return true };
    gpu.is_shared()
        && gpu.share <= ShareMilli::WHOLE.saturating_sub(held.share)
        && gpu.memory_of(device.memory) <= device.memory.saturating_sub(held.memory)
        && held.tasks < node.spec.tasks_per_device_max
}

/// Whether a claim fits what is free on a node right now, and is what the task
/// asks for. Eligibility and the node's own state are asked separately.
///
/// # Errors
/// The first reason why it does not fit.
pub fn fits(node: NodeCapacity<'_>, task: &TaskSpec, claim: &Claim) -> Result<(), Misfit> {
    is_asked_for(node.spec, task, claim)?;
    fits_beside(node, claim, takes_work)?;
    let crowded = claim.devices.iter().find_map(|claim| {
        let tasks = node.used.devices.get(&claim.uuid)?.tasks;
        (tasks >= node.spec.tasks_per_device_max).then_some((&claim.uuid, tasks))
    });
    match crowded {
        Some((uuid, tasks)) => Err(Misfit::DeviceCrowded { uuid: uuid.clone(), tasks }),
        None => Ok(()),
    }
}

fn is_asked_for(spec: &NodeSpec, task: &TaskSpec, claim: &Claim) -> Result<(), Misfit> {
    let asked = task.gpu.as_ref().map_or(0, |gpu| gpu.count);
    let suited = |claim: &DeviceClaim| {
        let Some(gpu) = &task.gpu else { return false };
        let as_device = |device: &Device| {
            suits(gpu, device) && (!gpu.is_shared() || claim.memory == gpu.memory_of(device.memory))
        };
        claim.share == gpu.share && spec.device(&claim.uuid).is_none_or(as_device)
    };
    let as_asked = claim.cpu == task.cpu
        && claim.memory == task.memory
        && u32::try_from(claim.devices.len()) == Ok(asked)
        && claim.devices.iter().all(suited)
        && claim.ports.iter().map(|claim| &claim.name).eq(task.ports.iter());
    if as_asked { Ok(()) } else { Err(Misfit::ClaimMismatch) }
}

/// Whether a claim that is there already fits beside the others that are: a device
/// that takes nothing new keeps what it has, one that is fenced or lost does not.
///
/// # Errors
/// The first reason why it does not fit.
pub fn may_stay(node: NodeCapacity<'_>, claim: &Claim) -> Result<(), Misfit> {
    fits_beside(node, claim, |_, device, _| match device.health {
        DeviceHealth::Healthy | DeviceHealth::Suspect | DeviceHealth::Cordoned => true,
        DeviceHealth::Fenced | DeviceHealth::Lost => false,
    })
}

/// Of a device, whether it may be part of a claim on so many.
type IsUsable = fn(NodeCapacity<'_>, &Device, usize) -> bool;

fn fits_beside(node: NodeCapacity<'_>, claim: &Claim, is_usable: IsUsable) -> Result<(), Misfit> {
    let NodeCapacity { spec, used, .. } = node;
    let cpu_free = spec.cpu.saturating_sub(used.cpu);
    if claim.cpu > cpu_free {
        return Err(Misfit::CpuBusy { asked: claim.cpu, free: cpu_free });
    }
    let memory_free = spec.memory.saturating_sub(used.memory);
    if claim.memory > memory_free {
        return Err(Misfit::MemoryBusy { asked: claim.memory, free: memory_free });
    }
    devices_are_free(node, &claim.devices, is_usable)?;
    ports_are_free(node, &claim.ports)
}

fn devices_are_free(
    node: NodeCapacity<'_>,
    claims: &[DeviceClaim],
    is_usable: IsUsable,
) -> Result<(), Misfit> {
    let distinct: BTreeSet<&str> = claims.iter().map(|claim| claim.uuid.as_str()).collect();
    if distinct.len() != claims.len() {
        return Err(Misfit::ClaimMismatch);
    }
    for claim in claims {
        let gone = || Misfit::DeviceGone { uuid: claim.uuid.clone() };
        let device = node.spec.device(&claim.uuid).ok_or_else(gone)?;
        if !is_usable(node, device, claims.len()) {
            return Err(gone());
        }
        let held = node.used.devices.get(&claim.uuid).copied().unwrap_or_default();
        let free = ShareMilli::WHOLE.saturating_sub(held.share);
        if claim.share > free || claim.memory > device.memory.saturating_sub(held.memory) {
            return Err(Misfit::DeviceBusy {
                uuid: claim.uuid.clone(),
                asked: claim.share.0,
                free: free.0,
            });
        }
    }
    Ok(())
}

fn ports_are_free(node: NodeCapacity<'_>, claims: &[PortClaim]) -> Result<(), Misfit> {
    let mut seen = BTreeSet::new();
    for PortClaim { port, .. } in claims {
        let free = node.spec.ports.contains(*port) && !node.used.ports.contains(port);
        if !free || !seen.insert(*port) {
            return Err(Misfit::PortTaken { port: *port });
        }
    }
    Ok(())
}

impl NodeUse {
    /// The same, but for its ports.
    #[must_use]
    pub fn without_ports(&self) -> NodeUse {
        NodeUse { ports: BTreeSet::new(), ..self.clone() }
    }

    /// Adds a claim that `fits` has accepted.
    pub fn add(&mut self, claim: &Claim) {
        self.cpu = CpuMilli(self.cpu.0.saturating_add(claim.cpu.0));
        self.memory = MemoryBytes(self.memory.0.saturating_add(claim.memory.0));
        claim.devices.iter().for_each(|one| self.add_device(&one.uuid, DeviceUse::of(one)));
        self.ports.extend(claim.ports.iter().map(|claim| claim.port));
    }

    /// Takes back a claim that was added.
    pub fn remove(&mut self, claim: &Claim) {
        self.cpu = self.cpu.saturating_sub(claim.cpu);
        self.memory = self.memory.saturating_sub(claim.memory);
        claim.devices.iter().for_each(|one| self.remove_device(&one.uuid, DeviceUse::of(one)));
        for claim in &claim.ports {
            self.ports.remove(&claim.port);
        }
    }

    /// Adds what is held for claims to come.
    pub fn add_held(&mut self, held: &NodeUse) {
        self.cpu = CpuMilli(self.cpu.0.saturating_add(held.cpu.0));
        self.memory = MemoryBytes(self.memory.0.saturating_add(held.memory.0));
        held.devices.iter().for_each(|(uuid, device)| self.add_device(uuid, *device));
        self.ports.extend(&held.ports);
    }

    /// Takes back what was added as held.
    pub fn remove_held(&mut self, held: &NodeUse) {
        self.cpu = self.cpu.saturating_sub(held.cpu);
        self.memory = self.memory.saturating_sub(held.memory);
        held.devices.iter().for_each(|(uuid, device)| self.remove_device(uuid, *device));
        self.ports.retain(|port| !held.ports.contains(port));
    }

    fn add_device(&mut self, uuid: &str, part: DeviceUse) {
        let held = self.devices.entry(uuid.to_owned()).or_default();
        held.share = ShareMilli(held.share.0.saturating_add(part.share.0));
        held.memory = MemoryBytes(held.memory.0.saturating_add(part.memory.0));
        held.tasks = held.tasks.saturating_add(part.tasks);
    }

    fn remove_device(&mut self, uuid: &str, part: DeviceUse) {
        let Some(held) = self.devices.get_mut(uuid) else { return };
        *held = held.beyond(part);
        if *held == DeviceUse::default() {
            self.devices.remove(uuid);
        }
    }

    /// What of it is left when as much as `others` hold is taken off.
    #[must_use]
    pub fn beyond(&self, others: &NodeUse) -> NodeUse {
        let rest = |(uuid, device): (&String, &DeviceUse)| {
            let theirs = others.devices.get(uuid).copied().unwrap_or_default();
            let left = device.beyond(theirs);
            (left != DeviceUse::default()).then(|| (uuid.clone(), left))
        };
        NodeUse {
            cpu: self.cpu.saturating_sub(others.cpu),
            memory: self.memory.saturating_sub(others.memory),
            devices: self.devices.iter().filter_map(rest).collect(),
            ports: self.ports.difference(&others.ports).copied().collect(),
        }
    }
}

impl DeviceUse {
    fn of(claim: &DeviceClaim) -> DeviceUse {
        DeviceUse { share: claim.share, memory: claim.memory, tasks: 1 }
    }

    fn beyond(self, others: DeviceUse) -> DeviceUse {
        DeviceUse {
            share: self.share.saturating_sub(others.share),
            memory: self.memory.saturating_sub(others.memory),
            tasks: self.tasks.saturating_sub(others.tasks),
        }
    }
}

#[cfg(test)]
mod tests;
