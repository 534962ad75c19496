//! The leader's slow look at everything: what nobody else's event would bring
//! about, such as silence, passed limits and retention.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::Leader;

/// Often enough for limits given in seconds.
const TICK: Duration = Duration::from_millis(250);
/// A leader that did not run for this long heard nobody: silence in that time
/// proves nothing.
const PAUSE_MAX: Duration = Duration::from_secs(1);

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
