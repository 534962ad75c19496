//! The log of a process: one line an event, on standard error.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, registry, reload};

use crate::filter::{FilterError, parse_filter};
use crate::queue::Queue;

/// How long the end of a process waits for a reader of its last lines.
pub(crate) const LAST_LINES_WAIT: Duration = Duration::from_secs(1);

/// The queue of this process, once [`init_log`] has run.
static INSTALLED: OnceLock<Queue> = OnceLock::new();

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogInitError {
    /// The filter cannot be read.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The system refuses the writing thread.
    #[error("start the log writer")]
    Thread(#[source] io::Error),
    /// This process has a log already.
    #[error("this process has a log already")]
    Twice,
    /// The log whose filter is to change has ended.
    #[error("this log has ended")]
    Gone(#[source] reload::Error),
}

/// Writes the lines still queued when it goes; keep it until the end of `main`.
#[must_use = "the last lines are written when this goes"]
pub struct LogHandle {
    queue: Queue,
    filter: LogFilter,
}

/// Which events of this process are written; clones are one filter.
#[derive(Clone)]
pub struct LogFilter(Arc<dyn Fn(Targets) -> Result<(), reload::Error> + Send + Sync>);

impl LogFilter {
    /// From now on those that `filter` (see [`parse_filter`]) lets through.
    ///
    /// # Errors
    /// It cannot be read; nothing has changed then.
    pub fn set(&self, filter: &str) -> Result<(), LogInitError> {
        (self.0)(parse_filter(filter)?).map_err(LogInitError::Gone)
    }
}

impl LogHandle {
    /// Waits, at most `limit`, until all lines so far are written. Needed before
    /// `std::process::exit`, which drops nothing.
    pub fn flush(&self, limit: Duration) {
        self.queue.flush(limit);
    }

    /// To change what is written.
    #[must_use]
    pub fn filter(&self) -> LogFilter {
        self.filter.clone()
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        self.queue.flush(LAST_LINES_WAIT);
    }
}

/// Sends this process's events to standard error, those that `filter` (see
/// [`parse_filter`]) lets through. The caller of an event never waits for the
/// reader of standard error.
///
/// # Errors
/// See [`LogInitError`]; nothing has been set up then.
pub fn init_log(filter: &str, format: LogFormat) -> Result<LogHandle, LogInitError> {
    let targets = parse_filter(filter)?;
    if INSTALLED.get().is_some() || tracing::dispatcher::has_been_set() {
        return Err(LogInitError::Twice);
    }
    let note = match format {
        LogFormat::Text => drop_note_text,
        LogFormat::Json => drop_note_json,
    };
    let queue = Queue::start(io::stderr(), note).map_err(LogInitError::Thread)?;
    let (targets, handle) = reload::Layer::new(targets);
    let dispatch = match format {
        LogFormat::Text => tracing::Dispatch::new(text_subscriber(targets, queue.clone())),
        LogFormat::Json => tracing::Dispatch::new(json_subscriber(targets, queue.clone())),
    };
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| LogInitError::Twice)?;
    INSTALLED.set(queue.clone()).map_err(|_| LogInitError::Twice)?;
    Ok(LogHandle { queue, filter: LogFilter(Arc::new(move |targets| handle.reload(targets))) })
}

/// A filter that can change.
type Filter = reload::Layer<Targets, Registry>;

/// How many log lines this process has dropped because nobody read them.
#[must_use]
pub fn dropped_log_lines() -> u64 {
    INSTALLED.get().map_or(0, Queue::dropped_count)
}

/// Waits for the last lines of a process that is about to end; whether it has a log.
pub(crate) fn flush_installed() {
    if let Some(queue) = INSTALLED.get() {
        queue.flush(LAST_LINES_WAIT);
    }
}

pub(crate) fn is_installed() -> bool {
    INSTALLED.get().is_some()
}

fn text_subscriber(targets: Filter, queue: Queue) -> impl Subscriber + Send + Sync {
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Lines { queue });
    registry().with(targets).with(lines)
}

fn json_subscriber(targets: Filter, queue: Queue) -> impl Subscriber + Send + Sync {
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(true)
        .with_writer(Lines { queue });
    registry().with(targets).with(lines)
}

fn drop_note_text(count: u64) -> String {
    format!("WARN berth_telemetry: log lines dropped, standard error was blocked lines={count}\n")
}

fn drop_note_json(count: u64) -> String {
    format!(
        "{{\"level\":\"WARN\",\"message\":\"log lines dropped, standard error was blocked\",\
         \"lines\":{count},\"target\":\"berth_telemetry\"}}\n"
    )
}

struct Lines {
    queue: Queue,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: &self.queue }
    }
}

/// Takes one formatted event, which the formatter hands over in a single write.
struct Line<'a> {
    queue: &'a Queue,
}

impl io::Write for Line<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let inside = event.strip_suffix(b"\n").unwrap_or(event);
        if inside.contains(&b'\n') || inside.contains(&b'\r') {
            self.queue.push(&one_line(inside));
        } else {
            self.queue.push(event);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A value with line breaks must not look like lines of its own.
fn one_line(inside: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(inside.len() + 16);
    for byte in inside {
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            other => line.push(*other),
        }
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory {
        bytes: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.bytes.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let memory = Memory::default();
        let queue = Queue::start(memory.clone(), drop_note_text).unwrap();
        let (targets, _) = reload::Layer::new(parse_filter(filter).unwrap());
        let dispatch = match format {
            LogFormat::Text => tracing::Dispatch::new(text_subscriber(targets, queue.clone())),
            LogFormat::Json => tracing::Dispatch::new(json_subscriber(targets, queue.clone())),
        };
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!(job_id = 7, note = "a\nb", "job placed");
            tracing::debug!("too quiet");
        });
        queue.flush(Duration::from_secs(60));
        let bytes = memory.bytes.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_is_one_line() {
        let text = logged(LogFormat::Text, "info");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("job placed job_id=7"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        let display = one_line(b"a\nb\rc");
        assert_eq!(display, b"a\\nb\\rc\n");
    }

    #[test]
    fn json_lines_are_objects() {
        let text = logged(LogFormat::Json, "debug");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["job_id"], 7);
        assert_eq!(lines[0]["note"], "a\nb");
        assert_eq!(lines[0]["message"], "job placed");
        assert_eq!(lines[0]["level"], "INFO");
        let note: serde_json::Value = serde_json::from_str(&drop_note_json(3)).unwrap();
        assert_eq!(note["lines"], 3);
    }
}
