//! What the cluster is asked for, reckoned anew from time to time from the jobs that it knows.
//! Every new mix makes what the planners know about the nodes worthless, so it is made seldom.

use std::sync::Arc;
use std::time::Duration;

use berth_placement::MixCounts;
use tokio::time::MissedTickBehavior;
use tracing::warn;

use super::Leader;

/// How often the jobs are counted: 100,000 of them in some ten milliseconds.
const LOOK: Duration = Duration::from_secs(5);
/// The mix is made anew once so much more or less, as a part, has been asked for,
const CHANGE_PART: u64 = 8;
/// or once so many looks have passed and anything has changed: a minute.
const LOOKS_MAX: u32 = 12;

/// What the mix that is in force was made of.
#[derive(Default)]
struct Made {
    jobs_hash: u64,
    total: u64,
    looks_since: u32,
}

pub async fn run(leader: Arc<Leader>) {
    let mut interval = tokio::time::interval(LOOK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut made = Made::default();
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = leader.ended.cancelled() => return,
        }
        let view = leader.published.view();
        made.looks_since = made.looks_since.saturating_add(1);
        let jobs_hash = view.jobs().hash();
        if jobs_hash == made.jobs_hash {
            continue;
        }
        match tokio::task::spawn_blocking(move || MixCounts::of(&view)).await {
            Ok(counts) if made.is_outdated_by(counts.total()) => {
                made = Made { jobs_hash, total: counts.total(), looks_since: 0 };
                leader.soft().loads.mix = Arc::new(counts.mix());
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "the mix of jobs was not reckoned"),
        }
    }
}

impl Made {
    fn is_outdated_by(&self, total: u64) -> bool {
        let change = total.abs_diff(self.total);
        change.saturating_mul(CHANGE_PART) > self.total || self.looks_since >= LOOKS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_made_anew_when_enough_has_changed_or_time_has_passed() {
        let made = |looks_since| Made { jobs_hash: 0, total: 800, looks_since };
        let check = |looks, total, expected| {
            assert_eq!(made(looks).is_outdated_by(total), expected, "{total} after {looks}");
        };
        check(1, 900, false);
        check(1, 901, true);
        check(1, 699, true);
        check(11, 800, false);
        check(12, 801, true);
        assert!(Made::default().is_outdated_by(1));
    }
}
