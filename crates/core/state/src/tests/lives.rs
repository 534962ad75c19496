//! Random lives: any commands in any order, with every invariant checked after
//! every entry by `World::entry`, and two replicas that must agree.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::{
    AllocationId, Autoscale, DurationMs, EndCause, EndReport, Gang, Grant, JobId, JobKind, JobSpec,
    Machine, NodeId, OnReturn, PATIENCE, Resource, Role, Scope, StateMs, StopIntent, WallMs,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::gang_places::kept_for_gang;
use super::namespaces::limits;
use super::reservations::reservation;
use super::restores::{restored, stock_of, take_stock};
use super::world::{World, exited, job, join_token, name, proof, submit};
use crate::lending::Asker;
use crate::movable::may_move;
use crate::reservation::may_end;
use crate::{
    AllocationRow, ClusterState, Command, JobChange, JobRow, NewToken, Observation, Observed,
    Purpose, Reservation, Right, Seat, Stock,
};

#[derive(Clone, Debug)]
enum Move {
    Submit { kind: u8, count: u32, gpus: u32, key: Option<u8>, named: u8 },
    Change { job: u8, change: u8 },
    Place { job: u8, instance: u32, node: u8, steal: bool },
    Observe { allocation: u8, what: u8, other_node: bool },
    Reserve { job: u8, instance: u32, node: u8, awaits: u8, drop: bool },
    Elsewhere { allocation: u8, node: u8 },
    Stop { allocation: u8, intent: u8 },
    Node { node: u8, what: u8 },
    Scheduler { which: u8, what: u8 },
    Access { which: u8, what: u8, other: u8 },
    Scale { job: u8, count: u32 },
    Namespace { gpus: u64, queued: u64, what: u8 },
    Reap,
    Wait { ms: u64 },
}

fn moves() -> impl Strategy<Value = Move> {
    let submit = (0..3u8, 0..5u32, 0..3u32, proptest::option::of(0..4u8), 0..3u8)
        .prop_map(|(kind, count, gpus, key, named)| Move::Submit { kind, count, gpus, key, named });
    prop_oneof![
        3 => submit,
        1 => (any::<u8>(), 0..6u8).prop_map(|(job, change)| Move::Change { job, change }),
        6 => (any::<u8>(), 0..5u32, 0..4u8, any::<bool>())
            .prop_map(|(job, instance, node, steal)| Move::Place { job, instance, node, steal }),
        6 => (any::<u8>(), 0..9u8, any::<bool>()).prop_map(|(allocation, what, other)| {
            Move::Observe { allocation, what, other_node: other && what == 0 }
        }),
        6 => (any::<u8>(), 0..5u32, 0..4u8, any::<u8>(), proptest::bool::weighted(0.1))
            .prop_map(|(job, instance, node, awaits, drop)| Move::Reserve { job, instance, node, awaits, drop }),
        4 => (any::<u8>(), 0..4u8)
            .prop_map(|(allocation, node)| Move::Elsewhere { allocation, node }),
        2 => (any::<u8>(), 0..9u8)
            .prop_map(|(allocation, intent)| Move::Stop { allocation, intent }),
        2 => (0..4u8, 0..8u8).prop_map(|(node, what)| Move::Node { node, what }),
        1 => (0..6u8, 0..4u8).prop_map(|(which, what)| Move::Scheduler { which, what }),
        4 => (0..3u8, 0..12u8, 0..3u8)
            .prop_map(|(which, what, other)| Move::Access { which, what, other }),
        2 => (any::<u8>(), 0..6u32).prop_map(|(job, count)| Move::Scale { job, count }),
        1 => (0..7u64, 0..9u64, 0..4u8)
            .prop_map(|(gpus, queued, what)| Move::Namespace { gpus, queued, what }),
        1 => Just(Move::Reap),
        2 => (0..100_000u64).prop_map(|ms| Move::Wait { ms }),
        1 => (0..1_000_000u64).prop_map(|ms| Move::Wait { ms }),
    ]
}

