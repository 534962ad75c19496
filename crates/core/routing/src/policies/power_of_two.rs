//! The better of two that are drawn: how long an answer takes of late, a peak counting at once,
//! times the requests in flight (linkerd's peak-EWMA balancer).

use crate::pick::{Choice, Field, Reason};

pub(super) fn choose(field: &mut Field<'_>) -> Option<Choice> {
    let first = field.dice.below(field.open.len());
    let second = field.dice.below(field.open.len().saturating_sub(1));
    let second = if second >= first { second + 1 } else { second };
    let drawn: Vec<usize> =
        [first, second].iter().filter_map(|place| field.open.get(*place).copied()).collect();
    let (counted, now) = (field.counted, field.now);
    field.least(&drawn, Reason::BetterOfTwo, |replica| {
        let in_flight = replica.in_flight(counted) + 1;
        let answer_us = u128::from(replica.load.answer_time().0.max(1));
        let cost = answer_us * u128::from(in_flight) * 1_000 / u128::from(replica.weight(now));
        u64::try_from(cost).unwrap_or(u64::MAX)
    })
}
