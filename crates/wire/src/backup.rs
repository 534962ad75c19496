//! A backup file: the whole replicated state at one moment, with a checksum
//! over all of it. Version 1 is the magic, a version, the time, a snapshot of
//! version 1, and the SHA-256 of everything before it.

use std::io::{self, Read, Write};

use berth_model::WallMs;
use berth_state::{ClusterState, RestoreError};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::snapshot::v1::{ReadError, SnapshotHeader, SnapshotReader, write_rows};

const MAGIC: [u8; 8] = *b"BERTHBAK";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 8 + 2 + 8;
const DIGEST_BYTES: usize = 32;

/// What a backup holds.
#[derive(Clone, Debug)]
pub struct Backup {
    /// By the clock of the scheduler that made it.
    pub saved_at: WallMs,
    /// The version of the program that made it.
    pub writer: String,
    pub state: ClusterState,
}

/// Why a file is not a backup that can be restored.
#[derive(Debug, Error)]
pub enum BackupError {
    #[error("read the backup")]
    Io(#[from] io::Error),
    #[error("this is no backup of a Berth cluster")]
    NoBackup,
    #[error(
        "the backup has format {found}, this build reads {VERSION}; use the build that made it"
    )]
    Version { found: u16 },
    #[error("the backup is damaged or cut short: its checksum is wrong")]
    Checksum,
    #[error("read the backup's rows")]
    Rows(#[from] ReadError),
    #[error("the backup's rows do not belong together")]
    State(#[from] RestoreError),
}

/// Writes a backup.
///
/// # Errors
/// Those of the sink; `InvalidData` for a row that no reader would take.
pub fn write_backup(
    state: &ClusterState,
    saved_at: WallMs,
    writer: &str,
    sink: &mut dyn Write,
) -> io::Result<()> {
    let mut sink = Hashing { inner: sink, hasher: Sha256::new() };
    sink.write_all(&MAGIC)?;
    sink.write_all(&VERSION.to_le_bytes())?;
    sink.write_all(&saved_at.0.to_le_bytes())?;
    let applied_index = state.applied_index();
    let header = SnapshotHeader { writer: writer.to_owned(), applied_index };
    write_rows(&header, state.rows(), &mut sink)?;
    let Hashing { inner, hasher } = sink;
    inner.write_all(&hasher.finalize())?;
    inner.flush()
}

/// Reads a backup whole: its checksum, every row, and that they belong
/// together. Nothing of a file that fails is given out. `source` must end where
/// the backup ends.
///
/// # Errors
/// See [`BackupError`].
pub fn read_backup(mut source: impl Read) -> Result<Backup, BackupError> {
    let mut header = [0; HEADER_BYTES];
    source.read_exact(&mut header).map_err(|error| {
        let short = error.kind() == io::ErrorKind::UnexpectedEof;
        if short { BackupError::NoBackup } else { BackupError::Io(error) }
    })?;
    let [magic @ .., v0, v1, t0, t1, t2, t3, t4, t5, t6, t7] = header;
    if magic != MAGIC {
        return Err(BackupError::NoBackup);
    }
    let found = u16::from_le_bytes([v0, v1]);
    if found != VERSION {
        return Err(BackupError::Version { found });
    }
    let mut body = Body { source, hasher: Sha256::new_with_prefix(header), held: Vec::new() };
    let read = read_rows(&mut body);
    // Whatever was wrong with the rows, a wrong checksum is why.
    io::copy(&mut body, &mut io::sink())?;
    if body.held != body.hasher.finalize().as_slice() {
        return Err(BackupError::Checksum);
    }
    let (writer, state) = read?;
    let saved_at = WallMs(u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]));
    Ok(Backup { saved_at, writer, state })
}

fn read_rows(body: &mut impl Read) -> Result<(String, ClusterState), BackupError> {
    let mut reader = SnapshotReader::open(body)?;
    let SnapshotHeader { writer, applied_index } = reader.header().clone();
    let state = ClusterState::from_rows(applied_index, reader.rows());
    reader.finish()?;
    Ok((writer, state?))
}

struct Hashing<'a> {
    inner: &'a mut dyn Write,
    hasher: Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// What stands between header and checksum: the last bytes are held back until
/// it is known that they are the last.
struct Body<R> {
    source: R,
    hasher: Sha256,
    held: Vec<u8>,
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.held.len() <= DIGEST_BYTES {
            let mut piece = [0; 16 << 10];
            let count = self.source.read(&mut piece)?;
            if count == 0 {
                return Ok(0);
            }
            self.held.extend_from_slice(&piece[..count]);
        }
        let count = (self.held.len() - DIGEST_BYTES).min(buffer.len());
        buffer[..count].copy_from_slice(&self.held[..count]);
        self.hasher.update(&self.held[..count]);
        self.held.drain(..count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use berth_model::StateMs;
    use berth_state::{Command, Entry};
    use proptest::prelude::*;

    use super::*;

    fn state() -> ClusterState {
        let mut state = ClusterState::default();
        let commands = vec![Command::Found { cluster_id: [7; 16], security: None }];
        let (state_ms, wall_ms) = (StateMs(5), WallMs(6));
        state.apply(9, &Entry { state_ms, wall_ms, proposer: "0.1.0".into(), commands });
        state
    }

    fn bytes() -> Vec<u8> {
        let mut bytes = Vec::new();
        write_backup(&state(), WallMs(1_790_000_000_000), "0.1.0", &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_backup_reads_back_as_the_state_that_it_is_of() {
        let backup = read_backup(bytes().as_slice()).unwrap();
        assert_eq!((backup.saved_at, backup.writer.as_str()), (WallMs(1_790_000_000_000), "0.1.0"));
        assert_eq!(backup.state.hash(), state().hash());
        assert_eq!(backup.state.applied_index(), 9);
    }

    /// A later release must read what this one wrote.
    #[test]
    fn version_1_is_written_as_it_was() {
        let hex: String = bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../fixtures/backup-v1.hex").replace('\n', ""));
    }

    #[test]
    fn what_is_no_backup_is_named_as_that() {
        let refused = |bytes: &[u8]| read_backup(bytes).unwrap_err();
        assert!(matches!(refused(b""), BackupError::NoBackup));
        assert!(matches!(refused(b"a text that is long enough"), BackupError::NoBackup));
        let mut newer = bytes();
        newer[8] = 2;
        assert!(matches!(refused(&newer), BackupError::Version { found: 2 }));
        assert!(matches!(refused(&bytes()[..40]), BackupError::Checksum));
    }

    proptest! {
        #[test]
        fn damage_anywhere_is_found(position in any::<prop::sample::Index>(), bits in 1..=255u8) {
            let mut damaged = bytes();
            let at = position.index(damaged.len());
            damaged[at] ^= bits;
            prop_assert!(read_backup(damaged.as_slice()).is_err());
        }

        #[test]
        fn a_cut_is_found(length in any::<prop::sample::Index>()) {
            let whole = bytes();
            prop_assert!(read_backup(&whole[..length.index(whole.len())]).is_err());
        }
    }
}
