//! Rows of the state: whatever the types hold.

use std::sync::Arc;

use berth_model::node::DeviceUse;
use berth_model::{
    AllocationState, Attempt, CpuMilli, JobState, MemoryBytes, NodeState, NodeUse, Policy,
    PolicyDefaults, RangeSet, ShareMilli, TaskIndex,
};
use berth_state::rows::SchedulerRow;
use berth_state::{
    AllocationRow, AwayRow, ClusterRow, Draining, FailureDetail, JobPhase, JobRow, JobVersionRow,
    KeptPlace, KeyRow, NodeRow, OrphanRow, ReservationRow, RestoreRow, Retry, Rollout, Stored,
    TaskRow,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::access::{authority, revocation_row, token_row};
use super::agent::{allocation, phase};
use super::log::{claim, guards, intent, job_id, node_id, purpose, score, seat, state_ms, wall_ms};
use super::namespace::namespace_row;
use super::node_reservation::node_reservation_row;
use super::spec::{digest, gang_seat, job, node};
use super::{name, number, text};

pub(crate) fn stored() -> impl Strategy<Value = Stored> {
    prop_oneof![
        cluster().prop_map(Stored::Cluster),
        job_row().prop_map(|row| Stored::Job(Arc::new(row))),
        (job_id(), any::<u16>(), task_row()).prop_map(|(job, task, row)| Stored::Task(
            job,
            TaskIndex(task),
            Arc::new(row)
        )),
        allocation_row().prop_map(|row| Stored::Allocation(Arc::new(row))),
        node_row().prop_map(|row| Stored::Node(Arc::new(row))),
        (name(), text(), key_row()).prop_map(|(namespace, key, row)| Stored::Key(
            namespace,
            key,
            Arc::new(row)
        )),
        token_row().prop_map(|row| Stored::Token(Arc::new(row))),
        revocation_row().prop_map(|row| Stored::Revocation(Arc::new(row))),
        namespace_row().prop_map(|row| Stored::Namespace(Arc::new(row))),
        node_reservation_row().prop_map(|row| Stored::NodeReservation(Arc::new(row))),
    ]
}

fn cluster() -> BoxedStrategy<ClusterRow> {
    let scheduler = (any::<[u8; 16]>(), text(), option::of(seat()))
        .prop_map(|(instance_key, address, seat)| SchedulerRow { instance_key, address, seat });
    let restore = (
        (any::<[u8; 16]>(), btree_set(node_id(), 0..3), state_ms(), state_ms()),
        (job_id(), any::<u32>()),
    )
        .prop_map(|((id, awaited, place_from, await_until), (floor_jobs, floor))| RestoreRow {
            id,
            awaited,
            place_from,
            await_until,
            floor_jobs,
            attempt_floor: Attempt(floor),
        });
    (
        (any::<[u8; 16]>(), number(), any::<u32>(), number(), number()),
        (state_ms(), wall_ms(), btree_map(number(), scheduler, 0..3), option::of(restore)),
        option::of(authority().prop_map(Arc::new)),
        btree_map(text(), state_ms(), 0..3),
        policy_defaults(),
    )
        .prop_map(|(head, rest, authority, fences, policies)| {
            let (id, incarnation, cluster_version, job_counter, node_counter) = head;
            let (state_ms, wall_ms, schedulers, restore) = rest;
            ClusterRow {
                id,
                incarnation,
                cluster_version,
                job_counter,
                node_counter,
                state_ms,
                wall_ms,
                schedulers,
                restore,
                authority,
                fences,
                policies,
            }
        })
        .boxed()
}

fn policy_defaults() -> impl Strategy<Value = PolicyDefaults> {
    let policy = || select(Policy::ALL.to_vec());
    (option::of(policy()), btree_map(name(), policy(), 0..3))
        .prop_map(|(cluster, pools)| PolicyDefaults { cluster, pools })
}

fn job_state() -> impl Strategy<Value = JobState> {
    use JobState as S;
    select(vec![S::Queued, S::Running, S::Succeeded, S::Failed, S::Cancelled, S::TimedOut])
}

pub(crate) fn rollout() -> impl Strategy<Value = Rollout> {
    (state_ms(), any::<u32>(), any::<bool>())
        .prop_map(|(progressed_at, ready_max, failed)| Rollout { progressed_at, ready_max, failed })
}

fn job_row() -> BoxedStrategy<JobRow> {
    let phase = prop_oneof![
        Just(JobPhase::Active),
        job_state().prop_map(JobPhase::Ending),
        (job_state(), state_ms()).prop_map(|(state, at)| JobPhase::Ended { state, at }),
    ];
    let version = (any::<u32>(), job(), digest(), wall_ms()).prop_map(
        |(version, spec, digest, submitted_at)| JobVersionRow {
            version,
            spec: Arc::new(spec),
            digest,
            submitted_at,
        },
    );
    (
        (job_id(), job(), digest(), any::<u32>(), vec(version, 0..2), option::of(text())),
        (phase, any::<bool>(), wall_ms(), state_ms()),
        (option::of(wall_ms()), option::of(wall_ms()), text(), any::<u32>(), option::of(rollout())),
        option::of(any::<u32>()),
    )
        .prop_map(|(head, times, rest, proven)| {
            let (id, spec, digest, version, versions, key) = head;
            let (phase, held, submitted_at, submitted_ms) = times;
            let (started_at, finished_at, reason, live, rollout) = rest;
            JobRow {
                id,
                spec: Arc::new(spec),
                digest,
                version,
                versions,
                key,
                phase,
                held,
                submitted_at,
                submitted_ms,
                started_at,
                finished_at,
                reason,
                live,
                rollout,
                proven,
            }
        })
        .boxed()
}

pub(crate) fn ranges() -> impl Strategy<Value = RangeSet> {
    let edge = prop_oneof![0..20u32, any::<u32>(), u32::MAX - 20..=u32::MAX];
    vec((edge, 0..1000u32), 0..8).prop_map(|spans| {
        let mut set = RangeSet::new();
        for (first, length) in spans {
            set.insert_range(first, first.saturating_add(length));
        }
        set
    })
}

pub(crate) fn task_row() -> BoxedStrategy<TaskRow> {
    let retry =
        (any::<u32>(), any::<u32>(), state_ms()).prop_map(|(attempt, failures, not_before)| {
            Retry { attempt: Attempt(attempt), failures, not_before }
        });
    let failure = (
        (allocation(), node_id(), text(), any::<Option<i32>>()),
        (any::<Option<i32>>(), text(), wall_ms()),
    )
        .prop_map(|((allocation, node, reason, exit_code), rest)| {
            let (signal, stderr_tail, finished_at) = rest;
            FailureDetail { allocation, node, reason, exit_code, signal, stderr_tail, finished_at }
        });
    (
        (ranges(), ranges(), ranges(), ranges(), ranges(), ranges()),
        (btree_map(any::<u32>(), retry, 0..4), vec(failure, 0..3), any::<u32>()),
    )
        .prop_map(|(sets, (retries, failures, live))| {
            let (pending, succeeded, failed, cancelled, timed_out, lost) = sets;
            TaskRow {
                pending,
                succeeded,
                failed,
                cancelled,
                timed_out,
                lost,
                retries,
                failures: failures.into(),
                live,
            }
        })
        .boxed()
}

pub(crate) fn allocation_row() -> BoxedStrategy<AllocationRow> {
    let state = prop_oneof![
        Just(AllocationState::Planned),
        phase().prop_map(AllocationState::Starting),
        any::<bool>().prop_map(|ready| AllocationState::Running { ready }),
        intent().prop_map(AllocationState::Stopping),
        intent().prop_map(AllocationState::Unkillable),
    ];
    (
        (allocation(), node_id(), any::<u32>(), digest(), claim(), state),
        (
            text(),
            state_ms(),
            option::of(state_ms()),
            option::of(wall_ms()),
            score(),
            option::of(gang_seat()),
        ),
        option::of((state_ms(), number())),
    )
        .prop_map(|(head, rest, draining)| {
            let draining = draining.map(|(by, since_index)| Draining { by, since_index });
            let (id, node, job_version, spec_digest, claim, state) = head;
            let (reason, planned_at, running_since, started_at, score, seat) = rest;
            AllocationRow {
                id,
                node,
                job_version,
                spec_digest,
                claim,
                state,
                reason,
                planned_at,
                running_since,
                started_at,
                score,
                seat,
                draining,
            }
        })
        .boxed()
}

fn node_use() -> impl Strategy<Value = NodeUse> {
    let device = (any::<u32>(), number(), any::<u32>()).prop_map(|(share, memory, tasks)| {
        DeviceUse { share: ShareMilli(share), memory: MemoryBytes(memory), tasks }
    });
    (number(), number(), btree_map(text(), device, 0..3), btree_set(any::<u16>(), 0..4)).prop_map(
        |(cpu, memory, devices, ports)| NodeUse {
            cpu: CpuMilli(cpu),
            memory: MemoryBytes(memory),
            devices,
            ports,
        },
    )
}

pub(crate) fn node_row() -> BoxedStrategy<NodeRow> {
    let state = select(vec![NodeState::Ready, NodeState::Disconnected, NodeState::Down]);
    let blocked = btree_map(any::<u16>(), state_ms(), 0..3);
    (
        (node_id(), name(), any::<[u8; 16]>(), node(), state, purpose()),
        (
            number(),
            number(),
            node_use(),
            btree_set(allocation(), 0..4),
            (state_ms(), state_ms(), number()),
            (
                blocked,
                btree_map(allocation(), orphan(), 0..3),
                btree_set(text(), 0..3),
                vec(away(), 0..3),
                vec(reservation(), 0..3),
                guards(),
            ),
        ),
    )
        .prop_map(|(head, rest)| {
            let (id, name, instance_key, spec, state, purpose) = head;
            let (session, generation, used, live, times, sets) = rest;
            let (blocked_ports, orphans, cordoned_devices, away, reservations, guards) = sets;
            let (since, rests_until, stock_incarnation) = times;
            NodeRow {
                id,
                name,
                instance_key,
                spec: Arc::new(spec),
                state,
                purpose,
                session,
                generation,
                used,
                live,
                since,
                blocked_ports,
                rests_until,
                stock_incarnation,
                orphans,
                cordoned_devices,
                away: away.into_iter().map(|away| (away.row.id, away)).collect(),
                reservations,
                guards,
            }
        })
        .boxed()
}

fn reservation() -> impl Strategy<Value = ReservationRow> {
    let place = (claim(), score()).prop_map(|(claim, score)| KeptPlace { claim, score });
    let members = btree_map(allocation(), place, 0..3);
    (members, btree_set(allocation(), 0..3), node_use(), any::<bool>()).prop_map(
        |(members, awaits, held, patient)| ReservationRow { members, awaits, held, patient },
    )
}

fn away() -> impl Strategy<Value = AwayRow> {
    (allocation_row(), option::of(text()))
        .prop_map(|(row, stop)| AwayRow { row: Arc::new(row), stop })
}

fn orphan() -> impl Strategy<Value = OrphanRow> {
    (claim(), option::of(digest()), text(), text(), wall_ms(), text(), option::of(text())).prop_map(
        |(claim, spec_digest, namespace, job_name, found_at, why, stop)| OrphanRow {
            claim,
            spec_digest,
            namespace,
            job_name,
            found_at,
            why,
            stop,
        },
    )
}

fn key_row() -> impl Strategy<Value = KeyRow> {
    (job_id(), digest(), any::<u32>(), option::of(state_ms()))
        .prop_map(|(job, digest, version, forget_at)| KeyRow { job, digest, version, forget_at })
}
