//! The one owner of the log device. What has queued up while a sync ran goes
//! into the next one together; answers are given in order, after the sync.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::oneshot;
use openraft::AsyncRuntime;
use tokio::sync::mpsc;

use crate::device::sled::process_ms;
use crate::device::{DiskHealth, LogDevice, Place, Position, Record, VoteRecord};
use crate::fatal::{FatalCell, FatalReason};

/// Work waiting for the device; the consensus core waits when it is full.
const QUEUE_MAX: usize = 1024;
/// What one sync carries at most, so that no answer waits for long.
const BATCH_ENTRIES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 1 << 20;

pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

pub(crate) enum Job {
    Append { records: Vec<Record>, done: Done },
    Truncate { last_kept: Option<u64> },
    Purge { upto: Position },
    Vote { vote: VoteRecord, done: Done },
}

impl Job {
    fn weight(&self) -> (usize, usize) {
        match self {
            Self::Append { records, .. } => {
                let bytes = records.iter().map(|record| record.body.len()).sum();
                (records.len(), bytes)
            }
            Self::Truncate { .. } | Self::Purge { .. } | Self::Vote { .. } => (0, 0),
        }
    }
}

/// What is committed, until a sync carries it: it is worth none of its own,
/// nor a wake-up of the writer.
type CommittedNote = Arc<Mutex<Option<Position>>>;

/// The queue's near end. The writer ends when the last one is dropped.
#[derive(Clone)]
pub(crate) struct WriterHandle {
    jobs: mpsc::Sender<Job>,
    committed: CommittedNote,
}

/// Resolves when the writer has ended and the device is closed.
pub(crate) type WriterEnd = oneshot::Receiver<()>;

impl WriterHandle {
    pub(crate) async fn send(&self, job: Job) -> io::Result<()> {
        let sent = self.jobs.send(job).await;
        sent.map_err(|_| io::Error::other("the log's writer has ended"))
    }

    /// Has the position written with a sync to come.
    pub(crate) fn note_committed(&self, committed: Position) {
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner) = Some(committed);
    }

    /// Starts a writer where the device's work belongs.
    pub(crate) fn start<L: LogDevice, RT: AsyncRuntime>(
        device: L,
        place: Place,
        health: Arc<DiskHealth>,
        fatal: FatalCell,
    ) -> io::Result<(Self, WriterEnd)> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let (ended, end) = oneshot::channel();
        let committed = CommittedNote::default();
        let noted = committed.clone();
        let writer = Writer { device, health, fatal, committed: noted, held: None };
        match place {
            Place::Threads => {
                std::thread::Builder::new().name("raft-log".to_owned()).spawn(move || {
                    writer.run_on_thread(receiver);
                    // Nobody may wait for it, which is fine.
                    let _unheard = ended.send(());
                })?;
            }
            Place::Inline => {
                let task = async move {
                    writer.run_inline::<RT>(receiver).await;
                    let _unheard = ended.send(());
                };
                drop(RT::spawn(task));
            }
        }
        Ok((Self { jobs: sender, committed }, end))
    }
}

struct Writer<L> {
    device: L,
    health: Arc<DiskHealth>,
    fatal: FatalCell,
    committed: CommittedNote,
    /// Taken from the queue but not fitting the batch before.
    held: Option<Job>,
}

impl<L: LogDevice> Writer<L> {
    fn run_on_thread(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = self.held.take().or_else(|| queue.blocking_recv()) {
            let batch = self.gather(job, &mut queue);
            let answers = self.guarded(|writer| writer.write(batch));
            let synced = self.guarded(|writer| match &answers {
                Ok(answers) if answers.is_empty() => Ok(()),
                Ok(_) => writer.sync(),
                Err(error) => Err(repeat(error)),
            });
            self.answer(answers, &synced);
        }
        self.close();
    }

    async fn run_inline<RT: AsyncRuntime>(mut self, mut queue: mpsc::Receiver<Job>) {
        loop {
            let job = match self.held.take() {
                Some(job) => job,
                None => match queue.recv().await {
                    Some(job) => job,
                    None => break,
                },
            };
            let batch = self.gather(job, &mut queue);
            let answers = self.write(batch);
            let latency = self.device.latency();
            if !latency.is_zero() {
                RT::sleep(latency).await;
            }
            let synced = match &answers {
                Ok(answers) if answers.is_empty() => Ok(()),
                Ok(_) => self.device.sync(),
                Err(error) => Err(repeat(error)),
            };
            self.answer(answers, &synced);
        }
        self.close();
    }

