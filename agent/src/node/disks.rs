//! Workers with a limit of disk: what they have there is counted now and then.

use std::time::Duration;

use berth_model::{AllocationId, DiskBytes};
use tokio::time::Instant;
use tracing::info;

use super::bounds::AT_ONCE;
use super::{Event, Node};
use crate::disk_use;

/// Between two counts. A disk that is filled within that time is another matter: whoever else
/// needs it is told by the disk itself.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// When the next count is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DiskWatch {
    /// Nobody has a limit.
    #[default]
    Idle,
    At(Instant),
    UnderWay,
}

impl DiskWatch {
    pub fn next_look(self) -> Option<Instant> {
        match self {
            DiskWatch::At(at) => Some(at),
            DiskWatch::Idle | DiskWatch::UnderWay => None,
        }
    }
}

impl Node {
    /// Begins a count if one is due.
    pub(super) fn look_at_disks(&mut self) {
        match self.disks {
            DiskWatch::UnderWay => return,
            DiskWatch::At(at) if Instant::now() < at => return,
            DiskWatch::Idle | DiskWatch::At(_) => {}
        }
        let limited: Vec<(AllocationId, DiskBytes)> = self
            .workers_here()
            .filter_map(|(id, worker)| Some((*id, worker.wanted.as_ref()?.task().limits.disk?)))
            .collect();
        if limited.is_empty() {
            self.disks = DiskWatch::Idle;
            return;
        }
        if self.disks == DiskWatch::Idle {
            self.disks = DiskWatch::At(Instant::now() + LOOK_EVERY);
            return;
        }
        self.disks = DiskWatch::UnderWay;
        let dirs = limited.into_iter().map(|(id, most)| (id, most, self.dir_of(id)));
        let (dirs, events) = (dirs.collect::<Vec<_>>(), self.events.clone());
        tokio::task::spawn_blocking(move || {
            let counted = dirs
                .into_iter()
                .map(|(id, most, dir)| (id, most, disk_use::used([dir.task(), dir.temporary()])));
            let over = counted.filter(|(_, most, used)| used > most).collect();
            // The agent may be ending.
            let _ = events.send(Event::OverDisk(over));
        });
    }

    /// Ends those that have more than they may.
    pub(super) fn over_disk(&mut self, over: Vec<(AllocationId, DiskBytes, DiskBytes)>) {
        self.disks = DiskWatch::At(Instant::now() + LOOK_EVERY);
        for (id, most, used) in over {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            let reason = format!("over its limit of {most} of disk: it has {used}");
            info!(%id, reason, "allocation is ended");
            worker.over_limit = Some(reason);
            // Again at the next look, should its shim not have heard.
            self.ask_to_stop(id, Some(AT_ONCE));
        }
    }
}
