//! Whether the replicas are one: the same entries must have given the same
//! state everywhere. Pure; it knows neither how reports come nor what follows.

use std::collections::{BTreeMap, BTreeSet};

use super::report::Report;

/// How this replica's state stands to those of the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Agreement {
    /// Nothing speaks against it.
    Whole,
    /// Replicas differ, and no majority has this replica in the wrong.
    Split { index: u64, others: Vec<u64> },
    /// A majority of the voters had one state there, and this replica another.
    Odd(Odd),
}

/// What shows that this replica is the wrong one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Odd {
    /// The entry after which the states differed, the first that is known.
    pub index: u64,
    pub own_hash: u64,
    pub majority_hash: u64,
    /// Voters that had the other state.
    pub majority: Vec<u64>,
}

/// Compares `own_id`'s states with what the others last said, entry by entry.
/// Only identical programs are compared: others may keep the same state in other
/// shapes. A replica without a vote of its own is judged by those that have one.
pub fn agreement(
    own_id: u64,
    own: &Report,
    voters: &BTreeSet<u64>,
    others: &BTreeMap<u64, Report>,
) -> Agreement {
    let Some(program) = own.program else { return Agreement::Whole };
    let comparable: Vec<(u64, BTreeMap<u64, u64>)> = others
        .iter()
        .filter(|(id, report)| **id != own_id && report.program == Some(program))
        .map(|(id, report)| (*id, report.states.iter().map(|at| (at.index, at.hash)).collect()))
        .collect();
    let mut own_states = own.states.clone();
    own_states.sort_unstable();
    let mut split = None;
    for state in own_states {
        let mut differing: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (id, states) in &comparable {
            if let Some(hash) = states.get(&state.index).filter(|hash| **hash != state.hash) {
                differing.entry(*hash).or_default().push(*id);
            }
        }
        for (hash, ids) in &differing {
            let voting: Vec<u64> = ids.iter().copied().filter(|id| voters.contains(id)).collect();
            if voting.len() * 2 > voters.len() {
                return Agreement::Odd(Odd {
                    index: state.index,
                    own_hash: state.hash,
                    majority_hash: *hash,
                    majority: voting,
                });
            }
        }
        if split.is_none() && !differing.is_empty() {
            let others: BTreeSet<u64> = differing.into_values().flatten().collect();
            let others = others.into_iter().collect();
            split = Some(Agreement::Split { index: state.index, others });
        }
    }
    split.unwrap_or(Agreement::Whole)
}

#[cfg(test)]
mod tests {
    use super::super::report::StateAt;
    use super::*;

    fn report(program: u64, states: &[(u64, u64)]) -> Report {
        let states = states.iter().map(|(index, hash)| StateAt { index: *index, hash: *hash });
        Report::own(Some(program), states.collect(), berth_model::WallMs(0))
    }

    /// This replica is 1, with states A at 256 and B at 300, of program 7.
    #[track_caller]
    fn check(voters: &[u64], others: &[(u64, Report)], expected: &Agreement) {
        let own = report(7, &[(300, 0xB), (256, 0xA)]);
        let voters = voters.iter().copied().collect();
        let others = others.iter().cloned().collect();
        assert_eq!(&agreement(1, &own, &voters, &others), expected);
    }

    fn odd(index: u64, hashes: (u64, u64), majority: &[u64]) -> Agreement {
        let (own_hash, majority_hash) = hashes;
        Agreement::Odd(Odd { index, own_hash, majority_hash, majority: majority.to_vec() })
    }

    fn split(index: u64, others: &[u64]) -> Agreement {
        Agreement::Split { index, others: others.to_vec() }
    }

    #[test]
    fn replicas_that_agree_or_have_nothing_in_common_are_whole() {
        let same = report(7, &[(256, 0xA), (300, 0xB)]);
        check(&[1, 2, 3], &[(2, same.clone()), (3, same)], &Agreement::Whole);
        let elsewhere = report(7, &[(512, 0xF), (299, 0xF)]);
        check(&[1, 2, 3], &[(2, elsewhere.clone()), (3, elsewhere)], &Agreement::Whole);
        check(&[1], &[], &Agreement::Whole);
    }

    #[test]
    fn other_programs_are_not_compared() {
        let other = report(8, &[(256, 0xF), (300, 0xF)]);
        check(&[1, 2, 3], &[(2, other.clone()), (3, other)], &Agreement::Whole);
        let mut unknown = report(7, &[(256, 0xF)]);
        unknown.program = None;
        check(&[1, 2, 3], &[(2, unknown.clone()), (3, unknown)], &Agreement::Whole);
    }

    #[test]
    fn the_replica_against_which_a_majority_stands_is_the_odd_one() {
        let later = report(7, &[(256, 0xA), (300, 0xF)]);
        let both = [(2, later.clone()), (3, later.clone())];
        check(&[1, 2, 3], &both, &odd(300, (0xB, 0xF), &[2, 3]));
        let earlier = report(7, &[(256, 0xC), (300, 0xF)]);
        let first = [(2, earlier.clone()), (3, earlier)];
        check(&[1, 2, 3], &first, &odd(256, (0xA, 0xC), &[2, 3]));
        // A learner is judged by the only voter.
        check(&[2], &[(2, later)], &odd(300, (0xB, 0xF), &[2]));
    }

    #[test]
    fn without_a_majority_nobody_is_condemned() {
        let other = report(7, &[(300, 0xF)]);
        let same = report(7, &[(300, 0xB)]);
        check(&[1, 2], &[(2, other.clone())], &split(300, &[2]));
        check(&[1, 2, 3], &[(2, other.clone()), (3, same.clone())], &split(300, &[2]));
        // Both others differ, from each other too.
        let third = report(7, &[(300, 0xE)]);
        check(&[1, 2, 3], &[(2, other.clone()), (3, third)], &split(300, &[2, 3]));
        // Learners have no say.
        check(&[1, 2, 3], &[(4, other.clone()), (5, other.clone())], &split(300, &[4, 5]));
        // Two of five are no majority.
        check(&[1, 2, 3, 4, 5], &[(2, other.clone()), (3, other), (4, same)], &split(300, &[2, 3]));
    }
}
