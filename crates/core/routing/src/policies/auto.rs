//! The default. A prompt goes to who holds much of it, since reading is most of the work before the
//! first word, until waiting there costs more than reading it anew elsewhere would (llm-d's "sticky
//! until saturated"). Where nobody holds it, the least work: tokens to read times requests at once,
//! by speed (LMetric, arXiv 2603.15202). Requests without a prompt go where the fewest are.

use crate::clock::SpanUs;
use crate::pick::{Choice, Field, Reason};
use crate::pool::Replica;

/// Waiting longer than that beside another is not made good by what need not be read again: a large
/// one keeps answers short where prompts are long (serving measurements on Mooncake's traces).
const STAY_MAX: SpanUs = SpanUs::from_secs(8);

pub(super) fn choose(field: &mut Field<'_>) -> Option<Choice> {
    let open = std::mem::take(&mut field.open);
    let tokens = u64::from(field.request.prompt_tokens);
    if tokens == 0 {
        return field.fewest(&open, Reason::FewestInFlight);
    }
    let (counted, now) = (field.counted, field.now);
    let (prefixes, request) = (field.prefixes, field.request);
    let held = |replica: &Replica| {
        let blocks = prefixes.held_by(replica.member.id, &request.prefix);
        request.prefix.tokens(blocks).min(tokens)
    };
    let reads = |replica: &Replica| {
        let reads = replica.load.reads_within(tokens - held(replica)).0;
        reads.saturating_mul(1_000) / replica.weight(now)
    };
    let work = |replica: &Replica| {
        let at_once = replica.in_flight(counted) + 1;
        reads(replica).saturating_mul(at_once)
    };
    let holds_much = |position: &usize| {
        let replica = &field.replicas[*position];
        !replica.load.is_spared(now) && held(replica) * 2 >= tokens
    };
    let holders: Vec<usize> = open.iter().copied().filter(holds_much).collect();
    let Some(holder) = field.least(&holders, Reason::HoldsPrefix, reads) else {
        return field.least(&open, Reason::LeastWork, work);
    };
    let soonest = field.least(&open, Reason::PrefixBusy, reads)?;
    if holder.score.cost <= soonest.score.cost.saturating_add(STAY_MAX.0) {
        return Some(holder);
    }
    field.least(&open, Reason::PrefixBusy, work)
}
