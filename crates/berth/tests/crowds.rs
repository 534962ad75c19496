//! Many agents at once, and far too many submits.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use berth::local::LocalCluster;
use berth_client::{Client, Options};
use berth_proto::v1;
use berth_proto::v1::submit_result::Result as Answer;
use berth_tests::fleet::Fleet;

use support::schedulers::{kill, leader_after};

/// The crowd that a build without optimisation bears on two cores; the benchmark
/// has ten times as many.
const AGENTS: usize = 500;
const BACK_MAX: Duration = Duration::from_secs(10);

async fn all_up(fleet: &Fleet) {
    support::until("every agent to have a session", || async {
        (fleet.up() == AGENTS).then_some(())
    })
    .await;
}

/// Nodes that are not ready, by name.
async fn missed(client: &Client) -> Option<BTreeMap<String, String>> {
    let nodes = client.list_nodes(v1::ListNodesRequest { consistency: 0 }).await.ok()?.nodes;
    assert_eq!(nodes.len(), AGENTS);
    let missed = nodes.into_iter().filter(|node| node.state != "ready");
    Some(missed.map(|node| (node.name, node.state)).collect())
}

/// Each load has the machine for itself: what one of them takes is not to be measured of the
/// other.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn f24_a_crowd_of_agents_is_back_after_the_leader_died_and_none_is_missed() {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 0)).await.unwrap();
    let fleet = Fleet::start(AGENTS, &cluster.servers(), &folder.path().join("fleet")).unwrap();
    all_up(&fleet).await;
    let leader = leader_after(&cluster, None).await;
    kill(&mut cluster, &[leader]).await;
    let killed = Instant::now();
    support::until("the agents to notice", || async { (fleet.up() < AGENTS / 2).then_some(()) })
        .await;
    all_up(&fleet).await;
    let took = killed.elapsed();
    assert!(took <= BACK_MAX, "the last agent was back after {took:?}");

    // Longer than a silent node is borne with: nobody is ever missed.
    let client = cluster.client();
    support::until("the time in which silence shows", || async {
        assert_eq!(missed(&client).await.unwrap_or_default(), BTreeMap::new());
        (killed.elapsed() > Duration::from_secs(15)).then_some(())
    })
    .await;
    drop(fleet);
    cluster.stop().await;
}

/// Jobs in one call, and calls at a time: twice what there is room for.
const JOBS: u64 = 1_000;
const CALLERS: u64 = 12;
const ROUNDS: u64 = 2;

/// Submits a thousand jobs at a time, and again when it was told to; what was
/// acknowledged.
async fn flood(server: String, caller: u64) -> BTreeMap<String, u64> {
    let patience = Duration::from_secs(60);
    let options = Options { deadline: patience, attempt: patience, ..Options::new(vec![server]) };
    let client = Client::new(options);
    let nowhere = BTreeMap::from([("no-such".to_owned(), "node".to_owned())]);
    let mut acknowledged = BTreeMap::new();
    for round in 0..ROUNDS {
        let names = (0..JOBS).map(|number| format!("flood-{caller}-{round}-{number}"));
        let submits: Vec<_> = names
            .map(|name| {
                let mut spec = support::batch(&name, 1, support::shell("true"));
                spec.namespace = support::text("flood");
                // They wait: it is the submits that are the flood.
                spec.constraints.labels = nowhere.clone();
                support::request(&spec, &name)
            })
            .collect();
        let reply = client.submit_many(submits.clone()).await.unwrap();
        for (submit, result) in submits.into_iter().zip(reply.results) {
            match result.result.unwrap() {
                Answer::Accepted(reply) => drop(acknowledged.insert(submit.key, reply.job_id)),
                Answer::Refused(problem) => panic!("{}: {}", submit.key, problem.message),
            }
        }
    }
    acknowledged
}

/// Calls that the leader refused so far.
async fn refused(http: &str) -> Option<u64> {
    let metrics = support::raw::page(http, "/metrics").await.ok()?;
    let mut lines = metrics.lines();
    lines.find_map(|line| line.strip_prefix("berth_submits_refused_total ")?.parse().ok())
}

#[tokio::test]
async fn f25_a_flood_of_submits_is_refused_early_and_harms_nobody_else() {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 3, 2)).await.unwrap();
    let leader = leader_after(&cluster, None).await;
    let position = cluster.schedulers.iter().position(|one| one.id == leader).unwrap();
    let server = cluster.schedulers[position].grpc.clone();
    let client = cluster.client();
    let term = client.status(v1::StatusRequest { consistency: 0 }).await.unwrap().term;
    let callers: Vec<_> =
        (0..CALLERS).map(|caller| tokio::spawn(flood(server.clone(), caller))).collect();

    // Meanwhile another namespace gets what it wants, and agents stay.
    let mut others = Vec::new();
    while !callers.iter().all(tokio::task::JoinHandle::is_finished) {
        let spec = support::batch(&format!("other-{}", others.len()), 1, support::shell("true"));
        let key = spec.name.to_string();
        let reply = client.submit(support::request(&spec, &key)).await.unwrap();
        others.push(reply.job_id);
        for node in ["node-1", "node-2"] {
            assert_eq!(support::node_state(&client, node).await.unwrap(), "ready");
        }
    }
    let mut accepted = BTreeMap::new();
    for caller in callers {
        accepted.extend(caller.await.unwrap());
    }
    let refused = refused(&cluster.schedulers[position].http).await;
    assert!(refused > Some(0), "there was room for all: this was no flood");
    assert!(others.len() > 5, "only {} submits of others were done", others.len());
    assert_eq!(accepted.len() as u64, CALLERS * ROUNDS * JOBS);
    let status = client.status(v1::StatusRequest { consistency: 0 }).await.unwrap();
    assert_eq!((status.leader_id, status.term), (Some(leader), term), "it led all the time");
    for id in others {
        support::job_when(&client, id, "ends", |job| job.state == "succeeded").await;
    }
    support::hashes_agree(&cluster.servers()).await;
    cluster.stop().await;
}
