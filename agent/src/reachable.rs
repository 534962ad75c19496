//! Which of the host's addresses others reach its workers by, where nobody says: the one that
//! it reaches the schedulers by. It sends nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};

/// A name server that does not answer keeps no agent from starting.
const LOOK_UP_MAX: Duration = Duration::from_secs(2);

/// The address on the way to the first scheduler that there is a way to.
pub async fn own_address(servers: &[String]) -> Option<IpAddr> {
    for server in servers {
        let found = tokio::time::timeout(LOOK_UP_MAX, lookup_host(server)).await;
        let Ok(Ok(addresses)) = found else { continue };
        for address in addresses {
            if let Some(own) = on_the_way_to(address).await {
                return Some(own);
            }
        }
    }
    None
}

/// A datagram socket that is connected has only asked the kernel for the way.
async fn on_the_way_to(address: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(address).await.ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_unspecified()).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_way_to_a_scheduler_on_loopback_is_loopback() {
        let servers = ["no such host:1".to_owned(), "127.0.0.1:7070".to_owned()];
        assert_eq!(own_address(&servers).await, Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(own_address(&servers[..1]).await, None);
    }
}
