//! A node as the planner keeps it: what is free of it in numbers that are compared without
//! looking anything up. Refreshed when the node changes, read at every decision.

use std::sync::Arc;

use berth_model::fits::takes_work;
use berth_model::{DeviceHealth, GpuRequest, NodeUse, ShareMilli, StateMs, TaskSpec};
use berth_state::{Hold, NodeRow};

use crate::defragment::Held;
use crate::filters::{Request, free_ports, is_eligible};
use crate::kinds::Kinds;
use crate::soft::NodeLoad;

/// One node, with what a plan has handed out of it laid over it.
#[derive(Clone, Debug)]
pub struct Host {
    pub(crate) row: Arc<NodeRow>,
    pub(crate) load: Option<NodeLoad>,
    /// How it is reserved; whoever keeps the host brings it up to date.
    pub(crate) holds: Vec<Hold>,
    /// A copy from the first placement of a plan on.
    handed_out: Option<NodeUse>,
    /// Takes new work now.
    pub(crate) is_open: bool,
    pub(crate) cpu_free: u64,
    pub(crate) memory_free: u64,
    pub(crate) ports_free: usize,
    /// Live allocations, this plan's included.
    pub(crate) tasks: u32,
    pub(crate) spots: Vec<Spot>,
}

/// One device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    /// Which of the planner's kinds of devices.
    pub kind: usize,
    pub share_free: u32,
    pub memory_free: u64,
    pub memory_total: u64,
    pub tasks_left: u32,
    /// Something may be put on it.
    pub takes_work: bool,
    /// It takes what asks for a single device only.
    pub is_suspect: bool,
}

impl Host {
    pub(crate) fn new(
        row: Arc<NodeRow>,
        load: Option<NodeLoad>,
        now: StateMs,
        kinds: &mut Kinds,
    ) -> Host {
        let spots = Vec::with_capacity(row.spec.devices.len());
        let mut host = Host {
            row,
            load,
            holds: Vec::new(),
            handed_out: None,
            is_open: false,
            cpu_free: 0,
            memory_free: 0,
            ports_free: 0,
            tasks: 0,
            spots,
        };
        host.take_devices(kinds);
        host.reckon(now);
        host
    }

    /// Whether something may be put there now, if it has room.
    pub(crate) fn takes(&self, request: Request<'_>) -> bool {
        self.is_open
            && self.holds.iter().all(|hold| hold.lets_in(request.pass.permit))
            && is_eligible(&self.row, request).is_ok()
    }

    /// What is promised of it.
    pub(crate) fn used(&self) -> &NodeUse {
        self.handed_out.as_ref().unwrap_or(&self.row.used)
    }

    /// Takes the node as it is now, without what plans have handed out.
    pub(crate) fn set(&mut self, row: Arc<NodeRow>, now: StateMs, kinds: &mut Kinds) {
        self.row = row;
        self.handed_out = None;
        self.take_devices(kinds);
        self.reckon(now);
    }

    /// As if so much were promised of it, and no more.
    pub(crate) fn set_used(&mut self, used: NodeUse, now: StateMs) {
        self.handed_out = Some(used);
        self.reckon(now);
    }

    /// Forgets what a plan has handed out.
    pub(crate) fn take_back(&mut self, now: StateMs) {
        self.handed_out = None;
        self.reckon(now);
    }

    pub(crate) fn hand_out(&mut self, claim: &berth_model::Claim, now: StateMs) {
        self.give(|used| used.add(claim), now);
    }

    /// Hands out what is held of a place that is kept.
    pub(crate) fn hold(&mut self, held: &NodeUse, now: StateMs) {
        self.give(|used| used.add_held(held), now);
    }

    /// As if a place that is kept were not.
    pub(crate) fn release(&mut self, held: &NodeUse, now: StateMs) {
        let tasks = self.tasks;
        self.handed_out.get_or_insert_with(|| self.row.used.clone()).remove_held(held);
        self.reckon(now);
        self.tasks = tasks.saturating_sub(1);
    }

