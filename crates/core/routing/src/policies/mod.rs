//! The policies by name, a file each. They choose among those who may be asked and never doubt
//! that: who is left alone, and why, is not theirs to say.

mod auto;
mod consistent_hash;
mod least_outstanding;
mod power_of_two;
mod prefix_affinity;
mod priority;
mod response_time;
mod round_robin;
mod shortest_expected_delay;
mod weighted;

use berth_model::RoutingPolicy as Policy;

use crate::pick::{Choice, Field};

/// Whether a few of many replicas are enough to choose from. Turns, keys and tiers are about
/// all of them, and the choice of two draws its own.
pub(crate) fn is_sampled(policy: Policy) -> bool {
    match policy {
        Policy::Auto
        | Policy::LeastOutstanding
        | Policy::PowerOfTwo
        | Policy::ShortestExpectedDelay
        | Policy::PrefixAffinity => true,
        Policy::RoundRobin
        | Policy::Weighted
        | Policy::ResponseTime
        | Policy::ConsistentHash
        | Policy::Priority => false,
    }
}

/// Whom the policy prefers; `None` only where nobody may be asked.
pub(crate) fn choose(policy: Policy, field: &mut Field<'_>) -> Option<Choice> {
    match policy {
        Policy::Auto => auto::choose(field),
        Policy::RoundRobin => round_robin::choose(field),
        Policy::Weighted => weighted::choose(field),
        Policy::LeastOutstanding => least_outstanding::choose(field),
        Policy::ResponseTime => response_time::choose(field),
        Policy::PowerOfTwo => power_of_two::choose(field),
        Policy::ShortestExpectedDelay => shortest_expected_delay::choose(field),
        Policy::ConsistentHash => consistent_hash::choose(field),
        Policy::PrefixAffinity => prefix_affinity::choose(field),
        Policy::Priority => priority::choose(field),
    }
}
