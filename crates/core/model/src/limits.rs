//! The most that a task may use, and who gives way first when a node runs out of something.

use crate::quantity::{CpuMilli, DiskBytes, MemoryBytes};
use crate::spec::{JobSpec, TaskSpec};

/// The most that one instance of a task may use; beside what it is promised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Limits {
    /// `None`: whatever is idle.
    pub cpu: Option<CpuMilli>,
    /// `None`: see [`TaskSpec::memory_max`].
    pub memory: Option<MemoryBytes>,
    /// Processes and threads; `None`: [`TaskSpec::PROCESSES_DEFAULT`].
    pub processes: Option<u32>,
    /// Files that each process has open at a time; `None`: [`TaskSpec::OPEN_FILES_DEFAULT`].
    pub open_files: Option<u32>,
    /// What lies in its directory and its own `/tmp`; `None`: whatever is free.
    pub disk: Option<DiskBytes>,
}

/// Who gives way first when a node runs out of memory, from the last to the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum QualityClass {
    /// It may use what it is promised and no more; whole cores are its own.
    Guaranteed,
    /// It is promised something, and may use more.
    Burstable,
    /// It asks for nothing in particular.
    BestEffort,
}

impl QualityClass {
    pub fn name(self) -> &'static str {
        match self {
            QualityClass::Guaranteed => "guaranteed",
            QualityClass::Burstable => "burstable",
            QualityClass::BestEffort => "best-effort",
        }
    }
}

impl TaskSpec {
    /// Far above what training and serving need, and far below what fills a host's table.
    pub const PROCESSES_DEFAULT: u32 = 16_384;

    /// What servers of many connections need, and no leak of one process fills a host with.
    pub const OPEN_FILES_DEFAULT: u32 = 65_536;

    /// No less holds even a shell, and Docker's engine takes none.
    pub const MEMORY_MAX_LEAST: MemoryBytes = MemoryBytes(6 << 20);

    /// The memory at which a worker is ended, at least [`TaskSpec::MEMORY_MAX_LEAST`]. What asks for some memory gets no more than that
    /// unless its limits say so; what asks for none in particular has no limit, and goes first
    /// when the node has none left.
    pub fn memory_max(&self) -> Option<MemoryBytes> {
        let asks = self.memory != JobSpec::MEMORY_DEFAULT;
        let most = self.limits.memory.or(asks.then_some(self.memory));
        most.map(|most| most.max(TaskSpec::MEMORY_MAX_LEAST))
    }

    /// Processes and threads of one instance.
    pub fn processes_max(&self) -> u32 {
        self.limits.processes.unwrap_or(TaskSpec::PROCESSES_DEFAULT)
    }

    /// Files that each process of an instance has open at a time.
    pub fn open_files_max(&self) -> u32 {
        self.limits.open_files.unwrap_or(TaskSpec::OPEN_FILES_DEFAULT)
    }

    pub fn quality(&self) -> QualityClass {
        let asks = self.cpu != JobSpec::CPU_DEFAULT || self.memory != JobSpec::MEMORY_DEFAULT;
        let limited = self.limits.cpu.is_some() || self.limits.memory.is_some();
        if self.limits.cpu == Some(self.cpu) && self.memory_max() == Some(self.memory) {
            QualityClass::Guaranteed
        } else if asks || limited {
            QualityClass::Burstable
        } else {
            QualityClass::BestEffort
        }
    }

    /// How many cores are its own: all of them if it is guaranteed whole ones.
    pub fn cores_pinned(&self) -> usize {
        let whole = self.cpu.0.is_multiple_of(1000) && self.quality() == QualityClass::Guaranteed;
        if whole { usize::try_from(self.cpu.0 / 1000).unwrap_or(usize::MAX) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{JobKind, Name};

    const GIB: u64 = 1 << 30;

    fn task(cpu: u64, memory: u64, limits: Limits) -> TaskSpec {
        let plain = TaskSpec::new(Name::new("main").unwrap(), JobKind::Batch, Vec::new());
        TaskSpec { cpu: CpuMilli(cpu), memory: MemoryBytes(memory), limits, ..plain }
    }

    #[test]
    fn a_class_follows_from_what_is_asked_and_limited() {
        use QualityClass::{BestEffort, Burstable, Guaranteed};
        const DEFAULT: u64 = JobSpec::MEMORY_DEFAULT.0;
        let limits = |cpu: Option<u64>, memory: Option<u64>| Limits {
            cpu: cpu.map(CpuMilli),
            memory: memory.map(MemoryBytes),
            ..Limits::default()
        };
        for (cpu, memory, limits, class, memory_max, cores) in [
            (100, DEFAULT, limits(None, None), BestEffort, None, 0),
            (100, DEFAULT, Limits { processes: Some(9), ..Limits::default() }, BestEffort, None, 0),
            (100, DEFAULT, limits(None, Some(GIB)), Burstable, Some(GIB), 0),
            (4_000, DEFAULT, limits(None, None), Burstable, None, 0),
            (100, 1, limits(None, None), Burstable, Some(6 << 20), 0),
            (4_000, GIB, limits(None, None), Burstable, Some(GIB), 0),
            (4_000, GIB, limits(Some(4_000), None), Guaranteed, Some(GIB), 4),
            (4_000, GIB, limits(Some(4_000), Some(GIB)), Guaranteed, Some(GIB), 4),
            (4_000, GIB, limits(Some(4_000), Some(2 * GIB)), Burstable, Some(2 * GIB), 0),
            (4_000, GIB, limits(Some(8_000), None), Burstable, Some(GIB), 0),
            (1_500, GIB, limits(Some(1_500), None), Guaranteed, Some(GIB), 0),
            (100, DEFAULT, limits(Some(100), Some(DEFAULT)), Guaranteed, Some(DEFAULT), 0),
        ] {
            let task = task(cpu, memory, limits);
            let found = (task.quality(), task.memory_max().map(|most| most.0), task.cores_pinned());
            assert_eq!(found, (class, memory_max, cores), "{cpu}m {memory} {limits:?}");
        }
    }

    #[test]
    fn processes_are_always_limited() {
        let unset = task(100, GIB, Limits::default());
        assert_eq!(unset.processes_max(), TaskSpec::PROCESSES_DEFAULT);
        let set = task(100, GIB, Limits { processes: Some(7), ..Limits::default() });
        assert_eq!(set.processes_max(), 7);
    }
}
