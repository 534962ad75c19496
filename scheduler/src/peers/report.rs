//! What schedulers tell each other about themselves, beside the log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};

use berth_model::WallMs;
use berth_proto::raft::v1 as proto;
use berth_state::CLUSTER_VERSION_MAX;
use bytes::Bytes;
use prost::Message as _;

/// Every replica notes the hash of its state at each multiple of this. A
/// difference between replicas is found at the next one at the latest.
pub const CHECKPOINT_ENTRIES: u64 = 256;
/// Checkpoints kept: a replica that lags by fewer entries than these span still
/// has one in common with the others.
pub const CHECKPOINTS_MAX: usize = 64;

/// The hash of a state, and the last entry applied to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct StateAt {
    pub index: u64,
    pub hash: u64,
}

/// What one scheduler says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Of the program, for people.
    pub version: String,
    pub cluster_version_max: u32,
    /// The same for identical programs only; `None` while it is being computed.
    pub program: Option<u64>,
    pub states: Vec<StateAt>,
    /// The wall clock at that moment; `None` if it is not told.
    pub wall: Option<WallMs>,
}

impl Report {
    pub fn own(program: Option<u64>, states: Vec<StateAt>, wall: WallMs) -> Report {
        Report {
            wall: Some(wall),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_version_max: CLUSTER_VERSION_MAX,
            program,
            states,
        }
    }

    pub fn encode(&self) -> Bytes {
        let states = self.states.iter().map(|at| proto::StateAt { index: at.index, hash: at.hash });
        let report = proto::PeerReport {
            version: self.version.clone(),
            cluster_version_max: self.cluster_version_max,
            program: self.program.unwrap_or(0),
            states: states.collect(),
            wall_ms: self.wall.map_or(0, |wall| wall.0),
        };
        report.encode_to_vec().into()
    }

    /// # Errors
    /// The bytes are no report. Whatever else a newer scheduler says is passed
    /// over: nothing is decided by it.
    pub fn decode(bytes: &[u8]) -> Result<Report, prost::DecodeError> {
        let report = proto::PeerReport::decode(bytes)?;
        let states =
            report.states.iter().map(|at| StateAt { index: at.index, hash: at.hash }).collect();
        Ok(Report {
            version: report.version,
            cluster_version_max: report.cluster_version_max,
            program: (report.program != 0).then_some(report.program),
            states,
            wall: (report.wall_ms != 0).then_some(WallMs(report.wall_ms)),
        })
    }
}

/// The hashes at the last checkpoints.
#[derive(Debug, Default)]
pub struct Checkpoints(VecDeque<StateAt>);

impl Checkpoints {
    /// Notes the state after an entry, if it is one to look at.
    pub fn note(&mut self, index: u64, hash: impl FnOnce() -> u64) {
        if index.is_multiple_of(CHECKPOINT_ENTRIES) {
            if self.0.len() == CHECKPOINTS_MAX {
                self.0.pop_front();
            }
            self.0.push_back(StateAt { index, hash: hash() });
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = StateAt> + '_ {
        self.0.iter().copied()
    }
}

/// A number that only identical programs share, made of the file that this
/// process runs. Rows hash alike only where their types are the same, which no
/// version number promises while a program is being developed.
///
/// # Errors
/// The file cannot be read.
pub fn program() -> io::Result<u64> {
    let mut file = File::open("/proc/self/exe")?;
    let mut piece = vec![0; 1 << 20];
    let (mut checksum, mut length) = (0, 0u64);
    loop {
        match file.read(&mut piece)? {
            // Never 0: that says that it is not known.
            0 => return Ok((length << 32 | u64::from(checksum)) | 1 << 63),
            count => {
                checksum = crc32c::crc32c_append(checksum, &piece[..count]);
                length += count as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_wire_and_an_empty_answer_is_of_nobody_known() {
        let states = vec![StateAt { index: 256, hash: 7 }, StateAt { index: 300, hash: u64::MAX }];
        for program in [None, Some(9)] {
            let report = Report::own(program, states.clone(), WallMs(5));
            assert_eq!(Report::decode(&report.encode()), Ok(report));
        }
        let silent = Report::decode(&[]).unwrap();
        assert_eq!((silent.cluster_version_max, silent.program, silent.wall), (0, None, None));
        assert!(Report::decode(b"\xff\xff").is_err());
    }

    #[test]
    fn checkpoints_are_at_multiples_and_the_oldest_go() {
        let mut checkpoints = Checkpoints::default();
        for index in 1..=CHECKPOINT_ENTRIES * (CHECKPOINTS_MAX as u64 + 2) {
            checkpoints.note(index, || index);
        }
        let kept: Vec<_> = checkpoints.iter().map(|at| at.index).collect();
        assert_eq!(kept.len(), CHECKPOINTS_MAX);
        assert_eq!(kept[0], CHECKPOINT_ENTRIES * 3);
    }

    #[test]
    fn a_program_is_itself() {
        assert_eq!(program().unwrap(), program().unwrap());
    }
}
