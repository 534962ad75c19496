//! What arrives: the requests of a trace.

use berth_routing::chance::mix_both;
use berth_routing::{Blocks, GatewayUs};

/// More requests than a trace has are a mistake in it.
pub const ARRIVALS_MAX: usize = 10_000_000;

/// A request of a trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServeArrival {
    pub at: GatewayUs,
    pub prompt_tokens: u32,
    /// At least 1.
    pub output_tokens: u32,
    /// The prompt in blocks, where the trace tells what prompts have in common.
    pub prefix: Blocks,
}

/// When a request arrives if they come at `rate_milli` thousandths of the trace's rate, the first of
/// them at 0.
pub fn scaled(at: GatewayUs, first: GatewayUs, rate_milli: u64) -> GatewayUs {
    let since = u128::from(at.since(first).0) * 1_000 / u128::from(rate_milli.max(1));
    GatewayUs(u64::try_from(since).unwrap_or(u64::MAX))
}

/// The blocks of a prompt from a number for each: a number stands for its block and all before it,
/// whether or not those of the trace do.
pub fn chained(numbers: impl IntoIterator<Item = u64>, tokens_each: u32) -> Blocks {
    let mut hash = 0;
    let hashes = numbers.into_iter().map(|number| {
        hash = mix_both(hash, number);
        hash
    });
    Blocks { hashes: hashes.collect(), tokens_each }
}
