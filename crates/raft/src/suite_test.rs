//! The consensus library's own functional tests of storage, on both devices.

use std::io::{Read, Write};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use openraft::async_runtime::Watch;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{AsyncRuntime, StorageError};
use tokio::sync::Notify;

use crate::app::{Answer, App, EntryError, SnapshotError};
use crate::device::memory::MemoryDevice;
use crate::device::sled::{Directory, Filesystem, SledDevice, SledOptions};
use crate::device::{Device, Identity};
use crate::fatal::FatalCell;
use crate::log::{Cache, LogStore, WriterHandle};
use crate::machine::{Machine, Shared};
use crate::types::{StoredMembership, Types};
use crate::{PROPOSAL_BYTES_MAX, TokioRuntime};

struct Nothing;

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

struct Builder<D, F>(F, PhantomData<fn() -> D>);

impl<D, G, F> StoreBuilder<Config, LogStore<Nothing>, Store<D>, Guard<G>> for Builder<D, F>
where
    D: Device,
    G: Send + Sync + 'static,
    F: Fn() -> (G, D) + Send + Sync,
{
    async fn build(&self) -> Result<(Guard<G>, LogStore<Nothing>, Store<D>), StorageError<Config>> {
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
            store: opened.snapshots,
            shared: Arc::new(shared),
            applied: None,
            membership: StoredMembership::default(),
            applied_watch: Mutex::new(applied_watch),
            bytes_since_snapshot: 0,
        };
        Ok((Guard(guard, opened.keep), LogStore::new(cache, writer), machine))
    }
}

struct Guard<G>(
    #[expect(dead_code, reason = "kept for its drop")] G,
    #[expect(dead_code, reason = "kept for its drop")] Box<dyn Send + Sync>,
);

#[tokio::test]
async fn memory_device_passes_the_suite() {
    let builder = Builder(|| ((), MemoryDevice::new()), PhantomData);
    Suite::test_all(builder).await.unwrap();
}

#[tokio::test]
async fn sled_device_passes_the_suite() {
    let builder = Builder(
        || {
            let folder = tempfile::tempdir().unwrap();
            let mut options = SledOptions::new(folder.path(), Directory::MayCreate);
            options.filesystem = Filesystem::LocalOrMemory;
            options.hard_limit_bytes = 0;
            options.ballast_bytes = 0;
            (folder, SledDevice::new(options))
        },
        PhantomData,
    );
    Suite::test_all(builder).await.unwrap();
}
