//! The application behind the consensus library's state machine trait, and
//! when to take a snapshot of it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use openraft::async_runtime::WatchSender;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use tokio::sync::Notify;

use crate::app::{Answer, App};
use crate::device::Place;
use crate::device::snapshots::{SnapshotName, SnapshotStore};
use crate::fatal::{FatalCell, FatalReason};
use crate::snapshot::{self, SnapshotData};
use crate::types::{Entry, LogId, SnapshotMeta, StoredMembership, Types};

/// Entries applied before the application publishes and proposers hear their
/// replies; more would make the first of them wait.
const PUBLISH_ENTRIES_MAX: usize = 64;

pub(crate) type WatchSenderOf<RT, T> =
    <<RT as AsyncRuntime>::Watch as openraft::async_runtime::Watch>::Sender<T>;

/// What a running node and its state machine share.
pub(crate) struct Shared {
    pub cluster_id: [u8; 16],
    pub place: Place,
    pub fatal: FatalCell,
    /// Wakes the task that asks for a snapshot.
    pub snapshot_due: Notify,
    /// Log bytes after which a snapshot is due, at least.
    pub snapshot_log_bytes_min: u64,
    /// The newest snapshot: its meta data and its length in bytes.
    pub newest: Mutex<Option<(SnapshotMeta, u64)>>,
}

/// Runs blocking work where the device wants it.
pub(crate) async fn offload<RT: AsyncRuntime, T: Send + 'static>(
    place: Place,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match place {
        Place::Inline => work(),
        Place::Threads => RT::spawn_blocking(work).await?,
    }
}

/// The application with what the log needs to know about it.
pub struct Machine<A: App, RT: AsyncRuntime, S> {
    pub(crate) app: A,
    pub(crate) store: S,
    pub(crate) shared: Arc<Shared>,
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    /// Behind a lock only because the sender of some runtimes is not `Sync`.
    pub(crate) applied_watch: Mutex<WatchSenderOf<RT, u64>>,
    pub(crate) bytes_since_snapshot: u64,
}

type Waiting<A, RT> = (ApplyResponder<Types<A, RT>>, Answer<A>);

impl<A: App, RT: AsyncRuntime, S: SnapshotStore> Machine<A, RT, S> {
    fn apply_one(&mut self, entry: &Entry<A>) -> io::Result<Answer<A>> {
        let index = entry.log_id.index;
        let answer = match &entry.payload {
            EntryPayload::Blank => Answer(None),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                Answer(None)
            }
            EntryPayload::Normal(proposal) => {
                self.bytes_since_snapshot += proposal.bytes.len() as u64;
                let reply = if let Some(entry) = &proposal.entry {
                    self.app.apply(index, entry)
                } else {
                    let entry = A::decode(&proposal.bytes).map_err(|error| {
                        let what = io::Error::other(format!("entry {index}: {error}"));
                        self.shared.fatal.set(FatalReason::Entry { index, error });
                        what
                    })?;
                    self.app.apply(index, &entry)
                };
                Answer(Some(reply))
            }
        };
        self.applied = Some(entry.log_id);
        Ok(answer)
    }

    fn publish(&mut self, waiting: &mut Vec<Waiting<A, RT>>) {
        let Some(applied) = self.applied else { return };
        self.app.publish(applied.index);
        // Receivers only look at the newest value; none may be left.
        let watch = self.applied_watch.get_mut();
        let _unwatched = watch.unwrap_or_else(PoisonError::into_inner).send(applied.index);
        for (responder, answer) in waiting.drain(..) {
            responder.send(answer);
        }
    }

    fn remind_of_snapshot(&self) {
        let newest = self.shared.newest.lock();
        let newest = newest.unwrap_or_else(PoisonError::into_inner);
        let length = newest.as_ref().map_or(0, |(_, length)| *length);
        if self.bytes_since_snapshot > self.shared.snapshot_log_bytes_min.max(length) {
            self.shared.snapshot_due.notify_one();
        }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }
}

