//! Agents that fall silent with their workers running, and come back: before the job's
//! patience is over nothing has happened; after it either the original or its replacement
//! goes on, as the job asks for, and never both. An agent is silenced by freezing its process,
//! which its shims and workers do not notice.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::time::{Duration, Instant};

use berth::local::{LocalAgent, LocalCluster};
use berth_client::Client;
use berth_model::{DurationMs, GpuRequest, JobSpec, OnReturn};
use berth_proto::v1;
use rustix::process::Signal;

use support::gates::Gates;
use support::processes;

/// From the return of a node to the decision.
const DECISION_LIMIT: Duration = Duration::from_secs(5);

struct Trial {
    cluster: LocalCluster,
    client: Client,
    gates: Gates,
    job: u64,
    /// The node that it runs on.
    first: String,
    _folder: tempfile::TempDir,
}

impl Trial {
    /// A job of one instance on one GPU runs on one of the nodes.
    async fn start(agents: u8, on_return: OnReturn, max_disconnect: DurationMs) -> Trial {
        let folder = tempfile::tempdir().unwrap();
        let gates = Gates::new(folder.path(), 1);
        let plan = support::plan(folder.path(), 1, agents);
        let cluster = LocalCluster::start(plan).await.unwrap();
        let client = cluster.client();
        let batch = support::batch("traveller", 1, gates.command());
        let mut spec = JobSpec { max_disconnect, on_return, ..batch };
        spec.tasks[0].gpu = Some(GpuRequest::whole(1));
        let job = support::submit(&client, &spec).await;
        support::job_when(&client, job, "runs", |job| job.tasks[0].running == 1).await;
        let first = support::allocations(&client, job).await.remove(0).node;
        let mut trial = Trial { cluster, client, gates, job, first, _folder: folder };
        trial.started(1).await;
        trial
    }

    fn agent(&mut self) -> &mut LocalAgent {
        let first = self.first.clone();
        self.cluster.agents.iter_mut().find(|agent| agent.name == first).unwrap()
    }

    fn signal(&mut self, signal: Signal) {
        let pid = self.agent().child.pid;
        processes::send(pid, signal);
    }

    /// The pids of the workers, once there are so many.
    async fn started(&mut self, count: usize) -> Vec<u32> {
        support::until("the worker to say who it is", || async {
            Some(self.gates.pids(0)).filter(|pids| pids.len() == count)
        })
        .await
    }

    async fn node_is(&self, state: &str) {
        support::until(&format!("the node to be {state}"), || async {
            (support::node_state(&self.client, &self.first).await? == state).then_some(())
        })
        .await;
    }

    /// Allocations that have not ended.
    async fn live(&self) -> Vec<v1::Allocation> {
        let all = support::allocations(&self.client, self.job).await.into_iter();
        all.filter(|one| one.finished_at_ms.is_none() && one.state == "running").collect()
    }

    async fn messages(&self) -> Vec<String> {
        let events = support::events(&self.client, self.job).await;
        events.into_iter().map(|event| event.message).collect()
    }

    /// GPUs that are given out on all nodes.
    async fn gpus_given_out(&self) -> usize {
        let request = v1::ListNodesRequest { consistency: 0 };
        let nodes = self.client.list_nodes(request).await.unwrap().nodes;
        let devices = nodes.into_iter().flat_map(|node| node.devices);
        devices.filter(|device| device.allocated_milli > 0).count()
    }

    /// The one that is left ends well.
    async fn finish(self) {
        self.gates.release(0, 0).await;
        let ended = |job: &v1::Job| job.finished_at_ms.is_some();
        let ended = support::job_when(&self.client, self.job, "ends", ended).await;
        assert_eq!((ended.state.as_str(), ended.tasks[0].succeeded), ("succeeded", 1));
        support::until("every GPU to be free", || async {
            (self.gpus_given_out().await == 0).then_some(())
        })
        .await;
        self.cluster.stop().await;
    }
}

#[tokio::test]
async fn f30_a_node_that_is_back_in_time_restarts_nothing() {
    let patience = DurationMs::from_secs(600);
    let mut trial = Trial::start(2, OnReturn::KeepReplacement, patience).await;
    let before = trial.gates.pids(0);
    trial.signal(Signal::STOP);
    trial.node_is("disconnected").await;
    trial.signal(Signal::CONT);
    trial.node_is("ready").await;
    let live = trial.live().await;
    assert_eq!((live.len(), live[0].attempt, &live[0].node), (1, 1, &trial.first));
    assert_eq!(trial.gates.pids(0), before);
    let messages = trial.messages().await;
    assert!(!messages.iter().any(|message| message.contains("was lost")), "{messages:?}");
    trial.finish().await;
}