fn pick<T: Clone>(list: &[T], seed: u8) -> Option<T> {
    (!list.is_empty()).then(|| list[usize::from(seed) % list.len()].clone())
}

fn command_for(world: &mut World, wish: &Move) -> Option<Command> {
    let jobs: Vec<JobId> = world.state.jobs().iter().map(|(id, _)| *id).collect();
    let nodes: Vec<NodeId> = world.state.nodes().iter().map(|(id, _)| *id).collect();
    let live: Vec<AllocationId> = world.state.allocations().iter().map(|(id, _)| *id).collect();
    match *wish {
        Move::Submit { kind, count, gpus, key, named } => {
            let spec = any_job(kind, count, gpus, named);
            Some(submit(&spec, key.map(|key| format!("key-{key}")).as_deref()))
        }
        Move::Change { job, change } => {
            let change = [
                JobChange::Stop { reason: "r".to_owned() },
                JobChange::Restart,
                JobChange::Hold,
                JobChange::Release,
                JobChange::Rollback { to_version: 0 },
                JobChange::Purge,
            ][usize::from(change)]
            .clone();
            Some(Command::ChangeJob { job: pick(&jobs, job)?, if_version: None, change })
        }
        Move::Place { job, instance, node, steal } => {
            let (job, node) = (pick(&jobs, job)?, pick(&nodes, node)?);
            let row = world.state.jobs().get(&job)?;
            if row.spec.tasks[0].gang.is_some() && !steal {
                let placements = world.gang(job, usize::from(node.0 as u8));
                return Some(Command::Place { placements });
            }
            let daemon = row.kind() == JobKind::Daemon;
            let instance = if daemon && !steal { u32::try_from(node.0).ok()? } else { instance };
            let mut placement = world.placement(job, instance, node);
            if steal {
                // Devices that somebody else may hold.
                placement = world.placement(job, instance, pick(&nodes, 0)?);
                placement.node = node;
            }
            Some(Command::Place { placements: vec![placement.clone(), placement] })
        }
        Move::Observe { allocation, what, other_node } => {
            let nodes = if other_node { &nodes[..] } else { &[] };
            observe_command(world, allocation, what, nodes)
        }
        Move::Reserve { job, instance, node, awaits, drop } => {
            // As often for one of those as for anything.
            let of_gang = pick(&waiting_gangs(world), job).filter(|_| awaits & 1 == 1);
            let (job, node) = (of_gang.or_else(|| pick(&jobs, job))?, pick(&nodes, node)?);
            reserve_command(world, (job, instance), node, (!drop).then_some(awaits))
        }
        Move::Elsewhere { allocation, node } => {
            elsewhere_command(world, (&live, allocation), (&nodes, node))
        }
        Move::Stop { allocation, intent } => Some(stop_command(pick(&live, allocation)?, intent)),
        Move::Node { node, what } => node_command(world, &nodes, node, what),
        Move::Scheduler { which, what } => Some(scheduler_command(world, which, what)),
        Move::Access { which, what, other } => Some(access_command(which, what, other)),
        Move::Scale { job, count } => {
            let job = pick(&jobs, job)?;
            let from = world.state.jobs().get(&job)?.spec.tasks[0].count;
            Some(Command::Scale { job, from, count, reason: "r".to_owned() })
        }
        Move::Namespace { gpus, queued, what } => Some(namespace_command(gpus, queued, what)),
        Move::Reap => Some(Command::Reap {
            jobs,
            nodes,
            keys: (0..4).map(|key| (name("default"), format!("key-{key}"))).collect(),
        }),
        Move::Wait { ms } => {
            world.now += ms;
            None
        }
    }
}

