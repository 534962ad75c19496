//! A launch that nobody hears of: the order reaches the agent, its answers are lost on the way.
//! The work stays where it is, and the agent is asked; it is not begun elsewhere.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use berth::local::{Child, LocalCluster};
use berth_model::DurationMs;
use berth_proto::v1;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use support::gates::Gates;

/// From the end of the trouble to the truth about the launch.
const TRUTH_LIMIT: Duration = Duration::from_secs(10);

/// What becomes of what an agent says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    Heard,
    /// Read and thrown away, while orders go through.
    Lost,
}

/// Stands between an agent and a scheduler.
struct Proxy {
    address: String,
    answers: watch::Sender<Answers>,
}

impl Proxy {
    async fn start(scheduler: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (answers, watched) = watch::channel(Answers::Heard);
        tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&scheduler).await else { continue };
                tokio::spawn(carry(agent, server, watched.clone()));
            }
        });
        Proxy { address, answers }
    }
}

/// Carries both ways until either side closes. A stream of which something was lost cannot go
/// on, and ends with the trouble.
async fn carry(agent: TcpStream, server: TcpStream, mut answers: watch::Receiver<Answers>) {
    let (mut agent_says, mut agent_hears) = agent.into_split();
    let (mut server_says, mut server_hears) = server.into_split();
    let orders = async { tokio::io::copy(&mut server_says, &mut agent_hears).await.map(drop) };
    let said = async {
        let mut lost = 0;
        let mut buffer = vec![0; 1 << 14];
        loop {
            let read = tokio::select! {
                read = tokio::io::AsyncReadExt::read(&mut agent_says, &mut buffer) => read?,
                changed = answers.changed(), if lost > 0 => {
                    drop(changed);
                    return Ok(());
                }
            };
            let now = *answers.borrow_and_update();
            match now {
                _ if read == 0 => return Ok(()),
                Answers::Heard => server_hears.write_all(&buffer[..read]).await?,
                Answers::Lost => lost += read,
            }
        }
    };
    let ended: std::io::Result<()> = tokio::select! {
        ended = orders => ended,
        ended = said => ended,
    };
    // Whoever was on the other side dials again.
    drop(ended);
}

#[tokio::test]
async fn f37_a_launch_of_which_no_answer_comes_is_asked_about_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let gates = Gates::new(folder.path(), 1);
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let client = cluster.client();
    let proxy = Proxy::start(cluster.schedulers[0].grpc.clone()).await;
    let node_1 = || v1::NodeRef { node: "node-1".to_owned() };
    client.cordon_node(node_1()).await.unwrap();
    let mut agent = spawn(&folder.path().join("far"), &proxy.address);
    support::until("the far agent to come in", || async {
        (support::node_state(&client, "far").await? == "ready").then_some(())
    })
    .await;

    proxy.answers.send(Answers::Lost).unwrap();
    let mut spec = support::batch("unheard", 1, gates.command());
    // Nobody gives it up while the test looks on.
    spec.max_disconnect = DurationMs::from_secs(3_600);
    let job = support::submit(&client, &spec).await;
    let pids = support::until("the worker to begin", || async {
        Some(gates.pids(0)).filter(|pids| !pids.is_empty())
    })
    .await;
    // There is room elsewhere now, and nobody knows that it has begun.
    client.uncordon_node(node_1()).await.unwrap();
    // Long enough for three heartbeats, and for the leader to look two dozen times.
    support::until("the far agent to be missed", || async {
        (support::node_state(&client, "far").await? == "disconnected").then_some(())
    })
    .await;
    // Whatever wants a place gets one meanwhile.
    let other = support::submit(&client, &support::batch("other", 1, support::shell("true"))).await;
    let done = support::job_when(&client, other, "ends", |job| job.finished_at_ms.is_some()).await;
    assert_eq!(done.state, "succeeded");
    let unheard = support::allocations(&client, job).await;
    assert_eq!(unheard.len(), 1);
    assert_eq!((unheard[0].state.as_str(), unheard[0].node.as_str()), ("planned", "far"));
    assert_eq!(gates.pids(0), pids, "it was begun once");

    let healed = Instant::now();
    proxy.answers.send(Answers::Heard).unwrap();
    let heard = support::until("the launch to be known", || async {
        let all = support::allocations(&client, job).await;
        Some(all).filter(|all| all.iter().any(|one| one.state == "running"))
    })
    .await;
    let took = healed.elapsed();
    assert!(took <= TRUTH_LIMIT, "known after {took:?}");
    eprintln!("known {took:?} after the trouble");
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!((heard[0].attempt, heard[0].node.as_str()), (1, "far"));
    assert_eq!(gates.pids(0), pids, "it was begun once");

    gates.release(0, 0).await;
    let ended = support::job_when(&client, job, "ends", |job| job.finished_at_ms.is_some()).await;
    assert_eq!((ended.state.as_str(), gates.pids(0)), ("succeeded", pids));
    agent.close();
    agent.ended_or_killed().await;
    cluster.stop().await;
}

fn spawn(data_dir: &Path, servers: &str) -> Child {
    let data_dir = data_dir.display().to_string();
    let log_level = support::log_level();
    let own = ["agent", "--servers", servers, "--name", "far", "--data-dir", &data_dir];
    let rest = ["--plain-text", "--simulate", "2xH100-80GB", "--http", "127.0.0.1:0"];
    let last = ["--ports", "28000-28999", "--stop-on-fd-close", "0", "--log-level", &log_level];
    let arguments: Vec<String> =
        [&own[..], &rest, &last].concat().into_iter().map(str::to_owned).collect();
    Child::spawn(Path::new(env!("CARGO_BIN_EXE_berth")), "agent far", &arguments).unwrap()
}
