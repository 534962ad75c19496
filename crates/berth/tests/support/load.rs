//! Jobs that are submitted all the time while a test changes things.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use berth::local::LocalCluster;
use berth_client::{Client, ClientError};
use tokio::sync::watch;

/// What came of a load so far.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Ids by key.
    pub acknowledged: BTreeMap<String, u64>,
    /// Submits that a client gave up on, with its words; each was made again
    /// with the same key.
    pub failed: Vec<String>,
}

/// Submits one job after the other through whichever client it is told.
pub struct Load {
    clients: watch::Sender<Client>,
    outcome: Arc<Mutex<Outcome>>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    pub fn start(client: Client) -> Load {
        let (clients, told) = watch::channel(client);
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, ended) = (outcome.clone(), stop.clone());
        let task = tokio::spawn(async move {
            for number in 0_u64.. {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                submit(&told, &kept, number).await;
            }
        });
        Load { clients, outcome, stop, task }
    }

    /// From now on these schedulers are asked.
    pub fn ask(&self, cluster: &LocalCluster) {
        self.clients.send_replace(cluster.client());
    }

    pub fn so_far(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap()
    }

    /// Waits until some more have been acknowledged.
    pub async fn goes_on(&self) {
        let before = self.so_far().acknowledged.len();
        super::until("the load to go on", || async {
            (self.so_far().acknowledged.len() >= before + 5).then_some(())
        })
        .await;
    }

    pub async fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        Arc::try_unwrap(self.outcome).unwrap().into_inner().unwrap()
    }
}

async fn submit(told: &watch::Receiver<Client>, outcome: &Mutex<Outcome>, number: u64) {
    let mut spec = super::batch(&format!("load-{number}"), 1, super::shell("true"));
    // Of a launch that the kill of an agent cut short nobody knows whether it ran, and a
    // job that is to be tried once has failed then.
    spec.tasks[0].restart.attempts = Some(3);
    let key = format!("key-of-{}", spec.name);
    let request = super::request(&spec, &key);
    super::until(&format!("the submit of {} to be acknowledged", spec.name), || async {
        let client = told.borrow().clone();
        match client.submit(request.clone()).await {
            Ok(reply) => {
                outcome.lock().unwrap().acknowledged.insert(key.clone(), reply.job_id);
                Some(())
            }
            Err(ClientError::Refused(refusal)) => panic!("{}: {refusal:?}", spec.name),
            Err(error) => {
                outcome.lock().unwrap().failed.push(format!("{}: {error:?}", spec.name));
                None
            }
        }
    })
    .await;
}

impl Outcome {
    /// Every acknowledged job is there under its id and has run once.
    pub async fn check_nothing_lost(&self, client: &Client) {
        let ids: BTreeSet<u64> = self.acknowledged.values().copied().collect();
        assert_eq!(ids.len(), self.acknowledged.len(), "each has an id of its own");
        for (key, id) in &self.acknowledged {
            let ends = |job: &berth_proto::v1::Job| job.finished_at_ms.is_some();
            let job = super::job_when(client, *id, "ends", ends).await;
            assert_eq!((&job.key, job.state.as_str()), (key, "succeeded"), "{job:?}");
            assert_eq!(job.tasks[0].succeeded, 1);
        }
    }
}
