//! What this machine can do without a scheduler: synced writes, calls, new
//! processes. No figure can be better than its part of these.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::berth::until;
use crate::load::{closed_loop, connection_of, connections};
use crate::ports;
use crate::report::Limit;
use crate::series::{Latencies, Series};

/// Of one record; about what a submit is in the log.
const RECORD_BYTES: usize = 256;

/// Every limit, the figures of each run.
pub struct Limits {
    synced_p50: Series,
    synced_p99: Series,
    call_p50: Series,
    calls_256: Series,
    spawn_p50: Series,
}

impl Limits {
    pub fn new() -> Limits {
        let none = Series::default;
        Limits {
            synced_p50: none(),
            synced_p99: none(),
            call_p50: none(),
            calls_256: none(),
            spawn_p50: none(),
        }
    }

    /// Measures each once.
    pub async fn measure(&mut self, folder: &Path, calls: u64) -> anyhow::Result<()> {
        let synced = synced_appends(folder, calls)?;
        self.synced_p50.push(synced.ms_at(50.0));
        self.synced_p99.push(synced.ms_at(99.0));
        let health = HealthServer::start().await?;
        self.call_p50.push(health.load(1, calls).await?.latencies.ms_at(50.0));
        self.calls_256.push(health.load(256, calls * 20).await?.calls_per_second());
        self.spawn_p50.push(spawns(calls / 4)?.ms_at(50.0));
        Ok(())
    }

    pub fn rows(self) -> Vec<Limit> {
        let row = |what, unit, series| Limit { what, unit, series };
        vec![
            row("append of 256 bytes and fdatasync, p50", "ms", self.synced_p50),
            row("append of 256 bytes and fdatasync, p99", "ms", self.synced_p99),
            row("unary gRPC call, one client, p50", "ms", self.call_p50),
            row("unary gRPC calls, 256 clients", "/s", self.calls_256),
            row("spawn of /bin/true to its end, p50", "ms", self.spawn_p50),
        ]
    }
}

fn synced_appends(folder: &Path, count: u64) -> anyhow::Result<Latencies> {
    let path = folder.join("synced-appends");
    let mut file = File::create(&path).context("make a file to append to")?;
    let mut latencies = Latencies::new()?;
    for _ in 0..count {
        let began = Instant::now();
        file.write_all(&[0x5A; RECORD_BYTES])?;
        file.sync_data()?;
        latencies.record(began.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(latencies)
}

fn spawns(count: u64) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new()?;
    for _ in 0..count {
        let began = Instant::now();
        let ended = Command::new("/bin/true").stdin(Stdio::null()).status();
        anyhow::ensure!(ended.context("spawn /bin/true")?.success(), "/bin/true failed");
        latencies.record(began.elapsed());
    }
    Ok(latencies)
}

/// A server of health checks in a process of its own; it ends with this value.
struct HealthServer {
    address: String,
    _process: tokio::process::Child,
}

impl HealthServer {
    async fn start() -> anyhow::Result<HealthServer> {
        let port = ports::free(1)?[0];
        let program = std::env::current_exe().context("find this program")?;
        let process = tokio::process::Command::new(program)
            .args(["serve-health", &port.to_string()])
            .kill_on_drop(true)
            .spawn()
            .context("start the health server")?;
        let address = format!("127.0.0.1:{port}");
        until("the health server", || async { connections(&address, 1).await.ok() }).await?;
        Ok(HealthServer { address, _process: process })
    }

    async fn load(&self, clients: usize, calls: u64) -> anyhow::Result<crate::load::Measured> {
        let channels = connections(&self.address, clients).await?;
        closed_loop(clients, calls, move |client, _| {
            let channel = connection_of(&channels, client);
            async move {
                let request = HealthCheckRequest { service: String::new() };
                HealthClient::new(channel).check(request).await.context("call the server")?;
                Ok(())
            }
        })
        .await
    }
}

/// Is the health server.
pub async fn serve_health(port: u16) -> anyhow::Result<()> {
    let (_reporter, service) = tonic_health::server::health_reporter();
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(service)
        .serve(([127, 0, 0, 1], port).into())
        .await
        .context("serve")
}
