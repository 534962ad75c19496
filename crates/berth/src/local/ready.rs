//! The ready file: where everything is, once work can be submitted.

use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use super::LocalCluster;

/// Writes the file so that a reader sees it whole or not at all.
pub fn write_ready_file(cluster: &LocalCluster, path: &Path) -> anyhow::Result<()> {
    let http: Vec<&String> = cluster.schedulers.iter().map(|scheduler| &scheduler.http).collect();
    let schedulers: Vec<_> = cluster
        .schedulers
        .iter()
        .map(|scheduler| {
            json!({
                "id": scheduler.id,
                "pid": scheduler.child.pid,
                "grpc": scheduler.grpc,
                "http": scheduler.http,
                "data_dir": scheduler.data_dir,
            })
        })
        .collect();
    let agents: Vec<_> = cluster
        .agents
        .iter()
        .map(|agent| {
            json!({ "name": agent.name, "pid": agent.child.pid, "data_dir": agent.data_dir })
        })
        .collect();
    let mut ready = json!({
        "servers": cluster.servers(),
        "http": http,
        "schedulers": schedulers,
        "agents": agents,
    });
    if let Some(gateway) = &cluster.gateway {
        ready["gateway"] = json!(gateway.address);
    }
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        std::fs::write(&temporary, format!("{ready:#}\n"))?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("write the ready file {}", path.display()))
}
