//! The messages of `shim/1`, tags written by hand because they are frozen: add fields, never renumber.

use crate::record::ExitRecord;

/// One frame from a client.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// Chosen by the client, above zero, returned as `reply_to`.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Absent when the client is newer and asks what this shim does not know.
    #[prost(oneof = "RequestBody", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub body: Option<RequestBody>,
}

/// What a client asks.
#[expect(
    clippy::large_enum_variant,
    reason = "one request exists at a time; a box would only add an allocation"
)]
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum RequestBody {
    #[prost(message, tag = "2")]
    Hello(HelloRequest),
    #[prost(message, tag = "3")]
    Start(StartRequest),
    #[prost(message, tag = "4")]
    Signal(SignalRequest),
    #[prost(message, tag = "5")]
    Stop(StopRequest),
    #[prost(message, tag = "6")]
    Stats(StatsRequest),
    #[prost(message, tag = "7")]
    Attach(AttachRequest),
    #[prost(message, tag = "8")]
    Wait(WaitRequest),
    #[prost(message, tag = "9")]
    Retire(RetireRequest),
    #[prost(message, tag = "10")]
    Exit(ExitRequest),
    #[prost(message, tag = "11")]
    Lease(LeaseRequest),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HelloRequest {
    /// The major version that the client speaks.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
}

/// Everything a worker needs. Paths are absolute; a relative one is refused as a bad request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StartRequest {
    /// 1 to 256 bytes.
    #[prost(string, tag = "1")]
    pub allocation_id: String,
    /// Program and arguments, not empty. A program without a slash is looked up in the `PATH` of `env`.
    #[prost(string, repeated, tag = "2")]
    pub command: Vec<String>,
    /// The worker's whole environment; nothing is added.
    #[prost(message, repeated, tag = "3")]
    pub env: Vec<EnvironmentVariable>,
    #[prost(string, tag = "4")]
    pub working_dir: String,
    /// The file is made at the first byte; empty drops the stream without counting it.
    #[prost(string, tag = "5")]
    pub stdout_path: String,
    /// As `stdout_path`; the last 4 KiB go into the exit record in any case.
    #[prost(string, tag = "6")]
    pub stderr_path: String,
    #[prost(message, optional, tag = "7")]
    pub logs: Option<LogLimits>,
    /// Absent: 0o022.
    #[prost(uint32, optional, tag = "8")]
    pub umask: Option<u32>,
    #[prost(message, optional, tag = "9")]
    pub stop: Option<StopSettings>,
    /// Only a shim that runs as root can honour it; another one fails the start.
    #[prost(message, optional, tag = "10")]
    pub user: Option<UserIds>,
    #[prost(message, repeated, tag = "11")]
    pub limits: Vec<ResourceLimit>,
    /// Cgroup directories of this allocation alone (one per hierarchy in v1, one in v2), entered before exec
    /// unless its program does that itself.
    #[prost(string, repeated, tag = "12")]
    pub cgroup_dirs: Vec<String>,
    /// Directory for the file `exit`, not writable by the worker's user; empty means the lane journal, and that only
    /// parent links and cgroups decide whether the tree is empty.
    #[prost(string, tag = "13")]
    pub record_dir: String,
    /// Written to the worker's `oom_score_adj`, −1000 to 1000.
    #[prost(sint32, optional, tag = "14")]
    pub oom_score_adjust: Option<i32>,
    /// An ended allocation to retire first, as if by a retire of its own; saves a lane one round trip.
    #[prost(string, tag = "15")]
    pub retire_allocation_id: String,
    /// The tree is stopped as by a stop when CLOCK_BOOTTIME shows this, in ms, unless a lease request moves it before.
    /// Absent: never.
    #[prost(uint64, optional, tag = "16")]
    pub lease_ends_at_boot_ms: Option<u64>,
    /// Its program enters `cgroup_dirs` by itself: what stands around a worker is not the worker's to pay for.
    #[prost(bool, tag = "17")]
    pub enters_cgroups_itself: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EnvironmentVariable {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Zero means the default for each field.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LogLimits {
    /// Default 10 MiB; a file reaching it is renamed to `.1`.
    #[prost(uint64, tag = "1")]
    pub file_bytes_max: u64,
    /// Default 3, the current file included; at most 100.
    #[prost(uint32, tag = "2")]
    pub file_count: u32,
    /// Default 32 MiB/s for both streams together; a faster worker is slowed by its full pipe.
    #[prost(uint64, tag = "3")]
    pub bytes_per_second: u64,
}

/// Absent fields mean the default.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct StopSettings {
    /// Default SIGTERM (15).
    #[prost(int32, optional, tag = "1")]
    pub signal: Option<i32>,
    /// From the signal to SIGKILL; default 30,000 ms.
    #[prost(uint64, optional, tag = "2")]
    pub grace_ms: Option<u64>,
    /// The same for what a main process leaves behind at its own end; default 2,000 ms.
    #[prost(uint64, optional, tag = "3")]
    pub leftover_grace_ms: Option<u64>,
    /// From SIGKILL to the state `unkillable`; default 3,000 ms.
    #[prost(uint64, optional, tag = "4")]
    pub unkillable_after_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct UserIds {
    #[prost(uint32, tag = "1")]
    pub uid: u32,
    #[prost(uint32, tag = "2")]
    pub gid: u32,
}

/// `u64::MAX` means unlimited.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ResourceLimit {
    #[prost(enumeration = "Resource", tag = "1")]
    pub resource: i32,
    #[prost(uint64, tag = "2")]
    pub soft: u64,
    #[prost(uint64, tag = "3")]
    pub hard: u64,
}

/// The limits of setrlimit(2) that make sense for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Resource {
    Unspecified = 0,
    OpenFiles = 1,
    Processes = 2,
    CoreBytes = 3,
    FileBytes = 4,
    LockedBytes = 5,
    StackBytes = 6,
    AddressSpaceBytes = 7,
    CpuSeconds = 8,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SignalRequest {
    #[prost(string, tag = "1")]
    pub allocation_id: String,
    #[prost(int32, tag = "2")]
    pub signal: i32,
    #[prost(enumeration = "SignalScope", tag = "3")]
    pub scope: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SignalScope {
    Main = 0,
    Tree = 1,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StopRequest {
    #[prost(string, tag = "1")]
    pub allocation_id: String,
    /// Absent: as in the start's stop settings.
    #[prost(int32, optional, tag = "2")]
    pub signal: Option<i32>,
    /// Absent: as in the start's stop settings. A second stop can shorten the grace, never lengthen it.
    #[prost(uint64, optional, tag = "3")]
    pub grace_ms: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StatsRequest {
    #[prost(string, tag = "1")]
    pub allocation_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AttachRequest {
    /// Empty: every allocation of this shim, those to come included.
    #[prost(string, tag = "1")]
    pub allocation_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WaitRequest {
    #[prost(string, tag = "1")]
    pub allocation_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RetireRequest {
    #[prost(string, tag = "1")]
    pub allocation_id: String,
}

/// Moves the end of the lease, or gives the allocation one. An earlier end than the one held changes nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LeaseRequest {
    #[prost(string, tag = "1")]
    pub allocation_id: String,
    #[prost(uint64, tag = "2")]
    pub ends_at_boot_ms: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ExitRequest {}

/// One frame from a shim.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServerMessage {
    /// The request's id; zero for an event.
    #[prost(uint64, tag = "1")]
    pub reply_to: u64,
    #[prost(oneof = "ServerBody", tags = "2, 3, 4, 5, 6, 7, 8, 9")]
    pub body: Option<ServerBody>,
}

/// An answer (the first five) or an event (the rest).
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ServerBody {
    #[prost(message, tag = "2")]
    Hello(HelloReply),
    #[prost(message, tag = "3")]
    State(AllocationState),
    #[prost(message, tag = "4")]
    Stats(StatsReply),
    #[prost(message, tag = "5")]
    Done(Done),
    #[prost(message, tag = "6")]
    Refused(Refusal),
    /// The worker's exec has succeeded.
    #[prost(message, tag = "7")]
    Started(AllocationState),
    /// The phase changed otherwise, to `unkillable` for example.
    #[prost(message, tag = "8")]
    Changed(AllocationState),
    /// The tree is empty and the exit record durable.
    #[prost(message, tag = "9")]
    Ended(AllocationState),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HelloReply {
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// Release of the shim's executable, for people.
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    #[prost(uint64, tag = "4")]
    pub start_ticks: u64,
    #[prost(string, tag = "5")]
    pub boot_id: String,
    #[prost(message, optional, tag = "6")]
    pub state: Option<AllocationState>,
}

/// What a shim holds; an idle one has phase `idle` and an empty id.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocationState {
    #[prost(string, tag = "1")]
    pub allocation_id: String,
    #[prost(enumeration = "Phase", tag = "2")]
    pub phase: i32,
    /// Of the main process; zero when it was never started.
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    /// Of the main process: clock ticks since boot.
    #[prost(uint64, tag = "4")]
    pub start_ticks: u64,
    #[prost(uint64, tag = "5")]
    pub started_at_unix_ms: u64,
    /// Once known; durable only in phase `ended`.
    #[prost(message, optional, tag = "6")]
    pub record: Option<ExitRecord>,
    /// In phase `unkillable`: who is left, at most 64.
    #[prost(message, repeated, tag = "7")]
    pub surviving: Vec<SurvivingProcess>,
    /// In phase `recording`: why the record is not durable yet.
    #[prost(string, tag = "8")]
    pub record_error: String,
    /// Present while the allocation has a lease.
    #[prost(uint64, optional, tag = "9")]
    pub lease_ends_at_boot_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Phase {
    Idle = 0,
    Running = 1,
    /// A stop was asked for.
    Stopping = 2,
    /// The main process ended by itself; what it left behind is being ended.
    Clearing = 3,
    /// SIGKILL was sent and something is still there. Its devices must stay blocked.
    Unkillable = 4,
    /// All ended, but the exit record could not be made durable yet.
    Recording = 5,
    Ended = 6,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SurvivingProcess {
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// The state letter of `/proc/<pid>/stat`, `D` for uninterruptible sleep.
    #[prost(string, tag = "2")]
    pub state: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StatsReply {
    #[prost(string, tag = "1")]
    pub allocation_id: String,
    /// User and system time of the tree in µs, of ended processes too; resolution one clock tick.
    #[prost(uint64, tag = "2")]
    pub cpu_time_us: u64,
    /// Sum over the living processes; shared pages count once per process.
    #[prost(uint64, tag = "3")]
    pub resident_bytes: u64,
    #[prost(uint32, tag = "4")]
    pub process_count: u32,
    #[prost(uint64, tag = "5")]
    pub log_bytes_dropped: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Done {}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Refusal {
    #[prost(enumeration = "RefusalCode", tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    /// What the shim holds instead; empty when idle.
    #[prost(string, tag = "3")]
    pub held_allocation_id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum RefusalCode {
    Unspecified = 0,
    /// A field is missing or impossible, or the frame cannot be read.
    BadRequest = 1,
    UnsupportedProtocol = 2,
    /// The request names another allocation than the one held.
    WrongAllocation = 3,
    /// A start or exit while an allocation is held.
    Busy = 4,
    /// A signal for an allocation whose main process has ended.
    NotRunning = 5,
    /// A retire of an allocation that has not ended durably.
    NotEnded = 6,
    /// A start of an allocation that this shim, or the record in its directory, knows as ended.
    AlreadyEnded = 7,
    /// No start, because the end could not be recorded.
    RecordUnavailable = 8,
    /// The request is of a kind that this shim does not know.
    UnknownRequest = 9,
}
