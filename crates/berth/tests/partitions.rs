//! Schedulers that cannot hear each other, each with an agent in a network
//! namespace of its own: the majority serves within two seconds of the cut, the
//! minority refuses at once, and after the cut is healed everything that was
//! acknowledged is there and no worker was touched.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth::local::Child;
use berth_client::{Client, Options};
use berth_model::{DurationMs, JobSpec};
use berth_proto::v1;

use support::gates::Gates;
use support::network::Network;
use support::raw::{self, Read};

const NODES: u32 = 3;
/// From the cut to the first acknowledged submit of the majority.
const SERVE_LIMIT: Duration = Duration::from_secs(2);
/// Instances that run on through the cut.
const WORKERS: u32 = 6;

/// A leader, and its two followers.
struct Roles {
    leader: u32,
    followers: [u32; 2],
}

/// What is cut, and who is then the minority.
type Cut = fn(&Network, &Roles) -> u32;

#[test]
fn f04_a_leader_in_the_minority_refuses_and_the_majority_serves() {
    check("a_leader_in_the_minority", |network, roles| {
        for follower in roles.followers {
            network.drop_packets(roles.leader, follower);
            network.drop_packets(follower, roles.leader);
        }
        roles.leader
    });
}

#[test]
fn f06_a_leader_that_only_sends_refuses_and_the_majority_serves() {
    check("a_leader_that_only_sends", |network, roles| {
        for follower in roles.followers {
            network.drop_packets(follower, roles.leader);
        }
        roles.leader
    });
}

#[test]
fn f06_a_leader_that_only_hears_refuses_and_the_majority_serves() {
    check("a_leader_that_only_hears", |network, roles| {
        for follower in roles.followers {
            network.drop_packets(roles.leader, follower);
        }
        roles.leader
    });
}

#[test]
fn f05_a_bridge_node_keeps_a_majority_together() {
    check("a_bridge_node", |network, roles| {
        let [cut_off, _bridge] = roles.followers;
        network.drop_packets(roles.leader, cut_off);
        network.drop_packets(cut_off, roles.leader);
        cut_off
    });
}

/// Two clusters at once would be measured by each other's load.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn check(test: &str, cut: Cut) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if !rustix::process::geteuid().is_root() {
        return berth_tests::skip::skipped(test, "root", "network namespaces take root");
    }
    let network = match Network::make(NODES) {
        Ok(network) => network,
        Err(lack) => return berth_tests::skip::skipped(test, "netns", &lack),
    };
    // One thread: this one alone is inside the network.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(network, cut));
}

async fn run(network: Network, cut: Cut) {
    let folder = tempfile::tempdir().unwrap();
    let gates = Gates::new(folder.path(), WORKERS);
    let cluster = Cluster::start(&network, folder.path()).await;
    let client = Client::new(Options::new(cluster.servers()));
    let spec = JobSpec {
        max_disconnect: DurationMs::from_secs(600),
        ..support::batch("workers", WORKERS, gates.command())
    };
    let workers = support::submit(&client, &spec).await;
    let all_run = |job: &v1::Job| job.tasks[0].running == u64::from(WORKERS);
    support::job_when(&client, workers, "runs", all_run).await;
    let mut acknowledged = BTreeMap::new();
    submit_some(&client, "before", &mut acknowledged).await;
    support::hashes_agree(&cluster.servers()).await;

    let before = status(&client).await;
    let roles = roles(&before);
    let cut_at = Instant::now();
    let minority = cut(&network, &roles);
    let majority = (1..=NODES).filter(|number| *number != minority).map(scheduler_at).collect();
    let majority = Client::new(Options::new(majority));
    // Both sides are asked at once, the moment that the cut is made.
    let serves = async {
        support::submit(&majority, &quick("first")).await;
        cut_at.elapsed()
    };
    let refuses = raw_refusals(minority, "at-once", &acknowledged);
    let (served_after, ()) = tokio::join!(serves, refuses);
    assert!(served_after <= SERVE_LIMIT, "the majority served after {served_after:?}");
    submit_some(&majority, "during", &mut acknowledged).await;
    raw_refusals(minority, "later", &acknowledged).await;
    let during = status(&majority).await;

    network.heal();
    support::hashes_agree(&cluster.servers()).await;
    submit_some(&client, "after", &mut acknowledged).await;
    check_work(&client, workers, &gates, &acknowledged).await;
    support::hashes_agree(&cluster.servers()).await;
    let after = status(&client).await;
    let terms = [before.term, during.term, after.term];
    eprintln!("served after {served_after:?}, terms {terms:?}");
    // A cut and its healing are two reasons to vote; a split vote may be added.
    assert!(after.term <= before.term + 4, "the lead went to and fro: terms {terms:?}");
    cluster.stop().await;
}

