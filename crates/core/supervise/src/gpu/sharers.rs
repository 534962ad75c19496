//! Who uses what of a GPU that several workers share, and who uses more than it was given.
//! Sharers are not kept apart by the hardware: that they keep within their memory is watched.

use std::collections::BTreeMap;

use berth_model::{AllocationId, DurationMs, MemoryBytes};

use crate::clock::AgentMs;

/// Used above what was given, and nothing said: for the context of each process the driver takes
/// some hundred MiB by itself on large GPUs, of which the program that keeps to
/// `BERTH_GPU_VRAM_BYTES` knows nothing.
pub const OVER_TOLERANCE: MemoryBytes = MemoryBytes(512 << 20);
/// Two looks must find it over, so far apart at least: looks are a second apart, and several in
/// a row when somebody has just left.
const LOOKS_APART: DurationMs = DurationMs(500);
/// Used by nobody whom the driver names, and still nothing is hidden: what a driver keeps of a
/// context that is gone, page by page.
const UNNAMED_TOLERANCE_BYTES: u64 = 256 << 20;

/// Whose process it is that the driver names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Owner {
    Worker(AllocationId),
    /// Nobody's of this node, such as a program of the host's own.
    Stranger,
    /// This host shows no such process to its agent.
    Unseen,
}

/// A process on a GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    pub owner: Owner,
    /// `None`: the driver does not say.
    pub memory_bytes: Option<u64>,
}

/// A GPU that is shared, as one look shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedGpu {
    pub used_bytes: Option<u64>,
    /// What was used of it when no worker held it.
    pub baseline_bytes: u64,
    /// `None`: the driver does not say who is on it.
    pub processes: Option<Vec<Process>>,
    /// What each worker on it was given.
    pub claims: BTreeMap<AllocationId, MemoryBytes>,
}

/// Why nobody can say whose memory is used, so that nobody is ended for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Blind {
    NoProcesses,
    NoAmounts,
    UnseenProcesses,
    UnnamedUse,
}

impl Blind {
    /// For people.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Blind::NoProcesses => "the driver does not say which processes use it",
            Blind::NoAmounts => "the driver does not say how much each process uses",
            Blind::UnseenProcesses => {
                "the driver names processes that the agent cannot see (it runs in a container \
                 with process numbers of its own)"
            }
            Blind::UnnamedUse => "memory is used by nobody whom the driver names",
        }
    }
}

impl SharedGpu {
    /// What each worker uses, of those that the driver names with an amount.
    #[must_use]
    pub fn uses(&self) -> BTreeMap<AllocationId, MemoryBytes> {
        let mut uses = BTreeMap::new();
        for process in self.processes.iter().flatten() {
            if let (Owner::Worker(id), Some(bytes)) = (process.owner, process.memory_bytes) {
                let MemoryBytes(sum) = uses.entry(id).or_default();
                *sum = sum.saturating_add(bytes);
            }
        }
        uses
    }

    /// What of the used memory those on it account for: what the driver says of each, or all
    /// that it was given where the driver says nothing of it.
    #[must_use]
    pub fn explained_bytes(&self) -> u64 {
        let uses = self.uses();
        let of = |(id, claim): (&AllocationId, &MemoryBytes)| uses.get(id).unwrap_or(claim).0;
        self.claims.iter().map(of).fold(0, u64::saturating_add)
    }

    /// Why it cannot be said who uses what, if it cannot.
    #[must_use]
    pub fn blind(&self) -> Option<Blind> {
        let Some(processes) = &self.processes else { return Some(Blind::NoProcesses) };
        let named: Option<Vec<u64>> = processes.iter().map(|one| one.memory_bytes).collect();
        let Some(named) = named else { return Some(Blind::NoAmounts) };
        if processes.iter().any(|one| one.owner == Owner::Unseen) {
            return Some(Blind::UnseenProcesses);
        }
        let named = named.into_iter().fold(self.baseline_bytes, u64::saturating_add);
        let unnamed = self.used_bytes.unwrap_or(0).saturating_sub(named);
        (processes.is_empty() && unnamed > UNNAMED_TOLERANCE_BYTES).then_some(Blind::UnnamedUse)
    }
}

/// Since when a worker has used more of a GPU than it was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Overuse {
    since: Option<AgentMs>,
}

