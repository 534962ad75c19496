//! The gateway of a local cluster.

use std::net::TcpListener;

use anyhow::Context as _;

use super::{Child, LocalCluster, free_ports};

/// Where a gateway is looked for.
const USUAL_PORT: u16 = 7072;
/// Who listens there has the usual one, so that clusters that start at the same time on a host do
/// not both find it free.
const CLAIM_PORT: u16 = 19_999;

/// Where a gateway listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GatewayPort {
    /// The usual one, unless another cluster of this host has it, or something else.
    Usual,
    Any,
}

pub struct LocalGateway {
    pub address: String,
    pub child: Child,
    _claim: Option<TcpListener>,
}

impl LocalCluster {
    /// Starts the gateway; where it was before, if there was one.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_gateway(&mut self, port: GatewayPort) -> anyhow::Result<()> {
        let (address, claim) = match (self.gateway.take(), port) {
            (Some(before), _) => (before.address, before._claim),
            (None, GatewayPort::Usual) => match claim_usual() {
                Some(claim) => (format!("127.0.0.1:{USUAL_PORT}"), Some(claim)),
                None => (any()?, None),
            },
            (None, GatewayPort::Any) => (any()?, None),
        };
        let data_dir = self.data_dir().join("gateway").display().to_string();
        let servers = self.servers().join(",");
        let own = ["gateway", "--servers", &servers, "--listen", &address, "--data-dir", &data_dir];
        let process = ["--stop-on-fd-close", "0", "--log-level", &self.plan.log_level];
        let arguments: Vec<String> =
            own.iter().chain(&process).map(|word| (*word).to_owned()).collect();
        let child = Child::spawn(&self.plan.program, "gateway", &arguments)?;
        self.gateway = Some(LocalGateway { address, child, _claim: claim });
        Ok(())
    }
}

fn claim_usual() -> Option<TcpListener> {
    let claim = TcpListener::bind(("127.0.0.1", CLAIM_PORT)).ok()?;
    TcpListener::bind(("127.0.0.1", USUAL_PORT)).is_ok().then_some(claim)
}

fn any() -> anyhow::Result<String> {
    let ports = free_ports(1)?;
    Ok(format!("127.0.0.1:{}", ports.first().context("no port is free")?))
}
