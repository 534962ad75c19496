//! Whether a port that was allotted is free, asked just before the start.

use std::net::{Ipv4Addr, TcpListener};

use berth_model::PortClaim;

/// The first of `claims` that a stranger listens on, or that cannot be bound
/// for another reason, with that reason.
///
/// Binding to every address conflicts with a listener on any one of them. The
/// listener is closed again before the worker starts: a stranger can still be
/// quicker, and then the worker's own bind fails.
pub fn taken(claims: &[PortClaim]) -> Option<String> {
    claims.iter().find_map(|claim| {
        let error = TcpListener::bind((Ipv4Addr::UNSPECIFIED, claim.port)).err()?;
        Some(format!("port {} (`{}`) is taken: {error}", claim.port, claim.name))
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
        let reason = taken(&claims).unwrap();
        assert!(reason.starts_with(&format!("port {port} (`http`) is taken")), "{reason}");
        drop(stranger);
        assert_eq!(taken(&claims), None);
    }
}
