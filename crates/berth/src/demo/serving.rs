//! Callers of the service, through the gateway, for as long as the story goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use berth_client::Client;
use tokio::task::JoinHandle;

use super::checks::Checks;
use super::story::{REPLICAS, SERVICE, exchange, running, service_spec, submit};
use crate::local::{GatewayPort, LocalCluster};

const CALLERS: usize = 4;
/// Each of them asks again after so long: they are not there to load the machine.
const PAUSE: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(20);

pub struct Callers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Counts>>,
}

#[derive(Clone, Default)]
struct Counts {
    answered: u64,
    failed: Vec<String>,
}

impl Callers {
    /// Starts the gateway, and callers once it answers.
    pub async fn start(cluster: &mut LocalCluster, checks: &Checks) -> anyhow::Result<Callers> {
        cluster.start_gateway(GatewayPort::Any)?;
        let address = cluster.gateway.as_ref().context("there is a gateway")?.address.clone();
        let began = Instant::now();
        while ask(&address).await.is_err() {
            if began.elapsed() > LIMIT {
                bail!("the gateway passes nothing on after {} s", LIMIT.as_secs());
            }
            tokio::time::sleep(PAUSE).await;
        }
        checks.say(&format!("{CALLERS} callers ask `{SERVICE}` through the gateway at {address}"));
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..CALLERS).map(|_| tokio::spawn(call(address.clone(), Arc::clone(&stop))));
        Ok(Callers { tasks: tasks.collect(), stop })
    }

    /// Replaces the service by another version under them, and counts what they were told.
    pub async fn end(
        self,
        client: &Client,
        service: u64,
        checks: &mut Checks,
    ) -> anyhow::Result<()> {
        submit(client, &service_spec("2")?, "demo-service-2").await?;
        let began = Instant::now();
        while !is_rolled(client, service).await? {
            if began.elapsed() > LIMIT {
                bail!("the second version is not there after {} s", LIMIT.as_secs());
            }
            tokio::time::sleep(PAUSE).await;
        }
        checks.say(&format!("`{SERVICE}` was rolled to another version"));
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Counts::default();
        for task in self.tasks {
            let counts = task.await.context("wait for a caller")?;
            all.answered += counts.answered;
            all.failed.extend(counts.failed);
        }
        let what = format!("all of {} requests through the gateway were answered", all.answered);
        checks.equal(&what, &all.failed, &Vec::new());
        checks.equal("there were requests all the while", &(all.answered > 100), &true);
        Ok(())
    }
}

/// Whether every replica is of the second version and ready.
async fn is_rolled(client: &Client, service: u64) -> anyhow::Result<bool> {
    let running = running(client, service).await?;
    let is_new = running.iter().all(|one| one.ready && one.job_version == 2);
    Ok(is_new && running.len() == REPLICAS as usize)
}

async fn call(address: String, stop: Arc<AtomicBool>) -> Counts {
    let mut counts = Counts::default();
    while !stop.load(Ordering::Relaxed) {
        match ask(&address).await {
            Ok(()) => counts.answered += 1,
            Err(error) => counts.failed.push(format!("{error:#}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
    counts
}

/// A chat of two words.
async fn ask(address: &str) -> anyhow::Result<()> {
    let body = format!("{{\"model\": \"{SERVICE}\", \"max_tokens\": 2, \"messages\": []}}");
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let answer = exchange(address, &request).await?;
    if answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"one two\"") {
        return Ok(());
    }
    bail!("{answer}")
}
