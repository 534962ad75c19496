//! The generated protobuf messages and gRPC services; nothing here is written
//! by hand, and nothing here interprets a message.

#![forbid(unsafe_code)]
#![expect(
    clippy::too_many_lines,
    clippy::large_enum_variant,
    reason = "the shape of generated code is the generator's"
)]

/// The descriptor set of every service, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

include!(concat!(env!("OUT_DIR"), "/calls.rs"));

/// Peer traffic between schedulers.
pub mod raft {
    pub mod v1 {
        tonic::include_proto!("berth.raft.v1");
    }
}

/// The public API, and what agents speak.
pub mod v1 {
    tonic::include_proto!("berth.v1");
}

/// What stands in the log and in snapshots.
pub mod log {
    pub mod v1 {
        tonic::include_proto!("berth.log.v1");
    }
}
