//! In turns, the more often the sooner it answers: parts by the inverse of the answer times of late,
//! made anew every ten seconds, so that one slow answer moves nothing at once.
//!
//! Answer times are known only after the answers: who had little to do looks fast, is sent nearly
//! all, and is found out when what it was sent ends. So nobody gets more while it has far more in
//! flight than the others: without that a fleet of equal replicas could do half of what it can, and
//! one of unequal ones a fifth.

use super::weighted;
use crate::clock::SpanUs;
use crate::pick::{Choice, Field, Reason};
use crate::pool::Replica;

/// As in the project's formulas.
const PARTS_STAY: SpanUs = SpanUs::from_secs(10);
/// A microsecond's answer gets so much, and a second's a millionth of it.
const FAST: u64 = 1_000_000_000_000;

pub(super) fn choose(field: &mut Field<'_>) -> Option<Choice> {
    if field.now >= *field.parts_until {
        *field.parts_until = field.now.after(PARTS_STAY);
        for replica in field.replicas.iter_mut() {
            let answered = replica.load.has_answered();
            replica.part = answered.then(|| FAST / replica.load.answer_time().0.max(1));
        }
    }
    // Who has not answered yet is taken for one like the others.
    let known = field.open.iter().filter_map(|position| field.replicas[*position].part);
    let (sum, count) = known.fold((0_u64, 0_u64), |(sum, count), part| (sum + part, count + 1));
    let mean = sum.checked_div(count).unwrap_or(FAST);
    let (bound, counted, now) = (field.bound(), field.counted, field.now);
    let replicas = &*field.replicas;
    field.open.retain(|position| replicas[*position].in_flight(counted) < bound);
    weighted::take_turn(field, Reason::AnswerTimeTurn, |replica: &Replica| {
        let part = u128::from(replica.part.unwrap_or(mean).max(1));
        let weighed = part * u128::from(replica.weight(now)) / 1_000;
        u64::try_from(weighed).unwrap_or(u64::MAX).max(1)
    })
}
