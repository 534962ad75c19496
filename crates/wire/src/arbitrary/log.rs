//! Log entries: whatever the types hold.

use std::sync::Arc;

use berth_model::{
    Claim, CpuMilli, DeviceClaim, Drain, EndReport, Guards, JobId, MemoryBytes, NodeId, Policy,
    ShareMilli, Shut, StateMs, StopIntent, TaskIndex, WallMs,
};
use berth_state::{
    Command, DevicePurpose, Entry, JobChange, Observation, Observed, Placement, Purpose,
    Reservation, ScoreParts, Seat, Stock, SubmitJob, Unknown,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::access::{access_command, proof, security};
use super::agent::{allocation, cause, phase, worker_here};
use super::namespace::namespace_command;
use super::node_reservation::node_reservation_command;
use super::spec::{device_claim, digest, job, node, port_claim};
use super::{name, number, text};

pub(crate) fn state_ms() -> impl Strategy<Value = StateMs> {
    number().prop_map(StateMs)
}

pub(crate) fn wall_ms() -> impl Strategy<Value = WallMs> {
    number().prop_map(WallMs)
}

pub(crate) fn node_id() -> impl Strategy<Value = NodeId> {
    number().prop_map(NodeId)
}

pub(crate) fn job_id() -> impl Strategy<Value = JobId> {
    number().prop_map(JobId)
}

pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    (state_ms(), wall_ms(), text(), vec(command(), 0..4)).prop_map(
        |(state_ms, wall_ms, proposer, commands)| Entry { state_ms, wall_ms, proposer, commands },
    )
}

pub(crate) fn command() -> BoxedStrategy<Command> {
    prop_oneof![
        cluster_command(),
        job_command(),
        node_command(),
        allocation_command(),
        access_command(),
        namespace_command(),
        node_reservation_command(),
    ]
    .boxed()
}

pub(crate) fn seat() -> impl Strategy<Value = Seat> {
    select(vec![Seat::Voter, Seat::Learner])
}

fn cluster_command() -> BoxedStrategy<Command> {
    prop_oneof![
        (option::of(name()), option::of(select(Policy::ALL.to_vec())))
            .prop_map(|(pool, policy)| Command::SetPolicyDefault { pool, policy }),
        (any::<[u8; 16]>(), option::of(security().prop_map(Arc::new)))
            .prop_map(|(cluster_id, security)| Command::Found { cluster_id, security }),
        (any::<[u8; 16]>(), text(), seat(), option::of(proof())).prop_map(
            |(instance_key, address, seat, proof)| {
                Command::AdmitScheduler { instance_key, address, seat, proof }
            }
        ),
        number().prop_map(|scheduler| Command::PromoteScheduler { scheduler }),
        number().prop_map(|scheduler| Command::RemoveScheduler { scheduler }),
        any::<u32>().prop_map(|version| Command::RaiseClusterVersion { version }),
        (vec(job_id(), 0..3), vec(node_id(), 0..3), vec((name(), text()), 0..3))
            .prop_map(|(jobs, nodes, keys)| Command::Reap { jobs, nodes, keys }),
    ]
    .boxed()
}

fn job_command() -> BoxedStrategy<Command> {
    let change = prop_oneof![
        text().prop_map(|reason| JobChange::Stop { reason }),
        Just(JobChange::Restart),
        Just(JobChange::Hold),
        Just(JobChange::Release),
        any::<u32>().prop_map(|to_version| JobChange::Rollback { to_version }),
        Just(JobChange::Purge),
    ];
    prop_oneof![
        (option::of(text()), job(), digest(), any::<Option<u32>>()).prop_map(
            |(key, spec, digest, if_version)| {
                Command::Submit(SubmitJob { key, spec: Arc::new(spec), digest, if_version })
            }
        ),
        (job_id(), any::<Option<u32>>(), change).prop_map(|(job, if_version, change)| {
            Command::ChangeJob { job, if_version, change }
        }),
        job_id().prop_map(|job| Command::ExpireJob { job }),
        (job_id(), any::<u32>(), text()).prop_map(|(job, version, reason)| Command::FailUpdate {
            job,
            version,
            reason
        }),
    ]
    .boxed()
}

pub(crate) fn purpose() -> impl Strategy<Value = Purpose> {
    prop_oneof![
        Just(Purpose::Work),
        Just(Purpose::Cordoned),
        option::of(state_ms()).prop_map(|deadline| Purpose::Draining(Drain { deadline })),
    ]
}

pub(crate) fn guards() -> impl Strategy<Value = Guards> {
    let shut = || {
        let percents = any::<(u8, u8)>();
        option::of(percents.prop_map(|(used_percent, opens_below_percent)| Shut {
            used_percent,
            opens_below_percent,
        }))
    };
    (shut(), shut()).prop_map(|(cpu, memory)| Guards { cpu, memory })
}

