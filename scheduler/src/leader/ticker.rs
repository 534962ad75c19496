//! The leader's slow look at everything: what nobody else's event would bring
//! about, such as silence, passed limits and retention.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_state::ClusterState;
use tracing::warn;

use super::Leader;

/// Often enough for limits given in seconds.
const TICK: Duration = Duration::from_millis(250);
/// A leader that did not run for this long heard nobody: silence in that time
/// proves nothing.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The log says the time at least so often while anything depends on it.
const CLOCK_BEHIND_MS_MAX: u64 = 10_000;

pub async fn run(leader: Arc<Leader>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = leader.ended.cancelled() => return,
        }
        let pause = last.elapsed();
        if pause > PAUSE_MAX {
            let pause_ms = pause.as_millis();
            warn!(pause_ms, "the leader did not run for a while; every node's time begins again");
            let now = leader.clock.now();
            leader.soft().heard.restart_windows(now);
        }
        last = Instant::now();
        let view = leader.published.view();
        let commands = {
            let soft = leader.soft();
            berth_reconcile::tick(&view, &soft.heard, &leader.rules, leader.clock.now())
        };
        if clock_is_behind(&leader, &view) {
            // An entry without commands carries the clocks alone.
            let _ = leader.propose_all(Vec::new(), 0).await;
        }
        for command in commands {
            let name = command.name();
            match leader.propose(command).await {
                Ok(Ok(_)) => {}
                Ok(Err(refusal)) => warn!(command = name, %refusal, "order refused"),
                Err(_) => break,
            }
            last = Instant::now();
        }
    }
}

/// Whether the state's clock should be moved on: the next leader continues from
/// what the log says, and time limits, deadlines and backoff with it.
fn clock_is_behind(leader: &Leader, view: &ClusterState) -> bool {
    let behind = leader.clock.now().since(view.cluster().state_ms);
    let timed = !view.allocations().is_empty() || !view.queue_is_empty();
    timed && behind.0 >= CLOCK_BEHIND_MS_MAX
}
