//! The consensus library's storage trait.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{AsyncRuntime, OptionalSend, RaftLogReader};

use super::cache::Cache;
use super::entries::{to_position, to_record, to_vote_record};
use super::writer::{Job, WriterHandle};
use crate::app::App;
use crate::types::{Entry, LogId, Types, Vote};

/// Bytes of entries sent to a peer in one call.
const READ_BYTES_MAX: usize = 1 << 20;

/// Reads the log from memory.
pub struct LogReader<A: App>(Arc<Mutex<Cache<A>>>);

impl<A: App> Clone for LogReader<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: App> LogReader<A> {
    fn lock(&self) -> MutexGuard<'_, Cache<A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: App, RT: AsyncRuntime> RaftLogReader<Types<A, RT>> for LogReader<A> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<A>>, io::Error> {
        Ok(self.lock().read(&range))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry<A>>, io::Error> {
        Ok(self.lock().read_limited(&(start..end), READ_BYTES_MAX))
    }
}

/// The log: memory in front, the writer behind.
pub struct LogStore<A: App> {
    reader: LogReader<A>,
    writer: WriterHandle,
}

impl<A: App> LogStore<A> {
    pub(crate) fn new(cache: Cache<A>, writer: WriterHandle) -> Self {
        Self { reader: LogReader(Arc::new(Mutex::new(cache))), writer }
    }
}

impl<A: App, RT: AsyncRuntime> RaftLogStorage<Types<A, RT>> for LogStore<A> {
    type LogReader = LogReader<A>;

    async fn get_log_state(&mut self) -> Result<LogState<Types<A, RT>>, io::Error> {
        let cache = self.reader.lock();
        Ok(LogState { last_purged_log_id: cache.purged, last_log_id: cache.last() })
    }

    async fn get_log_reader(&mut self) -> LogReader<A> {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (sender, saved) = oneshot::channel();
        let job = Job::Vote {
            vote: to_vote_record(vote),
            // Nobody waits any more only if the core has stopped.
            done: Box::new(|result| drop(sender.send(result))),
        };
        self.writer.send(job).await?;
        let gone = || io::Error::other("the log's writer ended before the vote was saved");
        saved.await.map_err(|_| gone())??;
        self.reader.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else {
            return Ok(());
        };
        self.reader.lock().committed = Some(committed);
        self.writer.note_committed(to_position(&committed));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.reader.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<Types<A, RT>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry<A>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        {
            let mut cache = self.reader.lock();
            for entry in entries {
                records.push(to_record(&entry)?);
                cache.push(entry)?;
            }
        }
        let done = Box::new(|result| callback.io_completed(result));
        self.writer.send(Job::Append { records, done }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let last_kept = last_log_id.map(|last| last.index);
        self.reader.lock().truncate_after(last_kept);
        self.writer.send(Job::Truncate { last_kept }).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.reader.lock().purge_to(log_id);
        let upto = to_position(&log_id);
        self.writer.send(Job::Purge { upto }).await
    }
}
