//! What this scheduler knows of the others beside the log: what they are able
//! to, and whether their state is its own. It asks each of them all the time;
//! what follows from the answers is decided elsewhere.

mod agreement;
mod clocks;
mod quarantine;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_model::WallMs;
use berth_raft::RaftStatus;
use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use agreement::{Agreement, Odd};
use clocks::clocks_off;
pub use quarantine::{check as check_quarantine, set_aside};
pub use report::{Checkpoints, Report, StateAt, program};

use crate::app::Published;
use crate::leader::Node;
use crate::leader::clock::wall;

type Link = berth_raft::PeerLink<berth_raft::transport::grpc::GrpcTransport>;

/// How often each of the others is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// And as long as one of them that has no vote has not answered yet: it gets none
/// before it has.
const ASK_NEW_EVERY: Duration = Duration::from_millis(100);
/// An answer takes a look at a few numbers.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// A scheduler that is about to serve takes connections before it answers; whoever
/// asks again soon does not wait for that.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// What was said longer ago is not shown any more.
const FRESH: Duration = Duration::from_secs(5);

/// What the others last said.
pub struct Peers {
    /// By scheduler. The lock guards looks and replacements.
    said: Mutex<BTreeMap<u64, Said>>,
    agreement: watch::Sender<Agreement>,
    clocks_off: watch::Sender<BTreeMap<u64, i64>>,
}

#[derive(Clone)]
struct Said {
    at: Instant,
    report: Report,
    /// How many milliseconds its wall clock is ahead of this one's, to half of the
    /// time that the answer took.
    ahead_ms: Option<i64>,
}

impl Said {
    /// An answer that has just come, and was asked for at `asked` by this wall clock.
    fn now(report: Report, asked: WallMs) -> Said {
        let here = asked.0.midpoint(wall().0);
        let ahead_ms = report.wall.map(|there| there.0.wrapping_sub(here).cast_signed());
        Said { at: Instant::now(), report, ahead_ms }
    }

    fn is_fresh(&self) -> bool {
        self.at.elapsed() <= FRESH
    }
}

impl Peers {
    pub fn new() -> Peers {
        Peers {
            said: Mutex::default(),
            agreement: watch::Sender::new(Agreement::Whole),
            clocks_off: watch::Sender::default(),
        }
    }

    /// What a scheduler said of itself in the last seconds.
    pub fn said(&self, scheduler: u64) -> Option<Report> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.get(&scheduler).filter(|said| said.is_fresh()).map(|said| said.report.clone())
    }

    /// The members whose wall clocks are off, with how many milliseconds each is ahead
    /// of the voters' median.
    pub fn clocks_off(&self) -> BTreeMap<u64, i64> {
        self.clocks_off.borrow().clone()
    }

    /// How this replica's state stands to the others'.
    pub fn agreement(&self) -> Agreement {
        self.agreement.borrow().clone()
    }

    /// Resolves when this replica was found to be the wrong one.
    pub async fn odd(&self) -> Odd {
        let mut agreement = self.agreement.subscribe();
        loop {
            if let Agreement::Odd(odd) = &*agreement.borrow_and_update() {
                return odd.clone();
            }
            if agreement.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn keep(&self, answers: Vec<(u64, Result<Said, String>)>, members: &BTreeSet<u64>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|id, _| members.contains(id));
        said.extend(answers.into_iter().filter_map(|(id, answer)| Some((id, answer.ok()?))));
    }

    fn fresh(&self) -> BTreeMap<u64, Said> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = said.iter().filter(|(_, said)| said.is_fresh());
        fresh.map(|(id, said)| (*id, said.clone())).collect()
    }
}

/// Asks all other members once.
pub async fn ask_all(node: &Node) -> Vec<(u64, Result<Report, String>)> {
    let answers = ask(&links(node, &node.status(), BTreeMap::new()), ASK_LIMIT).await;
    answers.into_iter().map(|(id, answer)| (id, answer.map(|said| said.report))).collect()
}

