//! The engine by hand, and runs whose outcome is known.

use super::*;
use berth_routing::{Blocks, Policy};

use super::report::{SPREAD_MAX, spread};
use crate::random::Random;

fn work(id: u64, prompt_tokens: u64, output_tokens: u64) -> Work {
    Work { id, prompt_tokens, output_tokens, prefix: Blocks::default() }
}

/// What happens, and when, until nothing is left.
fn play(engine: &mut Engine) -> Vec<(u64, Done)> {
    let mut told = Vec::new();
    while let Some(at) = engine.next() {
        told.extend(engine.advance(at).into_iter().map(|done| (at.0, done)));
    }
    told
}

#[test]
fn a_prompt_is_read_in_parts_and_then_a_token_comes_a_step() {
    let mut engine = Engine::new(EngineShape::default(), 64);
    engine.submit(work(1, 8_000, 100), GatewayUs(0));
    // Four steps of 6 ms read for a second; ninety-nine of 6.35 ms write the rest.
    let first = 4 * 6_000 + 1_000_000;
    let told = [(first, Done::FirstToken { id: 1 }), (first + 99 * 6_350, Done::All { id: 1 })];
    assert_eq!(play(&mut engine), told);
    let mut half = Engine::new(EngineShape { speed_milli: 500, ..EngineShape::default() }, 64);
    half.submit(work(1, 8_000, 100), GatewayUs(0));
    assert_eq!(play(&mut half), told.map(|(at, done)| (2 * at, done)));
}

#[test]
fn who_comes_while_others_are_written_is_read_beside_them_from_the_next_step_on() {
    let mut engine = Engine::new(EngineShape::default(), 64);
    engine.submit(work(1, 8, 1_000), GatewayUs(0));
    let first = engine.next().unwrap();
    assert_eq!(first, GatewayUs(7_000));
    assert_eq!(engine.advance(first), [Done::FirstToken { id: 1 }]);
    assert_eq!(engine.next(), Some(GatewayUs(7_000 + 999 * 6_350)));
    // In the middle of the third step.
    engine.submit(work(2, 800, 1), GatewayUs(7_000 + 2 * 6_350 + 1));
    let third = GatewayUs(7_000 + 3 * 6_350);
    assert_eq!(engine.next(), Some(third));
    assert_eq!(engine.advance(third), []);
    // One is written beside a tenth of a second of reading.
    let read = third.after(SpanUs(6_350 + 100_000));
    assert_eq!(engine.next(), Some(read));
    assert_eq!(engine.advance(read), [Done::All { id: 2 }]);
    assert_eq!(play(&mut engine), [(read.0 + 995 * 6_350, Done::All { id: 1 })]);
}

#[test]
fn one_that_tells_each_step_tells_the_same_ends_at_the_same_times() {
    let given = [(1, 900, 40), (2, 20, 7), (3, 5_000, 1), (4, 1, 12)];
    let ends = |mut engine: Engine| {
        given.iter().for_each(|(id, read, write)| {
            engine.submit(work(*id, *read, *write), GatewayUs(0));
        });
        play(&mut engine)
    };
    let all = ends(Engine::stepwise(EngineShape::default(), 64));
    let told_first = |(_, done): &&(u64, Done)| !matches!(done, Done::Token { .. });
    let of_ends: Vec<(u64, Done)> = all.iter().filter(told_first).copied().collect();
    assert_eq!(of_ends, ends(Engine::new(EngineShape::default(), 64)));
    let all = &all;
    let told = |id| {
        all.iter().filter(move |(_, done)| {
            let (Done::FirstToken { id: of } | Done::Token { id: of } | Done::All { id: of }) =
                done;
            *of == id
        })
    };
    for (id, _, write) in given {
        assert_eq!(told(id).count() as u64, write, "{id}");
    }
}

fn prefix(words: &[u64]) -> Blocks {
    chained(words.iter().copied(), 512)
}

#[test]
fn what_it_holds_of_a_prompt_is_not_read_again_until_it_fails() {
    let mut engine = Engine::new(EngineShape::default(), 512);
    let asked = |id| Work { prefix: prefix(&[1, 2, 3, 4]), ..work(id, 2_048, 1) };
    let time = |engine: &mut Engine, id| {
        engine.submit(asked(id), GatewayUs(0));
        play(engine)[0].0
    };
    assert_eq!(time(&mut engine, 1), 6_000 + 256_000);
    // One token is always read: an eighth of a millisecond.
    assert_eq!(time(&mut engine, 2), 6_000 + 125);
    assert_eq!(engine.hit(), (2_047, 4_096));
    engine.fail();
    assert_eq!(time(&mut engine, 3), 6_000 + 256_000);
}

