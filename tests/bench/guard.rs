//! The guard of every rate: under the same load the leader is killed with
//! SIGKILL and started again, and then every acknowledged id is read back. A
//! rate with which work is lost is no rate.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use berth_client::{Client, ClientError};

use crate::berth::Cluster;
use crate::{jobs, load};

/// How many read back at a time.
const READERS: usize = 64;
const POLL: Duration = Duration::from_millis(2);

/// What was acknowledged: the id of each key. The lock guards the map alone.
#[derive(Clone, Default)]
pub struct Acknowledged(Arc<Mutex<BTreeMap<String, u64>>>);

impl Acknowledged {
    pub fn add(&self, key: String, id: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, id);
    }

    pub fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the guard saw.
pub struct Verdict {
    pub acknowledged: usize,
    /// Keys that were acknowledged and are not there, or have another id.
    pub lost: Vec<String>,
}

/// Kills the leader once `progress` has come to a third of `total`, and starts
/// it again at two thirds or when `load` has ended; then waits until all agree.
pub async fn kill_during<T>(
    cluster: &mut Cluster,
    progress: &AtomicU64,
    total: u64,
    load: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let victim = cluster.leader().await?;
    tokio::pin!(load);
    let mut pause = tokio::time::interval(POLL);
    let mut stage = Stage::Before;
    let ended = loop {
        tokio::select! {
            ended = &mut load => break ended?,
            _ = pause.tick() => {}
        }
        let done = progress.load(Ordering::Relaxed);
        match stage {
            Stage::Before if done * 3 >= total => {
                cluster.kill(victim).await?;
                stage = Stage::Dead;
            }
            Stage::Dead if done * 3 >= total * 2 => {
                cluster.restart(victim)?;
                stage = Stage::Back;
            }
            Stage::Before | Stage::Dead | Stage::Back => {}
        }
    };
    anyhow::ensure!(stage != Stage::Before, "the load was over before a replica was killed");
    if stage == Stage::Dead {
        cluster.restart(victim)?;
    }
    cluster.settled().await?;
    Ok(ended)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Before,
    Dead,
    Back,
}

/// Reads every acknowledged id, linearizably.
pub async fn read_back(client: &Client, acknowledged: &Acknowledged) -> anyhow::Result<Verdict> {
    let all: Arc<[(String, u64)]> = acknowledged.all().into_iter().collect();
    let lost = Arc::new(Mutex::new(Vec::new()));
    let (asked, found, client) = (all.clone(), lost.clone(), client.clone());
    load::closed_loop(READERS, all.len() as u64, move |_, number| {
        let (all, lost, client) = (asked.clone(), found.clone(), client.clone());
        async move {
            let (key, id) = &all[usize::try_from(number)?];
            let there = match client.get_job(jobs::get(*id)).await {
                Ok(job) => job.id == *id && job.key == *key,
                Err(ClientError::Refused(refusal)) if refusal.code == tonic::Code::NotFound => {
                    false
                }
                Err(error) => return Err(error).context("read an acknowledged job back"),
            };
            if !there {
                lost.lock().unwrap_or_else(PoisonError::into_inner).push(key.clone());
            }
            Ok(())
        }
    })
    .await?;
    let lost = lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Verdict { acknowledged: all.len(), lost })
}
