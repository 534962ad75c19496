//! Decisions and counts of whole pools, whatever the policy.

use berth_model::{InstanceIndex, JobId};
use proptest::prelude::*;

use super::*;
use crate::chance::{Dice, mix_both};
use crate::pick::Reason;
use crate::policies::is_sampled;
use crate::prefix::Blocks;

const SECOND: u64 = 1_000_000;

fn id(number: u32) -> AllocationId {
    AllocationId { job: JobId(7), instance: InstanceIndex(number), ..AllocationId::default() }
}

fn member(number: u32) -> Member {
    Member { id: id(number), weight_milli: 1_000, tier: 0, limit: None }
}

fn pool(policy: Policy, count: u32) -> Pool {
    let mut pool = Pool::new(policy);
    pool.set_members(&(0..count).map(member).collect::<Vec<_>>(), GatewayUs(0));
    pool
}

/// A request that is not about text.
fn plain() -> Request {
    Request::default()
}

fn prompt(tokens: u32, words: &[u64]) -> Request {
    let mut hash = 0;
    let hashes = words.iter().map(|word| {
        hash = mix_both(hash, *word);
        hash
    });
    let prefix = Blocks { hashes: hashes.collect(), tokens_each: 64 };
    Request { prompt_tokens: tokens, key: None, prefix }
}

/// Picks and keeps, and tells whom.
fn send(
    pool: &mut Pool,
    request: &Request,
    dice: &mut Dice,
    kept: &mut Vec<Ticket>,
) -> (u32, Reason) {
    let (ticket, decision) = pool.pick(request, &[], dice.draw(), GatewayUs(0)).unwrap();
    assert_eq!(ticket.replica, decision.replica);
    kept.push(ticket);
    (decision.replica.instance.0, decision.reason)
}

fn whom(pool: &mut Pool, request: &Request, count: usize) -> Vec<u32> {
    let (mut dice, mut kept) = (Dice::new(1), Vec::new());
    (0..count).map(|_| send(pool, request, &mut dice, &mut kept).0).collect()
}

/// Sends and ends at once.
fn answer(pool: &mut Pool, outcome: Outcome, at: GatewayUs) -> u32 {
    let (ticket, decision) = pool.pick(&plain(), &[], at.0, at).unwrap();
    pool.finish(ticket, outcome, at);
    decision.replica.instance.0
}

