//! The nouns of Berth: ids, quantities, job specifications, nodes, statuses,
//! access, and the one `fits` that planning and apply share. This crate refuses
//! to know any transport, clock, file or other Berth crate.

#![forbid(unsafe_code)]

pub mod access;
pub mod artifact;
pub mod autoscale;
pub mod decay;
pub mod fits;
pub mod gang;
pub mod guarantee;
pub mod guard;
pub mod ids;
pub mod limit_range;
pub mod limits;
pub mod name;
pub mod namespace;
pub mod node;
pub mod node_reservation;
pub mod policy;
pub mod preemption;
pub mod quantity;
pub mod range_set;
pub mod route;
pub mod spec;
pub mod status;
pub mod time;
pub mod update;
pub mod validate;

pub use access::{
    Grant, JoinGrant, Machine, NAMESPACES_MAX, ParseAccessError, Role, Scope, TokenId,
};
pub use artifact::{Artifact, Checksum, Location, Scheme, shown_source};
pub use autoscale::{Autoscale, PidGains, ScalingMetric, ScalingPace, ScalingPolicy};
pub use decay::{AverageUse, USE_HALF_LIFE, halved};
pub use fits::{Claim, DeviceClaim, Misfit, PortClaim, eligible, fits, may_stay, open_devices};
pub use gang::{GANG_MEMBERS_MAX, GANG_PLAN_BYTES_MAX, Gang, GangSeat};
pub use guarantee::{Guarantee, LENT_MIN_RUN_MAX, Lent};
pub use guard::{Guards, Shut};
pub use ids::{AllocationId, Attempt, InstanceIndex, JobId, NodeId, ParseIdError, TaskIndex};
pub use limit_range::{Bound, Bounds, LeftOut, LimitRange, OutOfRange};
pub use limits::{Limits, QualityClass};
pub use name::{Name, NameError};
pub use namespace::{
    Amounts, Borrowing, DESCRIPTION_BYTES_MAX, Limit, NamespaceSpec, OverQuota, Quota, QuotaPart,
    Resource, Shortage, Used, validate_namespace,
};
pub use node::{
    DEVICES_MAX, Device, DeviceHealth, DeviceSlice, DeviceUse, DeviceWay, HEALTH_REASON_BYTES_MAX,
    IMAGINED_MAX, NVLINKS_MAX, NodeCapacity, NodeSpec, NodeUse, PcieWay, PortRange,
    TASKS_PER_DEVICE_MAX_DEFAULT,
};
pub use node_reservation::{
    AtBegin, NODE_RESERVATIONS_MAX, NodeReservation, RESERVED_NAMESPACES_MAX, RESERVED_NODES_MAX,
    ReservedNodes, validate_node_reservation,
};
pub use policy::{POOL_POLICIES_MAX, Policy, PolicyDefaults, PolicyOrigin};
pub use preemption::{PATIENCE, PREEMPTION_GAP, Preemption, outranks};
pub use quantity::{CpuMilli, DiskBytes, MemoryBytes, ShareMilli};
pub use range_set::RangeSet;
pub use route::{MODEL_BYTES_MAX, Reached, Route, RoutingPolicy, WAITING_MAX};
pub use spec::{
    ArraySpec, Constraints, Driver, GpuRequest, HealthCheck, HealthProbe, JobKind, JobSpec,
    OnReturn, RestartPolicy, Signal, SpecDigest, StopPolicy, TaskSpec,
};
pub use status::{
    AllocationState, Drain, EndCause, EndReport, IllegalTransition, JobState, NodeState, Outcome,
    StartPhase, StopIntent,
};
pub use time::{DurationMs, StateMs, WallMs};
pub use update::{OnFailure, UpdatePolicy};
pub use validate::{Violation, validate, validate_grant, validate_node};
