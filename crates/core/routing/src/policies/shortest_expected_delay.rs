//! Who is expected to come to the request first: for prompts by the tokens to read before it and
//! how fast they are read, for anything else by the requests in flight and how long one takes.

use crate::pick::{Choice, Field, Reason};

pub(super) fn choose(field: &mut Field<'_>) -> Option<Choice> {
    let open = std::mem::take(&mut field.open);
    let tokens = u64::from(field.request.prompt_tokens);
    let (counted, now) = (field.counted, field.now);
    field.least(&open, Reason::ShortestDelay, |replica| {
        let delay = if tokens > 0 {
            u128::from(replica.load.reads_within(tokens).0)
        } else {
            u128::from(replica.load.answer_time().0.max(1))
                * u128::from(replica.in_flight(counted) + 1)
        };
        u64::try_from(delay * 1_000 / u128::from(replica.weight(now))).unwrap_or(u64::MAX)
    })
}
