//! The fewest requests in flight, for its weight.

use crate::pick::{Choice, Field, Reason};

pub(super) fn choose(field: &mut Field<'_>) -> Option<Choice> {
    let open = std::mem::take(&mut field.open);
    field.fewest(&open, Reason::FewestInFlight)
}
