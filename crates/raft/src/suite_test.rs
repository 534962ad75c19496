//! The consensus library's own functional tests of storage, on both devices.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use openraft::async_runtime::Watch;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{AsyncRuntime, OptionalSend, StorageError};
use tokio::sync::Notify;

use crate::app::{Answer, App, EntryError, SnapshotError};
use crate::device::memory::MemoryDevice;
use crate::device::sled::{Directory, Filesystem, SledDevice, SledOptions};
use crate::device::snapshots::{FileSnapshots, MemorySnapshots};
use crate::device::{Device, Identity};
use crate::fatal::FatalCell;
use crate::log::{Cache, LogStore, WriterHandle};
use crate::machine::{Machine, Shared};
use crate::types::{Committed, Entry, LogId, StoredMembership, Types, Vote};
use crate::{PROPOSAL_BYTES_MAX, TokioRuntime};

/// An application without content.
pub(crate) struct Nothing;

impl App for Nothing {
    type Entry = ();
    type Reply = ();
    type View = ();

    fn decode(bytes: &[u8]) -> Result<(), EntryError> {
        assert!(bytes.len() <= PROPOSAL_BYTES_MAX);
        Ok(())
    }

    fn apply(&mut self, _: u64, (): &()) {}

    fn publish(&mut self, _: u64) {}

    fn view(&self) {}

    fn write_snapshot((): &(), _: &mut dyn Write) -> std::io::Result<()> {
        Ok(())
    }

    fn restore(&mut self, _: &mut dyn Read) -> Result<(), SnapshotError> {
        Ok(())
    }
}

impl std::fmt::Debug for Answer<Nothing> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

type Runtime = TokioRuntime;
type Config = Types<Nothing, Runtime>;
type Store<D> = Machine<Nothing, Runtime, <D as Device>::Snapshots>;

/// The suite begins logs anywhere, which no cluster does and the store takes
/// for a hole. What is missing is purged first, and the purge hidden.
struct Anywhere {
    inner: LogStore<Nothing>,
    hidden: Option<LogId>,
    /// What the suite itself purged up to, where that was hidden.
    shown_as: Option<LogId>,
}

type Flushed = IOFlushed<Config>;

impl RaftLogStorage<Config> for Anywhere {
    type LogReader = <LogStore<Nothing> as RaftLogStorage<Config>>::LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<Config>> {
        let mut state: LogState<Config> = self.inner.get_log_state().await?;
        for position in [&mut state.last_purged_log_id, &mut state.last_log_id] {
            if position.is_some() && *position == self.hidden {
                *position = self.shown_as;
            }
        }
        Ok(state)
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        RaftLogStorage::<Config>::get_log_reader(&mut self.inner).await
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        RaftLogStorage::<Config>::save_vote(&mut self.inner, vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        RaftLogStorage::<Config>::save_committed(&mut self.inner, committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        RaftLogStorage::<Config>::read_committed(&mut self.inner).await
    }

    async fn append<I>(&mut self, entries: I, callback: Flushed) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry<Nothing>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let state: LogState<Config> = self.inner.get_log_state().await?;
        let first = entries.first().map_or(0, |entry| entry.log_id.index);
        if state.last_log_id.is_none() && first > 0 {
            let before = LogId::new(Committed::new(0), first - 1);
            RaftLogStorage::<Config>::purge(&mut self.inner, before).await?;
            self.hidden = Some(before);
        }
        self.inner.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        RaftLogStorage::<Config>::truncate_after(&mut self.inner, last_log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        if self.hidden.is_some_and(|hidden| hidden.index == log_id.index) {
            self.shown_as = Some(log_id);
        }
        RaftLogStorage::<Config>::purge(&mut self.inner, log_id).await
    }
}

/// Makes stores. Their snapshots share one place, since the suite hands one
/// store's snapshot to another without a network in between.
struct Builder<D: Device, F>(F, D::Snapshots);

impl<D, G, F> StoreBuilder<Config, Anywhere, Store<D>, Guard<G>> for Builder<D, F>
where
    D: Device,
    G: Send + Sync + 'static,
    F: Fn() -> (G, D) + Send + Sync,
{
    async fn build(&self) -> Result<(Guard<G>, Anywhere, Store<D>), StorageError<Config>> {
        let (guard, device) = (self.0)();
        let identity = Identity { cluster_id: [1; 16], node_id: 0 };
        let fatal = FatalCell::default();
        let opened = device.open(identity, &fatal).unwrap();
        let cache = Cache::new(opened.recovered).unwrap();
        let (writer, _end) =
            WriterHandle::start::<_, Runtime>(opened.log, D::PLACE, opened.health, fatal.clone())
                .unwrap();
        let shared = Shared {
            cluster_id: identity.cluster_id,
            place: D::PLACE,
            fatal,
            snapshot_due: Notify::new(),
            snapshot_log_bytes_min: 1 << 20,
            newest: Mutex::new(None),
        };
        let (applied_watch, _) = <Runtime as AsyncRuntime>::Watch::channel(0);
        let machine = Machine {
            app: Nothing,
            store: self.1.clone(),
            shared: Arc::new(shared),
            applied: None,
            membership: StoredMembership::default(),
            applied_watch: Mutex::new(applied_watch),
            bytes_since_snapshot: 0,
        };
        let log = Anywhere { inner: LogStore::new(cache, writer), hidden: None, shown_as: None };
        Ok((Guard(guard, opened.keep), log, machine))
    }
}

struct Guard<G>(G, #[expect(dead_code, reason = "kept for its drop")] Box<dyn Send + Sync>);

#[tokio::test]
async fn memory_device_passes_the_suite() {
    let snapshots = MemorySnapshots::default();
    let builder = Builder::<MemoryDevice, _>(|| ((), MemoryDevice::new()), snapshots);
    Suite::test_all(builder).await.unwrap();
}

#[tokio::test]
async fn sled_device_passes_the_suite() {
    let snapshots = tempfile::tempdir().unwrap();
    let builder = Builder::<SledDevice, _>(
        || {
            let folder = tempfile::tempdir().unwrap();
            let mut options = SledOptions::new(folder.path(), Directory::MayCreate);
            options.filesystem = Filesystem::LocalOrMemory;
            options.hard_limit_bytes = 0;
            options.ballast_bytes = 0;
            (folder, SledDevice::new(options))
        },
        FileSnapshots::open(snapshots.path()).unwrap(),
    );
    Suite::test_all(builder).await.unwrap();
}