fn stop_command(id: AllocationId, intent: u8) -> Command {
    use StopIntent as S;
    let intents = [S::Cancel, S::TimeOut, S::Drain, S::Replace, S::Unhealthy, S::Preempt];
    let (allocations, reason) = (vec![id], "r".to_owned());
    match intents.get(usize::from(intent)) {
        Some(intent) => Command::StopAllocations { allocations, intent: *intent, reason },
        None => Command::LetGo { allocations, reason },
    }
}

fn namespace_command(gpus: u64, queued: u64, what: u8) -> Command {
    if what == 0 {
        return Command::DeleteNamespace { name: name("default"), if_version: None };
    }
    let amounts = [(Resource::Gpus, gpus * 1000), (Resource::QueuedJobs, queued)];
    let mut spec = limits("default", &amounts);
    if what == 1 {
        spec.quota.guaranteed.amounts = [(Resource::Gpus, gpus * 500)].into();
    }
    let spec = Arc::new(spec);
    Command::ApplyNamespace { spec, if_version: None }
}

/// One of three names for each kind, of which the last is of gangs and the second the most urgent.
fn any_job(kind: u8, count: u32, gpus: u32, named: u8) -> JobSpec {
    let kind = [JobKind::Batch, JobKind::Service, JobKind::Daemon][usize::from(kind)];
    let count = if kind == JobKind::Daemon { 1 } else { count };
    let mut spec = job(kind, &format!("job-{named}"), count, gpus);
    spec.on_return = OnReturn::ALL[usize::from(named)];
    spec.priority = [0, 60, 30][usize::from(named)];
    // Batch work of the first name may not begin twice, and is not moved.
    spec.tasks[0].restart.attempts = Some(named.into());
    spec.preemption.min_run = DurationMs(1_000 * u64::from(named));
    if named < 2 && kind == JobKind::Service {
        spec.tasks[0].ports = vec![name("http")];
        spec.autoscale = (named == 1).then(|| Autoscale::between(0, 4));
    }
    if named == 2 && kind != JobKind::Daemon {
        spec.tasks[0].gang = Some(Gang {});
        spec.tasks[0].restart.attempts = Some(2);
    }
    spec
}

/// Mostly of one that may move.
fn elsewhere_command(
    world: &World,
    (live, allocation): (&[AllocationId], u8),
    (nodes, node): (&[NodeId], u8),
) -> Option<Command> {
    let (state, now) = (&world.state, StateMs(world.now));
    let may = |id: &&AllocationId| {
        let row = state.allocations().get(*id).unwrap();
        may_move(state, state.jobs().get(&id.job).unwrap(), row, now).is_ok()
    };
    let movable: Vec<AllocationId> = live.iter().filter(may).copied().collect();
    let mover = pick(&movable, allocation).or_else(|| pick(live, allocation))?;
    let mut placement = world.placement(mover.job, mover.instance.0, pick(nodes, node)?);
    placement.attempt = state.attempt_after(mover)?;
    let kept = Reservation { placement, awaits: vec![mover], patient: false };
    Some(Command::Reserve { reservations: vec![kept.clone(), kept] })
}

/// Some of what lives on the node is to end, or no place is kept any more.
fn reserve_command(
    world: &World,
    of: (JobId, u32),
    node: NodeId,
    awaits: Option<u8>,
) -> Option<Command> {
    let Some(awaits) = awaits else {
        let allocations = world.state.reservations().map(|(id, ..)| id).collect();
        return Some(Command::Unreserve { allocations, reason: "r".to_owned() });
    };
    let is_gang = world.state.jobs().get(&of.0)?.spec.tasks[0].gang.is_some();
    let patient = awaits.count_ones() % 2 == 1;
    if is_gang {
        let right = if patient { Right::Patience } else { Right::Priority };
        return Some(reserve_for_gang(world, (of.0, usize::from(node.0 as u8)), awaits, right));
    }
    let live = &world.state.nodes().get(&node)?.live;
    let chosen = live.iter().enumerate().filter(|(at, _)| awaits >> (at % 8) & 1 == 1);
    let chosen: Vec<AllocationId> = chosen.map(|(_, id)| *id).collect();
    let kept = Reservation { patient, ..reservation(world, of, node, &chosen) };
    Some(Command::Reserve { reservations: vec![kept.clone(), kept] })
}

