//! Planning what does not fit into an entry of its own: long queues, retries
//! whose time has come. Runs on a thread of its own, on the newest view.

use std::sync::Arc;
use std::time::Duration;

use berth_placement::{Budget, PlanOutcome, plan};
use berth_state::{Command, Reply};
use tracing::{debug, error, warn};

use super::Leader;
use super::batch::{ENTRY_BYTES_MAX, fitting};

/// Work of one plan; at ten million candidates a second about 25 ms.
const BUDGET: Budget = Budget { candidates_examined_max: 250_000, placements_max: 1024 };
/// Placements in one command; fewer where they are long ones, of many devices.
const PLACEMENTS_IN_COMMAND_MAX: usize = 128;
/// While something waits, a plan is made at least so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A plan none of whose placements was granted is made again after this, so
/// that a view that keeps changing under it is not fought over.
const REFUSED_WAIT: Duration = Duration::from_millis(20);

pub async fn run(leader: Arc<Leader>) {
    let mut wakeup: Option<Duration> = None;
    loop {
        let timer = async {
            match wakeup {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = leader.planner_wake.notified() => {}
            () = timer => {}
            () = leader.ended.cancelled() => return,
        }
        wakeup = round(&leader).await;
    }
}

/// Plans and proposes until nothing more can be placed; returns when to look
/// again.
async fn round(leader: &Arc<Leader>) -> Option<Duration> {
    let mut budget = BUDGET;
    loop {
        let outcome = one_plan(leader, budget).await?;
        if outcome.placements.is_empty() && outcome.exhausted {
            // Everything went into what does not fit: look further, or what
            // stands behind it would never be looked at.
            budget.candidates_examined_max = budget.candidates_examined_max.saturating_mul(2);
            continue;
        }
        if outcome.placements.is_empty() {
            let now = leader.clock.now();
            let wait = outcome.next_wakeup.map(|at| Duration::from_millis(at.since(now).0.max(1)));
            // Every event that makes room wakes this loop; while something
            // waits it looks again all the same.
            let waits = !leader.published.view().queue_is_empty();
            return if waits { Some(wait.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)) } else { wait };
        }
        let planned = outcome.placements.len();
        let mut granted_count = 0;
        let mut left = outcome.placements.as_slice();
        while !left.is_empty() {
            let some = left[..left.len().min(PLACEMENTS_IN_COMMAND_MAX)].to_vec();
            let chunk = fitting(some, ENTRY_BYTES_MAX);
            left = &left[chunk.len()..];
            if chunk.is_empty() {
                error!("a single placement does not fit a log entry");
                return None;
            }
            let command = Command::Place { placements: chunk };
            match leader.propose(command).await {
                Ok(Ok(Reply::Placed { granted, refused })) => {
                    granted_count += granted.len();
                    for refusal in refused {
                        debug!(%refusal, "placement refused");
                    }
                }
                Ok(_) => {}
                // The term is over, or the outcome unknown: a plan from a
                // newer view settles either.
                Err(_) => return Some(REFUSED_WAIT),
            }
        }
        debug!(planned, granted_count, "plan proposed");
        if granted_count == 0 {
            return Some(REFUSED_WAIT);
        }
    }
}

async fn one_plan(leader: &Arc<Leader>, budget: Budget) -> Option<PlanOutcome> {
    let view = leader.published.view();
    let soft = leader.loads();
    let now = leader.clock.now();
    let planned = tokio::task::spawn_blocking(move || plan(&view, &soft, now, budget)).await;
    planned.inspect_err(|error| warn!(%error, "plan did not finish")).ok()
}
