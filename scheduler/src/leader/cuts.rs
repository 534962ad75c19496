//! Where a plan may be cut to fit log entries: between placements and between places that are
//! kept, and never within a gang, of which apply would refuse the parts.

use std::collections::BTreeSet;

use berth_model::{JobId, TaskIndex};
use berth_state::{Command, Placement, Reservation};
use berth_wire::log::v1 as log;

/// Tasks of which the placements count only together.
pub type Gangs = BTreeSet<(JobId, TaskIndex)>;

/// What a plan is a list of.
pub trait Part: Clone {
    fn placement(&self) -> &Placement;

    fn command(parts: Vec<Self>) -> Command;

    /// The parts of such a command again.
    fn parts(command: Command) -> Option<Vec<Self>>;

    fn task(&self) -> (JobId, TaskIndex) {
        (self.placement().job, self.placement().task)
    }
}

impl Part for Placement {
    fn placement(&self) -> &Placement {
        self
    }

    fn command(placements: Vec<Placement>) -> Command {
        Command::Place { placements }
    }

    fn parts(command: Command) -> Option<Vec<Placement>> {
        if let Command::Place { placements } = command { Some(placements) } else { None }
    }
}

impl Part for Reservation {
    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn command(reservations: Vec<Reservation>) -> Command {
        Command::Reserve { reservations }
    }

    fn parts(command: Command) -> Option<Vec<Reservation>> {
        if let Command::Reserve { reservations } = command { Some(reservations) } else { None }
    }
}

/// The first of the parts, as many as surely encode to at most `bytes_max`.
pub fn fitting<P: Part>(mut parts: Vec<P>, gangs: &Gangs, bytes_max: usize) -> Vec<P> {
    while !parts.is_empty() {
        let command = P::command(parts);
        let fits = log::encoded_len(&command) <= bytes_max;
        parts = P::parts(command).unwrap_or_default();
        if fits {
            break;
        }
        let fewer = units_within(&parts, gangs, parts.len() / 2);
        if fewer == parts.len() {
            return Vec::new();
        }
        parts.truncate(fewer);
    }
    parts
}

/// How many of the first parts are at most so many and no part of a gang; the first alone, or
/// all of the first gang, if that is more.
pub fn units_within<P: Part>(parts: &[P], gangs: &Gangs, count_max: usize) -> usize {
    let together = |one: &P, next: &P| one.task() == next.task() && gangs.contains(&one.task());
    let mut count = 0;
    for unit in parts.chunk_by(together) {
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

    #[test]
    fn places_that_are_kept_are_cut_likewise() {
        let keep = |placement: Placement| {
            let awaits = vec![placement.allocation(); 10];
            Reservation { placement, awaits, patient: false }
        };
        let all: Vec<Reservation> = placements(&[2, 4, 2]).into_iter().map(keep).collect();
        let gangs: Gangs = [(JobId(2), TaskIndex(0))].into();
        assert_eq!([1, 2, 5, 6].map(|count| units_within(&all, &gangs, count)), [1, 2, 2, 6]);
        // Of some 200 bytes each, with who ends there.
        let fit = |bytes_max| fitting(all.clone(), &gangs, bytes_max).len();
        assert_eq!([100, 500, 1_200, 1_900].map(fit), [0, 2, 2, 8]);
    }
}
