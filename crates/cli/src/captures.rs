//! Capture files: read whole, and what to do about one that cannot be.

use std::fs::File;
use std::path::Path;

use berth_wire::capture::{Capture, CaptureError, read_capture};

use crate::error::{CliError, Fault};

/// The longest file that is read: far above what ten views of a large cluster take, as they share
/// their rows.
pub(crate) const FILE_BYTES_MAX: u64 = 2 << 30;

/// Reads a capture, and every row of it.
pub(crate) fn read(file: &Path) -> Result<Capture, CliError> {
    let wrong = |problem: String| Fault::new(format!("{}: {problem}", file.display()));
    let refused = |fault: Fault| CliError::BadInput(vec![fault]);
    let source = File::open(file).map_err(|error| refused(wrong(error.to_string())))?;
    let length = source.metadata().map_or(0, |metadata| metadata.len());
    if length > FILE_BYTES_MAX {
        let problem = format!("has {length} bytes, and a capture has at most {FILE_BYTES_MAX}");
        return Err(refused(wrong(problem)));
    }
    read_capture(source).map_err(|error| {
        let mut words = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            words.push_str(&format!(": {inner}"));
            source = inner.source();
        }
        refused(wrong(words).hint(hint(&error)))
    })
}

fn hint(error: &CaptureError) -> &'static str {
    match error {
        CaptureError::NoCapture => {
            "one is written by `berth operator debug capture`, and a record of decisions by `berth gateway --record FILE`"
        }
        _ if error.needs_another_build() => {
            "replay it with the version of berth that made it, or a later one"
        }
        CaptureError::Io(_)
        | CaptureError::Format { .. }
        | CaptureError::ClusterVersion { .. }
        | CaptureError::Damaged { .. }
        | CaptureError::CutShort { .. }
        | CaptureError::Record { .. }
        | CaptureError::Misplaced { .. }
        | CaptureError::TooMany { .. }
        | CaptureError::Trailing { .. }
        | CaptureError::State { .. } => {
            "copy it anew from where it was made, or have it made once more"
        }
    }
}