    /// Takes what has queued up, as long as one sync should carry it. A vote
    /// or a truncation ends the batch, so that nothing after it can be
    /// durable before it.
    fn gather(&mut self, first: Job, queue: &mut mpsc::Receiver<Job>) -> Vec<Job> {
        let (mut entries, mut bytes) = (0, 0);
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(job) = next {
            let (more_entries, more_bytes) = job.weight();
            let is_full =
                entries + more_entries > BATCH_ENTRIES_MAX || bytes + more_bytes > BATCH_BYTES_MAX;
            if is_full && !batch.is_empty() {
                self.held = Some(job);
                break;
            }
            (entries, bytes) = (entries + more_entries, bytes + more_bytes);
            let is_last =
                matches!(job, Job::Vote { .. } | Job::Truncate { .. } | Job::Purge { .. });
            batch.push(job);
            if is_last {
                break;
            }
            next = queue.try_recv().ok();
        }
        batch
    }

    /// Hands a batch to the device; the answers wait for the sync.
    fn write(&mut self, batch: Vec<Job>) -> Result<Vec<Done>, Failed> {
        let mut answers = Vec::with_capacity(batch.len());
        let mut records: Vec<Record> = Vec::new();
        let mut error = None;
        let mut last_written = None;
        for job in batch {
            let written = match job {
                Job::Append { records: more, done } => {
                    answers.push(done);
                    last_written = more.last().map(|record| record.index).or(last_written);
                    records.extend(more);
                    Ok(())
                }
                Job::Vote { vote, done } => {
                    answers.push(done);
                    self.put(&mut records).and_then(|()| self.device.save_vote(vote))
                }
                Job::Truncate { last_kept } => {
                    answers.push(Box::new(|_| {}));
                    self.put(&mut records).and_then(|()| self.device.truncate_after(last_kept))
                }
                Job::Purge { upto } => {
                    answers.push(Box::new(|_| {}));
                    self.put(&mut records).and_then(|()| self.device.purge_to(upto))
                }
            };
            if let Err(failure) = written {
                error.get_or_insert(failure);
            }
        }
        let rest = self.put(&mut records);
        if let Some(failure) = error.or_else(|| rest.err()) {
            return Err(Failed { error: failure, answers });
        }
        if let Some(committed) = self.take_committed(last_written)
            && let Err(error) = self.device.save_committed(committed)
        {
            return Err(Failed { error, answers });
        }
        Ok(answers)
    }

    /// What is committed, if the entries that this batch ends with reach it:
    /// the note must not run ahead of the log.
    fn take_committed(&self, last_written: Option<u64>) -> Option<Position> {
        let mut noted = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        noted.take_if(|noted| last_written.is_some_and(|last| noted.index <= last))
    }

    fn put(&mut self, records: &mut Vec<Record>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.device.append(&std::mem::take(records))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.health.set_busy_since_ms(process_ms());
        let synced = self.device.sync();
        self.health.set_busy_since_ms(0);
        synced
    }

    /// Turns a panic of the store into an error, so that those who wait are
    /// answered and the node stops for a stated reason.
    fn guarded<T, E: From<io::Error>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        catch_unwind(AssertUnwindSafe(|| work(self)))
            .unwrap_or_else(|_| Err(io::Error::other("the log store panicked").into()))
    }

    fn answer(&mut self, answers: Result<Vec<Done>, Failed>, synced: &io::Result<()>) {
        if let Err(error) = synced {
            self.fatal.set(FatalReason::Storage(error.to_string()));
        }
        let answers = answers.unwrap_or_else(|failed| failed.answers);
        for done in answers {
            done(match synced {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }

    /// The last word on what is committed spares the next start some work.
    fn close(&mut self) {
        if self.fatal.get().is_some_and(|reason| reason != FatalReason::Shutdown) {
            return;
        }
        // The queue is empty: everything that may be committed is written.
        let Some(committed) = self.take_committed(Some(u64::MAX)) else {
            return;
        };
        let closed = self.device.save_committed(committed).and_then(|()| self.device.sync());
        if let Err(error) = closed {
            tracing::warn!(error = %error, "log closed without noting what is committed");
        }
    }
}

struct Failed {
    error: io::Error,
    answers: Vec<Done>,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { error, answers: Vec::new() }
    }
}

fn repeat(failed: &Failed) -> io::Error {
    io::Error::new(failed.error.kind(), failed.error.to_string())
}