fn waiting_gangs(world: &World) -> Vec<JobId> {
    let rows = world.state.jobs().values();
    let waits = |row: &&Arc<JobRow>| row.is_gang(berth_model::TaskIndex(0)) && row.live == 0;
    rows.filter(waits).map(|row| row.id).collect()
}

/// Most of those who may end for a gang are to, wherever they are; sometimes one who may not.
fn reserve_for_gang(world: &World, of: (JobId, usize), awaits: u8, right: Right) -> Command {
    let jobs = world.state.jobs();
    let asker = Asker { job: jobs.get(&of.0).unwrap(), right };
    let may = |owner: &JobRow, row: &AllocationRow| {
        awaits == 1 || may_end(asker, owner, row, StateMs(world.now)).is_ok()
    };
    let rows = world.state.allocations().values();
    let who = rows.filter(|row| may(jobs.get(&row.id.job).unwrap(), row)).enumerate();
    let chosen = who.filter(|(at, _)| awaits >> (at % 8) & 1 == 1).map(|(_, row)| row.id);
    let chosen: Vec<AllocationId> = chosen.collect();
    let mut reservations = kept_for_gang(world, of, &chosen);
    reservations.iter_mut().for_each(|one| one.patient = right == Right::Patience);
    Command::Reserve { reservations }
}

/// What was given up and may still run.
fn away(state: &ClusterState) -> BTreeSet<AllocationId> {
    state.nodes().values().flat_map(|row| row.away.keys().copied()).collect()
}

fn node_of(state: &ClusterState, id: AllocationId) -> Option<NodeId> {
    let live = state.allocations().get(&id).map(|row| row.node);
    let away = || state.nodes().values().find(|row| row.away.contains_key(&id)).map(|row| row.id);
    live.or_else(away)
}

/// What is said of a worker, live or given up, by its own node or by one of these.
fn observe_command(world: &World, allocation: u8, what: u8, nodes: &[NodeId]) -> Option<Command> {
    let live = world.state.allocations().iter().map(|(id, _)| *id);
    let seen: Vec<AllocationId> = live.chain(away(&world.state)).collect();
    let allocation = pick(&seen, allocation)?;
    let node = pick(nodes, 1).or_else(|| node_of(&world.state, allocation))?;
    let ended = |cause| Observed::Ended(EndReport { cause, ..exited(1) });
    let observed = match what {
        0..=2 => Observed::Ended(exited(i32::from(what))),
        3 => Observed::Running { ready: true, started_at: WallMs(1) },
        4 => Observed::Unhealthy { detail: "x".to_owned() },
        5 => Observed::Unkillable,
        6 => ended(EndCause::PortTaken),
        7 => ended(EndCause::HostFault),
        _ => ended(EndCause::HostRebooted),
    };
    let observation = Observation { allocation, observed };
    Some(Command::Observe { node, observations: vec![observation.clone(), observation] })
}

fn scheduler_command(world: &World, which: u8, what: u8) -> Command {
    let scheduler = u64::from(which);
    let secured = world.state.cluster().authority.is_some();
    let proof = secured.then(|| proof(SERVER_TOKEN, which));
    let admit = |seat| {
        let address = "127.0.0.1:7070".to_owned();
        Command::AdmitScheduler { instance_key: [which; 16], address, seat, proof: proof.clone() }
    };
    match what {
        0 => admit(Seat::Voter),
        1 => admit(Seat::Learner),
        2 => Command::PromoteScheduler { scheduler },
        _ => Command::RemoveScheduler { scheduler },
    }
}

/// The token of the lives that lets servers in; the next two are for agents and
/// for gateways.
const SERVER_TOKEN: u8 = 2;

