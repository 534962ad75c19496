//! As many replicas as somebody would have who knows what comes: what a law that follows the load
//! can at best be measured by.

use std::collections::VecDeque;

use berth_routing::{GatewayUs, SpanUs};

use super::arrivals::{ServeArrival, scaled};
use super::engine::EngineShape;

/// What it is made for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Known {
    /// Of each replica.
    pub shape: EngineShape,
    /// What arrives within a second is to be done within so long; more than zero.
    pub within: SpanUs,
    /// How long a replica takes to begin.
    pub start: SpanUs,
    pub min: u32,
    pub max: u32,
    /// In thousandths of the trace's.
    pub rate_milli: u64,
}

/// For each second from which on another number is right: as many as can do the work that arrives
/// in each span of `within` in as long, by what full replicas do; and as many as will be needed
/// within the time that one takes to begin, since who ends one earlier has to begin it again.
pub fn known(arrivals: &[ServeArrival], of: Known) -> Vec<(GatewayUs, u32)> {
    let Some(first) = arrivals.first() else { return vec![(GatewayUs(0), of.min)] };
    // Microseconds of work that arrive in each second.
    let mut work: Vec<u64> = Vec::new();
    for arrival in arrivals {
        let at = scaled(arrival.at, first.at, of.rate_milli).0;
        let second = usize::try_from(at / SECOND).unwrap_or(usize::MAX);
        if work.len() <= second {
            work.resize(second + 1, 0);
        }
        let (prompt, output) = (arrival.prompt_tokens, arrival.output_tokens);
        let full = of.shape.work(u64::from(prompt), u64::from(output)).0;
        work[second] += full * 1_000 / u64::from(of.shape.speed_milli.max(1));
    }
    let span = usize::try_from(of.within.0.div_ceil(SECOND)).unwrap_or(usize::MAX).max(1);
    let needed = |from: usize| {
        let sum: u64 = work[from..work.len().min(from.saturating_add(span))].iter().sum();
        let count = sum.div_ceil(of.within.0.max(1));
        u32::try_from(count).unwrap_or(u32::MAX).clamp(of.min, of.max)
    };
    let counts: Vec<u32> = (0..work.len()).map(needed).collect();
    let ahead = usize::try_from(of.start.0.div_ceil(SECOND)).unwrap_or(usize::MAX);
    let mut changes: Vec<(GatewayUs, u32)> = Vec::new();
    for (second, count) in most_within(&counts, ahead).into_iter().enumerate() {
        if changes.last().is_none_or(|(_, last)| *last != count) {
            changes.push((GatewayUs(second as u64 * SECOND), count));
        }
    }
    changes
}

const SECOND: u64 = 1_000_000;

/// Of each and the `ahead` that follow it the most, in one pass.
fn most_within(counts: &[u32], ahead: usize) -> Vec<u32> {
    let mut most = vec![0; counts.len()];
    // Positions of those that none behind them within reach is above, the largest in front.
    let mut candidates: VecDeque<usize> = VecDeque::new();
    for position in (0..counts.len()).rev() {
        while candidates.back().is_some_and(|last| counts[*last] <= counts[position]) {
            candidates.pop_back();
        }
        candidates.push_back(position);
        while candidates.front().is_some_and(|first| first - position > ahead) {
            candidates.pop_front();
        }
        most[position] = candidates.front().map_or(0, |first| counts[*first]);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_ahead_is_found_in_one_pass() {
        let counts = [1, 5, 2, 2, 4, 3, 0];
        for ahead in 0..8 {
            let expected: Vec<u32> = (0..counts.len())
                .map(|from| counts[from..counts.len().min(from + ahead + 1)].iter().copied().max())
                .map(Option::unwrap)
                .collect();
            assert_eq!(most_within(&counts, ahead), expected, "{ahead}");
        }
    }

    #[test]
    fn it_has_what_comes_a_start_before_it_comes() {
        let arrival = |at: u64| ServeArrival {
            at: GatewayUs(at * SECOND),
            prompt_tokens: 8_000,
            output_tokens: 100,
            prefix: berth_routing::Blocks::default(),
        };
        // A second of reading, and a hundred times its part of a full step: 1.04 s each.
        let arrivals: Vec<ServeArrival> =
            std::iter::once(arrival(0)).chain((0..4).map(|_| arrival(100))).collect();
        let of = Known {
            shape: EngineShape::default(),
            within: SpanUs::from_secs(2),
            start: SpanUs::from_secs(30),
            min: 0,
            max: 9,
            rate_milli: 1_000,
        };
        let at = |second: u64| GatewayUs(second * SECOND);
        assert_eq!(known(&arrivals, of), [(at(0), 1), (at(1), 0), (at(69), 3)]);
        let doubled = known(&arrivals, Known { rate_milli: 2_000, max: 2, ..of });
        assert_eq!(doubled, [(at(0), 1), (at(1), 0), (at(19), 2)]);
    }
}
