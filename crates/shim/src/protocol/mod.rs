//! The frozen language between agent and shim. It refuses to hold behaviour: only shapes, and their framing.

mod frame;
mod messages;

pub use frame::{FRAME_BYTES_MAX, FrameBuffer, FrameError, encode_frame};
pub use messages::{
    AllocationState, AttachRequest, Done, EnvironmentVariable, ExitRequest, HelloReply,
    HelloRequest, LeaseRequest, LogLimits, Phase, Refusal, RefusalCode, Request, RequestBody,
    Resource, ResourceLimit, RetireRequest, ServerBody, ServerMessage, SignalRequest, SignalScope,
    StartRequest, StatsReply, StatsRequest, StopRequest, StopSettings, SurvivingProcess, UserIds,
    WaitRequest,
};

/// The protocol's major version; a shim answers `unsupported-protocol` to any other.
pub const PROTOCOL_VERSION: u32 = 1;
