//! Enums in both forms. The zero of a protobuf enum and a number that this
//! version does not know are problems, never a default.

use berth_model::{
    DeviceHealth, EndCause, JobKind, PcieWay, Policy, RoutingPolicy, ScalingMetric, ScalingPolicy,
    Signal, StartPhase,
};
use berth_proto::v1;

use crate::problem::{Cause, Field, Problems};

/// A core enum with its counterpart `P` on the wire.
pub(crate) trait Enumeration<P>: Sized {
    fn to_proto(self) -> P;

    /// `None` for the unspecified value.
    fn from_proto(proto: P) -> Option<Self>;
}

/// Reads the number that stands for a core enum.
pub(crate) fn read<P, T>(at: Field<'_>, number: i32, problems: &mut Problems) -> Option<T>
where
    P: TryFrom<i32>,
    T: Enumeration<P>,
{
    let Ok(proto) = P::try_from(number) else {
        problems.add(at, Cause::UnknownValue(number));
        return None;
    };
    let value = T::from_proto(proto);
    if value.is_none() {
        problems.add(at, Cause::Unspecified);
    }
    value
}

/// Reads one that may be absent.
pub(crate) fn read_optional<P, T>(
    at: Field<'_>,
    number: Option<i32>,
    problems: &mut Problems,
) -> Option<Option<T>>
where
    P: TryFrom<i32>,
    T: Enumeration<P>,
{
    match number {
        Some(number) => read::<P, T>(at, number, problems).map(Some),
        None => Some(None),
    }
}

/// The number that stands for a core enum.
pub(crate) fn number<P, T>(value: T) -> i32
where
    P: Into<i32>,
    T: Enumeration<P>,
{
    value.to_proto().into()
}

/// Pairs the variants of a core enum with those of the same names on the wire.
macro_rules! enumeration {
    ($core:ty, $proto:ty, [$($variant:ident),+ $(,)?]) => {
        impl $crate::enumeration::Enumeration<$proto> for $core {
            fn to_proto(self) -> $proto {
                match self {
                    $(<$core>::$variant => <$proto>::$variant,)+
                }
            }

            fn from_proto(proto: $proto) -> Option<$core> {
                match proto {
                    <$proto>::Unspecified => None,
                    $(<$proto>::$variant => Some(<$core>::$variant),)+
                }
            }
        }
    };
}
pub(crate) use enumeration;

enumeration!(JobKind, v1::JobKind, [Batch, Service, Daemon]);
enumeration!(
    Policy,
    v1::Policy,
    [
        LeastLoaded,
        RoundRobin,
        BestFit,
        Spread,
        ResourceAware,
        LeastAllocations,
        GpuPacking,
        Fgd,
        FirstFit,
        Berth,
    ]
);
enumeration!(
    RoutingPolicy,
    v1::RoutingPolicy,
    [
        Auto,
        RoundRobin,
        Weighted,
        LeastOutstanding,
        ResponseTime,
        PowerOfTwo,
        ShortestExpectedDelay,
        ConsistentHash,
        PrefixAffinity,
        Priority,
    ]
);
enumeration!(ScalingPolicy, v1::ScalingPolicy, [TargetTracking, Step, Proportional, HalfGap, Pid]);
enumeration!(
    ScalingMetric,
    v1::ScalingMetric,
    [Concurrency, Requests, Queue, Latency, KvCache, Gpu]
);
enumeration!(Signal, v1::Signal, [Term, Int, Quit, Hup, Usr1, Usr2, Kill]);
enumeration!(DeviceHealth, v1::DeviceHealth, [Healthy, Suspect, Cordoned, Fenced, Lost]);
enumeration!(
    PcieWay,
    v1::PcieWay,
    [Unknown, Board, Switch, Switches, HostBridge, NumaNode, System]
);
enumeration!(StartPhase, v1::StartPhase, [Fetch, Launch, WarmUp]);
enumeration!(
    EndCause,
    v1::EndCause,
    [Exited, Stopped, CannotStart, PortTaken, OutOfMemory, HostRebooted, Unseen, Fenced, HostFault]
);
