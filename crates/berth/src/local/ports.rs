//! Ports for the daemons of local clusters.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::bail;

/// Below those that the kernel gives to connections, which could take one
/// between the look and its use, and below those of workers.
const FIRST: u32 = 10_240;
const COUNT: u32 = 9_000;

/// Ports that nobody listens on. None is given out twice by this process, and
/// other processes begin elsewhere.
///
/// # Errors
/// There are not so many.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(257) % COUNT;
    let mut found = Vec::with_capacity(count);
    for _ in 0..COUNT {
        if found.len() == count {
            return Ok(found);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(begin) % COUNT;
        let Ok(port) = u16::try_from(FIRST + number) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            found.push(port);
        }
    }
    bail!("only {} of {count} ports are free", found.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_given_out_twice_or_while_somebody_listens() {
        let held = free_ports(1).unwrap();
        let _listener = TcpListener::bind(("127.0.0.1", held[0])).unwrap();
        let more: BTreeSet<u16> = free_ports(200).unwrap().into_iter().collect();
        assert!(more.len() == 200 && !more.contains(&held[0]));
    }
}