#[test]
fn turns_are_even_and_by_weight() {
    assert_eq!(whom(&mut pool(Policy::RoundRobin, 3), &plain(), 7), [0, 1, 2, 0, 1, 2, 0]);
    let mut weighted = pool(Policy::Weighted, 0);
    let weights = [(0, 5_000), (1, 1_000), (2, 1_000)];
    let members = weights.map(|(number, weight_milli)| Member { weight_milli, ..member(number) });
    weighted.set_members(&members, GatewayUs(0));
    // The sequence in nginx's description of the method.
    assert_eq!(whom(&mut weighted, &plain(), 7), [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn turns_follow_how_soon_each_answers() {
    let mut pool = pool(Policy::ResponseTime, 2);
    let mut answered_by = [0; 2];
    for number in 0..2_000 {
        let now = GatewayUs(number * SECOND / 10);
        let (ticket, decision) = pool.pick(&plain(), &[], number, now).unwrap();
        let who = decision.replica.instance.0 as usize;
        // 45 and 120 ms: the example of the formulas, 0.727 and 0.273.
        let took = SpanUs::from_millis([45, 120][who]);
        pool.finish(ticket, Outcome::Answered, now.after(took));
        if number >= 200 {
            answered_by[who] += 1;
        }
    }
    let share = f64::from(answered_by[0]) / 1_800.0;
    assert!((share - 0.727).abs() < 0.01, "{share}");
}

#[test]
fn the_fewest_in_flight_for_its_weight() {
    let mut pool = pool(Policy::LeastOutstanding, 2);
    let members = [Member { weight_milli: 3_000, ..member(0) }, member(1)];
    pool.set_members(&members, GatewayUs(0));
    let sent = whom(&mut pool, &plain(), 40);
    assert_eq!(sent.iter().filter(|who| **who == 0).count(), 30);
    assert_eq!(pool.in_flight(), 40);
}

#[test]
fn one_that_fails_at_once_is_not_taken_for_idle() {
    for policy in [Policy::LeastOutstanding, Policy::PowerOfTwo, Policy::Auto] {
        let mut pool = pool(policy, 4);
        let (mut dice, mut kept, mut failed) = (Dice::new(5), Vec::new(), 0);
        for number in 0..400_u64 {
            let now = GatewayUs(number * SECOND / 100);
            let (ticket, decision) = pool.pick(&prompt(10, &[]), &[], dice.draw(), now).unwrap();
            if decision.replica == id(3) {
                failed += 1;
                pool.finish(ticket, Outcome::Failed, now);
            } else {
                kept.push(ticket);
            }
        }
        // One at first, and one whenever its failure is five seconds ago: none within the four.
        assert!(failed <= 1, "{policy:?}: {failed}");
    }
}

#[test]
fn the_one_that_broke_is_tried_by_one_request_and_let_back() {
    let mut pool = pool(Policy::RoundRobin, 3);
    let mut fails = 0;
    while pool.broken() == 0 {
        let (ticket, decision) = pool.pick(&plain(), &[], 1, GatewayUs(0)).unwrap();
        let is_bad = decision.replica == id(1);
        fails += usize::from(is_bad);
        pool.finish(ticket, if is_bad { Outcome::Failed } else { Outcome::Answered }, GatewayUs(0));
    }
    assert_eq!(fails, 5);
    assert!(!whom(&mut pool.clone(), &plain(), 30).contains(&1));
    let later = GatewayUs(10 * SECOND);
    let (mut dice, mut kept, mut trial) = (Dice::new(1), Vec::new(), None);
    for _ in 0..30 {
        let (ticket, decision) = pool.pick(&plain(), &[], dice.draw(), later).unwrap();
        if decision.replica == id(1) {
            assert!(trial.replace(ticket).is_none(), "one trial at a time");
        } else {
            kept.push(ticket);
        }
    }
    pool.finish(trial.unwrap(), Outcome::Answered, later);
    assert_eq!(pool.broken(), 0);
    assert!(whom(&mut pool, &plain(), 6).contains(&1));
}

#[test]
fn where_most_broke_all_are_asked() {
    let mut pool = pool(Policy::LeastOutstanding, 3);
    for number in 0..200 {
        answer(&mut pool, Outcome::Failed, GatewayUs(number));
    }
    assert!(pool.broken() >= 2);
    let mut seen = whom(&mut pool, &plain(), 30);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [0, 1, 2]);
}

#[test]
fn who_was_tried_is_asked_again_only_where_there_is_nobody_else() {
    for policy in Policy::ALL {
        let mut pool = pool(policy, 3);
        let now = GatewayUs(0);
        let mut next = |tried: &[AllocationId]| {
            let (ticket, decision) = pool.pick(&prompt(100, &[1]), tried, 3, now).unwrap();
            pool.finish(ticket, Outcome::Left, now);
            decision.replica
        };
        assert_eq!(next(&[id(0), id(2)]), id(1), "{policy:?}");
        next(&[id(0), id(1), id(2)]);
    }
}

#[test]
fn who_is_full_or_has_no_weight_is_not_asked() {
    for policy in Policy::ALL {
        let mut pool = Pool::new(policy);
        let now = GatewayUs(0);
        let nobody = |pool: &mut Pool| pool.pick(&plain(), &[], 1, now).map(drop).unwrap_err();
        assert_eq!(nobody(&mut pool), NoReplica::NoneReady);
        let limited = Member { limit: Some(2), ..member(1) };
        pool.set_members(&[Member { weight_milli: 0, ..member(0) }, limited], now);
        assert_eq!(whom(&mut pool, &plain(), 2), [1, 1], "{policy:?}");
        assert_eq!(nobody(&mut pool), NoReplica::AllFull, "{policy:?}");
    }
}

#[test]
fn a_newcomer_gets_its_part_by_and_by() {
    let mut pool = pool(Policy::Weighted, 9);
    let ten: Vec<Member> = (0..10).map(member).collect();
    pool.set_members(&ten, GatewayUs(SECOND));
    let part = |pool: &mut Pool, at: GatewayUs| {
        (0..910).filter(|_| answer(pool, Outcome::Answered, at) == 9).count()
    };
    // A tenth of a tenth: ten of 910 in any row of turns.
    assert_eq!(part(&mut pool.clone(), GatewayUs(SECOND)), 10);
    part(&mut pool, GatewayUs(SECOND * 2));
    part(&mut pool, GatewayUs(SECOND * 3));
    let half = part(&mut pool, GatewayUs(SECOND * 6));
    assert!((47..=49).contains(&half), "{half} of 910 at a half of a tenth");
    assert_eq!(part(&mut pool, GatewayUs(SECOND * 11)), 91);
}

#[test]
fn a_key_stays_and_moves_only_with_its_replica() {
    let mut pool = pool(Policy::ConsistentHash, 10);
    let place = |pool: &mut Pool, key| {
        let request = Request { key: Some(key), ..Request::default() };
        let (ticket, decision) = pool.pick(&request, &[], key, GatewayUs(0)).unwrap();
        pool.finish(ticket, Outcome::Answered, GatewayUs(0));
        assert_eq!(decision.reason, Reason::Key);
        decision.replica
    };
    let before: Vec<_> = (0..2_000).map(|key| place(&mut pool, key)).collect();
    let without: Vec<Member> = (0..10).filter(|number| *number != 4).map(member).collect();
    pool.set_members(&without, GatewayUs(0));
    for (key, before) in before.iter().enumerate() {
        let now = place(&mut pool, key as u64);
        assert!(now == *before || *before == id(4), "{key}");
    }
    // The next attempt of the same instance has the same place.
    let again =
        Member { id: AllocationId { attempt: berth_model::Attempt(2), ..id(4) }, ..member(4) };
    pool.set_members(&without.into_iter().chain([again]).collect::<Vec<_>>(), GatewayUs(0));
    for (key, before) in before.iter().enumerate() {
        assert_eq!(place(&mut pool, key as u64).instance, before.instance);
    }
    // One key alone is not sent to one alone.
    let request = Request { key: Some(1), ..Request::default() };
    let sent = whom(&mut pool, &request, 100);
    let most = (0..10).map(|who| sent.iter().filter(|sent| **sent == who).count()).max();
    assert!(most <= Some(13), "{most:?}: a tenth and a quarter more");
}

#[test]
fn a_prompt_stays_with_who_holds_it_until_that_has_too_much_to_do() {
    let mut pool = pool(Policy::Auto, 4);
    let (mut dice, mut kept) = (Dice::new(9), Vec::new());
    let words: Vec<u64> = (0..100).collect();
    let asked = prompt(6_400, &words);
    let (first, reason) = send(&mut pool, &asked, &mut dice, &mut kept);
    assert_eq!(reason, Reason::LeastWork);
    // It is charged once: what is held costs nothing more.
    let load = |pool: &Pool, who| pool.load(id(who)).unwrap().waiting_tokens();
    for _ in 0..50 {
        assert_eq!(send(&mut pool, &asked, &mut dice, &mut kept), (first, Reason::HoldsPrefix));
    }
    assert_eq!(load(&pool, first), 6_400);
    // Other prompts go elsewhere, until those have as much to read.
    assert_ne!(send(&mut pool, &prompt(6_400, &[500]), &mut dice, &mut kept).0, first);
    // Eight seconds beyond the others at 8,000 tokens a second.
    let long: Vec<u64> = words.iter().copied().chain(1_000..1_100).collect();
    while load(&pool, first) <= 6_400 + 64_000 {
        let grown = prompt(12_800, &long);
        let next = Request {
            prefix: Blocks { hashes: grown.prefix.hashes[..100].to_vec(), ..grown.prefix },
            ..grown
        };
        send(&mut pool, &next, &mut dice, &mut kept);
    }
    let (elsewhere, reason) = send(&mut pool, &asked, &mut dice, &mut kept);
    assert_eq!(reason, Reason::PrefixBusy);
    assert_ne!(elsewhere, first);
}

#[test]
fn a_prefix_is_followed_up_to_a_quarter_more_than_the_others_have() {
    let mut pool = pool(Policy::PrefixAffinity, 4);
    let (mut dice, mut kept) = (Dice::new(9), Vec::new());
    let asked = prompt(640, &[1, 2, 3, 4]);
    for _ in 0..40 {
        send(&mut pool, &asked, &mut dice, &mut kept);
    }
    let in_flight: Vec<u32> = (0..4).map(|who| pool.load(id(who)).unwrap().in_flight()).collect();
    assert!(in_flight.iter().all(|count| *count <= 13), "{in_flight:?}");
    kept.drain(..).for_each(|ticket| pool.finish(ticket, Outcome::Answered, GatewayUs(0)));
    assert_eq!(send(&mut pool, &asked, &mut dice, &mut kept).1, Reason::HoldsPrefix);
    assert_eq!(send(&mut pool, &prompt(640, &[9]), &mut dice, &mut kept).1, Reason::FewestInFlight);
}

#[test]
fn the_best_tier_is_used_until_it_is_full() {
    let mut pool = Pool::new(Policy::Priority);
    let tiers = [(0, 1), (1, 0), (2, 0)];
    let members = tiers.map(|(number, tier)| Member { tier, limit: Some(5), ..member(number) });
    pool.set_members(&members, GatewayUs(0));
    let sent = whom(&mut pool, &plain(), 15);
    assert!(!sent[..10].contains(&0) && sent[10..].iter().all(|who| *who == 0), "{sent:?}");
}

#[test]
fn reports_count_a_half_and_only_where_all_have_reported() {
    let mut pool = pool(Policy::LeastOutstanding, 2);
    let busy = Signals { running: Some(10), waiting: Some(10), kv_milli: None };
    pool.report(id(0), busy, GatewayUs(0));
    let mut both = whom(&mut pool.clone(), &plain(), 2);
    both.sort_unstable();
    assert_eq!(both, [0, 1], "who has not reported would seem idle");
    pool.report(
        id(1),
        Signals { running: Some(0), waiting: Some(0), kv_milli: None },
        GatewayUs(0),
    );
    let sent = whom(&mut pool, &plain(), 12);
    assert_eq!(sent.iter().filter(|who| **who == 1).count(), 11, "{sent:?}");
}

#[test]
fn of_many_a_few_are_compared_and_all_are_used() {
    for policy in Policy::ALL.into_iter().filter(|policy| is_sampled(*policy)) {
        let mut pool = pool(policy, 1_000);
        let (mut dice, mut kept) = (Dice::new(3), Vec::new());
        for number in 0..4_000 {
            let request = prompt(100, &[number % 50]);
            let (ticket, decision) = pool.pick(&request, &[], dice.draw(), GatewayUs(0)).unwrap();
            assert!((2..=10).contains(&decision.compared), "{decision:?}");
            kept.push(ticket);
        }
        let of = |number| pool.load(id(number)).unwrap().in_flight();
        let most = (0..1_000).map(of).max().unwrap();
        // Eight of a thousand: the best of several draws stays near the mean of four.
        let bound = if policy == Policy::PowerOfTwo { 9 } else { 8 };
        assert!(policy == Policy::Auto || most <= bound, "{policy:?}: {most}");
        kept.into_iter().for_each(|ticket| pool.finish(ticket, Outcome::Answered, GatewayUs(0)));
        assert_eq!(pool.in_flight(), 0);
    }
}

#[test]
fn what_came_back_under_an_old_id_is_another_replica() {
    let mut pool = pool(Policy::Auto, 1);
    let (ticket, _) = pool.pick(&prompt(100, &[1]), &[], 1, GatewayUs(0)).unwrap();
    pool.set_members(&[], GatewayUs(0));
    pool.set_members(&[member(0)], GatewayUs(0));
    let (second, _) = pool.pick(&prompt(100, &[2]), &[], 1, GatewayUs(0)).unwrap();
    pool.finish(ticket, Outcome::Failed, GatewayUs(0));
    let load = pool.load(id(0)).unwrap();
    assert_eq!((load.in_flight(), load.waiting_tokens()), (1, 100));
    assert!(!load.is_spared(GatewayUs(0)));
    pool.finish(second, Outcome::Answered, GatewayUs(0));
}

/// What may happen to a pool.
#[derive(Clone, Debug)]
enum Step {
    Pick { tokens: u32, word: u64, key: u64 },
    FirstByte { which: usize },
    Finish { which: usize, how: u32 },
    Members { present: u16 },
    Report { who: u32, running: u32 },
    Wait { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..5_000_u32, 0..5_u64, 0..9_u64)
            .prop_map(|(tokens, word, key)| Step::Pick { tokens, word, key }),
        4 => any::<usize>().prop_map(|which| Step::FirstByte { which }),
        6 => (any::<usize>(), 0..5_u32).prop_map(|(which, how)| Step::Finish { which, how }),
        1 => any::<u16>().prop_map(|present| Step::Members { present }),
        1 => (0..10_u32, 0..50_u32).prop_map(|(who, running)| Step::Report { who, running }),
        2 => (0..20_000_u64).prop_map(|millis| Step::Wait { millis }),
    ]
}

/// Plays the steps and returns what was decided; ends all that is left at the end.
fn play(policy: Policy, steps: &[Step]) -> (Pool, Vec<Decision>) {
    let (mut pool, mut kept, mut decisions) = (pool(policy, 6), Vec::<Ticket>::new(), Vec::new());
    let (mut dice, mut now) = (Dice::new(11), GatewayUs(0));
    for step in steps {
        match step {
            Step::Pick { tokens, word, key } => {
                let request = Request { key: Some(*key), ..prompt(*tokens, &[1, *word]) };
                if let Ok((ticket, decision)) = pool.pick(&request, &[], dice.draw(), now) {
                    kept.push(ticket);
                    decisions.push(decision);
                }
            }
            Step::FirstByte { which } => {
                let count = kept.len().max(1);
                if let Some(ticket) = kept.get_mut(which % count) {
                    pool.first_byte(ticket, now);
                }
            }
            Step::Finish { which, how } if !kept.is_empty() => {
                let ticket = kept.swap_remove(which % kept.len());
                let outcome = match how {
                    0 => Outcome::Failed,
                    1 => Outcome::Declined,
                    2 => Outcome::Overloaded { spare_for: SpanUs::from_secs(2) },
                    3 => Outcome::Left,
                    _ => Outcome::Answered,
                };
                pool.finish(ticket, outcome, now);
            }
            Step::Finish { .. } => {}
            Step::Members { present } => {
                let there = (0..10_u32).filter(|number| present >> number & 1 == 1);
                pool.set_members(&there.map(member).collect::<Vec<_>>(), now);
            }
            Step::Report { who, running } => {
                let signals = Signals { running: Some(*running), waiting: Some(0), kv_milli: None };
                pool.report(id(*who), signals, now);
            }
            Step::Wait { millis } => now = now.after(SpanUs::from_millis(*millis)),
        }
        let broken = pool.replicas.iter().filter(|known| known.breaker.is_broken()).count();
        assert_eq!(pool.broken(), broken);
    }
    kept.into_iter().for_each(|ticket| pool.finish(ticket, Outcome::Left, now));
    (pool, decisions)
}

fn policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(Policy::ALL.to_vec())
}

