//! What a GPU counts of errors of its memory that were not corrected: a second witness, for
//! where the driver's own report (XID) was lost, or came while nobody listened.

use std::collections::VecDeque;

use berth_model::{DurationMs, WallMs};

use super::{Fault, Remedy};

/// The report of an error may come so long after its count.
pub const REPORT_WITHIN: DurationMs = DurationMs::from_secs(3);
/// And so long before: counts are looked at once a second, and several errors may come together.
const REPORTED_BEFORE: DurationMs = DurationMs::from_secs(60);
/// The errors of NVIDIA's catalogue that are reports of it.
const MEMORY_XIDS: [u64; 8] = [48, 63, 64, 94, 95, 140, 171, 172];
/// What a count without a report is worth: as much as this error.
pub(super) const WORTH_XID: u64 = 48;

/// What it last counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uncorrected {
    /// Since its driver was loaded, or it was reset.
    pub count: u64,
    /// It was less, and it is not decided yet whether that was reported.
    pub risen: Option<Risen>,
}

impl Uncorrected {
    /// The count of which everything is decided: whoever goes on from there decides the rest.
    #[must_use]
    pub fn decided_count(&self) -> u64 {
        self.risen.map_or(self.count, |risen| risen.from)
    }
}

/// That a count has risen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Risen {
    pub from: u64,
    pub at: WallMs,
}

/// Takes in what a look shows; whether errors came without a report, once that is certain.
pub(super) fn seen(
    before: Option<Uncorrected>,
    now_counted: Option<u64>,
    faults: &VecDeque<Fault>,
    now: WallMs,
) -> (Option<Uncorrected>, bool) {
    let Some(before) = before else {
        // What was before anybody looked is nothing new.
        return (now_counted.map(|count| Uncorrected { count, risen: None }), false);
    };
    let count = now_counted.unwrap_or(before.count);
    if count < before.count {
        return (Some(Uncorrected { count, risen: None }), false);
    }
    let newly = (count > before.count).then_some(Risen { from: before.count, at: now });
    let risen = before.risen.or(newly);
    let Some(due) = risen.filter(|risen| now.since(risen.at) >= REPORT_WITHIN) else {
        return (Some(Uncorrected { count, risen }), false);
    };
    let is_of_it = |fault: &Fault| {
        MEMORY_XIDS.contains(&fault.xid) && fault.at.0 + REPORTED_BEFORE.0 >= due.at.0
    };
    (Some(Uncorrected { count, risen: None }), !faults.iter().any(is_of_it))
}

/// What errors without a report ask for, where the table has this for one that is reported. A
/// table by which such a report asks for nothing means the count as well.
pub(super) fn remedy(of_report: Remedy) -> Option<Remedy> {
    match of_report {
        Remedy::Note | Remedy::Ask | Remedy::Application => None,
        Remedy::Suspect | Remedy::ResetIfRepeated | Remedy::Link => Some(Remedy::Suspect),
        Remedy::Reset => Some(Remedy::Reset),
        Remedy::Reboot => Some(Remedy::Reboot),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Looks at these times that count so many; when it was certain that there was no report.
    fn unreported(looks: &[(u64, Option<u64>)], faults: &[(u64, u64)]) -> Vec<u64> {
        let fault =
            |(at, xid): &(u64, u64)| Fault { at: WallMs(*at), xid: *xid, jobs: BTreeSet::new() };
        let faults: VecDeque<Fault> = faults.iter().map(fault).collect();
        let (mut known, mut told) = (None, Vec::new());
        for (at, count) in looks {
            let so_far = faults.iter().filter(|fault| fault.at.0 <= *at).cloned().collect();
            let (next, unreported) = seen(known, *count, &so_far, WallMs(*at));
            known = next;
            told.extend(unreported.then_some(*at));
        }
        told
    }

    #[test]
    fn a_count_that_rises_without_a_report_is_told_once() {
        const T: u64 = 1_000_000;
        for (looks, faults, expected) in [
            // Before anybody looked, and never since.
            (&[(T, Some(7)), (T + 9_000, Some(7))][..], &[][..], &[][..]),
            (&[(T, None), (T + 9_000, Some(7)), (T + 19_000, Some(7))], &[], &[]),
            // It does not tell any more.
            (&[(T, Some(0)), (T + 1_000, Some(2)), (T + 4_000, None)], &[], &[T + 4_000]),
            (
                &[
                    (T, Some(0)),
                    (T + 1_000, Some(2)),
                    (T + 3_900, Some(3)),
                    (T + 4_000, Some(3)),
                    (T + 9_000, Some(3)),
                ],
                &[],
                &[T + 4_000],
            ),
            // Reported just before it, just after it, long before it, and for something else.
            (&[(T, Some(0)), (T + 1_000, Some(1)), (T + 4_000, Some(1))], &[(T + 900, 94)], &[]),
            (&[(T, Some(0)), (T + 1_000, Some(1)), (T + 4_000, Some(1))], &[(T + 3_999, 48)], &[]),
            (
                &[(T, Some(0)), (T + 1_000, Some(1)), (T + 4_000, Some(1))],
                &[(T - 59_001, 48), (T + 900, 13)],
                &[T + 4_000],
            ),
            // A reset, or another driver, counts from nothing.
            (&[(T, Some(9)), (T + 1_000, Some(0)), (T + 9_000, Some(0))], &[], &[]),
            (
                &[(T, Some(1)), (T + 1_000, Some(2)), (T + 2_000, Some(0)), (T + 9_000, Some(0))],
                &[],
                &[],
            ),
        ] {
            assert_eq!(unreported(looks, faults), expected, "{looks:?} {faults:?}");
        }
    }
}
