//! When a replica is left alone, and when it is tried again. What the caller did wrong says nothing
//! of the replica, and that it has too much to do is no fault of it: neither counts.

use crate::chance;
use crate::clock::{GatewayUs, SpanUs};

/// Failures one after the other that are enough.
const IN_A_ROW: u32 = 5;
/// Seconds that are looked back on.
const SECONDS: usize = 10;
/// Fewer requests than that in those seconds say nothing.
const REQUESTS_MIN: u32 = 20;
/// It is left alone first for so long, and for twice as long each time it fails its trial.
const ALONE_FIRST: SpanUs = SpanUs::from_secs(5);
const ALONE_MAX: SpanUs = SpanUs::from_secs(60);

/// What one answer says of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Good,
    Bad,
    /// Neither.
    Nothing,
}

/// Of one replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breaker {
    /// So that those which broke together are not tried together.
    seed: u64,
    stage: Stage,
    bad_in_a_row: u32,
    /// Of the last seconds, each at its second's place.
    seconds: [Second; SECONDS],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Closed,
    /// Left alone until then; so many trials failed before.
    Open {
        until: GatewayUs,
        failed_trials: u32,
    },
    /// One request tries it.
    Trial {
        failed_trials: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Second {
    number: u64,
    good: u32,
    bad: u32,
}

/// Whether a replica may be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    Ask,
    /// By one request, which is then its trial.
    Try,
    LeaveAlone,
}

impl Breaker {
    pub fn new(seed: u64) -> Breaker {
        let seconds = [Second::default(); SECONDS];
        Breaker { seed, stage: Stage::Closed, bad_in_a_row: 0, seconds }
    }

    pub fn leave(&self, now: GatewayUs) -> Leave {
        match self.stage {
            Stage::Closed => Leave::Ask,
            Stage::Open { until, .. } if now >= until => Leave::Try,
            Stage::Open { .. } | Stage::Trial { .. } => Leave::LeaveAlone,
        }
    }

    /// Whether it broke and has not been found well since.
    pub fn is_broken(&self) -> bool {
        self.stage != Stage::Closed
    }

    /// A request is sent as the trial.
    pub fn begin_trial(&mut self) {
        if let Stage::Open { failed_trials, .. } = self.stage {
            self.stage = Stage::Trial { failed_trials };
        }
    }

    /// The trial ended.
    pub fn end_trial(&mut self, verdict: Verdict, now: GatewayUs) {
        let Stage::Trial { failed_trials } = self.stage else { return };
        match verdict {
            Verdict::Good => *self = Breaker::new(self.seed),
            Verdict::Bad => self.open(failed_trials.saturating_add(1), now),
            // The next request tries it.
            Verdict::Nothing => self.stage = Stage::Open { until: now, failed_trials },
        }
    }

    /// An answer to what was no trial, such as one that was sent before it broke, which says
    /// nothing any more.
    pub fn step(&mut self, verdict: Verdict, now: GatewayUs) {
        let counts = verdict != Verdict::Nothing && self.stage == Stage::Closed;
        if !counts {
            return;
        }
        let number = now.0 / SpanUs::from_secs(1).0;
        let place = usize::try_from(number % SECONDS as u64).unwrap_or(0);
        let second = &mut self.seconds[place];
        if second.number != number {
            *second = Second { number, good: 0, bad: 0 };
        }
        match verdict {
            Verdict::Good => {
                second.good = second.good.saturating_add(1);
                self.bad_in_a_row = 0;
            }
            Verdict::Bad => {
                second.bad = second.bad.saturating_add(1);
                self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
            }
            Verdict::Nothing => {}
        }
        if self.bad_in_a_row >= IN_A_ROW || self.fails_mostly(number) {
            self.open(0, now);
        }
    }

    fn fails_mostly(&self, number: u64) -> bool {
        let recent = |second: &&Second| number - second.number.min(number) < SECONDS as u64;
        let (mut good, mut bad) = (0_u32, 0_u32);
        for second in self.seconds.iter().filter(recent) {
            good = good.saturating_add(second.good);
            bad = bad.saturating_add(second.bad);
        }
        good.saturating_add(bad) >= REQUESTS_MIN && good < bad
    }

