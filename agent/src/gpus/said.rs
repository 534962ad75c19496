//! What the prober says, and how it goes through a pipe. Both ends of that are one program. What is
//! said of GPUs and of their ways is kept on disk as well, for the agent after this one, which may
//! be another version: the numbers of those fields stay what they are.

use std::collections::BTreeMap;
use std::io;

use berth_proto::v1::MemoryErrors;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A look at sixteen GPUs with a hundred processes each is not a tenth of this.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// One thing that the prober says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Frame {
    #[prost(oneof = "Said", tags = "1, 2, 3")]
    pub said: Option<Said>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Said {
    #[prost(message, tag = "1")]
    Look(Look),
    #[prost(message, tag = "2")]
    Unavailable(Unavailable),
    #[prost(message, tag = "3")]
    Happened(Happened),
}

/// Everything as it was at one moment.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Look {
    #[prost(string, tag = "1")]
    pub driver: String,
    /// Those that answered.
    #[prost(message, repeated, tag = "2")]
    pub gpus: Vec<GpuLook>,
    /// By uuid: those that the library says are lost.
    #[prost(string, repeated, tag = "3")]
    pub lost: Vec<String>,
    /// By uuid: those that answer with another error.
    #[prost(string, repeated, tag = "4")]
    pub unanswering: Vec<String>,
    /// How many do not answer and never have, so that nobody knows which they are.
    #[prost(uint32, tag = "5")]
    pub nameless: u32,
    /// How they reach each other; only when that was looked at.
    #[prost(message, optional, tag = "6")]
    pub topology: Option<Topology>,
    /// By uuid: those that answer nothing but that they have to be reset.
    #[prost(string, repeated, tag = "7")]
    pub need_reset: Vec<String>,
    /// Somebody asked for it before it was time: what is missing is missing no longer for it.
    #[prost(bool, tag = "8")]
    pub is_extra: bool,
}

/// How GPUs reach each other, as far as the library tells.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Topology {
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<NearNode>,
    #[prost(message, repeated, tag = "2")]
    pub pairs: Vec<Pair>,
}

/// The node of the host's memory that is nearest to a GPU.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NearNode {
    #[prost(string, tag = "1")]
    pub uuid: String,
    #[prost(uint32, tag = "2")]
    pub numa_node: u32,
}

/// The way between two GPUs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pair {
    #[prost(string, tag = "1")]
    pub one: String,
    #[prost(string, tag = "2")]
    pub other: String,
    #[prost(enumeration = "Ancestor", tag = "3")]
    pub ancestor: i32,
    #[prost(uint32, optional, tag = "4")]
    pub nvlinks: Option<u32>,
    /// Of what is remembered: there were some at any time of that run of the host.
    #[prost(bool, tag = "5")]
    pub were_linked: bool,
}

/// What two GPUs have in common on the bus.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum Ancestor {
    Unknown = 0,
    Board = 1,
    Switch = 2,
    Switches = 3,
    HostBridge = 4,
    NumaNode = 5,
    System = 6,
}

/// One GPU; what is absent it does not tell.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GpuLook {
    #[prost(uint32, tag = "1")]
    pub index: u32,
    #[prost(string, tag = "2")]
    pub uuid: String,
    #[prost(string, tag = "3")]
    pub name: String,
    /// On the PCI bus.
    #[prost(string, tag = "4")]
    pub bus: String,
    /// Of its device node.
    #[prost(uint32, optional, tag = "5")]
    pub minor: Option<u32>,
    #[prost(uint64, tag = "6")]
    pub memory_total_bytes: u64,
    #[prost(uint64, optional, tag = "7")]
    pub memory_used_bytes: Option<u64>,
    #[prost(uint32, optional, tag = "8")]
    pub utilization_percent: Option<u32>,
    #[prost(uint32, optional, tag = "9")]
    pub temperature_celsius: Option<u32>,
    #[prost(uint32, optional, tag = "10")]
    pub power_milliwatts: Option<u32>,
    #[prost(uint32, optional, tag = "11")]
    pub clock_mhz: Option<u32>,
    #[prost(message, repeated, tag = "12")]
    pub processes: Vec<GpuProcess>,
    /// Of one that is remembered: it was lost.
    #[prost(bool, tag = "13")]
    pub is_lost: bool,
    /// What the driver says that it needs, with the number that NVML has for it.
    #[prost(uint32, optional, tag = "14")]
    pub recovery: Option<u32>,
    #[prost(message, optional, tag = "15")]
    pub memory_errors: Option<MemoryErrors>,
    #[prost(enumeration = "SlowedBy", tag = "17")]
    pub slowed_by: i32,
    /// Whether it tells which processes use it.
    #[prost(bool, tag = "18")]
    pub tells_processes: bool,
    /// Its parts, if it is cut up; then it is not offered itself.
    #[prost(message, optional, tag = "16")]
    pub cut: Option<Cut>,
    /// It is no GPU of NVIDIA's: a command says that it is there.
    #[prost(bool, tag = "19")]
    pub is_listed: bool,
    /// Why that command says that it takes nothing new.
    #[prost(string, optional, tag = "20")]
    pub unwell: Option<String>,
    /// The device nodes that a worker needs for it.
    #[prost(string, repeated, tag = "21")]
    pub nodes: Vec<String>,
    /// What a worker finds in its environment for it.
    #[prost(btree_map = "string, string", tag = "22")]
    pub environment: BTreeMap<String, String>,
    /// It did not say whether it is cut up, and never has; of this look alone, until it is
    /// known what it said before.
    #[prost(bool, tag = "23")]
    pub cut_untold: bool,
}

