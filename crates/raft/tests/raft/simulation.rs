//! Three nodes in one thread under virtual time: the same seed gives the same
//! run, event by event.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_raft::device::memory::MemoryDevice;
use berth_raft::transport::sim::{SimNetwork, SimTransport};
use berth_raft::{FatalReason, ProposeError, RaftNode, RaftOptions, ReadError, Role, Runtime};
use openraft_rt_sim::SimRuntime;

use crate::register::{Register, Shown, State, add, add_of_newer_schema, show};

type Node = RaftNode<Register, SimRuntime, MemoryDevice, SimTransport<SimRuntime>>;

const CLUSTER: [u8; 16] = [5; 16];
pub const SECOND: Duration = Duration::from_secs(1);

struct Place {
    disk: MemoryDevice,
    node: Node,
    shown: Shown,
}

pub struct Sim {
    network: SimNetwork,
    /// Each node, its disk and what it shows.
    places: BTreeMap<u64, Place>,
    entries_kept: u64,
}

async fn start(network: &SimNetwork, id: u64, disk: &MemoryDevice, kept: u64) -> (Node, Shown) {
    let (app, shown) = Register::new();
    let mut options = RaftOptions::new(id, CLUSTER, format!("node-{id}"));
    options.snapshots.entries_kept = kept;
    let node = Node::start(options, app, disk.clone(), network.transport()).await.unwrap();
    network.join(id, Arc::new(node.clone()));
    (node, shown)
}

impl Sim {
    pub async fn new(seed: u64, entries_kept: u64) -> Self {
        let mut sim =
            Self { network: SimNetwork::new(seed), places: BTreeMap::new(), entries_kept };
        for id in 1..=3 {
            let disk = MemoryDevice::new();
            disk.set_latency(Duration::from_micros(300));
            let (node, shown) = start(&sim.network, id, &disk, entries_kept).await;
            sim.places.insert(id, Place { disk, node, shown });
        }
        let members = sim.places.keys().map(|id| (*id, format!("node-{id}")));
        sim.node(1).bootstrap(members.collect()).await.unwrap();
        sim
    }

    pub fn node(&self, id: u64) -> Node {
        self.places[&id].node.clone()
    }

    /// The leader all of these agree on.
    pub async fn leader(&self, among: &[u64]) -> u64 {
        let agreed = async {
            loop {
                let statuses: Vec<_> = among.iter().map(|id| self.node(*id).status()).collect();
                let leader = statuses[0].leader.clone().map(|(id, _)| id);
                let agree = |status: &berth_raft::RaftStatus| {
                    status.leader.clone().map(|(id, _)| id) == leader
                };
                if let Some(leader) = leader
                    && among.contains(&leader)
                    && statuses.iter().all(agree)
                    && self.node(leader).status().role == Role::Leader
                {
                    return leader;
                }
                SimRuntime::sleep(Duration::from_millis(10)).await;
            }
        };
        SimRuntime::timeout(10 * SECOND, agreed).await.unwrap()
    }

    /// Cuts a node's power and takes it off the network.
    pub async fn crash(&mut self, id: u64, kept_writes: usize) {
        self.network.leave(id);
        self.places[&id].disk.crash(kept_writes);
        self.node(id).shutdown().await;
    }

    pub async fn restart(&mut self, id: u64) {
        let disk = self.places[&id].disk.clone();
        let (node, shown) = start(&self.network, id, &disk, self.entries_kept).await;
        self.places.insert(id, Place { disk, node, shown });
    }

    pub fn disk(&self, id: u64) -> &MemoryDevice {
        &self.places[&id].disk
    }

    pub fn state(&self, id: u64) -> State {
        show(&self.places[&id].shown)
    }

    pub async fn converge(&self) -> State {
        let converged = async {
            loop {
                let states: Vec<_> = self.places.keys().map(|id| self.state(*id)).collect();
                let ends: Vec<_> =
                    (self.places.values()).map(|place| place.node.status().applied_index).collect();
                if ends.iter().all(|end| *end == ends[0]) && states.iter().all(|s| *s == states[0])
                {
                    return states[0].clone();
                }
                SimRuntime::sleep(Duration::from_millis(10)).await;
            }
        };
        SimRuntime::timeout(20 * SECOND, converged).await.unwrap()
    }

    pub async fn stop(self) {
        for place in self.places.into_values() {
            place.node.shutdown().await;
        }
    }
}

pub fn simulate<T>(seed: u64, run: impl AsyncFnOnce() -> T) -> T {
    SimRuntime::with_seed(seed).block_on(run())
}

