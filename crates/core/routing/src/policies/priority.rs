//! The best tier that has room, such as the machines of one's own before those that cost more; in
//! it the fewest in flight.

use crate::pick::{Choice, Field, Reason};

pub(super) fn choose(field: &mut Field<'_>) -> Option<Choice> {
    let tier = |position: usize| {
        let replica = &field.replicas[position];
        (replica.load.is_spared(field.now), replica.member.tier)
    };
    let best = field.open.iter().map(|position| tier(*position)).min()?;
    let in_best: Vec<usize> =
        field.open.iter().copied().filter(|position| tier(*position) == best).collect();
    field.fewest(&in_best, Reason::Tier)
}