proptest! {
    #[test]
    fn all_that_was_counted_is_taken_back_and_the_same_is_decided_again(
        policy in policy(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let (pool, decisions) = play(policy, &steps);
        for replica in &pool.replicas {
            let load = &replica.load;
            prop_assert_eq!((load.in_flight(), load.answering(), load.waiting_tokens()), (0, 0, 0));
        }
        let (_, again) = play(policy, &steps);
        prop_assert_eq!(decisions, again);
    }

    /// More requests at one replica never make it the choice where it was not.
    #[test]
    fn who_has_more_to_do_is_not_chosen_for_it(
        policy in prop::sample::select(vec![
            Policy::LeastOutstanding,
            Policy::PowerOfTwo,
            Policy::ShortestExpectedDelay,
            Policy::ConsistentHash,
            Policy::PrefixAffinity,
            Policy::Auto,
        ]),
        loads in prop::collection::vec(0..20_u32, 2..8),
        tokens in 0..5_000_u32,
        chance in any::<u64>(),
        busier in any::<prop::sample::Index>(),
    ) {
        let mut pool = pool(policy, u32::try_from(loads.len()).unwrap());
        for (replica, load) in pool.replicas.iter_mut().zip(&loads) {
            (0..*load).for_each(|_| replica.load.charge(100));
        }
        let request = Request { key: Some(chance), ..prompt(tokens, &[]) };
        let chosen = |pool: &Pool| {
            let (ticket, decision) = pool.clone().pick(&request, &[], chance, GatewayUs(0)).unwrap();
            let _ = ticket;
            decision.replica
        };
        let before = chosen(&pool);
        let busier = busier.index(loads.len());
        (0..5).for_each(|_| pool.replicas[busier].load.charge(1_000));
        let busier = pool.replicas[busier].member.id;
        prop_assert!(before == busier || chosen(&pool) != busier);
    }
}

/// Answer times tell of a fleet only when the answers have ended, and while they tell that one is
/// fast it is sent all the more: nothing but what it has in flight says that it is not.
#[test]
fn who_is_thought_to_be_fast_is_not_sent_what_others_could_do() {
    let mut pool = pool(Policy::ResponseTime, 4);
    for number in 0..4 {
        let (ticket, decision) = pool.pick(&plain(), &[], number, GatewayUs(0)).unwrap();
        let took = if decision.replica.instance.0 == 0 { 1 } else { 100 };
        pool.finish(ticket, Outcome::Answered, GatewayUs(took * SECOND));
    }
    let now = GatewayUs(200 * SECOND);
    let mut sent = [0_u32; 4];
    for number in 0..400 {
        let (_, decision) = pool.pick(&plain(), &[], number, now).unwrap();
        sent[decision.replica.instance.0 as usize] += 1;
    }
    // A quarter more than the mean.
    assert!((100..=126).contains(&sent[0]), "{sent:?}");
}