/// Crash, partition, heal: nothing acknowledged may be missing afterwards,
/// nothing may be there twice.
async fn faults(seed: u64) -> State {
    let mut sim = Sim::new(seed, 1000).await;
    let mut acknowledged = Vec::new();
    let mut next = 0;
    for round in 0..6 {
        let all = [1, 2, 3];
        let leader = sim.leader(&all).await;
        for _ in 0..10 {
            next += 1;
            if sim.node(leader).propose(add(next)).await.is_ok() {
                acknowledged.push(next);
            }
        }
        let others: Vec<u64> = all.into_iter().filter(|id| *id != leader).collect();
        let lead = sim.node(leader);
        let in_flight = lead.propose(add(1000 + round));
        if round % 2 == 0 {
            let kept = usize::try_from((seed + round) % 3).unwrap();
            let (_, ()) = futures::join!(in_flight, async {
                SimRuntime::sleep(Duration::from_micros(400)).await;
                sim.network.leave(leader);
                sim.places[&leader].disk.crash(kept);
            });
            sim.crash(leader, 0).await;
            sim.leader(&others).await;
            sim.restart(leader).await;
        } else {
            sim.network.isolate(leader);
            let (unknown, second) = futures::join!(in_flight, sim.leader(&others));
            assert_eq!(unknown, Err(ProposeError::OutcomeUnknown));
            next += 1;
            if sim.node(second).propose(add(next)).await.is_ok() {
                acknowledged.push(next);
            }
            sim.network.heal();
        }
    }
    assert!(acknowledged.len() > 40, "{acknowledged:?}");
    let leader = sim.leader(&[1, 2, 3]).await;
    sim.node(leader).read_index().await.unwrap();
    let state = sim.converge().await;
    for value in &acknowledged {
        let count = state.values.iter().filter(|held| *held == value).count();
        assert_eq!(count, 1, "value {value} of seed {seed}");
    }
    sim.stop().await;
    state
}

