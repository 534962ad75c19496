//! Workers and their cgroups: made before the start, and removed after the end.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use berth_model::{AllocationId, DurationMs, EndCause, EndReport, MemoryBytes, Signal, StopPolicy};
use berth_shim::Mark;
use tokio::time::Instant;
use tracing::info;

use super::Node;
use crate::cgroups::{Bounds, Cgroups, Inhabited, MemoryUse, Version};
use crate::wanted::Wanted;

/// How soon the rest of a worker is ended of which the kernel has killed a part, where the
/// kernel does not end it as a whole.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For whoever has had more than it may.
pub(super) const AT_ONCE: StopPolicy = StopPolicy { signal: Signal::Kill, grace: DurationMs::ZERO };

/// The cgroups of this node's workers, where it has any.
#[derive(Default)]
pub struct Holding {
    cgroups: Option<Cgroups>,
    look_at: Option<Instant>,
}

impl Holding {
    pub fn with(cgroups: Option<Cgroups>) -> Holding {
        Holding { cgroups, ..Holding::default() }
    }

    /// When something is due without any event.
    pub fn next_look(&self) -> Option<Instant> {
        self.look_at
    }

    /// Those in whose groups anything lives.
    pub fn alive(&self) -> BTreeSet<AllocationId> {
        let found = self.cgroups.iter().flat_map(Cgroups::found);
        found.filter(|(_, lives)| *lives == Inhabited::Yes).map(|(id, _)| id).collect()
    }
}

impl Node {
    /// Makes the groups that hold a worker to its bounds, and says where they are; nowhere
    /// on a host that holds nobody to anything.
    pub(super) fn bound(
        &mut self,
        id: AllocationId,
        wanted: &Wanted,
    ) -> Result<Vec<PathBuf>, String> {
        let Some(cgroups) = &mut self.holding.cgroups else { return Ok(Vec::new()) };
        let beside = self.settings.confinement.processes_beside();
        cgroups.make(id, &Bounds::of(wanted.task()).with_processes_beside(beside))
    }

    /// It has ended: its groups go, and what they know of its end is said.
    pub(super) fn unbound(&mut self, id: AllocationId, end: &mut EndReport) {
        let Some(cgroups) = &mut self.holding.cgroups else { return };
        // Of a GPU's memory no cgroup knows.
        if end.cause == EndCause::OutOfMemory
            && end.reason.is_empty()
            && let Some(usage) = cgroups.memory(id)
        {
            end.reason = out_of_memory(&usage);
        }
        cgroups.remove(id);
    }

    /// Takes away the groups of those that are gone.
    pub(super) fn remove_empty_groups(&mut self) {
        let Some(cgroups) = &mut self.holding.cgroups else { return };
        for (id, lives) in cgroups.found() {
            let here = self.workers.get(&id).is_some_and(|worker| worker.end.is_none());
            if lives == Inhabited::No && !here {
                cgroups.remove(id);
            }
        }
    }

    /// Nothing begins here any more.
    pub(super) fn remove_groups(&mut self) {
        if let Some(cgroups) = &mut self.holding.cgroups {
            cgroups.clear();
        }
    }

    /// Ends the rest of each worker of which the kernel has killed a part: what is left of
    /// it hardly does what it should. Version 2 of the kernel's interface does so itself.
    pub(super) fn end_parts(&mut self) {
        let Some(cgroups) = &self.holding.cgroups else { return };
        if cgroups.version() == Version::V2 {
            return;
        }
        let now = Instant::now();
        if self.holding.look_at.is_none_or(|at| now >= at) {
            let here = self.workers_here().map(|(id, _)| *id);
            let killed: Vec<AllocationId> =
                here.filter(|id| cgroups.memory_kills(*id) > 0).collect();
            // Again at the next look, should its shim not have heard.
            for id in killed {
                info!(%id, "a part of it was killed for want of memory; the rest is ended");
                self.ask_to_stop(id, Some(AT_ONCE));
            }
            self.holding.look_at = Some(now + LOOK_EVERY);
        }
        if self.workers_here().next().is_none() {
            self.holding.look_at = None;
        }
    }

    /// By what the processes of an allocation are found, whoever watches them.
    pub(super) fn mark_of(&self, id: AllocationId) -> Mark {
        let dir = self.dir_of(id);
        let cgroups = self.holding.cgroups.iter();
        Mark {
            allocation_id: id.to_string(),
            task_dir: Some(dir.task().to_string_lossy().into_owned()),
            cgroup_dirs: cgroups.flat_map(|cgroups| cgroups.dirs(id)).collect(),
        }
    }
}

/// Whose memory it was that did not suffice.
fn out_of_memory(usage: &MemoryUse) -> String {
    at_its_limit(usage.limit.filter(|_| usage.was_at_limit), usage.peak)
}

/// Its own limit that it was at, if it was, and the most that was in use.
pub fn at_its_limit(limit: Option<MemoryBytes>, peak: Option<MemoryBytes>) -> String {
    let peak = peak.map(|peak| format!(", {peak} was the most in use")).unwrap_or_default();
    match limit {
        Some(limit) => format!("out of memory at its limit of {limit}{peak}"),
        None => format!("the host was out of memory{peak}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_whose_memory_did_not_suffice() {
        let own = MemoryUse {
            limit: Some(MemoryBytes(64 << 20)),
            peak: Some(MemoryBytes(64 << 20)),
            was_at_limit: true,
        };
        let found = out_of_memory(&own);
        assert_eq!(found, "out of memory at its limit of 64MiB, 64MiB was the most in use");
        let hosts = MemoryUse { was_at_limit: false, peak: None, ..own };
        assert_eq!(out_of_memory(&hosts), "the host was out of memory");
    }
}
