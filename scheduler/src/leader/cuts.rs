//! Where a plan may be cut to fit log entries: between placements, and never within a gang, of
//! which apply would refuse the parts.

use std::collections::BTreeSet;

use berth_model::{JobId, TaskIndex};
use berth_state::{Command, Placement};
use berth_wire::log::v1 as log;

/// Tasks of which the placements count only together.
pub type Gangs = BTreeSet<(JobId, TaskIndex)>;

/// The first of `placements`, as many as surely encode to at most `bytes_max`.
pub fn fitting(mut placements: Vec<Placement>, gangs: &Gangs, bytes_max: usize) -> Vec<Placement> {
    while !placements.is_empty() {
        let command = Command::Place { placements };
        let fits = log::encoded_len(&command) <= bytes_max;
        let Command::Place { placements: back } = command else { return Vec::new() };
        placements = back;
        if fits {
            break;
        }
        let fewer = units_within(&placements, gangs, placements.len() / 2);
        if fewer == placements.len() {
            return Vec::new();
        }
        placements.truncate(fewer);
    }
    placements
}

/// How many of the first placements are at most so many and no part of a gang; the first alone,
/// or all of the first gang, if that is more.
pub fn units_within(placements: &[Placement], gangs: &Gangs, count_max: usize) -> usize {
    let of = |one: &Placement| (one.job, one.task);
    let together =
        |one: &Placement, next: &Placement| of(one) == of(next) && gangs.contains(&of(one));
    let mut count = 0;
    for unit in placements.chunk_by(together) {
        if count > 0 && count + unit.len() > count_max {
            break;
        }
        count += unit.len();
    }
    count
}

#[cfg(test)]
mod tests {
    use berth_model::{Attempt, DeviceClaim, InstanceIndex, MemoryBytes, NodeId, ShareMilli};

    use super::*;

    /// Of one task each, so many.
    fn placements(counts: &[u32]) -> Vec<Placement> {
        let of_task = |(job, count): (u64, &u32)| {
            let one = move |instance| Placement {
                job: JobId(job),
                task: TaskIndex(0),
                instance: InstanceIndex(instance),
                attempt: Attempt::FIRST,
                node: NodeId(1),
                devices: vec![DeviceClaim {
                    uuid: "x".repeat(100),
                    share: ShareMilli::WHOLE,
                    memory: MemoryBytes(1),
                }],
                ports: Vec::new(),
                score: Default::default(),
            };
            (0..*count).map(one)
        };
        (1..).zip(counts).flat_map(of_task).collect()
    }

    #[test]
    fn a_plan_is_cut_beside_its_gangs() {
        let check = |counts: &[u32], gangs: &[u64], (count, bytes): (usize, usize), expected| {
            let gangs: Gangs = gangs.iter().map(|job| (JobId(*job), TaskIndex(0))).collect();
            let all = placements(counts);
            let found = units_within(&all, &gangs, count);
            let fitting = fitting(all, &gangs, bytes).len();
            assert_eq!((found, fitting), expected, "{counts:?}");
        };
        // A placement of these is some 120 bytes.
        check(&[10], &[], (4, 700), (4, 5));
        check(&[10], &[1], (4, 700), (10, 0));
        check(&[10], &[1], (4, 2_000), (10, 10));
        check(&[2, 5, 3], &[2], (4, 700), (2, 2));
        check(&[2, 5, 3], &[2], (7, 1_100), (7, 2));
        check(&[4, 4], &[1, 2], (5, 700), (4, 4));
        check(&[6, 1, 1], &[1], (1, 900), (6, 6));
        check(&[], &[], (4, 100), (0, 0));
    }
}
