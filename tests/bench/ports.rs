//! Free ports of this machine.

use std::net::TcpListener;

use anyhow::Context as _;

/// Ports that were free a moment ago; all are held until the last is found.
pub fn free(count: usize) -> anyhow::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<Result<_, _>>()
        .context("find free ports")?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