#[test]
fn f02_acknowledged_entries_survive_crashes_and_partitions() {
    for seed in 0..8 {
        simulate(seed, async || faults(seed).await);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |seed| {
        let mut runtime = SimRuntime::with_seed(seed);
        runtime.record_trace(true);
        let state = runtime.block_on(faults(seed));
        (state, runtime.take_trace())
    };
    let (first, second, other) = (run(7), run(7), run(8));
    assert!(first.1.len() > 1000);
    assert_eq!(first.0, second.0);
    let differ = first.1.iter().zip(&second.1).position(|(a, b)| a != b);
    assert_eq!(differ, None, "traces part at this event");
    assert_eq!(first.1.len(), second.1.len());
    assert!(first.1 != other.1, "another seed must give another run");
}

#[test]
fn f04_a_leader_without_a_majority_refuses_within_a_second_and_a_half() {
    simulate(1, async || {
        let sim = Sim::new(1, 1000).await;
        let leader = sim.leader(&[1, 2, 3]).await;
        sim.node(leader).propose(add(1)).await.unwrap();
        sim.network.isolate(leader);
        // Let its lease end first: proposals before that are in flight.
        SimRuntime::sleep(SECOND / 2).await;
        let wait = Duration::from_millis(1500);
        let refused = SimRuntime::timeout(wait, sim.node(leader).propose(add(2))).await;
        assert_eq!(refused.unwrap(), Err(ProposeError::NoQuorum));
        let read = SimRuntime::timeout(wait, sim.node(leader).read_index()).await;
        assert!(matches!(read.unwrap(), Err(ReadError::NoQuorum | ReadError::NoLeader { .. })));
        sim.network.heal();
        let state = sim.converge().await;
        assert_eq!(*state.values, vec![1], "a refused proposal is never applied");
        sim.stop().await;
    });
}

#[test]
fn f06_a_leader_that_hears_nobody_is_replaced_and_terms_stay_calm() {
    simulate(3, async || {
        let sim = Sim::new(3, 1000).await;
        let leader = sim.leader(&[1, 2, 3]).await;
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
        // It can send but not receive.
        for other in &others {
            sim.network.cut(*other, leader);
        }
        let second = sim.leader(&others).await;
        assert_ne!(second, leader);
        sim.node(second).propose(add(1)).await.unwrap();
        let term = sim.node(second).status().term;
        SimRuntime::sleep(60 * SECOND).await;
        let later = sim.node(second).status().term;
        assert!(later <= term + 2, "term went from {term} to {later}");
        sim.network.heal();
        let state = sim.converge().await;
        assert_eq!(*state.values, vec![1]);
        sim.stop().await;
    });
}

#[test]
fn f07_an_isolated_follower_that_returns_deposes_nobody() {
    simulate(4, async || {
        let sim = Sim::new(4, 1000).await;
        let leader = sim.leader(&[1, 2, 3]).await;
        let follower = if leader == 1 { 2 } else { 1 };
        let term = sim.node(leader).status().term;
        sim.network.isolate(follower);
        SimRuntime::sleep(60 * SECOND).await;
        sim.node(leader).propose(add(1)).await.unwrap();
        sim.network.heal();
        sim.converge().await;
        assert_eq!(sim.leader(&[1, 2, 3]).await, leader);
        assert_eq!(sim.node(leader).status().term, term);
        sim.stop().await;
    });
}

#[test]
fn f17_a_lagging_follower_catches_up_by_snapshot() {
    simulate(5, async || {
        let mut sim = Sim::new(5, 5).await;
        let leader = sim.leader(&[1, 2, 3]).await;
        let follower = if leader == 1 { 2 } else { 1 };
        sim.crash(follower, 0).await;
        for value in 0..600 {
            sim.node(leader).propose(add(value)).await.unwrap();
        }
        sim.node(leader).trigger_snapshot().await;
        let mut changes = sim.node(leader).status_changes();
        let purged = changes.wait_for(|status| status.purged_index > Some(300));
        SimRuntime::timeout(5 * SECOND, purged).await.unwrap();
        sim.restart(follower).await;
        let state = sim.converge().await;
        assert_eq!(state.values.len(), 600);
        assert!(sim.node(follower).status().snapshot_index > Some(300));
        // And from its own snapshot after a power cut.
        sim.crash(follower, 0).await;
        sim.restart(follower).await;
        assert_eq!(sim.converge().await, state);
        sim.stop().await;
    });
}

#[test]
fn reads_on_a_follower_see_what_was_acknowledged_before() {
    simulate(6, async || {
        let sim = Sim::new(6, 1000).await;
        let leader = sim.leader(&[1, 2, 3]).await;
        let follower = if leader == 1 { 2 } else { 1 };
        for value in 0..20 {
            sim.node(leader).propose(add(value)).await.unwrap();
            sim.node(follower).read_index().await.unwrap();
            assert_eq!(sim.state(follower).values.last(), Some(&value));
        }
        // Many readers at once share rounds.
        let before = sim.network.call_count();
        let node = sim.node(leader);
        let reads: Vec<_> = (0..200).map(|_| node.read_index()).collect();
        for read in futures::future::join_all(reads).await {
            read.unwrap();
        }
        let calls = sim.network.call_count() - before;
        assert!(calls < 40, "{calls} calls for 200 reads at once");
        sim.stop().await;
    });
}

#[test]
fn f22_an_entry_of_a_newer_schema_stops_a_node_before_it_is_applied() {
    simulate(7, async || {
        let sim = Sim::new(7, 1000).await;
        let leader = sim.leader(&[1, 2, 3]).await;
        let follower = if leader == 1 { 2 } else { 1 };
        sim.node(leader).propose(add(1)).await.unwrap();
        sim.converge().await;
        let _either = sim.node(leader).propose(add_of_newer_schema(2)).await;
        let stopped = SimRuntime::timeout(5 * SECOND, sim.node(follower).fatal()).await;
        assert!(matches!(stopped.unwrap(), FatalReason::Entry { .. }));
        assert_eq!(*sim.state(follower).values, vec![1]);
        sim.stop().await;
    });
}

#[test]
fn f14_a_failed_sync_stops_the_node_and_the_others_go_on() {
    simulate(8, async || {
        let sim = Sim::new(8, 1000).await;
        let leader = sim.leader(&[1, 2, 3]).await;
        sim.places[&leader].disk.fail_sync_after(0);
        // The two others may commit it without this one.
        let _either = sim.node(leader).propose(add(1)).await;
        let reason = SimRuntime::timeout(2 * SECOND, sim.node(leader).fatal()).await;
        assert!(matches!(reason.unwrap(), FatalReason::Storage(_)));
        assert_eq!(sim.node(leader).propose(add(2)).await, Err(ProposeError::Stopped));
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
        let second = sim.leader(&others).await;
        sim.node(second).propose(add(3)).await.unwrap();
        sim.stop().await;
    });
}

#[test]
fn members_join_vote_and_leave() {
    simulate(9, async || {
        let mut sim = Sim::new(9, 1000).await;
        let leader = sim.leader(&[1, 2, 3]).await;
        sim.node(leader).propose(add(1)).await.unwrap();
        let disk = MemoryDevice::new();
        let (node, shown) = start(&sim.network, 4, &disk, 1000).await;
        sim.places.insert(4, Place { disk, node, shown });
        let lead = sim.node(leader);
        lead.add_learner(4, "node-4".to_owned()).await.unwrap();
        assert_eq!(
            lead.add_learner(4, "elsewhere".to_owned()).await,
            Err(berth_raft::MembershipError::IdTaken(4))
        );
        lead.promote([4].into()).await.unwrap();
        let voters = |status: &berth_raft::RaftStatus| {
            let voters = status.members.iter().filter(|member| member.voter);
            voters.map(|member| member.id).collect::<Vec<_>>()
        };
        assert_eq!(voters(&lead.status()), vec![1, 2, 3, 4]);
        let removed = if leader == 1 { 2 } else { 1 };
        lead.remove(removed).await.unwrap();
        let mut left = vec![1, 2, 3, 4];
        left.retain(|id| *id != removed);
        assert_eq!(voters(&lead.status()), left);
        assert_eq!(lead.status().members.len(), 3);
        sim.places.remove(&removed).unwrap().node.shutdown().await;
        lead.transfer_leader(4).await.unwrap();
        sim.node(4).propose(add(2)).await.unwrap();
        let state = sim.converge().await;
        assert_eq!(*state.values, vec![1, 2]);
        sim.stop().await;
    });
}

#[test]
fn f19_a_member_that_lost_its_data_is_not_counted() {
    simulate(10, async || {
        let mut sim = Sim::new(10, 1000).await;
        let leader = sim.leader(&[1, 2, 3]).await;
        let follower = if leader == 1 { 2 } else { 1 };
        for value in 0..5 {
            sim.node(leader).propose(add(value)).await.unwrap();
        }
        sim.converge().await;
        sim.crash(follower, 0).await;
        let disk = MemoryDevice::new();
        sim.places.get_mut(&follower).unwrap().disk = disk;
        sim.restart(follower).await;
        SimRuntime::sleep(5 * SECOND).await;
        assert_eq!(sim.leader_of_majority(follower).await, leader);
        assert_eq!(sim.state(follower).values.len(), 0);
        sim.node(leader).propose(add(9)).await.unwrap();
        sim.stop().await;
    });
}

impl Sim {
    async fn leader_of_majority(&self, without: u64) -> u64 {
        let among: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != without).collect();
        self.leader(&among).await
    }
}

