//! What agents and the leader tell each other. Observations are those that an
//! agent can make; the rest is whatever the types hold.

use std::sync::Arc;

use berth_model::{
    AllocationId, Attempt, EndCause, EndReport, InstanceIndex, JobId, ShareMilli, StartPhase,
    TaskIndex, WallMs,
};
use berth_state::{Observation, Observed};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::log::claim;
use super::spec::{device_claim, digest, gang_seat, job, port_claim};
use super::{number, text};
use crate::agent::{Delta, DesiredRow, Full, WorkerHere};

pub(crate) fn allocation() -> impl Strategy<Value = AllocationId> {
    (number(), any::<u16>(), any::<u32>(), any::<u32>()).prop_map(|parts| AllocationId {
        job: JobId(parts.0),
        task: TaskIndex(parts.1),
        instance: InstanceIndex(parts.2),
        attempt: Attempt(parts.3),
    })
}

pub(crate) fn phase() -> impl Strategy<Value = StartPhase> {
    select(vec![StartPhase::Fetch, StartPhase::Launch, StartPhase::WarmUp])
}

pub(crate) fn cause() -> impl Strategy<Value = EndCause> {
    use EndCause as C;
    select(vec![
        C::Exited,
        C::Stopped,
        C::CannotStart,
        C::PortTaken,
        C::OutOfMemory,
        C::HostRebooted,
        C::Unseen,
        C::Fenced,
        C::HostFault,
    ])
}

fn moment() -> impl Strategy<Value = WallMs> {
    (0..=253_402_300_799_999u64).prop_map(WallMs)
}

pub(crate) fn end_report() -> impl Strategy<Value = EndReport> {
    let code_or_signal = prop_oneof![
        Just((None, None)),
        (0..256).prop_map(|code| (Some(code), None)),
        (1..65).prop_map(|signal| (None, Some(signal))),
    ];
    (cause(), code_or_signal, text(), text(), option::of(moment()), moment()).prop_map(
        |(cause, (exit_code, signal), reason, stderr_tail, started_at, finished_at)| EndReport {
            cause,
            exit_code,
            signal,
            reason,
            stderr_tail,
            started_at,
            finished_at,
        },
    )
}

pub(crate) fn worker_here() -> impl Strategy<Value = WorkerHere> {
    (allocation(), text(), text(), digest(), claim()).prop_map(
        |(allocation, namespace, job_name, spec_digest, claim)| WorkerHere {
            allocation,
            namespace,
            job_name,
            spec_digest,
            claim,
        },
    )
}

pub(crate) fn ended() -> impl Strategy<Value = (AllocationId, EndReport)> {
    (allocation(), end_report())
}

pub(crate) fn observation() -> impl Strategy<Value = Observation> {
    let observed = prop_oneof![
        phase().prop_map(Observed::Starting),
        (any::<bool>(), moment())
            .prop_map(|(ready, started_at)| Observed::Running { ready, started_at }),
        text().prop_map(|detail| Observed::Unhealthy { detail }),
        Just(Observed::Stopping),
        Just(Observed::Unkillable),
        end_report().prop_map(Observed::Ended),
    ];
    (allocation(), observed).prop_map(|(allocation, observed)| Observation { allocation, observed })
}

pub(crate) fn desired_row() -> impl Strategy<Value = DesiredRow> {
    let device = device_claim().prop_map(|mut claim| {
        claim.uuid.push('u');
        claim.share = ShareMilli(claim.share.0 % 1000 + 1);
        claim
    });
    let claim = (vec(device, 0..3), vec(port_claim(), 0..3), option::of(gang_seat()));
    (allocation(), digest(), claim, option::of(text())).prop_map(
        |(allocation, spec, (devices, ports, seat), stop)| DesiredRow {
            allocation,
            spec,
            devices,
            ports,
            seat,
            stop,
        },
    )
}

pub(crate) fn full() -> impl Strategy<Value = Full> {
    let spec = (digest(), job().prop_map(Arc::new));
    (number(), number(), vec(desired_row(), 0..4), vec(spec, 0..2), any::<[u8; 32]>()).prop_map(
        |(incarnation, generation, rows, specs, digest)| Full {
            incarnation,
            generation,
            rows,
            specs,
            digest,
        },
    )
}

pub(crate) fn delta() -> impl Strategy<Value = Delta> {
    (full(), number(), vec(allocation(), 0..4)).prop_map(|(full, from, removed)| Delta {
        incarnation: full.incarnation,
        from,
        to: full.generation,
        upserts: full.rows,
        removed,
        specs: full.specs,
        digest: full.digest,
    })
}