#[test]
fn no_more_than_it_has_room_for_is_begun_and_what_nobody_waits_for_makes_room() {
    let shape = EngineShape { kv_tokens: 1_000, ..EngineShape::default() };
    let mut engine = Engine::new(shape, 64);
    engine.submit(work(1, 500, 400), GatewayUs(0));
    engine.submit(work(2, 100, 100), GatewayUs(0));
    engine.submit(work(3, 5_000, 10), GatewayUs(0));
    let read = engine.next().unwrap();
    assert_eq!(engine.advance(read), [Done::FirstToken { id: 1 }]);
    engine.cancel(1);
    let told: Vec<Done> = play(&mut engine).into_iter().map(|(_, done)| done).collect();
    // The third is more than all of it, and is served alone.
    let second = [Done::FirstToken { id: 2 }, Done::All { id: 2 }];
    assert_eq!(told, [second, [Done::FirstToken { id: 3 }, Done::All { id: 3 }]].concat());
}

fn speeds(speeds: &[u32]) -> Fleet {
    let shape =
        |speed_milli: &u32| EngineShape { speed_milli: *speed_milli, ..EngineShape::default() };
    speeds.iter().map(shape).collect()
}

pub fn options(policy: Policy, fleet: Fleet) -> ServeOptions {
    ServeOptions {
        policy,
        fleet,
        rate_milli: 1_000,
        slo: Slo::default(),
        outages: Vec::new(),
        checks: Checks::EverySecond,
        retries: Retries::Budget,
        silence_max: None,
        scaling: None,
        seed: 1,
    }
}

/// Requests like those of a chat: about so many a second, for two minutes.
fn chat(per_second: u64) -> Vec<ServeArrival> {
    let mut random = Random::new(5);
    let mut at = 0;
    let mut arrivals = Vec::new();
    while at < 120_000_000 {
        at += random.below(usize::try_from(2_000_000 / per_second).unwrap()) as u64;
        arrivals.push(ServeArrival {
            at: GatewayUs(at),
            prompt_tokens: u32::try_from(50 + random.below(2_300)).unwrap(),
            output_tokens: u32::try_from(1 + random.below(420)).unwrap(),
            prefix: Blocks::default(),
        });
    }
    arrivals
}

#[test]
fn every_request_ends_in_one_way_and_the_same_run_is_the_same() {
    let outage = |replica, kind| Outage {
        replica,
        from: GatewayUs(20_000_000),
        lasts: SpanUs::from_secs(30),
        kind,
    };
    let outages = vec![outage(0, OutageKind::Dead), outage(2, OutageKind::Hung)];
    for policy in Policy::ALL {
        let silence_max = Some(SpanUs::from_secs(5));
        let base = options(policy, speeds(&[1_000, 1_000, 500, 500]));
        let options = ServeOptions { outages: outages.clone(), silence_max, ..base };
        let report = run(&chat(8), &options).unwrap();
        let ended = report.answered + report.refused + report.failed + report.cut;
        assert_eq!(report.offered, ended, "{policy:?}");
        assert!(report.retries > 0 && report.good <= report.answered, "{report:?}");
        assert_eq!(run(&chat(8), &options).unwrap(), report, "{policy:?}");
    }
}

#[test]
fn unequal_replicas_are_loaded_by_what_they_can_do() {
    let arrivals = chat(12);
    let mean = |policy, fleet: &[u32]| {
        let report = run(&arrivals, &options(policy, speeds(fleet))).unwrap();
        assert_eq!(report.answered, report.offered);
        report.whole.mean.0
    };
    let unequal = [1_000, 1_000, 500, 500];
    let turns = mean(Policy::RoundRobin, &unequal);
    for policy in [Policy::Auto, Policy::LeastOutstanding] {
        let better = mean(policy, &unequal);
        assert!(better * 4 < turns * 3, "{policy:?}: {better} against {turns}");
    }
    // Where all are equal there is little to gain, and nothing to lose.
    let turns = mean(Policy::RoundRobin, &[1_000; 4]);
    let auto = mean(Policy::Auto, &[1_000; 4]);
    assert!(auto * 100 <= turns * 101, "{auto} against {turns}");
}

#[test]
fn what_prompts_have_in_common_is_read_once() {
    let mut arrivals = chat(12);
    for (number, arrival) in arrivals.iter_mut().enumerate() {
        arrival.prompt_tokens = 4_096;
        arrival.prefix = prefix(&[number as u64 % 41, 1, 2, 3, 4, 5, 6, number as u64]);
    }
    let hits = |policy| run(&arrivals, &options(policy, speeds(&[1_000; 8]))).unwrap();
    let (auto, turns) = (hits(Policy::Auto), hits(Policy::RoundRobin));
    assert!(auto.hit_milli > turns.hit_milli, "{auto:?} {turns:?}");
    assert!(auto.first.mean.0 * 2 < turns.first.mean.0, "{auto:?} {turns:?}");
}

