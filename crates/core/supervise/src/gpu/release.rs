//! Whether a GPU is free once its worker has ended: its memory must be back to what it was
//! before, in two looks. A driver may give it back late, and a process that nobody knows of
//! may hold it for ever.

use berth_model::DurationMs;

use crate::clock::AgentMs;

/// So many looks must find it free.
const CLEAN_LOOKS: u32 = 2;
/// Used above what was used before, and still free: what a driver keeps of a context that is
/// gone, page by page.
const TOLERANCE_BYTES: u64 = 256 << 20;
/// It is looked at often for so long.
const FRESH_FOR: DurationMs = DurationMs::from_secs(2);
/// Not free for so long, it is stuck, unless somebody says otherwise.
pub const STUCK_AFTER: DurationMs = DurationMs::from_secs(60);

/// Whether others are on a GPU that a worker has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Company {
    Alone,
    Sharers,
}

/// What is known of a GPU's memory from one worker to the next.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Release {
    /// What was used when no worker of this node held it; none was seen so yet.
    baseline_bytes: Option<u64>,
    /// Its last worker has ended, and it was not seen free since.
    left: Option<Left>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Left {
    at: AgentMs,
    clean_looks: u32,
    told: bool,
    company: Company,
}

/// Of a GPU that is not free although nobody should hold it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stuck {
    pub used_bytes: u64,
    pub baseline_bytes: u64,
}

impl Release {
    /// What an agent before this one knew.
    #[must_use]
    pub fn remembered(baseline_bytes: Option<u64>) -> Release {
        Release { baseline_bytes, left: None }
    }

    #[must_use]
    pub fn baseline_bytes(&self) -> Option<u64> {
        self.baseline_bytes
    }

    /// A worker on it has ended. One that was not seen free since an earlier one stays so; with
    /// the end of one that shared it, the time in which it is to come free begins anew.
    pub fn left(&mut self, now: AgentMs) {
        let left = Left { at: now, clean_looks: 0, told: false, company: Company::Alone };
        match &mut self.left {
            Some(earlier) if earlier.company == Company::Alone => {}
            Some(earlier) => *earlier = Left { told: earlier.told, ..left },
            None => self.left = Some(left),
        }
    }

