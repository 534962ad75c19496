//! Moves of running work: who would leave its place for which other, so that a request fits that
//! has no room anywhere, or so that less of the cluster is of no use. It only proposes, moves
//! nothing and knows no job that must stay: who may move is said by whoever asks.

mod batch;
mod board;
mod destinations;
mod leaving;

mod room;
mod sets;

pub use batch::{Batch, BatchLimits};
pub use berth_state::movable::{Stays, may_move};
pub(crate) use board::Held;
pub use board::{Board, MayMove};
pub use room::{Room, RoomLimits};

use berth_model::{AllocationId, Claim, NodeId};

/// One allocation that leaves its place for another. The other is free while everybody is still
/// where they were, so that moves that are planned together can be made one after another, in
/// any order, without anything being given twice at any moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    pub allocation: AllocationId,
    pub from: NodeId,
    pub to: NodeId,
    /// What it takes there.
    pub claim: Claim,
    /// What moving it costs, as whoever asked weighs it.
    pub cost: u64,
}

#[cfg(test)]
mod tests;
