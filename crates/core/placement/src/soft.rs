//! What is measured or reckoned rather than agreed on. It never enters the log; a plan that
//! lacks it falls back on what has been promised.

use std::sync::Arc;

use berth_model::{CpuMilli, MemoryBytes, NodeId};
use berth_state::Table;

use crate::mix::Mix;

/// The last measurements of a node, each absent where nobody measured it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeLoad {
    /// Mean utilisation of the node's GPUs, 0 to 1000.
    pub gpu_util_milli: Option<u32>,
    /// Memory in use on all of the node's GPUs together.
    pub gpu_memory_used: Option<MemoryBytes>,
    pub cpu_used: Option<CpuMilli>,
    pub memory_used: Option<MemoryBytes>,
    /// Use of the node's network bandwidth, 0 to 1000.
    pub network_used_milli: Option<u32>,
}

/// The leader's soft state as a plan sees it. A clone costs O(1).
#[derive(Clone, Debug, Default)]
pub struct SoftView {
    pub loads: Table<NodeId, NodeLoad>,
    /// What the cluster is asked for, by kind.
    pub mix: Arc<Mix>,
}