    /// Whether a worker may begin on it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.left.is_none()
    }

    /// Whether its last worker has only just ended, so that it is worth looking often.
    #[must_use]
    pub fn is_fresh(&self, now: AgentMs) -> bool {
        let fresh = |left: &Left| now.0.saturating_sub(left.at.0) < FRESH_FOR.0;
        self.left.as_ref().is_some_and(fresh)
    }

    /// Takes in another look at it, while no worker of this node holds it. One that does not
    /// tell what is used is free when it was looked at. Returns that it is stuck, once.
    pub fn looked(
        &mut self,
        used_bytes: Option<u64>,
        stuck_after: DurationMs,
        now: AgentMs,
    ) -> Option<Stuck> {
        let Some(left) = &mut self.left else {
            self.baseline_bytes = used_bytes.or(self.baseline_bytes);
            return None;
        };
        let baseline_bytes = self.baseline_bytes.unwrap_or(0);
        let used_bytes = used_bytes.unwrap_or(baseline_bytes);
        left.company = Company::Alone;
        if used_bytes <= baseline_bytes.saturating_add(TOLERANCE_BYTES) {
            self.was_clean();
            return None;
        }
        left.clean_looks = 0;
        let is_stuck = now.0.saturating_sub(left.at.0) >= stuck_after.0 && !left.told;
        left.told |= is_stuck;
        is_stuck.then_some(Stuck { used_bytes, baseline_bytes })
    }

    /// Takes in another look at it, while others go on sharing it, of what is used of which
    /// `explained_bytes` are theirs. It is never said to be stuck: whoever mended it would end
    /// them. One that does not tell what is used has nothing to say of who is gone.
    pub fn looked_beside(&mut self, used_bytes: Option<u64>, explained_bytes: u64) {
        let baseline_bytes = self.baseline_bytes.unwrap_or(0);
        let Some(left) = &mut self.left else { return };
        left.company = Company::Sharers;
        let explained = baseline_bytes.saturating_add(explained_bytes);
        if used_bytes.is_none_or(|used| used <= explained.saturating_add(TOLERANCE_BYTES)) {
            self.was_clean();
        } else {
            left.clean_looks = 0;
        }
    }

    fn was_clean(&mut self) {
        if let Some(left) = &mut self.left {
            left.clean_looks += 1;
            if left.clean_looks >= CLEAN_LOOKS {
                self.left = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn it_is_free_when_its_memory_was_seen_free_twice() {
        let mut release = Release::default();
        let at = AgentMs;
        assert!(release.is_free());
        assert_eq!(release.looked(Some(GIB), STUCK_AFTER, at(0)), None);
        release.left(at(1_000));
        for (used, now, is_free) in [
            (Some(40 * GIB), 1_100, false),
            (Some(GIB), 1_200, false),
            (Some(2 * GIB), 1_300, false),
            (Some(GIB + TOLERANCE_BYTES), 1_400, false),
            (Some(0), 1_500, true),
        ] {
            assert_eq!(release.looked(used, STUCK_AFTER, at(now)), None);
            assert_eq!(release.is_free(), is_free, "{now}");
        }
        release.left(at(2_000));
        release.looked(None, STUCK_AFTER, at(2_100));
        release.looked(None, STUCK_AFTER, at(2_200));
        assert!(release.is_free(), "it does not tell");
    }

    #[test]
    fn a_release_is_looked_at_often_at_first_only_and_goes_on_where_it_was() {
        let mut release = Release::remembered(Some(7 * GIB));
        let at = AgentMs;
        release.left(at(1_000));
        assert!(release.is_fresh(at(2_999)) && !release.is_fresh(at(3_000)));
        release.looked(Some(7 * GIB), STUCK_AFTER, at(3_100));
        // Another that never began does not begin it anew.
        release.left(at(3_200));
        release.looked(Some(7 * GIB), STUCK_AFTER, at(3_300));
        assert!(release.is_free());
        assert_eq!(release.baseline_bytes(), Some(7 * GIB));
    }

    #[test]
    fn f58_what_is_stuck_is_said_once_and_may_come_free_all_the_same() {
        let mut release = Release::default();
        let at = AgentMs;
        release.looked(Some(7), STUCK_AFTER, at(0));
        release.left(at(1_000));
        assert_eq!(release.looked(Some(GIB), STUCK_AFTER, at(60_999)), None);
        let stuck = Stuck { used_bytes: GIB, baseline_bytes: 7 };
        assert_eq!(release.looked(Some(GIB), STUCK_AFTER, at(61_000)), Some(stuck));
        assert_eq!(release.looked(Some(GIB), STUCK_AFTER, at(90_000)), None);
        assert!(!release.is_free());
        release.looked(Some(7), STUCK_AFTER, at(91_000));
        release.looked(Some(7), STUCK_AFTER, at(92_000));
        assert!(release.is_free());
    }

    #[test]
    fn f58_beside_sharers_it_is_free_of_what_is_not_theirs() {
        let at = AgentMs;
        let left = || {
            let mut release = Release::default();
            release.looked(Some(GIB), STUCK_AFTER, at(0));
            release.left(at(1_000));
            release
        };
        for (used, explained, is_free) in [
            // One GiB is the driver's own.
            (Some(21 * GIB), 20 * GIB, true),
            (Some(21 * GIB + TOLERANCE_BYTES), 20 * GIB, true),
            (Some(21 * GIB + TOLERANCE_BYTES + 1), 20 * GIB, false),
            (Some(GIB), 0, true),
            (None, 0, true),
        ] {
            let mut release = left();
            release.looked_beside(used, explained);
            assert!(!release.is_free(), "one look says little");
            release.looked_beside(used, explained);
            assert_eq!(release.is_free(), is_free, "{used:?} of which {explained}");
        }
        let mut release = left();
        release.looked_beside(Some(21 * GIB), 20 * GIB);
        release.looked_beside(Some(41 * GIB), 20 * GIB);
        release.looked_beside(Some(21 * GIB), 20 * GIB);
        assert!(!release.is_free(), "two in a row");
        assert_eq!(release.baseline_bytes(), Some(GIB), "theirs is nobody's own");
    }

    #[test]
    fn f58_what_sharers_keep_from_being_mended_has_its_time_when_they_are_gone() {
        let at = AgentMs;
        let mut release = Release::default();
        release.looked(Some(0), STUCK_AFTER, at(0));
        release.left(at(1_000));
        release.looked_beside(Some(41 * GIB), 20 * GIB);
        release.left(at(100_000));
        assert!(release.is_fresh(at(101_000)));
        assert_eq!(release.looked(Some(20 * GIB), STUCK_AFTER, at(100_100)), None);
        assert!(release.looked(Some(20 * GIB), STUCK_AFTER, at(160_000)).is_some());
    }
}
