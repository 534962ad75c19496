//! What is measured or reckoned rather than agreed on. It never enters the log; a plan that
//! lacks it falls back on what has been promised.

use std::sync::Arc;

use berth_model::NodeId;
use berth_state::Table;
pub use berth_state::decision::NodeLoad;

use crate::mix::Mix;

/// The leader's soft state as a plan sees it. A clone costs O(1).
#[derive(Clone, Debug, Default)]
pub struct SoftView {
    pub loads: Table<NodeId, NodeLoad>,
    /// What the cluster is asked for, by kind.
    pub mix: Arc<Mix>,
}