    fn open(&mut self, failed_trials: u32, now: GatewayUs) {
        let doubled = ALONE_FIRST.0.saturating_mul(1 << failed_trials.min(10));
        let full = doubled.min(ALONE_MAX.0);
        // A fifth less to a fifth more.
        let fifth = full / 5;
        let spread = chance::mix_both(self.seed, u64::from(failed_trials)) % (2 * fifth + 1);
        let until = now.after(SpanUs(full - fifth + spread));
        self.stage = Stage::Open { until, failed_trials };
        self.bad_in_a_row = 0;
        self.seconds = [Second::default(); SECONDS];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn at(millis: u64) -> GatewayUs {
        GatewayUs(millis * 1000)
    }

    fn broken(seed: u64) -> Breaker {
        let mut breaker = Breaker::new(seed);
        (0..IN_A_ROW).for_each(|_| breaker.step(Verdict::Bad, at(0)));
        breaker
    }

    /// The first moment at which it may be tried.
    fn tried_at(breaker: &Breaker) -> u64 {
        (0..200 * SECOND)
            .step_by(1000)
            .find(|now| breaker.leave(GatewayUs(*now)) == Leave::Try)
            .unwrap()
    }

    #[test]
    fn five_failures_in_a_row_break_it_and_what_says_nothing_does_not() {
        let mut breaker = Breaker::new(1);
        for _ in 0..100 {
            (1..IN_A_ROW).for_each(|_| breaker.step(Verdict::Good, at(0)));
            (1..IN_A_ROW).for_each(|_| breaker.step(Verdict::Bad, at(0)));
            breaker.step(Verdict::Nothing, at(0));
        }
        assert_eq!(breaker.leave(at(0)), Leave::Ask);
        let mut breaker = Breaker::new(1);
        (1..IN_A_ROW).for_each(|_| breaker.step(Verdict::Bad, at(0)));
        breaker.step(Verdict::Nothing, at(0));
        assert!(!breaker.is_broken());
        breaker.step(Verdict::Bad, at(0));
        assert!(breaker.is_broken());
        assert_eq!(breaker.leave(at(0)), Leave::LeaveAlone);
    }

    #[test]
    fn more_failures_than_answers_break_it_where_there_are_enough() {
        let mut breaker = Breaker::new(1);
        let pair = |breaker: &mut Breaker, millis| {
            breaker.step(Verdict::Bad, at(millis));
            breaker.step(Verdict::Good, at(millis));
        };
        (0..9).for_each(|_| pair(&mut breaker, 0));
        breaker.step(Verdict::Bad, at(9_000));
        assert!(!breaker.is_broken(), "nineteen requests");
        breaker.step(Verdict::Bad, at(9_999));
        assert!(breaker.is_broken(), "eleven of twenty");
        // Ten seconds on nothing of it counts.
        let mut breaker = Breaker::new(1);
        (0..9).for_each(|_| pair(&mut breaker, 0));
        breaker.step(Verdict::Bad, at(10_000));
        breaker.step(Verdict::Bad, at(10_000));
        assert!(!breaker.is_broken());
    }

    #[test]
    fn it_is_tried_by_one_request_and_left_alone_longer_each_time_it_fails() {
        let mut breaker = broken(3);
        let mut now = 0;
        for expected_s in [5, 10, 20, 40, 60, 60] {
            let next = tried_at(&breaker);
            let alone = next - now;
            let range = expected_s * SECOND * 4 / 5..=expected_s * SECOND * 6 / 5 + 1000;
            assert!(range.contains(&alone), "{expected_s} s: {alone}");
            now = next;
            breaker.begin_trial();
            assert_eq!(breaker.leave(GatewayUs(now)), Leave::LeaveAlone, "one at a time");
            // Answers to what was sent before say nothing.
            breaker.step(Verdict::Good, GatewayUs(now));
            assert!(breaker.is_broken());
            breaker.end_trial(Verdict::Bad, GatewayUs(now));
            if now > 100 * SECOND {
                break;
            }
        }
        let now = GatewayUs(tried_at(&breaker));
        breaker.begin_trial();
        breaker.end_trial(Verdict::Nothing, now);
        assert_eq!(breaker.leave(now), Leave::Try, "who went away has not tried it");
        breaker.begin_trial();
        breaker.end_trial(Verdict::Good, now);
        assert_eq!((breaker.leave(now), breaker.is_broken()), (Leave::Ask, false));
    }

    #[test]
    fn what_broke_together_is_not_tried_together() {
        let mut moments: Vec<u64> = (0..50).map(|seed| tried_at(&broken(seed))).collect();
        moments.sort_unstable();
        moments.dedup();
        assert!(moments.len() > 40, "{}", moments.len());
        assert!(moments[moments.len() - 1] - moments[0] > SECOND);
    }
}