    fn give(&mut self, add: impl FnOnce(&mut NodeUse), now: StateMs) {
        let tasks = self.tasks;
        add(self.handed_out.get_or_insert_with(|| self.row.used.clone()));
        self.reckon(now);
        self.tasks = tasks.saturating_add(1);
    }

    /// Takes back one claim of those that a plan has handed out.
    pub(crate) fn hand_back(&mut self, claim: &berth_model::Claim, now: StateMs) {
        let tasks = self.tasks;
        if let Some(used) = &mut self.handed_out {
            used.remove(claim);
        }
        self.reckon(now);
        self.tasks = tasks.saturating_sub(1);
    }

    /// As if somebody were gone who holds so much; until the node is looked at anew.
    pub(crate) fn lift(&mut self, held: &Held) {
        self.cpu_free += held.cpu_milli;
        self.memory_free += held.memory_bytes;
        self.ports_free += held.ports;
        self.tasks = self.tasks.saturating_sub(1);
        let tasks_max = self.row.spec.tasks_per_device_max;
        for (at, share, memory) in &held.devices {
            let spot = &mut self.spots[*at];
            spot.share_free += share;
            spot.memory_free += memory;
            spot.tasks_left = match spot.share_free >= ShareMilli::WHOLE.0 {
                true => u32::MAX,
                false => spot.tasks_left.saturating_add(1).min(tasks_max),
            };
        }
    }

    /// As if somebody had come who takes so much, for which there is room.
    pub(crate) fn lay(&mut self, held: &Held) {
        self.cpu_free = self.cpu_free.saturating_sub(held.cpu_milli);
        self.memory_free = self.memory_free.saturating_sub(held.memory_bytes);
        self.ports_free = self.ports_free.saturating_sub(held.ports);
        self.tasks = self.tasks.saturating_add(1);
        let tasks_max = self.row.spec.tasks_per_device_max;
        for (at, share, memory) in &held.devices {
            let spot = &mut self.spots[*at];
            spot.share_free = spot.share_free.saturating_sub(*share);
            spot.memory_free = spot.memory_free.saturating_sub(*memory);
            spot.tasks_left = spot.tasks_left.min(tasks_max).saturating_sub(1);
        }
    }

    /// Takes the devices of the row, with what never changes about them.
    fn take_devices(&mut self, kinds: &mut Kinds) {
        let spot = |device| Spot {
            kind: kinds.number(device),
            share_free: 0,
            memory_free: 0,
            memory_total: device.memory.0,
            tasks_left: 0,
            takes_work: false,
            is_suspect: device.health == DeviceHealth::Suspect,
        };
        self.spots.clear();
        self.spots.extend(self.row.spec.devices.iter().map(spot));
    }

    /// Reckons what is free anew, from the row and what was handed out.
    fn reckon(&mut self, now: StateMs) {
        let Host { row, handed_out, spots, .. } = self;
        let used = handed_out.as_ref().unwrap_or(&row.used);
        self.is_open = row.takes_new_work(now);
        self.cpu_free = row.spec.cpu.saturating_sub(used.cpu).0;
        self.memory_free = row.spec.memory.saturating_sub(used.memory).0;
        self.ports_free = free_ports(row, used, now);
        self.tasks = u32::try_from(row.live.len()).unwrap_or(u32::MAX);
        for (spot, device) in spots.iter_mut().zip(&row.spec.devices) {
            let held = used.devices.get(&device.uuid).copied().unwrap_or_default();
            spot.share_free = ShareMilli::WHOLE.saturating_sub(held.share).0;
            spot.memory_free = device.memory.saturating_sub(held.memory).0;
            spot.tasks_left = match held.tasks {
                0 => u32::MAX,
                tasks => row.spec.tasks_per_device_max.saturating_sub(tasks),
            };
            spot.takes_work = takes_work(row.capacity(used), device, 1);
        }
    }

