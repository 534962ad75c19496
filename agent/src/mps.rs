//! NVIDIA's Multi-Process Service: where its control daemon runs on this host, a worker with a
//! part of a GPU is made a client of it, which is held to its share of the GPU's processors and
//! memory. The daemon is the operator's: the agent neither starts nor stops it and gives it no
//! orders.
//!
//! By NVIDIA's "Multi-Process Service", appendix "Environment Variables"
//! (docs.nvidia.com/deploy/mps, looked up in November 2026): clients find the daemon by
//! `CUDA_MPS_PIPE_DIRECTORY`; `CUDA_MPS_ACTIVE_THREAD_PERCENTAGE` further bounds the portion of
//! threads that the daemon allows; `CUDA_MPS_PINNED_DEVICE_MEM_LIMIT` is a list such as
//! `0=1G,1=512M`, by the ordinal that the client sees. A client that finds no daemon runs as if
//! there were none, without any bound.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use berth_model::{DeviceClaim, ShareMilli};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::environment::Environment;

/// What all of its variables begin with.
const PREFIX: &str = "CUDA_MPS_";
/// Where the daemon listens, in its directory.
const CONTROL: &str = "control";

/// What this host has of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mps {
    /// Where an operator says that the daemon listens.
    pub directory: PathBuf,
    /// Why it does not, when it was last looked at.
    pub missing: Option<String>,
}

impl Mps {
    /// Looks whether somebody listens there.
    pub fn at(directory: PathBuf) -> Mps {
        let missing = listens(&directory.join(CONTROL)).err();
        Mps { directory, missing }
    }
}

/// Whether somebody listens at a path, asked without saying anything and without waiting.
fn listens(control: &Path) -> Result<(), String> {
    let said = |error: io::Error| format!("{}: {error}", control.display());
    let kind = fs::metadata(control).map_err(said)?.file_type();
    let nobody = || format!("{}: nobody listens", control.display());
    if kind.is_fifo() {
        return match rustix::fs::open(control, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()) {
            Ok(_) => Ok(()),
            Err(Errno::NXIO) => Err(nobody()),
            Err(error) => Err(said(error.into())),
        };
    }
    if !kind.is_socket() {
        return Err(format!("{}: neither a socket nor a pipe", control.display()));
    }
    let address = SocketAddrUnix::new(control).map_err(|error| said(error.into()))?;
    // Of which type it is nobody says but by refusing the other.
    for socket_type in [SocketType::STREAM, SocketType::SEQPACKET] {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, socket_type, flags, None);
        let socket = socket.map_err(|error| said(error.into()))?;
        return match rustix::net::connect(&socket, &address) {
            // Whose line is full is there.
            Ok(()) | Err(Errno::AGAIN) => Ok(()),
            Err(Errno::PROTOTYPE) => continue,
            Err(Errno::CONNREFUSED) => Err(nobody()),
            Err(error) => Err(said(error.into())),
        };
    }
    Err(format!("{}: a socket of another type", control.display()))
}

/// Of the GPU's processors, in percent. Rounded down, so that all who share a GPU are together
/// promised no more than there is; what the hardware makes of it is the driver's affair.
pub fn percent_of(share: ShareMilli) -> u32 {
    (share.0 / 10).clamp(1, 100)
}

/// What makes a worker a client that is held to its claim. Nothing of the kind that the job says
/// itself stays beside it.
pub fn set(all: &mut Environment, directory: &Path, claim: &DeviceClaim) {
    all.retain(|name, _| !name.starts_with(PREFIX));
    // In whole MiB, rounded down; it sees one GPU, and so by the ordinal 0.
    let memory_mib = (claim.memory.0 >> 20).max(1);
    let variables = [
        ("PIPE_DIRECTORY", directory.to_string_lossy().into_owned()),
        ("ACTIVE_THREAD_PERCENTAGE", percent_of(claim.share).to_string()),
        ("PINNED_DEVICE_MEM_LIMIT", format!("0={memory_mib}M")),
    ];
    all.extend(variables.map(|(name, value)| (format!("{PREFIX}{name}"), value)));
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use berth_model::MemoryBytes;

    use super::*;

    #[test]
    fn shares_are_percentages_and_memory_is_mebibytes() {
        for (milli, bytes, percent, limit) in [
            (500, 40 << 30, "50", "0=40960M"),
            (1, 1, "1", "0=1M"),
            (15, 20_000_000_000, "1", "0=19073M"),
            (339, (1 << 20) - 1, "33", "0=1M"),
            (999, 1 << 20, "99", "0=1M"),
        ] {
            let uuid = "GPU-a".to_owned();
            let share = ShareMilli(milli);
            let claim = DeviceClaim { uuid, share, memory: MemoryBytes(bytes) };
            let own = [("CUDA_MPS_CLIENT_PRIORITY", "0"), ("CUDA_MPS_PIPE_DIRECTORY", "/mine")];
            let mut all: Environment =
                own.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            all.insert("PATH".to_owned(), "/bin".to_owned());
            set(&mut all, Path::new("/run/mps"), &claim);
            let expected = [
                ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", percent),
                ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", limit),
                ("CUDA_MPS_PIPE_DIRECTORY", "/run/mps"),
                ("PATH", "/bin"),
            ];
            let found: Vec<_> =
                all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(found, expected, "{milli}");
        }
    }

    #[test]
    fn it_is_there_while_somebody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join(CONTROL);
        let missing = || Mps::at(dir.path().to_owned()).missing;
        assert!(missing().unwrap().contains("No such file"));
        fs::write(&control, "").unwrap();
        assert!(missing().unwrap().ends_with("neither a socket nor a pipe"));
        fs::remove_file(&control).unwrap();

        let stream = UnixListener::bind(&control).unwrap();
        assert_eq!(missing(), None);
        drop(stream);
        assert!(missing().unwrap().ends_with("nobody listens"));
        fs::remove_file(&control).unwrap();

        let flags = SocketFlags::CLOEXEC;
        let packets =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let packets = packets.unwrap();
        rustix::net::bind(&packets, &SocketAddrUnix::new(&control).unwrap()).unwrap();
        assert!(missing().unwrap().ends_with("nobody listens"));
        rustix::net::listen(&packets, 1).unwrap();
        assert_eq!(missing(), None);
        fs::remove_file(&control).unwrap();

        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &control, rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        assert!(missing().unwrap().ends_with("nobody listens"));
        let reads = OFlags::RDONLY | OFlags::NONBLOCK;
        let _reader = rustix::fs::open(&control, reads, Mode::empty()).unwrap();
        assert_eq!(missing(), None);
    }
}
