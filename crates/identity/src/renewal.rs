//! Certificates that are renewed in time, and files that others have replaced,
//! without a restart.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use crate::certificate::Certified;
use crate::folder::Folder;
use crate::tls::Credentials;

/// Looks this often at the clock and at the files.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After a renewal that did not work: whoever has lapsed can do nothing else.
const RETRY: Duration = Duration::from_secs(1);
/// Speaks up this long before the end, if renewal has not worked by then.
const WARN_BEFORE_MS: u64 = 3 * 24 * 60 * 60 * 1000;

impl Certified {
    /// Milliseconds since 1970 from when on it should be renewed: at two thirds
    /// of its life.
    #[must_use]
    pub fn renew_from_ms(&self) -> u64 {
        let life_ms = self.expires.0.saturating_sub(self.issued.0);
        self.issued.0.saturating_add(life_ms / 3 * 2)
    }
}

/// Keeps credentials fresh for as long as it is polled. `renew` gets a new
/// certificate and writes it to the folder, or says why not.
pub async fn keep_fresh<R, F>(folder: Folder, credentials: Arc<Credentials>, mut renew: R)
where
    R: FnMut() -> F,
    F: Future<Output = Result<(), String>>,
{
    let mut seen = folder.changed();
    let mut told = None;
    loop {
        let certified = credentials.certified();
        #[expect(clippy::cast_precision_loss, reason = "a metric may round beyond 2^53")]
        metrics::gauge!("berth_certificate_expires_timestamp_seconds")
            .set((certified.expires.0 / 1000) as f64);
        let now_ms = wall_ms();
        let mut wait = LOOK_EVERY;
        if now_ms >= certified.renew_from_ms()
            && let Err(problem) = renew().await
        {
            wait = RETRY;
            // One line for each new problem and when it becomes pressing, not for
            // each try.
            let pressing = now_ms.saturating_add(WARN_BEFORE_MS) >= certified.expires.0;
            let now = Some((pressing, problem));
            if now != told {
                tell(&now);
                told = now;
            }
        }
        let changed = folder.changed();
        if changed != seen {
            seen = changed;
            match folder.reload(&credentials) {
                Ok(()) => {
                    told = None;
                    let expires_ms = credentials.certified().expires.0;
                    info!(expires_ms, "certificate taken into use");
                }
                Err(error) => {
                    warn!(%error, "changed credentials are not usable; those in use stay");
                }
            }
        }
        tokio::time::sleep(wait).await;
    }
}

/// Whether it presses, and what it is.
fn tell(problem: &Option<(bool, String)>) {
    match problem {
        Some((true, problem)) => {
            warn!(problem, "certificate not renewed, and it has expired or soon will");
        }
        Some((false, problem)) => info!(problem, "certificate not renewed yet"),
        None => {}
    }
}

pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
