//! The generated protobuf messages and gRPC services; nothing here is written
//! by hand, and nothing here interprets a message.

#![forbid(unsafe_code)]

/// The descriptor set of every service, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Peer traffic between schedulers.
pub mod raft {
    pub mod v1 {
        tonic::include_proto!("berth.raft.v1");
    }
}
