//! Records, read line by line.

use std::io::{self, BufRead, Read as _};

use thiserror::Error;

use crate::convert;
use crate::line::{Event, Line};

/// The longest line that is read: the prompt of a request of 32 MiB has half as many bytes of
/// numbers.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Why a record cannot be read on.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error("cannot be read")]
    Io(#[from] io::Error),
    #[error("does not begin as a record of decisions does")]
    NoRecord,
    /// The last line has no end: its gateway was killed, or the disk was full.
    #[error("line {line} is not whole")]
    CutShort { line: u64 },
    #[error("line {line}: {problem}")]
    Line { line: u64, problem: String },
}

/// Reads one record from its beginning.
pub struct Reader<R> {
    source: R,
    /// Of the line that was read last; the first is 1.
    pub line: u64,
}

impl<R: BufRead> Reader<R> {
    /// Opens a record, and tells who wrote it.
    ///
    /// # Errors
    /// Where it is none, or one of another format.
    pub fn open(source: R) -> Result<(Reader<R>, String), ReadError> {
        let mut reader = Reader { source, line: 0 };
        match reader.next() {
            Ok(Some(Event::Recording { writer })) => Ok((reader, writer)),
            Err(ReadError::Line { line, problem }) if problem.starts_with("format ") => {
                Err(ReadError::Line { line, problem })
            }
            Err(ReadError::Io(error)) => Err(ReadError::Io(error)),
            Ok(_) | Err(_) => Err(ReadError::NoRecord),
        }
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// Where a line is not what a line may be.
    #[expect(clippy::should_implement_trait, reason = "an iterator would go on after an error")]
    pub fn next(&mut self) -> Result<Option<Event>, ReadError> {
        let line = self.line + 1;
        let mut text = Vec::new();
        let read = self.source.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
        if read == 0 {
            return Ok(None);
        }
        self.line = line;
        if text.pop() != Some(b'\n') {
            return Err(ReadError::CutShort { line });
        }
        let parsed = serde_json::from_slice::<Line>(&text);
        let parsed = parsed.map_err(|error| format!("no event: {error}"));
        let event = parsed.and_then(convert::event);
        event.map(Some).map_err(|problem| ReadError::Line { line, problem })
    }
}