impl<A, RT, S> RaftStateMachine<Types<A, RT>> for Machine<A, RT, S>
where
    A: App,
    RT: AsyncRuntime,
    S: SnapshotStore,
{
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder<A, RT, S>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types<A, RT>>, io::Error>> + Unpin + OptionalSend,
    {
        let mut waiting = Vec::new();
        let mut count = 0;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let answer = self.apply_one(&entry)?;
            waiting.extend(responder.map(|responder| (responder, answer)));
            count += 1;
            if count == PUBLISH_ENTRIES_MAX {
                self.publish(&mut waiting);
                count = 0;
            }
        }
        self.publish(&mut waiting);
        self.remind_of_snapshot();
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder<A, RT, S>> {
        if self.applied.is_none() && !force {
            return None;
        }
        Some(<Self as RaftStateMachine<Types<A, RT>>>::get_snapshot_builder(self).await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder<A, RT, S> {
        self.bytes_since_snapshot = 0;
        Builder {
            view: self.app.view(),
            meta: self.meta(),
            store: self.store.clone(),
            shared: self.shared.clone(),
            runtime: std::marker::PhantomData,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        if let Some(sink) = snapshot.staged {
            let store = self.store.clone();
            offload::<RT, _>(self.shared.place, move || {
                sink.commit(snapshot.name)?;
                snapshot::remove_older(&store)
            })
            .await?;
        }
        // The application is not behind a lock, so this runs where applying
        // runs; nothing can be applied before it is done.
        let cluster_id = self.shared.cluster_id;
        let (stored, length) =
            snapshot::restore(&self.store, cluster_id, snapshot.name, &mut self.app)?;
        if stored != *meta {
            let file = self.store.describe(snapshot.name);
            let what = format!("{} holds another position than its name", file.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.bytes_since_snapshot = 0;
        set_newest(&self.shared, meta, length);
        self.publish(&mut Vec::new());
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<crate::types::SnapshotOf>, io::Error> {
        let newest = self.shared.newest.lock();
        let newest = newest.unwrap_or_else(PoisonError::into_inner);
        let Some((meta, _)) = newest.as_ref() else {
            return Ok(None);
        };
        Ok(Some(Snapshot {
            meta: meta.clone(),
            snapshot: SnapshotData { name: snapshot::name_of(meta)?, staged: None },
        }))
    }
}

fn set_newest(shared: &Shared, meta: &SnapshotMeta, length: u64) {
    let mut newest = shared.newest.lock().unwrap_or_else(PoisonError::into_inner);
    let held = newest.as_ref().and_then(|(held, _)| held.last_log_id);
    if held <= meta.last_log_id {
        *newest = Some((meta.clone(), length));
    }
}

/// Writes a snapshot from a view while the application goes on.
pub struct Builder<A: App, RT, S> {
    view: A::View,
    meta: SnapshotMeta,
    store: S,
    shared: Arc<Shared>,
    runtime: std::marker::PhantomData<fn() -> RT>,
}

impl<A: App, RT: AsyncRuntime, S: SnapshotStore> RaftSnapshotBuilder<Types<A, RT>>
    for Builder<A, RT, S>
{
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<crate::types::SnapshotOf, io::Error> {
        if self.meta.last_log_id.is_none() {
            // A snapshot of nothing needs no file.
            let name = SnapshotName { index: 0, term: 0 };
            let snapshot = SnapshotData { name, staged: None };
            return Ok(Snapshot { meta: self.meta.clone(), snapshot });
        }
        let (view, meta) = (self.view.clone(), self.meta.clone());
        let (store, cluster_id) = (self.store.clone(), self.shared.cluster_id);
        let length = offload::<RT, _>(self.shared.place, move || {
            snapshot::build::<A, S>(&store, cluster_id, &meta, &view)
        })
        .await?;
        set_newest(&self.shared, &self.meta, length);
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: SnapshotData { name: snapshot::name_of(&self.meta)?, staged: None },
        })
    }
}
