//! Decisions on their way into a file. Requests never wait for the disk: where it is too slow, or
//! the file is full, the record ends and says so.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use berth_decisions::{Ended, Event, line};
use berth_gateway::Witness;
use berth_routing::record::Happening;

/// The largest file: some five million requests.
const FILE_BYTES_MAX: u64 = 2 << 30;
/// Events that may wait to be written.
const WAITING_MAX: usize = 1 << 16;
/// What was decided is in the file after that, whatever comes next.
const FLUSHED_AFTER: Duration = Duration::from_millis(200);

/// A record that is being made.
pub struct Recording {
    teller: SyncSender<Told>,
    /// Something could not be told: from there on nothing is.
    is_too_slow: AtomicBool,
}

enum Told {
    Event(Box<Event>),
    /// The gateway ends.
    Stop,
}

impl Recording {
    /// Begins one in a new file; the thread ends once it is told to.
    ///
    /// # Errors
    /// The file is there already, or cannot be made.
    pub fn begin(path: &Path) -> anyhow::Result<(Recording, JoinHandle<()>)> {
        let file = File::options().write(true).create_new(true).open(path);
        let file = file.with_context(|| format!("make the record {}", path.display()))?;
        let (teller, told) = sync_channel(WAITING_MAX);
        let shown = path.display().to_string();
        let writer = std::thread::Builder::new().name("decisions".to_owned());
        let written = writer.spawn(move || {
            if let Err(error) = write(BufWriter::new(file), &told, FILE_BYTES_MAX) {
                tracing::warn!(path = shown, %error, "the record of decisions ends here");
            }
        });
        let written = written.context("start a thread")?;
        Ok((Recording { teller, is_too_slow: AtomicBool::new(false) }, written))
    }

    /// Nothing that is told after this is written.
    pub fn stop(&self) {
        // The thread may have ended: then all is written that ever will be.
        let _ = self.teller.send(Told::Stop);
    }

    fn tell(&self, event: Event) {
        if self.is_too_slow.load(Ordering::Relaxed) {
            return;
        }
        match self.teller.try_send(Told::Event(Box::new(event))) {
            Ok(()) => {}
            // The file is full, or broke: its own thread has said so.
            Err(TrySendError::Disconnected(_)) => self.is_too_slow.store(true, Ordering::Relaxed),
            Err(TrySendError::Full(_)) => {
                if !self.is_too_slow.swap(true, Ordering::Relaxed) {
                    tracing::warn!("decisions come faster than they can be recorded");
                    let teller = self.teller.clone();
                    // It waits for the disk in nobody's place.
                    drop(std::thread::spawn(move || {
                        teller.send(Told::Event(Box::new(Event::Ended(Ended::TooSlow))))
                    }));
                }
            }
        }
    }
}

impl Witness for Recording {
    fn begun(&self, pool: u64, service: &str) {
        self.tell(Event::Service { pool, service: service.to_owned() });
    }

    fn happened(&self, pool: u64, happening: Happening) {
        self.tell(Event::Happened { pool, happening });
    }
}

/// Writes what is told until it is to stop, or there may be no more.
fn write<W: io::Write>(
    mut file: BufWriter<W>,
    told: &Receiver<Told>,
    bytes_max: u64,
) -> io::Result<()> {
    let writer = format!("berth {}", env!("CARGO_PKG_VERSION"));
    let mut written = 0;
    let mut put = |file: &mut BufWriter<W>, event: &Event| {
        let line = line(event);
        written += line.len() as u64;
        file.write_all(line.as_bytes())?;
        Ok::<u64, io::Error>(written)
    };
    put(&mut file, &Event::Recording { writer })?;
    loop {
        let event = match told.recv_timeout(FLUSHED_AFTER) {
            Ok(Told::Event(event)) => event,
            Ok(Told::Stop) | Err(RecvTimeoutError::Disconnected) => return file.flush(),
            Err(RecvTimeoutError::Timeout) => {
                file.flush()?;
                continue;
            }
        };
        let is_full = put(&mut file, &event)? >= bytes_max;
        if is_full {
            put(&mut file, &Event::Ended(Ended::Full))?;
            tracing::warn!("{}: decisions are no longer recorded", Ended::Full.told());
        }
        if is_full || matches!(*event, Event::Ended(_)) {
            return file.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_decisions::Reader;
    use berth_model::RoutingPolicy;

    use super::*;

    fn events(count: u64) -> Receiver<Told> {
        let (teller, told) = sync_channel(WAITING_MAX);
        let policy = RoutingPolicy::Auto;
        for pool in 0..count {
            let event = Event::Happened { pool, happening: Happening::Begun { policy } };
            teller.send(Told::Event(Box::new(event))).unwrap();
        }
        teller.send(Told::Stop).unwrap();
        told
    }

    fn read(bytes: &[u8]) -> Vec<Event> {
        let (mut reader, writer) = Reader::open(bytes).unwrap();
        assert!(writer.starts_with("berth "), "{writer}");
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    #[test]
    fn all_that_was_told_is_written_until_it_is_to_stop() {
        let mut bytes = Vec::new();
        write(BufWriter::new(&mut bytes), &events(100), u64::MAX).unwrap();
        assert_eq!(read(&bytes).len(), 100);
    }

    #[test]
    fn a_file_that_is_full_says_that_it_is() {
        let mut bytes = Vec::new();
        write(BufWriter::new(&mut bytes), &events(100), 1_000).unwrap();
        let events = read(&bytes);
        assert!((10..30).contains(&events.len()), "{events:?}");
        assert_eq!(events.last(), Some(&Event::Ended(Ended::Full)));
    }

    #[tokio::test]
    async fn what_comes_too_fast_ends_the_record() {
        let (teller, told) = sync_channel(10);
        let recording = Recording { teller, is_too_slow: AtomicBool::new(false) };
        (0..100).for_each(|pool| recording.begun(pool, "default/chat"));
        let mut bytes = Vec::new();
        let written = tokio::task::spawn_blocking(move || {
            write(BufWriter::new(&mut bytes), &told, u64::MAX).unwrap();
            bytes
        });
        let events = read(&written.await.unwrap());
        assert_eq!(events.len(), 11);
        assert_eq!(events.last(), Some(&Event::Ended(Ended::TooSlow)));
    }

    #[test]
    fn a_file_that_is_there_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        std::fs::write(&path, "mine").unwrap();
        let error = Recording::begin(&path).err().unwrap();
        assert!(format!("{error:#}").contains("exists"), "{error:#}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
