//! Gangs on a whole cluster: what members find, that one that dies takes the others with it,
//! and that a gang that waits holds nothing.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use berth::local::LocalCluster;
use berth_client::Client;
use berth_model::{DurationMs, Gang, GpuRequest, JobSpec, RestartPolicy};
use berth_proto::v1;
use rustix::process::Signal;

use support::gates::Gates;
use support::{processes, until};

const MEMBERS: u32 = 4;

/// Members of a GPU each that leave their seats and wait at their gates.
fn gang(name: &str, count: u32, command: Vec<String>) -> JobSpec {
    let mut spec = support::batch(name, count, command);
    let task = &mut spec.tasks[0];
    task.gang = Some(Gang {});
    task.gpu = Some(GpuRequest::whole(1));
    task.restart =
        RestartPolicy { attempts: Some(1), backoff: DurationMs(50), backoff_max: DurationMs(50) };
    spec
}

/// A worker that writes down what it found before it says that it is there.
fn leaving_its_seat(folder: &Path, gates: &Gates) -> Vec<String> {
    let seats = folder.join("seats");
    std::fs::create_dir_all(&seats).unwrap();
    let [_, _, gate] = &gates.command()[..] else { panic!("a shell and its script") };
    support::shell(&format!(
        "env | grep -E '^(RANK|WORLD_SIZE|NODE_RANK|NNODES|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT)=' \
         > {}/$RANK.$BERTH_ATTEMPT; {gate}",
        seats.display()
    ))
}

type Seat = BTreeMap<String, String>;