fn node_command() -> BoxedStrategy<Command> {
    prop_oneof![
        (name(), any::<[u8; 16]>(), node()).prop_map(|(name, instance_key, spec)| {
            Command::RegisterNode { name, instance_key, spec: Arc::new(spec) }
        }),
        (name(), any::<[u8; 16]>(), node(), stock()).prop_map(
            |(name, instance_key, spec, stock)| {
                Command::TakeStock { name, instance_key, spec: Arc::new(spec), stock }
            }
        ),
        (node_id(), vec(allocation(), 0..3), text())
            .prop_map(|(node, orphans, reason)| Command::StopOrphans { node, orphans, reason }),
        (node_id(), number(), vec(allocation(), 0..3)).prop_map(|(node, session, orphans)| {
            Command::ForgetOrphans { node, session, orphans }
        }),
        Just(Command::StopAwaiting),
        (node_id(), number()).prop_map(|(node, session)| Command::DisconnectNode { node, session }),
        (node_id(), number()).prop_map(|(node, session)| Command::DownNode { node, session }),
        (node_id(), purpose())
            .prop_map(|(node, purpose)| Command::SetSchedulable { node, purpose }),
        (node_id(), text(), select(vec![DevicePurpose::Work, DevicePurpose::Cordoned]))
            .prop_map(|(node, uuid, purpose)| Command::SetDevicePurpose { node, uuid, purpose }),
        (node_id(), guards()).prop_map(|(node, guards)| Command::SetGuards { node, guards }),
    ]
    .boxed()
}

fn stock() -> impl Strategy<Value = Stock> {
    (
        vec((allocation(), end_report()), 0..3),
        vec(allocation(), 0..3),
        vec(worker_here().prop_map(Unknown::from), 0..3),
        any::<bool>(),
    )
        .prop_map(|(ended, absent, unknown, complete)| Stock {
            ended,
            absent,
            unknown,
            complete,
        })
}

pub(crate) fn claim() -> impl Strategy<Value = Claim> {
    (number(), number(), vec(device_claim(), 0..3), vec(port_claim(), 0..3)).prop_map(
        |(cpu, memory, devices, ports)| Claim {
            cpu: CpuMilli(cpu),
            memory: MemoryBytes(memory),
            devices,
            ports,
        },
    )
}

pub(crate) fn intent() -> impl Strategy<Value = StopIntent> {
    use StopIntent as I;
    select(vec![I::Cancel, I::TimeOut, I::Drain, I::Replace, I::Unhealthy, I::Preempt])
}

fn allocation_command() -> BoxedStrategy<Command> {
    prop_oneof![
        (node_id(), number(), vec(allocation(), 0..3), text()).prop_map(
            |(node, session, allocations, reason)| {
                Command::LoseAllocations { node, session, allocations, reason }
            }
        ),
        vec(placement(), 0..3).prop_map(|placements| Command::Place { placements }),
        vec((placement(), vec(allocation(), 0..3), any::<bool>()), 0..3).prop_map(|reservations| {
            let one = |(placement, awaits, patient)| Reservation { placement, awaits, patient };
            Command::Reserve { reservations: reservations.into_iter().map(one).collect() }
        }),
        (vec(allocation(), 0..3), text())
            .prop_map(|(allocations, reason)| Command::Unreserve { allocations, reason }),
        (vec(allocation(), 0..3), text())
            .prop_map(|(allocations, reason)| Command::LetGo { allocations, reason }),
        (job_id(), any::<u32>(), any::<u32>(), text())
            .prop_map(|(job, from, count, reason)| Command::Scale { job, from, count, reason }),
        (vec(allocation(), 0..3), intent(), text()).prop_map(|(allocations, intent, reason)| {
            Command::StopAllocations { allocations, intent, reason }
        }),
        (node_id(), vec(observation(), 0..3))
            .prop_map(|(node, observations)| Command::Observe { node, observations }),
    ]
    .boxed()
}

/// Half of them as NVIDIA's GPUs are claimed.
fn device_claims() -> impl Strategy<Value = Vec<DeviceClaim>> {
    let uuid = "GPU-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    let alike = (vec(uuid, 0..3), 0..1001_u32, number()).prop_map(|(uuids, share, memory)| {
        let (share, memory) = (ShareMilli(share), MemoryBytes(memory));
        uuids.into_iter().map(|uuid| DeviceClaim { uuid, share, memory }).collect()
    });
    prop_oneof![vec(device_claim(), 0..3), alike]
}

fn placement() -> impl Strategy<Value = Placement> {
    (allocation(), node_id(), device_claims(), vec(port_claim(), 0..3), score()).prop_map(
        |(id, node, devices, ports, score)| Placement {
            job: id.job,
            task: TaskIndex(id.task.0),
            instance: id.instance,
            attempt: id.attempt,
            node,
            devices,
            ports,
            score,
        },
    )
}

pub(crate) fn score() -> impl Strategy<Value = ScoreParts> {
    (text(), vec((text(), any::<i64>()), 0..3), number())
        .prop_map(|(policy, parts, view_index)| ScoreParts { policy, parts, view_index })
}

fn end_report() -> impl Strategy<Value = EndReport> {
    (
        (cause(), any::<Option<i32>>(), any::<Option<i32>>()),
        (text(), text(), option::of(wall_ms()), wall_ms()),
    )
        .prop_map(|((cause, exit_code, signal), rest)| {
            let (reason, stderr_tail, started_at, finished_at) = rest;
            EndReport { cause, exit_code, signal, reason, stderr_tail, started_at, finished_at }
        })
}

/// Sensible or not, other than those of agents: the log holds what was decided.
fn observation() -> impl Strategy<Value = Observation> {
    let observed = prop_oneof![
        phase().prop_map(Observed::Starting),
        (any::<bool>(), wall_ms())
            .prop_map(|(ready, started_at)| Observed::Running { ready, started_at }),
        text().prop_map(|detail| Observed::Unhealthy { detail }),
        Just(Observed::Stopping),
        Just(Observed::Unkillable),
        end_report().prop_map(Observed::Ended),
    ];
    (allocation(), observed).prop_map(|(allocation, observed)| Observation { allocation, observed })
}
