//! How allocations ended that the cluster has forgotten: only a cluster that
//! was restored from a backup ever asks for them again. Two files of bounded
//! length, the older one replaced when the newer one is full. Not synced: after
//! a reboot the ends of before are unknown, and the cluster does what it does
//! about an end that nobody saw.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use berth_model::{AllocationId, EndReport};
use berth_proto::v1;
use berth_wire::agent::{end_report_from_proto, end_report_to_proto};
use tracing::warn;

use crate::frame::{self, Framed};

/// Some 50,000 ends: what a node of short tasks runs in an hour or so.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The writing side.
pub struct EndedLog {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl EndedLog {
    /// Goes on behind what is in the file. One that cannot be written is said
    /// once, and nothing is kept then.
    pub fn open(path: PathBuf) -> EndedLog {
        let opened = append_to(&path);
        let (file, bytes) = match opened {
            Ok((file, bytes)) => (Some(file), bytes),
            Err(error) => {
                warn!(path = %path.display(), %error, "ends will not be remembered");
                (None, 0)
            }
        };
        EndedLog { path, file, bytes }
    }

    /// Remembers an end, without its last output.
    pub fn add(&mut self, id: AllocationId, end: &EndReport) {
        let end = EndReport { stderr_tail: String::new(), ..end.clone() };
        let message =
            v1::EndedWorker { allocation_id: id.to_string(), end: Some(end_report_to_proto(&end)) };
        let frame = frame::encode(&message);
        if let Err(error) = self.write(&frame) {
            warn!(path = %self.path.display(), %error, "ends are not remembered any more");
            self.file = None;
        }
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        // One write: a torn one is the last of the file.
        file.write_all(frame)?;
        self.bytes += frame.len() as u64;
        if self.bytes >= FILE_BYTES_MAX {
            self.file = None;
            fs::rename(&self.path, older(&self.path))?;
            let (file, bytes) = append_to(&self.path)?;
            (self.file, self.bytes) = (Some(file), bytes);
        }
        Ok(())
    }
}

/// The remembered ends of those that are asked for. Reads both files.
pub fn read(
    path: &Path,
    wanted: impl Fn(AllocationId) -> bool,
) -> BTreeMap<AllocationId, EndReport> {
    let mut found = BTreeMap::new();
    for path in [older(path), path.to_owned()] {
        let bytes = fs::read(&path).unwrap_or_default();
        let mut rest = bytes.as_slice();
        while let Framed::Message(message, length) = frame::decode::<v1::EndedWorker>(rest) {
            rest = &rest[length..];
            let id = message.allocation_id.parse().ok().filter(|id| wanted(*id));
            let end = message.end.and_then(|end| end_report_from_proto(end).ok());
            found.extend(id.zip(end));
        }
    }
    found
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("old")
}

/// What a crash left torn at the end is cut off: nothing behind it could be
/// read.
fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut whole = 0;
    while let Framed::Message(_, length) = frame::decode::<v1::EndedWorker>(&bytes[whole..]) {
        whole += length;
    }
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    file.set_len(whole as u64)?;
    Ok((file, whole as u64))
}

#[cfg(test)]
mod tests {
    use berth_model::{EndCause, WallMs};

    use super::*;

    fn end(code: i32) -> EndReport {
        EndReport {
            cause: EndCause::Exited,
            exit_code: Some(code),
            signal: None,
            reason: String::new(),
            stderr_tail: "last words".to_owned(),
            started_at: Some(WallMs(1)),
            finished_at: WallMs(2),
        }
    }

    fn id(instance: u32) -> AllocationId {
        format!("1.0.{instance}.1").parse().unwrap()
    }

    fn codes(path: &Path) -> Vec<(AllocationId, Option<i32>)> {
        read(path, |_| true).into_iter().map(|(id, end)| (id, end.exit_code)).collect()
    }

    #[test]
    fn ends_are_read_back_also_behind_a_torn_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ended");
        let mut log = EndedLog::open(path.clone());
        log.add(id(0), &end(0));
        log.add(id(1), &end(7));
        assert_eq!(codes(&path), [(id(0), Some(0)), (id(1), Some(7))]);
        assert_eq!(read(&path, |asked| asked == id(1))[&id(1)].stderr_tail, "");
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 3);
        fs::write(&path, bytes).unwrap();
        let mut log = EndedLog::open(path.clone());
        log.add(id(2), &end(9));
        assert_eq!(codes(&path), [(id(0), Some(0)), (id(2), Some(9))]);
    }

    #[test]
    fn two_files_of_bounded_length_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ended");
        let mut log = EndedLog::open(path.clone());
        let long = EndReport { reason: "r".repeat(1_000), ..end(1) };
        let count = 3 * u32::try_from(FILE_BYTES_MAX).unwrap() / 1_000;
        for instance in 0..count {
            log.add(id(instance), &long);
        }
        let found = read(&path, |_| true);
        assert!(found.contains_key(&id(count - 1)) && !found.contains_key(&id(0)));
        let bytes: u64 = fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes < 2 * FILE_BYTES_MAX + 4_096, "{bytes}");
    }
}