/// The parts of a GPU that is cut up (MIG).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Cut {
    #[prost(message, repeated, tag = "1")]
    pub slices: Vec<SliceLook>,
}

/// One part of a GPU.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SliceLook {
    /// Among those of its GPU.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(string, tag = "2")]
    pub uuid: String,
    #[prost(string, tag = "3")]
    pub name: String,
    /// Such as `1g.10gb`; empty if it does not say.
    #[prost(string, tag = "4")]
    pub profile: String,
    #[prost(uint64, tag = "5")]
    pub memory_total_bytes: u64,
    #[prost(uint64, optional, tag = "6")]
    pub memory_used_bytes: Option<u64>,
    /// Of its processes, as far as it tells.
    #[prost(uint32, repeated, tag = "7")]
    pub pids: Vec<u32>,
    /// It is not there, and was not in so many looks that were due, as the agent counts.
    #[prost(uint32, optional, tag = "8")]
    pub absent_looks: Option<u32>,
}

/// Why its clocks are low.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum SlowedBy {
    /// They are not, or it does not tell.
    Nothing = 0,
    Heat = 1,
    Power = 2,
}

/// A process that uses a GPU.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GpuProcess {
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    #[prost(uint64, optional, tag = "2")]
    pub memory_bytes: Option<u64>,
}

/// The library cannot be used now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Unavailable {
    #[prost(string, tag = "1")]
    pub reason: String,
    /// Somebody has asked for it, so that no host of this kind is to be without it.
    #[prost(bool, tag = "2")]
    pub is_asked_for: bool,
}

/// The driver reported an error of a GPU.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Happened {
    #[prost(string, tag = "1")]
    pub uuid: String,
    /// As in NVIDIA's catalogue.
    #[prost(uint64, tag = "2")]
    pub xid: u64,
}

impl Frame {
    pub fn of(said: Said) -> Frame {
        Frame { said: Some(said) }
    }

    /// Length and content.
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.encoded_len()).unwrap_or(u32::MAX);
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(self.encode_to_vec());
        bytes
    }

    /// The next frame of a pipe; `None` at its end.
    ///
    /// # Errors
    /// Those of the pipe, or what comes is no frame.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
        let mut length = [0; 4];
        match from.read_exact(&mut length).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        };
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        if length > FRAME_BYTES_MAX {
            return Err(invalid("a frame is too long"));
        }
        let mut content = vec![0; length];
        from.read_exact(&mut content).await?;
        Frame::decode(content.as_slice()).map(Some).map_err(|_| invalid("this is no frame"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_through_a_pipe_as_they_were() {
        let happened = Frame::of(Said::Happened(Happened { uuid: "GPU-a".to_owned(), xid: 79 }));
        let gpus = vec![GpuLook { utilization_percent: Some(0), ..GpuLook::default() }];
        let look = Frame::of(Said::Look(Look { gpus, ..Look::default() }));
        let bytes = [happened.to_bytes(), look.to_bytes()].concat();
        let mut pipe = bytes.as_slice();
        assert_eq!(Frame::read(&mut pipe).await.unwrap(), Some(happened));
        assert_eq!(Frame::read(&mut pipe).await.unwrap(), Some(look));
        assert_eq!(Frame::read(&mut pipe).await.unwrap(), None);
        for garbled in [&b"\xff\xff\xff\xff12"[..], b"\x02\0\0\0\xff\xff", b"\x09\0\0\0a"] {
            assert!(Frame::read(&mut &*garbled).await.is_err(), "{garbled:?}");
        }
    }
}
