//! Closed-loop clients: each makes its next call when the last was answered.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tonic::transport::{Channel, Endpoint};

use crate::series::Latencies;

/// Clients on one connection: few enough that no connection is the limit, and
/// the same for every system that is measured.
const CLIENTS_ON_CONNECTION: usize = 16;

/// What came of a load.
pub struct Measured {
    pub took: Duration,
    pub latencies: Latencies,
    pub calls: u64,
}

impl Measured {
    pub fn calls_per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 calls")]
        let calls = self.calls as f64;
        calls / self.took.as_secs_f64()
    }
}

/// Makes `calls` calls with `clients` at a time: `call(client, number)`.
///
/// # Errors
/// The first call that fails ends the load.
pub async fn closed_loop<F, Called>(clients: usize, calls: u64, call: F) -> anyhow::Result<Measured>
where
    F: Fn(usize, u64) -> Called + Clone + Send + 'static,
    Called: Future<Output = anyhow::Result<()>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (next, call) = (next.clone(), call.clone());
            tokio::spawn(async move {
                let mut latencies = Latencies::new()?;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= calls {
                        return anyhow::Ok(latencies);
                    }
                    let asked = Instant::now();
                    call(client, number).await?;
                    latencies.record(asked.elapsed());
                }
            })
        })
        .collect();
    let mut latencies = Latencies::new()?;
    for task in tasks {
        latencies.merge(&task.await.context("a client ended early")??)?;
    }
    Ok(Measured { took: began.elapsed(), latencies, calls })
}

/// As many connections to `address` as `clients` share.
pub async fn connections(address: &str, clients: usize) -> anyhow::Result<Arc<[Channel]>> {
    let mut channels = Vec::new();
    for _ in 0..clients.div_ceil(CLIENTS_ON_CONNECTION) {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        let channel = endpoint.connect().await;
        channels.push(channel.with_context(|| format!("connect to {address}"))?);
    }
    Ok(channels.into())
}

/// The connection of a client.
pub fn connection_of(channels: &[Channel], client: usize) -> Channel {
    channels[client % channels.len()].clone()
}
