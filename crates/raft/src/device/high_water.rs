//! A note of 64 bytes outside the store of how much the store must hold. It
//! turns "opened empty" and "the tail is gone" into a refusal. It never runs
//! ahead of the store: the store is synced first.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Identity, OpenError, Position, VoteRecord};

const FILE: &str = "high-water";
const MAGIC: [u8; 4] = *b"BHW1";
const LENGTH: usize = 64;
/// Stands for "no entry yet"; no log gets that long.
const NO_INDEX: u64 = u64::MAX;

/// What the store held at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HighWater {
    pub identity: Identity,
    pub term: u64,
    pub voted_for: u64,
    pub last: Option<Position>,
}

pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

impl HighWater {
    pub(crate) fn new(
        identity: Identity,
        vote: Option<VoteRecord>,
        last: Option<Position>,
    ) -> Self {
        Self {
            identity,
            term: vote.map_or(0, |vote| vote.term),
            voted_for: vote.map_or(0, |vote| vote.node_id),
            last,
        }
    }

    fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..20].copy_from_slice(&self.identity.cluster_id);
        let (term, index) = self.last.map_or((0, NO_INDEX), |last| (last.term, last.index));
        let words = [self.identity.node_id, self.term, self.voted_for, term, index];
        for (slot, word) in bytes[20..60].chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(file: &Path, bytes: &[u8]) -> Result<Self, OpenError> {
        let bytes: &[u8; LENGTH] = bytes.try_into().map_err(|_| {
            let what = format!("is {} bytes long, not {LENGTH}", bytes.len());
            OpenError::damaged(file, None, what)
        })?;
        let crc = u32::from_le_bytes([bytes[60], bytes[61], bytes[62], bytes[63]]);
        if crc != crc32c::crc32c(&bytes[..60]) {
            return Err(OpenError::damaged(file, None, "checksum is wrong"));
        }
        if bytes[..3] != MAGIC[..3] {
            return Err(OpenError::damaged(file, None, "is no high-water file"));
        }
        if bytes[3] != MAGIC[3] {
            return Err(OpenError::Version {
                file: file.to_owned(),
                found: u32::from(bytes[3].wrapping_sub(b'0')),
                known: 1,
            });
        }
        let word = |start: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[start..start + 8]);
            u64::from_le_bytes(word)
        };
        let mut cluster_id = [0; 16];
        cluster_id.copy_from_slice(&bytes[4..20]);
        Ok(Self {
            identity: Identity { cluster_id, node_id: word(20) },
            term: word(28),
            voted_for: word(36),
            last: Some(word(52))
                .filter(|index| *index != NO_INDEX)
                .map(|index| Position { term: word(44), index }),
        })
    }

    /// Replaces the file: written beside, synced, renamed, folder synced.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let target = path(folder);
        let temporary = folder.join("high-water.tmp");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&self.encode())?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, &target)?;
        fs::File::open(folder)?.sync_all()
    }

    /// `None` when there is no such file.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, OpenError> {
        let file = path(folder);
        match fs::read(&file) {
            Ok(bytes) => Self::decode(&file, &bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(OpenError::io("read", file)(error)),
        }
    }

    /// Refuses a store that holds less than this note says.
    pub(crate) fn check(
        &self,
        store: &Path,
        vote: Option<VoteRecord>,
        last: Option<Position>,
    ) -> Result<(), OpenError> {
        let (term, voted_for) = vote.map_or((0, 0), |vote| (vote.term, vote.node_id));
        if term < self.term {
            let what =
                format!("holds a vote of term {term}, but this node voted in term {}", self.term);
            return Err(OpenError::damaged(store, None, what));
        }
        if term == self.term && voted_for != self.voted_for {
            let what = format!(
                "holds a vote for node {voted_for} in term {term}, but this node voted for {}",
                self.voted_for
            );
            return Err(OpenError::damaged(store, None, what));
        }
        if last < self.last {
            let what = format!("log ends at {}, but it reached {}", show(last), show(self.last));
            return Err(OpenError::damaged(store, last.map(|last| last.index), what));
        }
        Ok(())
    }
}

fn show(position: Option<Position>) -> String {
    position.map_or_else(
        || "nothing".to_owned(),
        |position| format!("index {} of term {}", position.index, position.term),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_any_flipped_bit_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let note = HighWater {
            identity: Identity { cluster_id: [7; 16], node_id: 3 },
            term: 9,
            voted_for: 2,
            last: Some(Position { term: 8, index: 41 }),
        };
        note.write(folder.path()).unwrap();
        assert_eq!(HighWater::read(folder.path()).unwrap(), Some(note));
        let whole = fs::read(path(folder.path())).unwrap();
        assert_eq!(whole.len(), LENGTH);
        for bit in 0..LENGTH * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(path(folder.path()), &bytes).unwrap();
            assert!(HighWater::read(folder.path()).is_err(), "bit {bit}");
        }
    }
}
