//! Reads the bytes of a job file from a path or a stream, never more than a job
//! file may hold.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The most bytes of a job file. An encoded job has at most 48 KiB; the rest is
/// room for comments.
pub const JOB_FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the file at `path`, which may be a pipe.
///
/// # Errors
/// A sentence for the user: no such file, no permission, a directory, too large.
pub fn read_path(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let failed = |error: io::Error| format!("cannot read {shown}: {}", reason(&error));
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(format!("{shown} is a directory, expected a job file"));
    }
    read_stream(file).map_err(|error| {
        if error.kind() == io::ErrorKind::FileTooLarge {
            format!("{shown}: {error}")
        } else {
            failed(error)
        }
    })
}

/// Reads a stream to its end.
///
/// # Errors
/// The stream's own, or [`io::ErrorKind::FileTooLarge`] as soon as it has given
/// more than [`JOB_FILE_BYTES_MAX`].
pub fn read_stream(stream: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(JOB_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > JOB_FILE_BYTES_MAX {
        let message = "the job file is larger than 1 MiB";
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// The system's words without its number.
fn reason(error: &io::Error) -> String {
    let known = [
        (io::ErrorKind::NotFound, "there is no such file"),
        (io::ErrorKind::PermissionDenied, "permission denied"),
    ];
    let words = known.iter().find(|(kind, _)| *kind == error.kind());
    words.map_or_else(|| error.to_string(), |(_, words)| (*words).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_stops_at_the_limit() {
        let endless = io::repeat(b'#');
        let error = read_stream(endless).unwrap_err();
        assert_eq!(error.to_string(), "the job file is larger than 1 MiB");
        let full = io::repeat(b'#').take(JOB_FILE_BYTES_MAX);
        assert_eq!(read_stream(full).unwrap().len() as u64, JOB_FILE_BYTES_MAX);
    }

    #[test]
    fn a_path_that_is_no_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let shown = folder.path().display();
        assert_eq!(
            read_path(folder.path()).unwrap_err(),
            format!("{shown} is a directory, expected a job file")
        );
        assert_eq!(
            read_path(&folder.path().join("job.toml")).unwrap_err(),
            format!("cannot read {shown}/job.toml: there is no such file")
        );
    }
}