/// A few tokens that are made, used, shown by the wrong one, and revoked, in
/// every order; most end before the life does.
fn access_command(which: u8, what: u8, other: u8) -> Command {
    let machines = [Machine::Server, Machine::Agent, Machine::Gateway];
    let machine = machines[usize::from(which)];
    let ttl = Some(DurationMs(1 + 100_000 * u64::from(other)));
    let new = NewToken { ttl, ..join_token(SERVER_TOKEN + which, machine) };
    match what {
        0..=3 => Command::CreateToken(new),
        4 => Command::CreateToken(NewToken {
            grant: Grant::Person { role: Role::Submit, scope: Scope::All },
            ..new
        }),
        5 => Command::RevokeToken { token: new.id },
        6 => Command::RevokeMachine { machine, name: format!("node-{other}") },
        _ => Command::UseJoinToken {
            proof: proof(SERVER_TOKEN + which, other % 2),
            machine: machines[usize::from(which.max(other % 2))],
            name: name(&format!("node-{other}")),
            pool: None,
        },
    }
}

fn world_of(kind: Kind) -> World {
    match kind {
        Kind::Open => World::new(2),
        Kind::Secured => World::secured(2),
    }
}

/// Whether the cluster speaks TLS.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Open,
    Secured,
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Open), Just(Kind::Secured)]
}

/// Access that was given or taken may not change behind anybody's back: a used
/// token lets nobody else in, a revocation never weakens, the authority stays.
fn check_access(before: &ClusterState, after: &ClusterState) -> Result<(), TestCaseError> {
    prop_assert_eq!(&before.cluster().authority, &after.cluster().authority);
    for row in before.tokens().values().filter(|row| row.used_by.is_some()) {
        let same = after.tokens().get(&row.id).filter(|now| now.created == row.created);
        prop_assert!(same.is_none_or(|now| now.used_by == row.used_by), "{} changed hands", row.id);
    }
    for (key, row) in before.revocations().iter() {
        let now = after.revocations().get(key).map(|now| now.times);
        prop_assert!(now >= Some(row.times), "{} is back", row.name);
    }
    Ok(())
}

