//! What the host has and uses, from `/proc`.

use std::fs;
use std::thread;

use berth_model::{CpuMilli, MemoryBytes};

/// The cores that this process may use.
pub fn cpu() -> CpuMilli {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    CpuMilli(u64::try_from(cores).unwrap_or(1) * 1000)
}

/// The host's memory; zero if the kernel does not say.
pub fn memory() -> MemoryBytes {
    MemoryBytes(meminfo("MemTotal:").unwrap_or(0))
}

/// Memory that a new process could not have.
pub fn memory_used() -> MemoryBytes {
    let total = meminfo("MemTotal:").unwrap_or(0);
    MemoryBytes(total.saturating_sub(meminfo("MemAvailable:").unwrap_or(total)))
}

fn meminfo(name: &str) -> Option<u64> {
    kibibytes_of(&fs::read_to_string("/proc/meminfo").ok()?, name)?.checked_mul(1024)
}

pub(crate) fn kibibytes_of(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// How busy the host's cores were between two looks.
#[derive(Default)]
pub struct CpuMeter {
    /// Busy and all clock ticks at the last look.
    last: Option<(u64, u64)>,
}

impl CpuMeter {
    /// The use since the last look in thousandths of a core; zero at the first.
    pub fn used(&mut self) -> CpuMilli {
        let Some(now) = fs::read_to_string("/proc/stat").ok().and_then(|stat| ticks(&stat)) else {
            return CpuMilli::ZERO;
        };
        let before = self.last.replace(now);
        let Some((busy_before, all_before)) = before else {
            return CpuMilli::ZERO;
        };
        let busy = now.0.saturating_sub(busy_before);
        let all = now.1.saturating_sub(all_before).max(1);
        CpuMilli(cpu().0.saturating_mul(busy) / all)
    }
}

/// Busy and all ticks of `/proc/stat`'s first line.
pub(crate) fn ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is in user.
    let all: u64 = fields.iter().take(8).sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    Some((all.saturating_sub(idle), all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let meminfo = "MemTotal:       16384 kB\nMemAvailable:    4096 kB\n";
        assert_eq!(kibibytes_of(meminfo, "MemAvailable:"), Some(4096));
        assert_eq!(kibibytes_of(meminfo, "Cached:"), None);
        assert_eq!(ticks("cpu  10 1 4 80 5 0 0 0 7 0\ncpu0 1\n"), Some((15, 100)));
        assert_eq!(ticks(""), None);
        assert!(cpu().0 >= 1000);
        assert!(memory().0 > 0);
    }
}