/// Everything that was acknowledged is there and ends; the workers were left
/// alone, and end when they are told.
async fn check_work(
    client: &Client,
    workers: u64,
    gates: &Gates,
    acknowledged: &BTreeMap<String, u64>,
) {
    for (name, id) in acknowledged {
        let job = support::job_when(client, *id, "ends", |job| job.finished_at_ms.is_some()).await;
        assert_eq!((&job.name, job.state.as_str()), (name, "succeeded"));
    }
    let allocations = support::allocations(client, workers).await;
    assert_eq!(allocations.len(), WORKERS as usize, "{allocations:?}");
    for allocation in allocations {
        assert_eq!((allocation.attempt, allocation.state.as_str()), (1, "running"));
    }
    for index in 0..WORKERS {
        assert_eq!(gates.pids(index).len(), 1, "starts of instance {index}");
        gates.release(index, 0).await;
    }
    let ended = support::job_when(client, workers, "ends", |job| job.finished_at_ms.is_some());
    assert_eq!(ended.await.tasks[0].succeeded, u64::from(WORKERS));
}

/// The minority refuses what takes a majority, and shows what it knows.
async fn raw_refusals(minority: u32, round: &str, acknowledged: &BTreeMap<String, u64>) {
    let server = scheduler_at(minority);
    let (name, id) = acknowledged.first_key_value().unwrap();
    for attempt in 0..3 {
        let key = format!("{round}-refused-{attempt}");
        raw::is_refused("submit", raw::submit(&server, &quick(&key), &key)).await;
    }
    raw::is_refused("read", raw::get(&server, name, Read::Linearizable)).await;
    assert_eq!(raw::get(&server, name, Read::Stale).await.unwrap().id, *id);
}

fn quick(name: &str) -> JobSpec {
    support::batch(name, 1, support::shell("true"))
}

async fn submit_some(client: &Client, round: &str, acknowledged: &mut BTreeMap<String, u64>) {
    for number in 0..5 {
        let name = format!("{round}-{number}");
        let id = support::submit(client, &quick(&name)).await;
        acknowledged.insert(name, id);
    }
}

async fn status(client: &Client) -> v1::ClusterStatus {
    support::until("the cluster's status", || async {
        client.status(v1::StatusRequest { consistency: 0 }).await.ok()
    })
    .await
}

/// Who is what; schedulers are numbered as they joined.
fn roles(status: &v1::ClusterStatus) -> Roles {
    let leader = u32::try_from(status.leader_id.unwrap()).unwrap();
    let others: Vec<u32> = (1..=NODES).filter(|number| *number != leader).collect();
    Roles { leader, followers: others.try_into().unwrap() }
}

fn scheduler_at(number: u32) -> String {
    format!("{}:7070", Network::address(number))
}

/// A scheduler and an agent in each namespace.
struct Cluster {
    schedulers: Vec<Child>,
    agents: Vec<Child>,
}

impl Cluster {
    async fn start(network: &Network, folder: &Path) -> Cluster {
        let mut cluster = Cluster { schedulers: Vec::new(), agents: Vec::new() };
        let client = Client::new(Options::new(cluster.servers()));
        for number in 1..=NODES {
            let address = scheduler_at(number);
            let first = scheduler_at(1);
            let formation: &[&str] =
                if number == 1 { &["--bootstrap"] } else { &["--join", &first] };
            let data_dir = folder.join(format!("scheduler-{number}")).display().to_string();
            let own = ["scheduler", "--listen", &address, "--http", "127.0.0.1:7071"];
            let own = [&own[..], &["--plain-text", "--data-dir", &data_dir], formation].concat();
            cluster.schedulers.push(spawn(network, number, &own));
            support::until("the scheduler to have a vote", || async {
                let members =
                    client.status(v1::StatusRequest { consistency: 0 }).await.ok()?.members;
                let voters = members.iter().filter(|member| member.role != "learner").count();
                (voters == number as usize).then_some(())
            })
            .await;
        }
        let servers = cluster.servers().join(",");
        for number in 1..=NODES {
            let name = format!("node-{number}");
            let data_dir = folder.join(&name).display().to_string();
            let own = ["agent", "--servers", &servers, "--name", &name, "--data-dir", &data_dir];
            let own = [&own[..], &["--plain-text", "--simulate", "2xH100-80GB"]].concat();
            cluster.agents.push(spawn(network, number, &own));
        }
        support::until("the agents to come in", || async {
            let nodes =
                client.list_nodes(v1::ListNodesRequest { consistency: 0 }).await.ok()?.nodes;
            let ready = nodes.iter().filter(|node| node.state == "ready").count();
            (ready == NODES as usize).then_some(())
        })
        .await;
        cluster
    }

    fn servers(&self) -> Vec<String> {
        (1..=NODES).map(scheduler_at).collect()
    }

    async fn stop(mut self) {
        for child in &mut self.agents {
            child.close();
            child.ended_or_killed().await;
        }
        for child in &mut self.schedulers {
            child.close();
            child.ended_or_killed().await;
        }
    }
}

fn spawn(network: &Network, number: u32, own: &[&str]) -> Child {
    let mut arguments = network.wrap(number, env!("CARGO_BIN_EXE_berth"));
    arguments.extend(own.iter().map(|&argument| argument.to_owned()));
    let log_level = support::log_level();
    arguments.extend(["--stop-on-fd-close", "0", "--log-level", &log_level].map(str::to_owned));
    let name = format!("{} {number}", own[0]);
    Child::spawn(Path::new("nsenter"), &name, &arguments).unwrap()
}
