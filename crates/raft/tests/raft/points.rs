//! Crashes at every point of something, one run after the other, and disks that
//! are slow rather than broken.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_raft::{RaftStatus, Runtime};
use futures::FutureExt as _;
use futures::future::join_all;
use openraft_rt_sim::{SimInstant, SimRuntime};

use crate::register::add;
use crate::simulation::{SECOND, Sim, simulate};

/// The entry is committed and applied, and its proposer never hears of it: the
/// leader dies at that very moment. It is there once, whoever leads then.
#[test]
fn f02_what_was_applied_before_the_leader_died_is_there_once() {
    for seed in 20..30 {
        simulate(seed, async || {
            let mut sim = Sim::new(seed, 1000).await;
            let leader = sim.leader(&[1, 2, 3]).await;
            sim.node(leader).propose(add(1)).await.unwrap();
            let node = sim.node(leader);
            let mut answer = Box::pin(node.propose(add(2)));
            // It is on its way, and is not looked at any more.
            assert!((&mut answer).now_or_never().is_none());
            while !sim.state(leader).values.contains(&2) {
                SimRuntime::sleep(Duration::from_micros(10)).await;
            }
            sim.crash(leader, 0).await;
            drop(answer);
            let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
            let second = sim.leader(&others).await;
            sim.node(second).read_index().await.unwrap();
            assert_eq!(*sim.state(second).values, vec![1, 2], "seed {seed}");
            sim.restart(leader).await;
            assert_eq!(*sim.converge().await.values, vec![1, 2], "seed {seed}");
            sim.stop().await;
        });
    }
}

/// Syncs of 200 ms make the log slow and depose nobody: heartbeats do not wait
/// for them.
#[test]
fn f10_a_disk_that_syncs_slowly_deposes_nobody() {
    simulate(30, async || {
        let sim = Sim::new(30, 1000).await;
        let leader = sim.leader(&[1, 2, 3]).await;
        let term = sim.node(leader).status().term;
        for id in 1..=3 {
            sim.disk(id).set_latency(Duration::from_millis(200));
        }
        for value in 0..50 {
            sim.node(leader).propose(add(value)).await.unwrap();
        }
        assert_eq!(sim.leader(&[1, 2, 3]).await, leader);
        assert_eq!(sim.node(leader).status().term, term);
        // One that stalls for longer than any election is not waited for.
        sim.disk(leader % 3 + 1).set_latency(5 * SECOND);
        let before = SimRuntime::timeout(SECOND, sim.node(leader).propose(add(50))).await;
        before.unwrap().unwrap();
        sim.stop().await;
    });
}

/// What a node is doing when its power goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    /// The leader builds a snapshot and purges its log up to it.
    Building,
    /// A follower gets one, since the log no longer reaches back.
    Installing,
}

const VALUES: u64 = 600;
/// Far enough that the log was purged behind it.
const PURGED: u64 = 300;

/// A cluster whose victim has just begun.
async fn begun(seed: u64, doing: Doing) -> (Sim, u64) {
    let mut sim = Sim::new(seed, 5).await;
    let leader = sim.leader(&[1, 2, 3]).await;
    let follower = leader % 3 + 1;
    if doing == Doing::Installing {
        sim.crash(follower, 0).await;
    }
    let node = sim.node(leader);
    for answer in join_all((0..VALUES).map(|value| node.propose(add(value)))).await {
        answer.unwrap();
    }
    node.trigger_snapshot().await;
    if doing == Doing::Building {
        return (sim, leader);
    }
    wait_for(&sim, leader, |status| status.purged_index > Some(PURGED)).await;
    sim.restart(follower).await;
    (sim, follower)
}

async fn wait_for(sim: &Sim, id: u64, wanted: impl FnMut(&RaftStatus) -> bool + Send) {
    let mut changes = sim.node(id).status_changes();
    SimRuntime::timeout(10 * SECOND, changes.wait_for(wanted)).await.unwrap().unwrap();
}

/// Runs once undisturbed to see how long it takes, and then again and again with
/// a power cut at another moment of that time each.
fn cut_power_while(doing: Doing) {
    const MOMENTS: u32 = 16;
    const SEED: u64 = 40;
    let takes = simulate(SEED, async || {
        let (sim, victim) = begun(SEED, doing).await;
        let now = || SimInstant::try_now().unwrap().elapsed_since_start();
        let began = now();
        wait_for(&sim, victim, |status| match doing {
            Doing::Building => status.purged_index > Some(PURGED),
            Doing::Installing => status.snapshot_index > Some(PURGED),
        })
        .await;
        let takes = now() - began;
        sim.stop().await;
        takes
    });
    assert!(takes > Duration::from_micros(100), "{doing:?} takes {takes:?}");
    for moment in 0..=MOMENTS {
        simulate(SEED, async || {
            let (mut sim, victim) = begun(SEED, doing).await;
            SimRuntime::sleep(takes * moment / MOMENTS).await;
            let kept = usize::try_from(moment % 4).unwrap();
            sim.crash(victim, kept).await;
            sim.restart(victim).await;
            let leader = sim.leader(&[1, 2, 3]).await;
            sim.node(leader).propose(add(VALUES)).await.unwrap();
            let state = sim.converge().await;
            let expected: BTreeSet<u64> = (0..=VALUES).collect();
            assert_eq!(state.values.len(), expected.len(), "{doing:?}, moment {moment}");
            let found: BTreeSet<u64> = state.values.iter().copied().collect();
            assert_eq!(found, expected, "{doing:?}, moment {moment}");
            sim.stop().await;
        });
    }
}

#[test]
fn f16_power_cuts_while_a_snapshot_is_built_lose_nothing() {
    cut_power_while(Doing::Building);
}

#[test]
fn f16_power_cuts_while_a_snapshot_is_installed_lose_nothing() {
    cut_power_while(Doing::Installing);
}

/// From the death of a leader to the next acknowledged entry, with the timers
/// that a cluster has unless it is told otherwise.
#[test]
fn f01_a_dead_leader_is_replaced_in_time() {
    const TRIALS: u64 = 30;
    let mut waits: Vec<Duration> = Vec::new();
    for seed in 100..100 + TRIALS {
        waits.push(simulate(seed, async || {
            let mut sim = Sim::new(seed, 1000).await;
            let leader = sim.leader(&[1, 2, 3]).await;
            sim.node(leader).propose(add(1)).await.unwrap();
            // Somewhere between two heartbeats.
            SimRuntime::sleep(Duration::from_millis(seed * 7 % 50)).await;
            let now = || SimInstant::try_now().unwrap().elapsed_since_start();
            let died = now();
            sim.crash(leader, 0).await;
            let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
            let second = sim.leader(&others).await;
            sim.node(second).propose(add(2)).await.unwrap();
            let wait = now() - died;
            sim.stop().await;
            wait
        }));
    }
    waits.sort_unstable();
    let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    assert!(median <= Duration::from_millis(600), "median {median:?}");
    assert!(worst <= Duration::from_secs(1), "worst {worst:?}");
}