#[tokio::test]
async fn f30_a_replacement_is_kept_where_the_job_asks_for_it() {
    check(OnReturn::KeepReplacement, 2, "is being stopped: attempt 2 has taken its place").await;
}

#[tokio::test]
async fn f30_an_original_is_kept_where_the_job_asks_for_it() {
    check(OnReturn::KeepOriginal, 1, "goes on: its node is back (keep-original").await;
}

#[tokio::test]
async fn f30_the_longest_running_is_kept_where_the_job_asks_for_it() {
    check(OnReturn::KeepLongestRunning, 1, "goes on: its node is back (keep-longest-run").await;
}

/// The node is silent for longer than the job waits and comes back beside a replacement.
async fn check(on_return: OnReturn, survivor: u32, said: &str) {
    let mut trial = Trial::start(2, on_return, DurationMs::from_secs(1)).await;
    trial.signal(Signal::STOP);
    let pids = trial.started(2).await;
    support::until("the replacement to run", || async {
        let live = trial.live().await;
        (live.len() == 1 && live[0].attempt == 2).then_some(())
    })
    .await;
    let returned = Instant::now();
    trial.signal(Signal::CONT);
    support::until("the decision", || async {
        trial.messages().await.iter().any(|message| message.starts_with(said)).then_some(())
    })
    .await;
    let took = returned.elapsed();
    assert!(took <= DECISION_LIMIT, "decided after {took:?}");
    eprintln!("{on_return:?}: decided {took:?} after the return");
    let (kept, ended) = if survivor == 1 { (pids[0], pids[1]) } else { (pids[1], pids[0]) };
    support::until("the other one to end", || async {
        (!processes::is_alive(ended) && trial.gpus_given_out().await == 1).then_some(())
    })
    .await;
    assert!(processes::is_alive(kept));
    let live = trial.live().await;
    assert_eq!((live.len(), live[0].attempt), (1, survivor), "{live:?}");
    assert_eq!(live[0].node == trial.first, survivor == 1);
    if survivor == 1 {
        assert!(live[0].reason.contains(on_return.name()), "{live:?}");
    }
    assert_eq!(trial.gates.pids(0), pids, "nothing else was started");
    trial.finish().await;
}

#[tokio::test]
async fn f30_without_room_for_a_replacement_the_original_goes_on() {
    let patience = DurationMs::from_secs(1);
    let mut trial = Trial::start(1, OnReturn::KeepReplacement, patience).await;
    let before = trial.gates.pids(0);
    trial.signal(Signal::STOP);
    trial.node_is("down").await;
    assert!(trial.live().await.is_empty());
    // However late its agent is heard of, nothing new is put on it.
    let node = v1::NodeRef { node: trial.first.clone() };
    trial.client.cordon_node(node).await.unwrap();
    trial.signal(Signal::CONT);
    let live = support::until("the original to go on", || async {
        Some(trial.live().await).filter(|live| live.len() == 1)
    })
    .await;
    assert_eq!((live[0].attempt, trial.gates.pids(0)), (1, before));
    assert!(live[0].reason.contains("nothing had taken its place"), "{live:?}");
    trial.finish().await;
}

#[tokio::test]
async fn f30_work_that_was_finished_while_its_node_was_silent_is_not_done_again() {
    let patience = DurationMs::from_secs(1);
    let mut trial = Trial::start(2, OnReturn::KeepLongestRunning, patience).await;
    trial.signal(Signal::STOP);
    // Only the original waits at its gate yet.
    trial.gates.release(0, 0).await;
    let pids = trial.started(2).await;
    support::until("the replacement to run", || async {
        let live = trial.live().await;
        (live.len() == 1 && live[0].attempt == 2).then_some(())
    })
    .await;
    // What is done needs no place on a node.
    let drain = v1::DrainRequest { node: trial.first.clone(), deadline_ms: None };
    trial.client.drain_node(drain).await.unwrap();
    trial.signal(Signal::CONT);
    let ended = |job: &v1::Job| job.finished_at_ms.is_some();
    let ended = support::job_when(&trial.client, trial.job, "ends", ended).await;
    assert_eq!((ended.state.as_str(), ended.tasks[0].succeeded), ("succeeded", 1));
    support::until("the replacement to end", || async {
        (!processes::is_alive(pids[1]) && trial.gpus_given_out().await == 0).then_some(())
    })
    .await;
    assert_eq!(trial.gates.pids(0), pids, "nothing else was started");
    trial.cluster.stop().await;
}
