//! Whether a port that was allotted is free, asked just before the start.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};

use berth_model::{EndCause, PortClaim};

/// A port that its worker could not use.
#[derive(PartialEq, Eq, Debug)]
pub struct Unusable {
    /// `PortTaken` if a stranger listens on it, else `HostFault`.
    pub cause: EndCause,
    pub reason: String,
}

/// The first of `claims` that a stranger listens on, or that cannot be bound
/// for another reason, with that reason.
///
/// Binding to every address conflicts with a listener on any one of them. The
/// listener is closed again before the worker starts: a stranger can still be
/// quicker, and then the worker's own bind fails.
pub fn unusable(claims: &[PortClaim]) -> Option<Unusable> {
    claims.iter().find_map(|claim| {
        let error = TcpListener::bind((Ipv4Addr::UNSPECIFIED, claim.port)).err()?;
        let (port, name) = (claim.port, &claim.name);
        Some(if error.kind() == ErrorKind::AddrInUse {
            let reason = format!("port {port} (`{name}`) is taken: {error}");
            Unusable { cause: EndCause::PortTaken, reason }
        } else {
            let reason = format!("port {port} (`{name}`) cannot be tried: {error}");
            Unusable { cause: EndCause::HostFault, reason }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_somebody_listens_on_is_taken_and_free_again_afterwards() {
        let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = stranger.local_addr().unwrap().port();
        let claims = [PortClaim { name: "http".parse().unwrap(), port }];
        let Unusable { cause, reason } = unusable(&claims).unwrap();
        assert_eq!(cause, EndCause::PortTaken);
        assert!(reason.starts_with(&format!("port {port} (`http`) is taken")), "{reason}");
        drop(stranger);
        assert_eq!(unusable(&claims), None);
    }
}
