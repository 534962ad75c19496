//! Gangs: tasks whose instances are placed all or none, and live and fail together.

use std::borrow::Cow;

use crate::ids::InstanceIndex;
use crate::name::Name;
use crate::spec::TaskSpec;

/// That the instances of a task are one gang. Their number is the task's `count`, the rank of
/// each its instance index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Gang {}

/// The place of a member in the world that its gang is. Decided when the gang is placed, and
/// the same until all of it has ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GangSeat {
    pub rank: u32,
    pub world_size: u32,
    /// Its node among those of the gang, in the order of the lowest rank on each.
    pub node_rank: u32,
    pub node_count: u32,
    /// Its place among the members on its node, in the order of their ranks.
    pub local_rank: u32,
    pub local_world_size: u32,
    /// Where the others reach rank 0's node.
    pub master_address: String,
    /// A port of that node, held by rank 0.
    pub master_port: u16,
}

/// Members of one gang: a host each in the largest racks that are scheduled as one, or a GPU
/// each on 128 hosts.
pub const GANG_MEMBERS_MAX: u32 = 1024;
/// What the placements of one gang may encode to, as [`TaskSpec::plan_bytes`] has it: they are
/// one command of one log entry, or a reader of the log could see half a gang. An entry has
/// 64 KiB, of which the commands of the leader have 52.
pub const GANG_PLAN_BYTES_MAX: u64 = 50 << 10;

/// Ids, node and frame of a placement, and what all claims on its devices have in common.
const MEMBER_BYTES: u64 = 33;
/// The uuid of an NVIDIA GPU, and what of the length of many is counted in two bytes.
const DEVICE_BYTES: u64 = 17;
/// A claim on a port, beside its name.
const PORT_BYTES: u64 = 10;

impl TaskSpec {
    /// The name of the port that rank 0 of a gang is given beside those that the task asks for.
    pub const MASTER_PORT: &'static str = "master";

    /// What one instance of the task asks for: rank 0 of a gang for one port more, where the
    /// others meet.
    pub fn of_instance(&self, instance: InstanceIndex) -> Cow<'_, TaskSpec> {
        if self.gang.is_none() || instance != InstanceIndex(0) {
            return Cow::Borrowed(self);
        }
        let mut first = self.clone();
        first.ports.push(Name::new(TaskSpec::MASTER_PORT).expect("letters make a name"));
        Cow::Owned(first)
    }

    /// What the placements of all instances encode to at the most, where devices have uuids of
    /// NVIDIA's form.
    pub fn plan_bytes(&self) -> u64 {
        let devices = self.gpu.as_ref().map_or(0, |gpu| u64::from(gpu.count));
        let port = |name: &Name| PORT_BYTES + name.as_str().len() as u64;
        let ports: u64 = self.ports.iter().map(port).sum();
        let member = MEMBER_BYTES + devices.saturating_mul(DEVICE_BYTES) + ports;
        member.saturating_mul(u64::from(self.count))
    }
}
