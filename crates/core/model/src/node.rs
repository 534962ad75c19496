//! A node: what its agent declared, and what live allocations use of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::name::Name;
use crate::quantity::{CpuMilli, MemoryBytes, ShareMilli};

/// The most devices a node may declare: twice the largest host sold today.
pub const DEVICES_MAX: usize = 64;
/// The most NVLinks between two devices that are believed: far above the 18 of the largest
/// sold today.
pub const NVLINKS_MAX: u32 = 256;
/// How many tasks may share one device unless its host's operator says otherwise.
pub const TASKS_PER_DEVICE_MAX_DEFAULT: u32 = 4;
/// Nodes of one kind that a dry run imagines: as many as the largest clusters have.
pub const IMAGINED_MAX: u32 = 10_000;
/// The longest reason for a device's health, in bytes.
pub const HEALTH_REASON_BYTES_MAX: usize = 512;

/// What an agent declares about its host.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeSpec {
    pub labels: BTreeMap<String, String>,
    pub pool: Name,
    pub zone: Name,
    pub cpu: CpuMilli,
    pub memory: MemoryBytes,
    /// In the driver's order; uuids are distinct.
    pub devices: Vec<Device>,
    /// The ports that workers may be given.
    pub ports: PortRange,
    pub agent_version: String,
    /// Of Docker's engine; empty where none answers.
    pub docker_version: String,
    /// How many tasks may share one device, at least one.
    pub tasks_per_device_max: u32,
    /// Where others reach the host, with or without a port; empty where nobody says.
    pub address: String,
}

/// An accelerator of a node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Device {
    pub uuid: String,
    pub index: u32,
    pub model: String,
    pub memory: MemoryBytes,
    pub health: DeviceHealth,
    /// Why it is not healthy, at most [`HEALTH_REASON_BYTES_MAX`]; empty if it is.
    pub reason: String,
    /// Of the host's memory, the node that is nearest; absent where nobody says.
    pub numa_node: Option<u32>,
    /// To each device before it in its node's list, in the order of the list; empty where
    /// nobody says. Said once for both, so that no two can disagree.
    pub ways: Vec<DeviceWay>,
    /// Of what it is a part; absent if it is a whole device.
    pub slice: Option<DeviceSlice>,
}

/// A part of a device that is cut up (MIG), and is offered in its place.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DeviceSlice {
    /// The whole device's uuid; it is no device of the node while it is cut up.
    pub parent: String,
    /// How large it is, such as `1g.10gb`; empty where nobody says.
    pub profile: String,
}

/// How two devices of a node reach each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DeviceWay {
    pub pcie: PcieWay,
    /// How many NVLinks they have to each other, by themselves or through switches.
    pub nvlinks: u32,
}

/// What the way over PCIe leads through, the nearest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PcieWay {
    /// They are on one board.
    Board,
    /// One switch.
    Switch,
    /// Several switches.
    Switches,
    /// The bridge of a host.
    HostBridge,
    /// Several bridges of one NUMA node.
    NumaNode,
    /// From one NUMA node to another.
    System,
    /// Nobody says.
    Unknown,
}

/// What a device may be used for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DeviceHealth {
    Healthy,
    /// Takes what needs one device only: it may have a fault, or no way to the others.
    Suspect,
    /// Keeps what it runs and takes nothing new.
    Cordoned,
    /// It has a fault: takes nothing new, and what it runs leaves it.
    Fenced,
    /// It is not there any more.
    Lost,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// What live allocations hold of a node. Always the exact sum over them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeUse {
    pub cpu: CpuMilli,
    pub memory: MemoryBytes,
    /// By device uuid; only devices in use have an entry.
    pub devices: BTreeMap<String, DeviceUse>,
    pub ports: BTreeSet<u16>,
}

/// What live allocations hold of one device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DeviceUse {
    pub share: ShareMilli,
    pub memory: MemoryBytes,
    pub tasks: u32,
}

/// A node as a decision sees it.
#[derive(Clone, Copy, Debug)]
pub struct NodeCapacity<'a> {
    pub spec: &'a NodeSpec,
    pub used: &'a NodeUse,
    /// Devices that an operator wants nothing new on, by uuid.
    pub cordoned: &'a BTreeSet<String>,
}

impl Device {
    /// A whole device that is well, and of which no way to others is known.
    pub fn new(uuid: String, index: u32, model: &str, memory: MemoryBytes) -> Device {
        Device {
            uuid,
            index,
            model: model.to_owned(),
            memory,
            health: DeviceHealth::Healthy,
            reason: String::new(),
            numa_node: None,
            ways: Vec::new(),
            slice: None,
        }
    }
}

impl NodeSpec {
    pub fn device(&self, uuid: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.uuid == uuid)
    }

    /// The host of its address, without the port; `None` where the agent told none.
    pub fn host(&self) -> Option<&str> {
        let text = self.address.as_str();
        let host = match text.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or(rest),
            // Of several colons none begins a port: it is an address of IPv6.
            None => text
                .split_once(':')
                .filter(|(_, port)| !port.contains(':'))
                .map_or(text, |(host, _)| host),
        };
        (!host.is_empty()).then_some(host)
    }
}

impl PortRange {
    /// The default range of a node for its workers.
    pub const DEFAULT: PortRange = PortRange { first: 20_000, last: 29_999 };

    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl PcieWay {
    pub fn name(self) -> &'static str {
        match self {
            PcieWay::Board => "board",
            PcieWay::Switch => "switch",
            PcieWay::Switches => "switches",
            PcieWay::HostBridge => "host-bridge",
            PcieWay::NumaNode => "numa-node",
            PcieWay::System => "system",
            PcieWay::Unknown => "unknown",
        }
    }
}

impl DeviceHealth {
    pub fn name(self) -> &'static str {
        match self {
            DeviceHealth::Healthy => "healthy",
            DeviceHealth::Suspect => "suspect",
            DeviceHealth::Cordoned => "cordoned",
            DeviceHealth::Fenced => "fenced",
            DeviceHealth::Lost => "lost",
        }
    }
}