fn node_command(world: &mut World, nodes: &[NodeId], node: u8, what: u8) -> Option<Command> {
    if what == 0 {
        // Of a node that was down nothing runs any more.
        let nothing = Stock { complete: true, ..Stock::default() };
        take_stock(world, usize::from(node), nothing).unwrap();
        world.register(usize::from(node));
        return None;
    }
    let node = pick(nodes, node)?;
    let row = world.state.nodes().get(&node)?;
    let session = row.session;
    let set = |purpose| Command::SetSchedulable { node, purpose };
    Some(match what {
        1 | 2 => Command::DisconnectNode { node, session },
        3 => Command::DownNode { node, session },
        4 => set(Purpose::Cordoned),
        5 => set(Purpose::Draining(berth_model::Drain { deadline: Some(StateMs(1)) })),
        6 => set(Purpose::Work),
        _ => Command::LoseAllocations {
            node,
            session,
            allocations: row.live.iter().copied().collect(),
            reason: "silent".to_owned(),
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_command_breaks_an_invariant(
        kind in kinds(),
        wishes in proptest::collection::vec(moves(), 1..120),
    ) {
        let mut world = world_of(kind);
        let mut generations = std::collections::BTreeMap::new();
        let mut seen = BTreeSet::new();
        for wish in &wishes {
            let before: BTreeSet<AllocationId> =
                world.state.allocations().iter().map(|(id, _)| *id).collect();
            let view = world.state.clone();
            let view_away = away(&view);
            if let Some(command) = command_for(&mut world, wish) {
                let _ = world.one(command);
            }
            check_access(&view, &world.state)?;
            for node in world.state.nodes().values() {
                let last = generations.insert(node.id, node.generation).unwrap_or(0);
                prop_assert!(node.generation >= last, "a generation went back");
            }
            // An allocation's id is used once in the life of a cluster.
            for (id, _) in world.state.allocations().iter() {
                let known = before.contains(id) || view_away.contains(id);
                prop_assert!(known || seen.insert(*id), "{id} came twice");
            }
        }
        // A replica that gets the rows and one that got the commands agree.
        let rows: Vec<_> = world.state.rows().collect();
        let copy = crate::ClusterState::from_rows(world.state.applied_index(), rows).unwrap();
        prop_assert_eq!(copy.hash(), world.state.hash());
        prop_assert_eq!(copy.index, world.state.index);
    }

    /// As any life, of a cluster in which a gang's places are kept.
    #[test]
    fn whatever_becomes_of_those_who_end_for_a_gang(
        right in proptest::sample::select(vec![Right::Priority, Right::Patience]),
        wishes in proptest::collection::vec(moves(), 1..60),
    ) {
        let mut world = World::new(2);
        let low = world.submit(&any_job(0, 4, 1, 0));
        for (instance, node) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
            let placements = vec![world.placement(low, instance, NodeId(node))];
            world.one(Command::Place { placements }).unwrap();
        }
        let gang = world.submit(&any_job(0, 3, 1, 2));
        world.now += PATIENCE.0;
        let command = reserve_for_gang(&world, (gang, 0), u8::MAX, right);
        world.one(command).unwrap();
        prop_assert_eq!(world.state.reservations().count(), 3);
        for wish in &wishes {
            if let Some(command) = command_for(&mut world, wish) {
                let _ = world.one(command);
            }
        }
        let rows: Vec<_> = world.state.rows().collect();
        let copy = crate::ClusterState::from_rows(world.state.applied_index(), rows).unwrap();
        prop_assert_eq!(copy.index, world.state.index);
    }

    #[test]
    fn a_restore_loses_sight_of_nothing_and_reuses_nothing(
        kind in kinds(),
        wishes in proptest::collection::vec(moves(), 1..120),
        saved_after in 0..120usize,
    ) {
        let mut world = world_of(kind);
        let mut backup = world.state.clone();
        let mut used = BTreeSet::new();
        for (position, wish) in wishes.iter().enumerate() {
            if let Some(command) = command_for(&mut world, wish) {
                let _ = world.one(command);
            }
            used.extend(world.state.allocations().iter().map(|(id, _)| *id));
            if position == saved_after {
                backup = world.state.clone();
            }
        }
        let reality = world.state;
        let mut world = restored(&backup);
        for number in 0..4 {
            let text = format!("node-{number}");
            let stock = stock_of(&backup, &reality, &text);
            take_stock(&mut world, number, stock).unwrap();
            world.register(number);
        }
        world.one(Command::StopAwaiting).unwrap();
        for (id, row) in reality.allocations().iter() {
            let text = &reality.nodes().get(&row.node).unwrap().name;
            let node = world.state.node_named(text).unwrap();
            let here = world.state.nodes().get(&node).unwrap();
            let orphan = here.orphans.get(id).map(|orphan| orphan.claim == row.claim);
            let known = here.live.contains(id);
            prop_assert!(known || orphan == Some(true), "{id} on {text}: {orphan:?}");
        }
        // What is placed from now on, whatever else happens, was never there.
        let mut live: BTreeSet<AllocationId> =
            world.state.allocations().iter().map(|(id, _)| *id).collect();
        for wish in wishes.iter().chain(&wishes) {
            // An orphan that is taken back is the same worker as before.
            let orphans: BTreeSet<AllocationId> =
                world.state.nodes().values().flat_map(|row| row.orphans.keys().copied()).collect();
            let back = away(&world.state);
            if let Some(command) = command_for(&mut world, wish) {
                let _ = world.one(command);
            }
            let now: BTreeSet<AllocationId> =
                world.state.allocations().iter().map(|(id, _)| *id).collect();
            for id in now.difference(&live) {
                let known = orphans.contains(id) || back.contains(id);
                prop_assert!(known || used.insert(*id), "{id} came twice");
            }
            live = now;
        }
    }
}
