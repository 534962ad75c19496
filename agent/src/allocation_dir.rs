//! The directory of one allocation. Its mere presence says that the allocation
//! was begun on this host, so that it is never begun again.

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use berth_model::{AllocationId, EndCause};
use berth_proto::v1;

use crate::frame::{self, Framed};

const RECORD_FILE: &str = "allocation";

/// What is remembered of an allocation beside its worker. Not synced: it needs
/// to outlive the agent, not the host, whose boot id tells the difference.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocationRecord {
    #[prost(string, tag = "1")]
    pub allocation_id: String,
    /// The latest incarnation of the cluster that wanted it.
    #[prost(uint64, tag = "2")]
    pub wanted_in: u64,
    #[prost(string, tag = "3")]
    pub boot_id: String,
    /// Set if it ended before anything was launched.
    #[prost(message, optional, tag = "4")]
    pub unstarted: Option<Unstarted>,
    /// Its health check has passed and not failed since.
    #[prost(bool, tag = "5")]
    pub ready: bool,
    /// What it is and holds, for a cluster that does not know it any more.
    #[prost(message, optional, tag = "6")]
    pub worker: Option<v1::WorkerHere>,
    /// Its share of the processors of its GPU, where it was begun as a client of MPS.
    #[prost(uint32, optional, tag = "7")]
    pub mps_percent: Option<u32>,
}

/// An end before the beginning.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Unstarted {
    #[prost(enumeration = "UnstartedCause", tag = "1")]
    pub cause: i32,
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// Why nothing was launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum UnstartedCause {
    Unspecified = 0,
    CannotStart = 1,
    PortTaken = 2,
    Stopped = 3,
    Fenced = 4,
    HostFault = 5,
    /// An attempt that failed, for what may be another time.
    Failed = 6,
}

/// What the record of an allocation says.
#[derive(Debug)]
pub enum FoundRecord {
    /// It was never begun here.
    Absent,
    Record(Box<AllocationRecord>),
    /// Set aside under the name given.
    SetAside(PathBuf),
}

/// Where one allocation keeps everything.
#[derive(Clone, Debug)]
pub struct AllocationDir {
    path: PathBuf,
}

impl AllocationDir {
    pub fn of(allocations: &Path, id: AllocationId) -> AllocationDir {
        AllocationDir { path: allocations.join(id.to_string()) }
    }

    /// One that is of no allocation.
    pub fn at(path: PathBuf) -> AllocationDir {
        AllocationDir { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a confined worker sees as `/tmp`.
    pub fn temporary(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// Makes it, for everybody in the worker's view to write to.
    ///
    /// # Errors
    /// The system's.
    pub fn make_temporary(&self) -> io::Result<()> {
        fs::create_dir(self.temporary())?;
        fs::set_permissions(self.temporary(), fs::Permissions::from_mode(0o1777))
    }

    /// `BERTH_TASK_DIR`.
    pub fn task(&self) -> PathBuf {
        self.path.join("task")
    }

    pub fn stdout(&self) -> PathBuf {
        self.path.join("stdout")
    }

    pub fn stderr(&self) -> PathBuf {
        self.path.join("stderr")
    }

    /// Makes the directory and the record.
    ///
    /// # Errors
    /// `AlreadyExists`: it was begun before and must not be begun again.
    /// Otherwise the system's.
    pub fn begin(&self, record: &AllocationRecord) -> io::Result<()> {
        DirBuilder::new().mode(0o755).create(&self.path)?;
        self.write_record(record)?;
        DirBuilder::new().mode(0o755).create(self.task())
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// The system's.
    pub fn write_record(&self, record: &AllocationRecord) -> io::Result<()> {
        let temporary = self.path.join("allocation.new");
        fs::write(&temporary, frame::encode(record))?;
        fs::rename(temporary, self.path.join(RECORD_FILE))
    }

    /// Reads the record; a garbled one is moved out of the way, never guessed
    /// at.
    pub fn record(&self) -> FoundRecord {
        let path = self.path.join(RECORD_FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(_) if !self.path.is_dir() => return FoundRecord::Absent,
            // The directory without its record: the agent was killed between
            // the two, so nothing was launched, but it was begun.
            Err(_) => return FoundRecord::SetAside(path),
        };
        match frame::decode(&bytes) {
            Framed::Message(record, _) => FoundRecord::Record(Box::new(record)),
            Framed::End | Framed::Garbled(_) => FoundRecord::SetAside(set_aside(&path)),
        }
    }
}

/// Writes a new file that is nobody's but the agent's.
///
/// # Errors
/// It is there already, or the system's.
pub fn write_private(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(file)?.write_all(bytes)
}

/// Moves a garbled file out of the way and returns where it is now.
pub fn set_aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".garbled");
    let aside = path.with_file_name(name);
    match fs::rename(path, &aside) {
        Ok(()) => aside,
        Err(_) => path.to_owned(),
    }
}

impl From<UnstartedCause> for EndCause {
    fn from(cause: UnstartedCause) -> EndCause {
        match cause {
            UnstartedCause::Unspecified => EndCause::Unseen,
            UnstartedCause::CannotStart => EndCause::CannotStart,
            UnstartedCause::PortTaken => EndCause::PortTaken,
            UnstartedCause::Stopped => EndCause::Stopped,
            UnstartedCause::Fenced => EndCause::Fenced,
            UnstartedCause::HostFault => EndCause::HostFault,
            UnstartedCause::Failed => EndCause::Exited,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_begun_once_and_its_record_is_never_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let allocation = AllocationDir::of(dir.path(), "1.0.0.1".parse().unwrap());
        assert!(matches!(allocation.record(), FoundRecord::Absent));
        let record = AllocationRecord {
            allocation_id: "1.0.0.1".to_owned(),
            wanted_in: 3,
            boot_id: "boot".to_owned(),
            unstarted: None,
            ready: true,
            worker: None,
            mps_percent: Some(50),
        };
        allocation.begin(&record).unwrap();
        assert_eq!(allocation.begin(&record).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(matches!(allocation.record(), FoundRecord::Record(found) if *found == record));
        fs::write(allocation.path().join(RECORD_FILE), b"not a record at all").unwrap();
        let FoundRecord::SetAside(aside) = allocation.record() else {
            panic!("a garbled record was believed");
        };
        assert_eq!(fs::read(aside).unwrap(), b"not a record at all");
        assert!(matches!(allocation.record(), FoundRecord::SetAside(_)), "it was begun");
    }
}
