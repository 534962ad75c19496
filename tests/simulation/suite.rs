//! Which seeds are run, and what all of them together must have seen.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_raft::Runtime;
use openraft_rt_sim::SimRuntime;

use crate::faults::Fault;
use crate::plan::{Plan, Wall};
use crate::rng::Rng;
use crate::world::{Event, Outcome, SECOND, World, now};

const SEEDS: u64 = 200;
/// Virtual time within which a mended cluster must have done everything.
const PROGRESS_US: u64 = 150 * SECOND;

/// What a suite of many seeds must have seen, or its faults are not drawn any
/// more.
const EXPECTED: [&str; 55] = [
    "agents crashed",
    "agents cut off",
    "allocations given up",
    "attempts after the first",
    "members begun again",
    "members of gangs ended for others",
    "members planned",
    "attempts that came back",
    "bad networks",
    "changes garbled",
    "client timeouts",
    "disk errors",
    "disks slow",
    "ends by fencing",
    "ends by reboot",
    "ends unseen",
    "entries applied",
    "full states asked for",
    "hosts rebooted",
    "leadership transfers",
    "linearizable reads",
    "messages doubled",
    "nodes disconnected",
    "nodes down",
    "old commands proposed again",
    "old placements when a later attempt is due",
    "outcomes unknown",
    "partitions, nothing in",
    "partitions, nothing out",
    "partitions, whole",
    "partitions, with a bridge",
    "placements refused as stale",
    "places kept",
    "places of gangs kept",
    "places kept no longer",
    "workers ended for a guarantee",
    "power cuts",
    "processes started",
    "proposals refused",
    "retries",
    "schedulers crashed",
    "schedulers paused",
    "sessions",
    "shims killed",
    "snapshots restored",
    "submits acknowledged",
    "submits answered by their key",
    "terms begun",
    "terms led",
    "workers begun beside another on one GPU",
    "workers ended for others",
    "workers fenced",
    "workers fenced by their shims",
    "workers that could not be killed",
    "workers unhealthy",
];

async fn run(seed: u64, wall: Wall) -> Outcome {
    let mut rng = Rng::new(seed);
    let plan = Plan { wall, ..Plan::draw(seed, &mut rng) };
    let chaos_us = plan.chaos_us;
    let mut world = World::new(plan, rng);
    world.at(2 * SECOND, Event::Fault(Fault::Next));
    while now() < chaos_us {
        world.step().await;
        if let Some(failure) = world.failure() {
            return world.outcome(Some(failure));
        }
    }
    world.heal();
    let mut look_at = now() + SECOND;
    loop {
        world.step().await;
        if let Some(failure) = world.failure() {
            return world.outcome(Some(failure));
        }
        if now() < look_at {
            continue;
        }
        look_at = now() + SECOND / 2;
        match world.unfinished() {
            None => return world.outcome(None),
            Some(missing) if now() > chaos_us + PROGRESS_US => {
                return world.outcome(Some(format!("no progress after the trouble: {missing}")));
            }
            Some(_) => {}
        }
    }
}

fn simulate(seed: u64) -> Outcome {
    simulate_with(seed, Wall::Steps)
}

fn simulate_with(seed: u64, wall: Wall) -> Outcome {
    let run = || SimRuntime::with_seed(seed).block_on(run(seed, wall));
    let caught = catch_unwind(AssertUnwindSafe(run));
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Outcome {
            trace: 0,
            deeds: 0,
            steps: 0,
            counts: BTreeMap::new(),
            failure: Some(format!("seed {seed} panicked: {}", text.unwrap_or_default())),
            virtual_ms: 0,
        }
    })
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[expect(clippy::print_stdout, reason = "what was counted is for whoever runs the suite")]
fn show(counts: &BTreeMap<&'static str, u64>) {
    for (what, count) in counts {
        println!("{count:>10}  {what}");
    }
}

/// Runs seeds on two threads until there are none or one fails; returns the
/// sums of what was counted.
fn run_all(first: u64, count: u64, until: Option<Instant>) -> BTreeMap<&'static str, u64> {
    let next = AtomicU64::new(first);
    let sums = Mutex::new((BTreeMap::new(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    let over = until.is_some_and(|until| Instant::now() > until);
                    if seed >= first.saturating_add(count)
                        || over
                        || !sums.lock().unwrap().1.is_empty()
                    {
                        return;
                    }
                    let outcome = simulate(seed);
                    let mut sums = sums.lock().unwrap();
                    *sums.0.entry("seeds").or_default() += 1;
                    *sums.0.entry("steps").or_default() += outcome.steps;
                    *sums.0.entry("virtual ms").or_default() += outcome.virtual_ms;
                    for (what, count) in outcome.counts {
                        *sums.0.entry(what).or_default() += count;
                    }
                    sums.1.extend(outcome.failure.map(|failure| (seed, failure)));
                }
            });
        }
    });
    let (counts, mut failures) = sums.into_inner().unwrap();
    show(&counts);
    failures.sort();
    if let Some((seed, failure)) = failures.first() {
        panic!(
            "{failure}\nto see it again: BERTH_SIM_SEED={seed} cargo test -p berth-tests --test simulation"
        );
    }
    counts
}

#[test]
fn the_cluster_holds_what_it_promises_under_random_faults() {
    if let Some(seed) = setting("BERTH_SIM_SEED") {
        let begun = Instant::now();
        let outcome = simulate(seed);
        println!("{:?} in {:?}", outcome.counts, begun.elapsed());
        println!(
            "{} steps, {} ms, trace {:016x}",
            outcome.steps, outcome.virtual_ms, outcome.trace
        );
        assert!(outcome.failure.is_none(), "{}", outcome.failure.unwrap());
        return;
    }
    if let Some(seconds) = setting("BERTH_SIM_SOAK_SECONDS") {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let first = u64::try_from(since.as_nanos()).unwrap() / 1000;
        println!("fresh seeds from {first}");
        run_all(first, u64::MAX, Some(Instant::now() + Duration::from_secs(seconds)));
        return;
    }
    let count = setting("BERTH_SIM_SEEDS").unwrap_or(SEEDS);
    let counts = run_all(1, count, None);
    if count >= SEEDS {
        let missing: Vec<_> = EXPECTED.iter().filter(|what| !counts.contains_key(**what)).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

/// A run goes on in the same way, event by event, whatever the wall clocks show.
#[test]
fn f09_wall_clocks_that_step_change_nothing() {
    for seed in 21..=26 {
        let (steps, steady) = (simulate(seed), simulate_with(seed, Wall::Steady));
        assert_eq!(steps.failure, None);
        assert_eq!((steps.deeds, steps.steps), (steady.deeds, steady.steps), "seed {seed}");
        assert_eq!((steps.counts, steps.virtual_ms), (steady.counts, steady.virtual_ms));
        assert_ne!(steps.trace, steady.trace, "the clocks did differ");
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in [11, 12, 13] {
        let (first, second) = (simulate(seed), simulate(seed));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.steps, second.steps, "seed {seed}");
        assert_ne!(first.trace, simulate(seed + 100).trace, "another seed is another run");
    }
}
