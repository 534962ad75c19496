//! Histories of the size that fault trials record, within a bounded amount of work.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::*;

const CLIENTS: u32 = 16;
const CALLS: usize = 5_000;

/// Histories that are in order cost some 40,000 steps, with lost answers up to
/// 140,000; a violation, where every way must be ruled out, up to 720,000.
const WORK: Budget = Budget { steps_max: 200_000 };

/// A reproducible sequence of numbers (a 64-bit linear congruential generator with
/// Knuth's constants; the upper half is used).
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) % limit
    }
}

/// Calls of sixteen clients on one cell, each taking effect at some moment between
/// its beginning and its end; one in `lost_every` loses its answer, and every
/// other one of those never takes effect.
fn cell_history(seed: u64, lost_every: u64) -> Vec<Call<CasAction, CasAnswer>> {
    let mut chance = Sequence(seed);
    let mut planned: Vec<(u64, u64, u64, u32, CasAction)> = Vec::new();
    let mut free_at = vec![0; CLIENTS as usize];
    for index in 0..CALLS {
        let client = index % CLIENTS as usize;
        let invoked_at = free_at[client] + 1 + chance.below(20);
        let effect_at = invoked_at + chance.below(60);
        let returned_at = effect_at + chance.below(60);
        free_at[client] = returned_at;
        let key = "k".to_owned();
        let operation = match chance.below(4) {
            0 => CasAction::Write { key, value: chance.below(5) },
            1 => {
                let expected = Some(chance.below(5));
                CasAction::CompareAndSet { key, expected, new: chance.below(5) }
            }
            _ => CasAction::Read { key },
        };
        planned.push((effect_at, invoked_at, returned_at, client as u32, operation));
    }
    planned.sort_by_key(|(effect_at, ..)| *effect_at);
    let mut state = None;
    let mut history = Vec::new();
    for (index, (_, invoked_at, returned_at, client, operation)) in planned.into_iter().enumerate()
    {
        let is_lost = chance.below(lost_every) == 0;
        let takes_effect = !is_lost || index % 2 == 0;
        let (outcome, next) = answer(state, &operation);
        if takes_effect {
            state = next;
        }
        history.push(match is_lost {
            true => lost(client, invoked_at, operation),
            false => call(client, (invoked_at, returned_at), operation, outcome),
        });
    }
    history
}

fn answer(state: Option<u64>, operation: &CasAction) -> (CasAnswer, Option<u64>) {
    match operation {
        CasAction::Read { .. } => (CasAnswer::Value(state), state),
        CasAction::Write { value, .. } => (CasAnswer::Written, Some(*value)),
        CasAction::CompareAndSet { expected, new, .. } if *expected == state => {
            (CasAnswer::Written, Some(*new))
        }
        CasAction::CompareAndSet { .. } => (CasAnswer::Refused, state),
    }
}

#[test]
fn five_thousand_concurrent_calls_are_decided() {
    for seed in 1..=5 {
        check(&CasCell, &cell_history(seed, u64::MAX), WORK).assert_linearizable();
    }
}

#[test]
fn five_thousand_calls_with_lost_answers_are_decided() {
    for seed in 1..=5 {
        check(&CasCell, &cell_history(seed, 200), WORK).assert_linearizable();
    }
}

#[test]
fn one_wrong_answer_among_five_thousand_is_found() {
    for seed in 1..=2 {
        let mut history = cell_history(seed, u64::MAX);
        // A value that nobody ever writes.
        let wrong = history.iter_mut().skip(CALLS / 2).find_map(|call| match &mut call.answer {
            Answer::Returned { outcome: CasAnswer::Value(seen), .. } => Some(seen),
            Answer::Returned { .. } | Answer::Unknown => None,
        });
        *wrong.unwrap() = Some(99);
        let found = violation(&CasCell, &history);
        assert!(found.culprit.contains("Value(Some(99))"), "{found}");
    }
}

/// Submits of real threads to a real object, with a switch that makes it forget.
struct Table {
    jobs: Mutex<std::collections::BTreeMap<String, u64>>,
    next_id: AtomicU64,
    clock: AtomicU64,
    forgets: Forgets,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Forgets {
    Never,
    EveryTenth,
}

impl Table {
    fn submit(&self, key: &str) -> u64 {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let job_id = *jobs
            .entry(key.to_owned())
            .or_insert_with(|| self.next_id.fetch_add(1, Ordering::SeqCst));
        if self.forgets == Forgets::EveryTenth && job_id.is_multiple_of(10) {
            jobs.remove(key);
        }
        job_id
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }
}

fn submits_of_threads(forgets: Forgets) -> Vec<Call<SubmitAction, SubmitAnswer>> {
    let table = Table {
        jobs: Mutex::default(),
        next_id: AtomicU64::new(1),
        clock: AtomicU64::new(0),
        forgets,
    };
    let recorder = Recorder::default();
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (table, recorder) = (&table, &recorder);
            scope.spawn(move || {
                for index in 0..200 {
                    let key = format!("key-{}", index % 50);
                    let operation = SubmitAction::Submit { key: key.clone(), digest: 1 };
                    let call_index = recorder.begin(client, table.now(), operation);
                    let job_id = table.submit(&key);
                    let answer = SubmitAnswer::Accepted { job_id };
                    recorder.answer(call_index, table.now(), answer);
                }
            });
        }
    });
    recorder.into_history()
}

#[test]
fn threads_on_a_sound_table_pass() {
    let history = submits_of_threads(Forgets::Never);
    assert_eq!(history.len(), 800);
    check(&Submits, &history, WORK).assert_linearizable();
}

#[test]
fn threads_on_a_forgetful_table_fail() {
    let history = submits_of_threads(Forgets::EveryTenth);
    let found = violation(&Submits, &history);
    assert!(found.call_count >= 16, "{found}");
}