/// Asks until `stop`, and compares.
pub async fn keep_asking(
    node: Node,
    published: std::sync::Arc<Published>,
    stop: CancellationToken,
) {
    note_program(&published).await;
    let mut open = BTreeMap::new();
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        let raft = node.status();
        open = links(&node, &raft, open);
        let answers = ask(&open, ASK_AGAIN_AFTER).await;
        let peers = &published.peers;
        peers.keep(answers, &raft.members.iter().map(|member| member.id).collect());
        let mut learners = raft.members.iter().filter(|member| !member.voter);
        let is_new = |id: u64| id != raft.node_id && peers.said(id).is_none();
        wait = if learners.any(|member| is_new(member.id)) { ASK_NEW_EVERY } else { ASK_EVERY };
        let voters = raft.members.iter().filter(|member| member.voter).map(|member| member.id);
        compare(peers, raft.node_id, &published.report(), &voters.collect());
    }
}

/// Holds what the others said against this scheduler's own.
fn compare(peers: &Peers, own_id: u64, own: &Report, voters: &BTreeSet<u64>) {
    let fresh = peers.fresh();
    let ahead = fresh.iter().filter_map(|(id, said)| Some((*id, said.ahead_ms?)));
    tell_clocks(peers, clocks_off(&ahead.chain([(own_id, 0)]).collect(), voters), own_id);
    let reports = fresh.into_iter().map(|(id, said)| (id, said.report)).collect();
    tell(peers, agreement::agreement(own_id, own, voters, &reports));
}

fn tell_clocks(peers: &Peers, found: BTreeMap<u64, i64>, own_id: u64) {
    metrics::gauge!("berth_wall_clock_off").set(if found.is_empty() { 0.0 } else { 1.0 });
    let known = peers.clocks_off.send_replace(found.clone());
    for (scheduler, ahead_ms) in found {
        if !known.contains_key(&scheduler) {
            let own = scheduler == own_id;
            warn!(scheduler, ahead_ms, own, "a wall clock is off");
        }
    }
}

/// Which program this is takes a moment to find out.
async fn note_program(published: &Published) {
    match tokio::task::spawn_blocking(program).await {
        Ok(Ok(program)) => published.note_program(program),
        Ok(Err(error)) => {
            info!(%error, "states are not compared: this program's file cannot be read");
        }
        Err(error) => info!(%error, "states are not compared"),
    }
}

fn tell(peers: &Peers, found: Agreement) {
    let changed = peers.agreement.send_if_modified(|known| {
        let changes = *known != found;
        *known = found.clone();
        changes
    });
    metrics::gauge!("berth_state_differs").set(if found == Agreement::Whole { 0.0 } else { 1.0 });
    match found {
        Agreement::Split { index, others } if changed => {
            error!(
                index,
                ?others,
                "replicas differ in their state, and no majority says which is right"
            );
        }
        Agreement::Split { .. } | Agreement::Whole | Agreement::Odd(_) => {}
    }
}

/// Links to all other members; those that lead to where they should stay.
fn links(
    node: &Node,
    raft: &RaftStatus,
    mut open: BTreeMap<(u64, String), Link>,
) -> BTreeMap<(u64, String), Link> {
    let others = raft.members.iter().filter(|member| member.id != raft.node_id);
    let links = others.map(|member| {
        let key = (member.id, member.address.clone());
        let link = open.remove(&key);
        (key, link.unwrap_or_else(|| node.peer_link(member.id, &member.address)))
    });
    links.collect()
}

async fn ask(
    links: &BTreeMap<(u64, String), Link>,
    limit: Duration,
) -> Vec<(u64, Result<Said, String>)> {
    let asked = links.iter().map(|((id, _), link)| async move {
        let asked = wall();
        let answer = link.ask(Bytes::new(), limit).await;
        let said = answer
            .map_err(|error| error.to_string())
            .and_then(|bytes| Report::decode(&bytes).map_err(|error| error.to_string()))
            .map(|report| Said::now(report, asked));
        (*id, said)
    });
    join_all(asked).await
}
