//! The bounded queue between those who log and the thread that writes.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The most lines that wait: a second of a very talkative process.
pub const QUEUE_LINES_MAX: usize = 8_192;

/// The most bytes that wait. As much again may be with the writing thread.
pub const QUEUE_BYTES_MAX: usize = 4 << 20;

/// What the writing thread says after lines were dropped, by their number.
pub(crate) type DropNote = fn(u64) -> String;

/// Takes lines without ever waiting for their reader. Clones share one queue.
#[derive(Clone)]
pub(crate) struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    /// Held only to move lines in or out, never while writing.
    state: Mutex<State>,
    /// Lines came in.
    filled: Condvar,
    /// Lines went out.
    written: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    accepted_count: u64,
    done_count: u64,
    dropped_count: u64,
    /// How many of `dropped_count` the output has been told of.
    noted_count: u64,
}

impl Queue {
    /// Starts the thread that writes to `output`.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start(output: impl Write + Send + 'static, note: DropNote) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            filled: Condvar::new(),
            written: Condvar::new(),
        });
        let queue = Self { shared: Arc::clone(&shared) };
        thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || write_lines(&shared, output, note))?;
        Ok(queue)
    }

    /// Queues one line, or drops and counts it where the queue is full.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut state = self.shared.lock();
        let full = state.lines.len() >= QUEUE_LINES_MAX
            || state.waiting_bytes + line.len() > QUEUE_BYTES_MAX;
        if full {
            state.dropped_count += 1;
            drop(state);
            metrics::counter!("berth_log_lines_dropped_total").increment(1);
            return;
        }
        state.waiting_bytes += line.len();
        state.accepted_count += 1;
        state.lines.push_back(line.to_vec());
        drop(state);
        self.shared.filled.notify_one();
    }

    /// How many lines were dropped since the start.
    pub(crate) fn dropped_count(&self) -> u64 {
        self.shared.lock().dropped_count
    }

    /// Waits until every line queued so far has been written, or `limit` is over.
    pub(crate) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        let target = state.accepted_count;
        while state.done_count < target {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            let waited = self.shared.written.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    /// The state stays true at every step, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs as long as the process.
fn write_lines(shared: &Shared, mut output: impl Write, note: DropNote) {
    let mut bytes = Vec::new();
    loop {
        let mut state = shared.lock();
        while state.lines.is_empty() {
            state = shared.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let lines = std::mem::take(&mut state.lines);
        let dropped_count = state.dropped_count - state.noted_count;
        state.noted_count = state.dropped_count;
        state.waiting_bytes = 0;
        drop(state);

        bytes.clear();
        lines.iter().for_each(|line| bytes.extend_from_slice(line));
        if dropped_count > 0 {
            bytes.extend_from_slice(note(dropped_count).as_bytes());
        }
        let outcome = output.write_all(&bytes).and_then(|()| output.flush());
        bytes.shrink_to(QUEUE_BYTES_MAX);

        let line_count = lines.len() as u64;
        let mut state = shared.lock();
        state.done_count += line_count;
        if outcome.is_err() {
            // The output is gone for good; there is nowhere left to say so but
            // the counter.
            state.dropped_count += line_count;
            state.noted_count += line_count;
        }
        drop(state);
        shared.written.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// An output that takes nothing until it is told to.
    struct Gate {
        open: Receiver<()>,
        entered: SyncSender<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Both ends go away when the test is over: then everything passes.
            self.entered.try_send(()).ok();
            self.open.recv().ok();
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn note(count: u64) -> String {
        format!("{count} dropped\n")
    }

    fn wait_long(queue: &Queue) {
        queue.flush(Duration::from_secs(60));
    }

    #[test]
    fn a_blocked_output_drops_counts_and_says_so() {
        let (open_sender, open) = sync_channel(16);
        let (entered, entered_receiver) = sync_channel(16);
        let taken = Arc::new(Mutex::new(Vec::new()));
        let gate = Gate { open, entered, taken: Arc::clone(&taken) };
        let queue = Queue::start(gate, note).unwrap();
        queue.push(b"first\n");
        entered_receiver.recv().unwrap();
        for _ in 0..QUEUE_LINES_MAX + 5 {
            queue.push(b"more\n");
        }
        assert_eq!(queue.dropped_count(), 5);
        queue.flush(Duration::from_millis(1));
        assert!(taken.lock().unwrap().is_empty());

        drop(open_sender);
        wait_long(&queue);
        let text = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("first\nmore\n"), "{text}");
        assert!(text.ends_with("more\n5 dropped\n"), "{text}");
        assert_eq!(text.matches("more\n").count(), QUEUE_LINES_MAX);
        queue.push(b"last\n");
        wait_long(&queue);
        let text = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with("5 dropped\nlast\n"), "{text}");
    }

    #[test]
    fn bytes_are_bounded_too() {
        let (open_sender, open) = sync_channel(16);
        let (entered, entered_receiver) = sync_channel(16);
        let gate = Gate { open, entered, taken: Arc::default() };
        let queue = Queue::start(gate, note).unwrap();
        queue.push(b"first\n");
        entered_receiver.recv().unwrap();
        queue.push(&vec![b'x'; QUEUE_BYTES_MAX]);
        queue.push(b"y");
        assert_eq!(queue.dropped_count(), 1);
        drop(open_sender);
        wait_long(&queue);
        queue.push(b"y");
        wait_long(&queue);
        assert_eq!(queue.dropped_count(), 1);
    }

    /// An output that is closed.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_for_a_closed_output_count_as_dropped() {
        let queue = Queue::start(Closed, note).unwrap();
        queue.push(b"a\n");
        wait_long(&queue);
        queue.push(b"b\n");
        wait_long(&queue);
        assert_eq!(queue.dropped_count(), 2);
    }
}
