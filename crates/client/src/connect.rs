//! Connections to schedulers, one per address.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use berth_identity::Dialer;
use tonic::transport::Channel;

use crate::attempt;
use crate::error::Failure;

/// A connection that is silent is asked for a sign of life this often, so that a
/// host that went away is noticed while a stream is idle.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(3);

/// Open connections. The lock guards the map and is never held while waiting.
#[derive(Debug)]
pub(crate) struct Connections {
    dialer: Dialer,
    open: Mutex<BTreeMap<String, Channel>>,
}

impl Connections {
    pub(crate) fn through(dialer: Dialer) -> Connections {
        Connections { dialer, open: Mutex::default() }
    }

    /// The connection to `address`, opened within `limit` if there is none.
    pub(crate) async fn get(&self, address: &str, limit: Duration) -> Result<Channel, Failure> {
        if let Some(channel) = self.lock().get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Dialer::endpoint(address)
            .map_err(|_| Failure::Other("is not an address".to_owned()))?
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_LIMIT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let channel = match tokio::time::timeout(limit, self.dialer.connect(&endpoint)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(attempt::of_chain(&error)),
            Err(_) => return Err(Failure::TimedOut),
        };
        self.lock().insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Forgets the connection to `address`.
    pub(crate) fn drop(&self, address: &str) {
        self.lock().remove(address);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Channel>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