fn seat(folder: &Path, rank: u32, attempt: u32) -> Seat {
    let text = std::fs::read_to_string(folder.join(format!("seats/{rank}.{attempt}"))).unwrap();
    let pairs = text.lines().map(|line| line.split_once('=').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The pids of all members, once each has begun so often.
async fn begun(gates: &Gates, times: usize) -> Vec<u32> {
    until(&format!("all members to begin {times} times"), || async {
        let pids: Vec<Vec<u32>> = (0..MEMBERS).map(|index| gates.pids(index)).collect();
        pids.iter()
            .all(|pids| pids.len() == times)
            .then(|| pids.iter().filter_map(|pids| pids.last().copied()).collect())
    })
    .await
}

/// What all members found in one life is one world, as the cluster shows it.
async fn check_world(client: &Client, job: u64, folder: &Path, attempt: u32) -> Seat {
    let seats: Vec<Seat> = (0..MEMBERS).map(|rank| seat(folder, rank, attempt)).collect();
    let of = |name: &str| seats.iter().map(|seat| seat[name].as_str()).collect::<Vec<_>>();
    assert_eq!(of("RANK"), ["0", "1", "2", "3"]);
    assert_eq!(of("WORLD_SIZE"), ["4"; 4]);
    assert_eq!((of("NNODES"), of("LOCAL_WORLD_SIZE")), (vec!["2"; 4], vec!["2"; 4]));
    assert_eq!(
        (of("NODE_RANK"), of("LOCAL_RANK")),
        (vec!["0", "0", "1", "1"], vec!["0", "1", "0", "1"])
    );
    assert_eq!(of("MASTER_ADDR"), ["127.0.0.1"; 4]);
    let port = of("MASTER_PORT")[0].to_owned();
    assert_eq!(of("MASTER_PORT"), [port.as_str(); 4]);
    let all = support::allocations(client, job).await;
    let live: Vec<&v1::Allocation> = all.iter().filter(|one| one.attempt == attempt).collect();
    assert_eq!(live.len(), MEMBERS as usize);
    for one in &live {
        let seat = one.seat.clone().unwrap();
        assert_eq!((seat.rank, seat.world_size), (one.index, MEMBERS));
        assert_eq!(
            (seat.master_address, seat.master_port.to_string()),
            ("127.0.0.1".into(), port.clone())
        );
    }
    // The port is the first member's, on its node.
    let first = live.iter().find(|one| one.index == 0).unwrap();
    assert_eq!(first.ports.iter().map(|one| one.port.to_string()).collect::<Vec<_>>(), [port]);
    seats.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_gang_of_two_nodes_begins_fails_and_ends_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let gates = Gates::new(folder.path(), MEMBERS);
    let plan = support::plan(folder.path(), 1, 2);
    let mut cluster = LocalCluster::start(plan).await.unwrap();
    let client = cluster.client();
    let spec = gang("train", MEMBERS, leaving_its_seat(folder.path(), &gates));
    let job = support::submit(&client, &spec).await;
    let first = begun(&gates, 1).await;
    check_world(&client, job, folder.path(), 1).await;

    // Seats outlive an agent, whose workers go on.
    let before = support::allocations(&client, job).await;
    cluster.agents[0].child.kill().await.unwrap();
    let name = cluster.agents[0].name.clone();
    cluster.restart_agent(&name).unwrap();
    support::job_when(&client, job, "runs", |job| job.tasks[0].running == u64::from(MEMBERS)).await;
    let seats =
        |all: &[v1::Allocation]| -> Vec<_> { all.iter().map(|one| one.seat.clone()).collect() };
    assert_eq!(seats(&support::allocations(&client, job).await), seats(&before));
    assert!(first.iter().all(|pid| processes::is_alive(*pid)), "nothing was begun again");

    processes::send(first[2], Signal::KILL);
    let second = begun(&gates, 2).await;
    assert!(first.iter().all(|pid| !processes::is_alive(*pid)), "the first world is over");
    assert!(second.iter().all(|pid| !first.contains(pid)));
    check_world(&client, job, folder.path(), 2).await;
    let told = support::job(&client, job).await.unwrap();
    let failures: Vec<&str> =
        told.tasks[0].failures.iter().map(|one| one.allocation_id.as_str()).collect();
    assert_eq!(failures, [format!("{job}.0.2.1")], "one failure, of the member that died");

    for index in 0..MEMBERS {
        gates.release(index, 0).await;
    }
    let ended = support::job_when(&client, job, "ends", |job| job.finished_at_ms.is_some()).await;
    assert_eq!((ended.state.as_str(), ended.tasks[0].succeeded), ("succeeded", 4));
    let begun_in_all: usize = (0..MEMBERS).map(|index| gates.pids(index).len()).sum();
    assert_eq!(begun_in_all, 8);
    cluster.stop().await;
}

#[tokio::test]
async fn a_gang_that_waits_leaves_everything_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let plan = support::plan(folder.path(), 1, 2);
    let cluster = LocalCluster::start(plan).await.unwrap();
    let client = cluster.client();
    let (holds, waits) =
        (Gates::new(&folder.path().join("a"), 1), Gates::new(&folder.path().join("b"), MEMBERS));
    // One of the four GPUs is in use.
    let mut holder = support::batch("holder", 1, holds.command());
    holder.tasks[0].gpu = Some(GpuRequest::whole(1));
    let holder = support::submit(&client, &holder).await;
    support::job_when(&client, holder, "runs", |job| job.tasks[0].running == 1).await;
    let gang = support::submit(&client, &gang("waits", MEMBERS, waits.command())).await;
    let request = v1::ExplainRequest { job: support::reference(&gang.to_string()), consistency: 0 };
    let explained = client.explain(request).await.unwrap();
    assert!(
        explained.summary.contains("needs 4 places at once; 3 fit now"),
        "{}",
        explained.summary
    );
    // What came later and is smaller has what is free, all three of them.
    let mut small = support::batch("small", 3, support::shell("true"));
    small.tasks[0].gpu = Some(GpuRequest::whole(1));
    let small = support::submit(&client, &small).await;
    let ended = support::job_when(&client, small, "ends", |job| job.finished_at_ms.is_some()).await;
    assert_eq!(ended.state, "succeeded");
    let waiting = support::job(&client, gang).await.unwrap();
    assert_eq!((waiting.state.as_str(), waiting.tasks[0].pending), ("queued", 4));
    // Once all four are free at one moment it runs, at once and whole.
    holds.release(0, 0).await;
    begun(&waits, 1).await;
    for index in 0..MEMBERS {
        waits.release(index, 0).await;
    }
    let ended = support::job_when(&client, gang, "ends", |job| job.finished_at_ms.is_some()).await;
    assert_eq!(ended.state, "succeeded");
    cluster.stop().await;
}
