//! Watches the disk once a second: free space, a flush that does not return,
//! side files that must not appear; and brings the high-water note up to
//! date. It stops the node, and repairs nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{SharedKeeper, SledOptions};
use crate::device::{DiskHealth, OpenError};
use crate::fatal::{FatalCell, FatalReason};

const PERIOD: Duration = Duration::from_secs(1);

/// Milliseconds on this process's monotonic clock, never 0.
pub(crate) fn process_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX) + 1
}

pub(super) fn free_bytes(folder: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(folder)?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

fn ballast(folder: &Path) -> PathBuf {
    folder.join("ballast")
}

/// On a disk too full to recover, gives up the ballast.
pub(super) fn release_ballast(options: &SledOptions) -> Result<(), OpenError> {
    let folder = &options.data_dir;
    let io = |action| OpenError::io(action, folder);
    if free_bytes(folder).map_err(io("look at free space of"))? >= options.hard_limit_bytes {
        return Ok(());
    }
    match fs::remove_file(ballast(folder)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io("remove the ballast in")(error));
        }
        Ok(()) | Err(_) => {}
    }
    let free = free_bytes(folder).map_err(io("look at free space of"))?;
    // Recovery writes one segment.
    let needed_bytes = options.hard_limit_bytes.min(32 << 20);
    if free < needed_bytes {
        return Err(OpenError::Full { path: folder.clone(), free_bytes: free, needed_bytes });
    }
    Ok(())
}

/// Lays the ballast down while there is plenty of room.
pub(super) fn lay_ballast(options: &SledOptions) -> io::Result<()> {
    let path = ballast(&options.data_dir);
    if options.ballast_bytes == 0
        || fs::metadata(&path).is_ok_and(|file| file.len() == options.ballast_bytes)
        || free_bytes(&options.data_dir)? < options.soft_limit_bytes + options.ballast_bytes
    {
        return Ok(());
    }
    let file = fs::File::create(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, options.ballast_bytes)?;
    file.sync_all()
}

/// A running guard; it ends when dropped.
pub(super) struct Guard {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a guard looks after.
pub(super) struct Watch {
    pub options: SledOptions,
    pub health: Arc<DiskHealth>,
    pub keeper: SharedKeeper,
    pub fatal: FatalCell,
}

impl Guard {
    pub(super) fn start(watch: Watch) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("raft-disk-guard".to_owned())
            .spawn(move || watch.run(&stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, which its own message has told.
            let _ended = thread.join();
        }
    }
}

impl Watch {
    fn run(&self, stopped: &Receiver<()>) {
        let mut blobs_seen = false;
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(PERIOD) {
            let looked = self.look().and_then(|()| self.keeper.write());
            if let Err(error) = looked {
                self.fatal.set(FatalReason::Storage(error.to_string()));
                return;
            }
            let blobs = has_blobs(&self.options.data_dir.join("log"));
            if blobs && !blobs_seen {
                tracing::error!("log store has moved data to side files, which are not crash safe");
            }
            blobs_seen = blobs;
        }
    }

    fn look(&self) -> io::Result<()> {
        let busy_since_ms = self.health.busy_since_ms();
        if busy_since_ms != 0 {
            let busy_ms = process_ms().saturating_sub(busy_since_ms);
            if u128::from(busy_ms) > self.options.flush_limit.as_millis() {
                self.fatal.set(FatalReason::FlushHangs(busy_ms));
            }
        }
        let free = free_bytes(&self.options.data_dir)?;
        self.health.set_space(free, self.options.soft_limit_bytes);
        if free < self.options.hard_limit_bytes {
            self.fatal.set(FatalReason::DiskFull {
                free_bytes: free,
                limit_bytes: self.options.hard_limit_bytes,
            });
        }
        Ok(())
    }
}

/// Whether sled has side files, which it never syncs.
pub(super) fn has_blobs(log_folder: &Path) -> bool {
    fs::read_dir(log_folder.join("blobs")).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sled::{Directory, Filesystem, SledDevice};
    use crate::device::{Device, Identity};

    #[test]
    fn a_flush_that_does_not_return_stops_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = SledOptions::new(folder.path(), Directory::MayCreate);
        options.filesystem = Filesystem::LocalOrMemory;
        options.hard_limit_bytes = 0;
        options.ballast_bytes = 0;
        options.flush_limit = Duration::from_millis(100);
        let fatal = FatalCell::default();
        let identity = Identity { cluster_id: [1; 16], node_id: 1 };
        let opened = SledDevice::new(options).open(identity, &fatal).unwrap();
        opened.health.set_busy_since_ms(process_ms());
        let reason = futures::executor::block_on(fatal.wait());
        assert!(matches!(reason, FatalReason::FlushHangs(busy_ms) if busy_ms > 100), "{reason}");
    }
}
