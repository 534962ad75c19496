//! The exit record: what became of an allocation, durable before anybody hears of it. A garbled one is an error with
//! the file's name, never a guess.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use prost::Message;

/// Begins `start_error` where it was no fault of what was to be started.
pub const CANNOT_ENTER_CGROUP: &str = "cannot enter cgroup";
/// Name of the record in an allocation's directory.
pub const RECORD_FILE: &str = "exit";
/// How much of the end of stderr a record keeps, in bytes.
pub const STDERR_TAIL_BYTES: usize = 4096;
/// Upper bound of an encoded record in bytes: the tail, an id and a reason of bounded length, and some numbers.
/// Also the size of a slot in the lane journal.
pub const RECORD_BYTES_MAX: usize = 8192;

const TEMPORARY_FILE: &str = "exit.new";
const MAGIC: [u8; 8] = *b"BERTHEX1";
const HEADER_BYTES: usize = 16;
/// Version of the content, raised when a field's meaning changes; added fields need no new version.
const CONTENT_VERSION: u32 = 1;

/// What became of one allocation. Exactly one of `exit_code`, `signal` and `start_error` is set.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExitRecord {
    /// Version of the content, 1.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(string, tag = "2")]
    pub allocation_id: String,
    /// 0 to 255.
    #[prost(int32, optional, tag = "3")]
    pub exit_code: Option<i32>,
    /// The signal that ended the main process.
    #[prost(int32, optional, tag = "4")]
    pub signal: Option<i32>,
    /// Why the worker never ran, such as ``cannot execute `x`: no such file or directory``; at most 1 KiB.
    #[prost(string, optional, tag = "5")]
    pub start_error: Option<String>,
    #[prost(uint64, tag = "6")]
    pub started_at_unix_ms: u64,
    /// When the tree was empty.
    #[prost(uint64, tag = "7")]
    pub finished_at_unix_ms: u64,
    /// When the main process ended.
    #[prost(uint64, tag = "8")]
    pub main_ended_at_unix_ms: u64,
    /// The last [`STDERR_TAIL_BYTES`] of stderr at most, not always whole UTF-8.
    #[prost(bytes = "vec", tag = "9")]
    pub stderr_tail: Vec<u8>,
    /// Bytes of output that could not be written.
    #[prost(uint64, tag = "10")]
    pub log_bytes_dropped: u64,
    /// User and system time in µs of the tree.
    #[prost(uint64, tag = "11")]
    pub cpu_time_us: u64,
    /// Largest resident set of the main process, or of a descendant that it waited for.
    #[prost(uint64, tag = "12")]
    pub resident_bytes_max: u64,
    /// The kernel killed something of this allocation for memory (read from its cgroup).
    #[prost(bool, tag = "13")]
    pub oom_killed: bool,
    /// A stop was asked for before the end.
    #[prost(bool, tag = "14")]
    pub stop_requested: bool,
    /// SIGKILL was needed because the grace had passed.
    #[prost(bool, tag = "15")]
    pub killed_after_grace: bool,
    /// Processes other than the main one that the shim had to end.
    #[prost(uint32, tag = "16")]
    pub leftover_count: u32,
    /// Boot during which the worker ran.
    #[prost(string, tag = "17")]
    pub boot_id: String,
    /// Position in the lane journal, counted from 1; zero in an allocation's own file.
    #[prost(uint64, tag = "18")]
    pub lane_sequence: u64,
    /// Its lease ran out before it had ended.
    #[prost(bool, tag = "19")]
    pub lease_ended: bool,
}

impl ExitRecord {
    /// A record of `allocation_id` with nothing known yet.
    #[must_use]
    pub fn of(allocation_id: &str) -> Self {
        Self {
            version: CONTENT_VERSION,
            allocation_id: allocation_id.to_owned(),
            ..Self::default()
        }
    }
}

/// Why there is no readable exit record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The allocation has not ended, or its record was taken away.
    #[error("no exit record {}", path.display())]
    Missing {
        /// Where it would be.
        path: PathBuf,
    },
    /// The bytes are not what a shim wrote; set the file aside and report it.
    #[error("exit record {} is garbled: {problem}", path.display())]
    Garbled {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file could not be read.
    #[error("cannot read exit record {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Reads the record in an allocation's own directory.
///
/// # Errors
/// See [`RecordError`]; a record above [`RECORD_BYTES_MAX`] is garbled and not read further.
pub fn read_exit_record(allocation_dir: &Path) -> Result<ExitRecord, RecordError> {
    let path = allocation_dir.join(RECORD_FILE);
    let bytes = match read_bounded(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RecordError::Missing { path });
        }
        Err(source) => return Err(RecordError::Io { path, source }),
    };
    match decode(&bytes) {
        Ok((record, used_bytes)) if used_bytes == bytes.len() => Ok(record),
        Ok(_) => Err(RecordError::Garbled { path, problem: "bytes after its end" }),
        Err(problem) => Err(RecordError::Garbled { path, problem }),
    }
}

