//! What is used of a GPU's memory, and by whom.

use super::super::slices;
use super::{Gpu, Probing, Seen, Standing};

/// What is used of a GPU's memory, and by whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryLook {
    pub used_bytes: Option<u64>,
    /// By pid, with an amount where the driver says it; `None`: it does not say who is there.
    pub processes: Option<Vec<(u32, Option<u64>)>>,
}

impl Seen {
    /// What is used of a GPU's memory, as it was last seen, and by which processes. `None` if
    /// it does not answer now.
    pub fn memory(&self, uuid: &str) -> Option<(Option<u64>, Vec<u32>)> {
        let gpu = self.gpus.get(self.whole(uuid)?);
        let gpu = gpu.filter(|gpu| gpu.standing == Standing::Answers)?;
        let told = match slices::slice(&gpu.look, uuid) {
            Some(slice) => (slice.memory_used_bytes, slice.pids.clone()),
            None => {
                let pids = gpu.look.processes.iter().map(|process| process.pid).collect();
                (gpu.look.memory_used_bytes, pids)
            }
        };
        (self.probing == Probing::Live).then_some(told)
    }

    /// As [`Seen::memory`] of a whole GPU, with what each process uses.
    pub fn memory_by(&self, uuid: &str) -> Option<MemoryLook> {
        let answers = |gpu: &&Gpu| gpu.standing == Standing::Answers;
        let look = &self.gpus.get(uuid).filter(answers)?.look;
        let each = look.processes.iter().map(|process| (process.pid, process.memory_bytes));
        let processes = look.tells_processes.then(|| each.collect());
        let told = MemoryLook { used_bytes: look.memory_used_bytes, processes };
        (self.probing == Probing::Live).then_some(told)
    }
}
