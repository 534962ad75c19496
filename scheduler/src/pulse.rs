//! How late calls are served. Heartbeats of agents come with all other calls, on the threads of
//! the calls; when callers keep those busy, heartbeats are heard late, and an agent that is not
//! heard is not silent. The leader's own threads cannot tell: they have time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_millis(100);
/// A heartbeat is passed on between as many tasks: a connection's and a session's.
const TURNS: usize = 2;

/// When calls were last served in time.
#[derive(Default)]
pub struct Pulse {
    /// Absent before the first beat. The lock guards the value.
    at: Mutex<Option<Instant>>,
}

impl Pulse {
    /// Beats until `stop`, on whichever threads this runs.
    pub async fn beat(&self, stop: CancellationToken) {
        let beats = async {
            loop {
                self.set(Instant::now());
                tokio::time::sleep(EVERY).await;
                // Behind everybody who waits for a turn.
                for _ in 0..TURNS {
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::select! {
            () = beats => {}
            () = stop.cancelled() => {}
        }
    }

    /// How long whoever waits for a turn has waited by now; zero where nothing beats.
    pub fn late(&self) -> Duration {
        let at = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.map_or(Duration::ZERO, |at| at.elapsed().saturating_sub(EVERY))
    }

    fn set(&self, now: Instant) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_as_late_as_whoever_waits_for_a_turn() {
        let pulse = Arc::new(Pulse::default());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(pulse.late(), Duration::ZERO, "nothing beats");
        let (beating, stop) = (pulse.clone(), CancellationToken::new());
        let ended = stop.clone();
        let beats = tokio::spawn(async move { beating.beat(ended).await });
        for _ in 0..50 {
            tokio::time::advance(EVERY).await;
            tokio::task::yield_now().await;
        }
        assert!(pulse.late() < EVERY * 5, "it beats: {:?}", pulse.late());
        stop.cancel();
        beats.await.unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(pulse.late() > Duration::from_millis(4_800), "{:?}", pulse.late());
    }
}