/// Makes `record` durable as `allocation_dir/exit`: temporary file, fsync, rename, fsync of the directory.
pub(crate) fn write_exit_record(allocation_dir: &Path, record: &ExitRecord) -> io::Result<()> {
    let temporary = allocation_dir.join(TEMPORARY_FILE);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&encode(record))?;
    file.sync_all()?;
    fs::rename(&temporary, allocation_dir.join(RECORD_FILE))?;
    File::open(allocation_dir)?.sync_all()
}

/// Magic, length and CRC32C of the payload, payload. At most [`RECORD_BYTES_MAX`].
pub(crate) fn encode(record: &ExitRecord) -> Vec<u8> {
    let payload = record.encode_to_vec();
    let length =
        u32::try_from(payload.len()).expect("the fields of a record are bounded far below 4 GiB");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

/// The record at the start of `bytes` and how many bytes it takes.
pub(crate) fn decode(bytes: &[u8]) -> Result<(ExitRecord, usize), &'static str> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or("shorter than its header")?;
    if *magic != MAGIC {
        return Err("wrong magic");
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or("shorter than its header")?;
    let (checksum, rest) = rest.split_first_chunk::<4>().ok_or("shorter than its header")?;
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let payload = rest.get(..length).ok_or("truncated")?;
    if crc32c::crc32c(payload) != u32::from_le_bytes(*checksum) {
        return Err("checksum does not match");
    }
    let record = ExitRecord::decode(payload).map_err(|_| "content is not a record")?;
    if record.version != CONTENT_VERSION {
        return Err("content version is unknown");
    }
    Ok((record, HEADER_BYTES + length))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let bound = u64::try_from(RECORD_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    File::open(path)?.take(bound).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ExitRecord {
        ExitRecord {
            exit_code: Some(7),
            stderr_tail: vec![b'x'; STDERR_TAIL_BYTES],
            ..ExitRecord::of("1.main.0.1")
        }
    }

    #[test]
    fn a_written_record_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read_exit_record(dir.path()), Err(RecordError::Missing { .. })));
        write_exit_record(dir.path(), &sample()).unwrap();
        assert_eq!(read_exit_record(dir.path()).unwrap(), sample());
        assert!(!dir.path().join(TEMPORARY_FILE).exists());
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_garbled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(RECORD_FILE);
        let whole = encode(&ExitRecord { exit_code: Some(7), ..ExitRecord::of("1.main.0.1") });
        for kept in 0..whole.len() {
            fs::write(&path, &whole[..kept]).unwrap();
            assert!(
                matches!(read_exit_record(dir.path()), Err(RecordError::Garbled { .. })),
                "kept {kept} bytes"
            );
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            fs::write(&path, &bytes).unwrap();
            assert!(
                matches!(read_exit_record(dir.path()), Err(RecordError::Garbled { .. })),
                "flipped byte {at}"
            );
        }
    }

    #[test]
    fn bytes_after_the_end_and_endless_files_are_garbled() {
        let dir = tempfile::tempdir().unwrap();
        for extra in [1, 100_000] {
            let mut bytes = encode(&sample());
            bytes.extend(vec![0; extra]);
            fs::write(dir.path().join(RECORD_FILE), &bytes).unwrap();
            assert!(matches!(read_exit_record(dir.path()), Err(RecordError::Garbled { .. })));
        }
    }

    #[test]
    fn the_layout_on_disk_is_frozen() {
        let bytes = encode(&ExitRecord { exit_code: Some(7), ..ExitRecord::of("1.main.0.1") });
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "42455254484558311000000088ccdb590801120a312e6d61696e2e302e311807");
    }

    #[test]
    fn the_largest_record_fits_a_slot() {
        let record = ExitRecord {
            start_error: Some("e".repeat(1024)),
            boot_id: "b".repeat(36),
            ..ExitRecord { allocation_id: "a".repeat(256), ..sample() }
        };
        assert!(encode(&record).len() <= RECORD_BYTES_MAX);
    }
}
