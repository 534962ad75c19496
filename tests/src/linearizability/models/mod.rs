//! Models ready for use.

mod cas;
mod register;
mod submits;

pub use cas::{CasAction, CasAnswer, CasCell};
pub use register::{Register, RegisterAction, RegisterAnswer};
pub use submits::{SharedId, SubmitAction, SubmitAnswer, Submits, shared_ids};

/// What stands under a key before the first write.
pub(super) type Value = Option<u64>;