    /// Whether enough is free for a task of which `suits` says what kinds of devices it
    /// accepts; the node is eligible and open.
    pub(crate) fn has_room(&self, task: &TaskSpec, suits: &[bool]) -> bool {
        task.cpu.0 <= self.cpu_free
            && task.memory.0 <= self.memory_free
            && task.gpu.as_ref().is_none_or(|gpu| self.has_devices(gpu, suits))
            && task.ports.len() <= self.ports_free
    }

    /// How many members of a gang it could take, at most all of them; the node is eligible and
    /// open. Any node may become the one where they meet, at a port beside those of its members.
    pub(crate) fn members(&self, task: &TaskSpec, suits: &[bool]) -> u32 {
        let fit = |free: u64, each: u64| free.checked_div(each).unwrap_or(u64::MAX);
        let ports = match (self.ports_free as u64).checked_sub(1) {
            Some(free) => fit(free, task.ports.len() as u64),
            None => 0,
        };
        let host = fit(self.cpu_free, task.cpu.0).min(fit(self.memory_free, task.memory.0));
        let devices = task.gpu.as_ref().map_or(u64::MAX, |gpu| {
            let open = self.spots_for_gang(gpu, suits, task.count);
            if gpu.is_shared() {
                open.map(|at| u64::from(self.shares_of(&self.spots[at], gpu))).sum()
            } else {
                fit(open.count() as u64, u64::from(gpu.count))
            }
        });
        let members = host.min(ports).min(devices).min(u64::from(task.count));
        u32::try_from(members).unwrap_or(task.count)
    }

    /// As [`Host::open_spots`], without suspects if the gang needs more than one device.
    pub(crate) fn spots_for_gang<'s>(
        &'s self,
        gpu: &'s GpuRequest,
        suits: &'s [bool],
        members: u32,
    ) -> impl Iterator<Item = usize> + 's {
        let is_alone = members == 1 && gpu.count == 1;
        self.open_spots(gpu, suits).filter(move |at| is_alone || !self.spots[*at].is_suspect)
    }

    /// How many claims on a part of it a device has room for.
    pub(crate) fn shares_of(&self, spot: &Spot, gpu: &GpuRequest) -> u32 {
        let memory = gpu.memory_of(berth_model::MemoryBytes(spot.memory_total)).0;
        let by_memory = spot.memory_free.checked_div(memory).unwrap_or(u64::MAX);
        let by_share = spot.share_free.checked_div(gpu.share.0).unwrap_or(0);
        let tasks = spot.tasks_left.min(self.row.spec.tasks_per_device_max);
        by_share.min(tasks).min(u32::try_from(by_memory).unwrap_or(u32::MAX))
    }

    fn has_devices(&self, gpu: &GpuRequest, suits: &[bool]) -> bool {
        let enough = gpu.count as usize;
        self.open_spots(gpu, suits).take(enough).count() == enough
    }

    /// Positions of devices with room for what is asked of each, in the driver's order.
    pub(crate) fn open_spots<'s>(
        &'s self,
        gpu: &'s GpuRequest,
        suits: &'s [bool],
    ) -> impl Iterator<Item = usize> + 's {
        let fits = move |spot: &Spot| {
            spot.takes_work
                && (gpu.count == 1 || !spot.is_suspect)
                && suits.get(spot.kind) == Some(&true)
                && spot.has_room(gpu)
        };
        self.spots.iter().enumerate().filter(move |(_, spot)| fits(spot)).map(|(at, _)| at)
    }
}

impl Spot {
    /// Nobody holds any of it.
    pub fn is_free(&self) -> bool {
        self.tasks_left == u32::MAX
    }

    fn has_room(&self, gpu: &GpuRequest) -> bool {
        if self.is_free() {
            return true;
        }
        let memory = gpu.memory_of(berth_model::MemoryBytes(self.memory_total)).0;
        gpu.is_shared()
            && gpu.share.0 <= self.share_free
            && memory <= self.memory_free
            && self.tasks_left > 0
    }
}