impl Overuse {
    /// Takes in another look at one that was given `claim`; says whether it is to be ended now.
    /// What is not known is not over.
    #[must_use]
    pub fn looked(&mut self, used: Option<MemoryBytes>, claim: MemoryBytes, now: AgentMs) -> bool {
        let most = claim.0.saturating_add(OVER_TOLERANCE.0);
        if used.is_none_or(|used| used.0 <= most) {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        now.0.saturating_sub(since.0) >= LOOKS_APART.0
    }
}

/// What is said of one that is ended for it.
#[must_use]
pub fn over_share(used: MemoryBytes, uuid: &str, claim: MemoryBytes) -> String {
    format!("used {used} of GPU memory on {uuid}, its share is {claim}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn id(instance: u32) -> AllocationId {
        format!("1.0.{instance}.1").parse().unwrap()
    }

    fn of(instance: u32, gib: u64) -> Process {
        Process { owner: Owner::Worker(id(instance)), memory_bytes: Some(gib * GIB) }
    }

    /// Two with 40 GiB each; a GiB is the driver's own.
    fn gpu(used_gib: u64, processes: Option<Vec<Process>>) -> SharedGpu {
        SharedGpu {
            used_bytes: Some(used_gib * GIB),
            baseline_bytes: GIB,
            processes,
            claims: [1, 2].map(|instance| (id(instance), MemoryBytes(40 * GIB))).into(),
        }
    }

    #[test]
    fn what_each_uses_is_the_sum_of_its_processes() {
        let stranger = Process { owner: Owner::Stranger, ..of(0, 3) };
        let untold = Process { memory_bytes: None, ..of(1, 0) };
        let check = |processes: &[Process], expected: &[(u32, u64)], explained_gib: u64| {
            let gpu = gpu(80, Some(processes.to_vec()));
            let expected = expected.iter().map(|(one, gib)| (id(*one), MemoryBytes(gib * GIB)));
            assert_eq!(gpu.uses(), expected.collect(), "{processes:?}");
            assert_eq!(gpu.explained_bytes(), explained_gib * GIB, "{processes:?}");
        };
        check(&[of(1, 5), of(2, 7), of(1, 6)], &[(1, 11), (2, 7)], 18);
        // Of one that is not named all that it was given may be in use.
        check(&[of(1, 5)], &[(1, 5)], 45);
        check(&[], &[], 80);
        check(&[stranger, of(2, 7)], &[(2, 7)], 47);
        check(&[untold, of(2, 7)], &[(2, 7)], 47);
        // One that has just ended explains nothing.
        check(&[of(1, 5), of(2, 7), of(3, 30)], &[(1, 5), (2, 7), (3, 30)], 12);
    }

    #[test]
    fn it_is_said_where_nobody_can_say_whose_memory_it_is() {
        let check = |used_gib: u64, processes: Option<&[Process]>, expected: Option<Blind>| {
            let gpu = gpu(used_gib, processes.map(<[Process]>::to_vec));
            assert_eq!(gpu.blind(), expected, "{processes:?}");
        };
        let untold = Process { memory_bytes: None, ..of(1, 0) };
        let unseen = Process { owner: Owner::Unseen, ..of(1, 5) };
        let stranger = Process { owner: Owner::Stranger, ..of(1, 5) };
        check(1, Some(&[]), None);
        check(12, Some(&[of(1, 5), of(2, 6)]), None);
        check(12, Some(&[of(1, 5), stranger]), None);
        check(80, None, Some(Blind::NoProcesses));
        check(12, Some(&[of(2, 1), untold]), Some(Blind::NoAmounts));
        check(12, Some(&[of(2, 1), unseen]), Some(Blind::UnseenProcesses));
        check(12, Some(&[]), Some(Blind::UnnamedUse));
        // On its way back from one that has ended.
        check(12, Some(&[of(2, 1)]), None);
    }

    #[test]
    fn one_over_its_share_is_ended_when_it_stays_so() {
        let claim = MemoryBytes(20 * GIB);
        let most = claim.0 + OVER_TOLERANCE.0;
        let check = |looks: &[(u64, Option<u64>)], expected: &[bool]| {
            let mut overuse = Overuse::default();
            let found = looks
                .iter()
                .map(|(at, used)| overuse.looked(used.map(MemoryBytes), claim, AgentMs(*at)));
            assert_eq!(found.collect::<Vec<bool>>(), expected, "{looks:?}");
        };
        check(&[(0, Some(most)), (1_000, Some(most)), (2_000, Some(most))], &[false; 3]);
        check(&[(0, Some(most + 1)), (1_000, Some(most + 1))], &[false, true]);
        // Looks in a row are one.
        check(
            &[(0, Some(most + 1)), (50, Some(u64::MAX)), (500, Some(u64::MAX))],
            &[false, false, true],
        );
        check(&[(0, Some(u64::MAX)), (1_000, Some(claim.0)), (2_000, Some(u64::MAX))], &[false; 3]);
        check(&[(0, Some(u64::MAX)), (1_000, None), (2_000, Some(u64::MAX))], &[false; 3]);
    }

    #[test]
    fn the_reason_names_both_amounts_and_the_gpu() {
        let said = over_share(MemoryBytes(24 * GIB + GIB / 8), "GPU-a", MemoryBytes(20 * GIB));
        assert_eq!(said, "used 24.1GiB of GPU memory on GPU-a, its share is 20GiB");
    }
}
