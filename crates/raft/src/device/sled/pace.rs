//! How fast a disk syncs, measured before a node starts: the timers of Raft
//! must leave room for it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// As many as a 99.9th percentile takes.
const SYNCS_MAX: usize = 1000;
/// A slow disk shows itself in fewer.
const TIME_MAX: Duration = Duration::from_millis(200);
/// Of an append: a small log entry.
const APPEND_BYTES: usize = 256;
/// A disk whose 99.9th percentile is longer wants slower timers.
const SLOW: Duration = Duration::from_millis(10);

/// What appending and syncing a little takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncPace {
    /// Syncs that were timed.
    pub syncs: usize,
    /// Half of them took no longer.
    pub p50: Duration,
    /// All but one in a thousand took no longer.
    pub p999: Duration,
}

impl SyncPace {
    /// Whether heartbeats and elections need more time than they have by
    /// default.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.p999 > SLOW
    }

    /// Of at least one time, by nearest rank.
    fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let at = |thousandths: usize| {
            let rank = (times.len() * thousandths).div_ceil(1000);
            times.get(rank.checked_sub(1)?).copied()
        };
        Some(Self { syncs: times.len(), p50: at(500)?, p999: at(999)? })
    }
}

/// Appends to a file of its own in `folder`, which it removes again.
///
/// # Errors
/// The folder cannot be written to.
pub fn measure_syncs(folder: &Path) -> io::Result<SyncPace> {
    let path = folder.join("sync-probe");
    let measured = probe(&path)?;
    fs::remove_file(&path)?;
    measured.ok_or_else(|| io::Error::other("nothing was measured"))
}

fn probe(path: &Path) -> io::Result<Option<SyncPace>> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let began = Instant::now();
    let mut times = Vec::with_capacity(SYNCS_MAX);
    while times.len() < SYNCS_MAX && (times.is_empty() || began.elapsed() < TIME_MAX) {
        let one = Instant::now();
        file.write_all(&[0x5a; APPEND_BYTES])?;
        file.sync_data()?;
        times.push(one.elapsed());
    }
    Ok(SyncPace::of(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_sync_in_a_thousand_is_borne_and_two_are_not() {
        let pace = |long: usize| {
            let mut times = vec![Duration::from_micros(100); 1000 - long];
            times.extend(vec![Duration::from_millis(30); long]);
            SyncPace::of(times).unwrap()
        };
        assert_eq!(pace(1).p50, Duration::from_micros(100));
        assert!(!pace(1).is_slow());
        assert!(pace(2).is_slow());
        assert_eq!(SyncPace::of(Vec::new()), None);
        // Of few syncs the longest counts.
        let few = SyncPace::of(vec![Duration::from_millis(20), Duration::from_millis(1)]).unwrap();
        assert_eq!((few.p50.as_millis(), few.p999.as_millis()), (1, 20));
    }

    #[test]
    fn a_measurement_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let pace = measure_syncs(folder.path()).unwrap();
        assert!(pace.syncs > 0 && pace.p50 <= pace.p999, "{pace:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(measure_syncs(&folder.path().join("missing")).is_err());
    }
}