/// A leader falls at every moment of a promotion; its successor finishes what
/// it finds half done, and then removes it. Returns whether it was half done.
async fn promotion_cut_off_after(micros: u64) -> bool {
    let mut sim = Sim::new(micros, 1000).await;
    let old = sim.leader(&[1, 2, 3]).await;
    let disk = MemoryDevice::new();
    disk.set_latency(Duration::from_micros(300));
    let (node, shown) = start(&sim.network, 4, &disk, 1000).await;
    sim.places.insert(4, Place { disk, node, shown });
    let lead = sim.node(old);
    lead.add_learner(4, "node-4".to_owned()).await.unwrap();
    lead.propose(add(1)).await.unwrap();
    let (_cut_off, ()) = futures::join!(lead.promote([4].into()), async {
        SimRuntime::sleep(Duration::from_micros(micros)).await;
        sim.network.leave(old);
        sim.places[&old].disk.crash(0);
        sim.node(old).shutdown().await;
    });
    sim.places.remove(&old);
    let left: Vec<u64> = sim.places.keys().copied().collect();
    let successor = sim.node(sim.leader(&left).await);
    successor.read_index().await.unwrap();
    let half_done = successor.status().membership_is_joint;
    successor.finish_change().await.unwrap();
    assert!(!successor.status().membership_is_joint);
    successor.remove(old).await.unwrap();
    successor.propose(add(2)).await.unwrap();
    assert_eq!(*sim.converge().await.values, vec![1, 2]);
    assert!(successor.status().members.iter().all(|member| member.id != old));
    sim.stop().await;
    half_done
}

#[test]
fn f18_a_change_left_half_done_is_finished_by_the_next_leader() {
    let cuts = (0..40).map(|step| step * 100);
    let half =
        cuts.filter(|micros| simulate(*micros, async || promotion_cut_off_after(*micros).await));
    let half = half.count();
    assert!((1..40).contains(&half), "{half} of 40 were half done");
}
