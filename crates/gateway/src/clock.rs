//! The one place that reads a clock and draws chance for decisions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use berth_routing::chance::mix_both;
use berth_routing::{GatewayUs, SpanUs};

#[derive(Debug)]
pub(crate) struct Clock {
    began: Instant,
    seed: u64,
    drawn: AtomicU64,
}

impl Clock {
    /// Several gateways that drew alike would all choose alike, so each has a seed of its own.
    pub fn new() -> anyhow::Result<Clock> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("draw a seed: {error}"))?;
        let seed = u64::from_le_bytes(seed);
        Ok(Clock { began: Instant::now(), seed, drawn: AtomicU64::new(0) })
    }

    pub fn now(&self) -> GatewayUs {
        GatewayUs(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Another number each time.
    pub fn chance(&self) -> u64 {
        mix_both(self.seed, self.drawn.fetch_add(1, Ordering::Relaxed))
    }
}

pub(crate) fn duration(span: SpanUs) -> Duration {
    Duration::from_micros(span.0)
}