#[test]
fn an_outage_costs_what_runs_there_and_a_fixed_list_much_more() {
    let outages: Vec<Outage> = (0..4)
        .map(|number| Outage {
            replica: number,
            from: GatewayUs(number as u64 * 25_000_000),
            lasts: SpanUs::from_secs(20),
            kind: OutageKind::Dead,
        })
        .collect();
    let lost = |policy, checks, retries| {
        let base = options(policy, speeds(&[1_000; 8]));
        let options = ServeOptions { outages: outages.clone(), checks, retries, ..base };
        let report = run(&chat(16), &options).unwrap();
        (report.failed + report.refused, report.cut)
    };
    let (failed, cut) = lost(Policy::RoundRobin, Checks::None, Retries::None);
    let (failed_auto, cut_auto) = lost(Policy::Auto, Checks::EverySecond, Retries::Budget);
    assert!(failed > 100 && failed_auto == 0, "{failed} {failed_auto}");
    // What was being answered when its replica died: nobody can help that here.
    assert!(cut_auto <= cut + cut / 2 && cut_auto > 0, "{cut} {cut_auto}");
}

#[test]
fn of_many_times_some_are_kept_from_the_first_to_the_last() {
    let times: Vec<SpanUs> = (0..2_500).map(SpanUs).collect();
    let kept = spread(&times);
    assert_eq!((kept.len(), kept[0], kept[999]), (SPREAD_MAX, SpanUs(0), SpanUs(2_499)));
    assert!(kept.windows(2).all(|pair| (2..=3).contains(&(pair[1].0 - pair[0].0))));
    assert_eq!(spread(&times[..3]), &times[..3]);
    assert_eq!(spread(&[]), []);
}

#[test]
fn a_capacity_is_where_one_more_is_too_much() {
    let arrivals = chat(4);
    let options = options(Policy::Auto, speeds(&[1_000; 2]));
    let found = capacity(&arrivals, &options, 64_000).unwrap();
    let good = |rate_milli| {
        let options = ServeOptions { rate_milli, ..options.clone() };
        run(&arrivals, &options).unwrap().good_per_100_000()
    };
    assert!(found > 1_000, "{found}");
    assert!(good(found) >= 99_000 && good(found * 5 / 4) < 99_000, "{found}");
}

#[test]
fn what_makes_no_sense_is_told() {
    let base = options(Policy::Auto, speeds(&[1_000]));
    let of =
        |arrivals: &[ServeArrival], options: &ServeOptions| run(arrivals, options).unwrap_err();
    assert_eq!(of(&[], &base), ServeError::NoArrivals);
    let none = ServeOptions { fleet: Vec::new(), ..base.clone() };
    assert_eq!(of(&chat(1), &none), ServeError::NoReplicas);
    let mut list = chat(1);
    list.swap(0, 5);
    assert_eq!(of(&list, &base), ServeError::OutOfOrder { index: 1 });
    let mut list = chat(1);
    list[3].output_tokens = 0;
    assert_eq!(of(&list, &base), ServeError::Empty { index: 3 });
    let outage =
        Outage { replica: 1, from: GatewayUs(0), lasts: SpanUs::ZERO, kind: OutageKind::Dead };
    let absent = ServeOptions { outages: vec![outage], ..base };
    assert_eq!(of(&chat(1), &absent), ServeError::NoSuchReplica { replica: 1, replicas: 1 });
}

#[test]
fn outages_by_chance_are_as_many_as_asked_for_and_none_meet() {
    let lasts = SpanUs::from_secs(30);
    let spread =
        |seed| spread_outages((12, lasts, OutageKind::Dead), 8, SpanUs::from_secs(480), seed);
    assert_eq!(spread(1), spread(1));
    assert_ne!(spread(1), spread(2));
    for seed in 0..50 {
        let outages = spread(seed);
        assert!((8..=12).contains(&outages.len()), "{}", outages.len());
        for (place, one) in outages.iter().enumerate() {
            let mut others =
                outages[place + 1..].iter().filter(|other| other.replica == one.replica);
            assert!(others.all(|other| one.from.since(other.from).max(other.from.since(one.from)) > lasts));
        }
    }
    assert_eq!(spread_outages((3, lasts, OutageKind::Dead), 1, SpanUs::ZERO, 1).len(), 1);
}
