//! What one replica has to do, as this gateway knows it: by its own count of what it has sent, which
//! is never late, beside what the replica says of itself, which is.

use berth_model::decay;

use crate::clock::{GatewayUs, SpanUs};

/// After so long an old answer time counts half: with e for 2, ten seconds.
const ANSWER_HALF_LIFE: SpanUs = SpanUs(6_931_472);
/// An answer time before the first answer (linkerd's).
const ANSWER_BEFORE: SpanUs = SpanUs::from_millis(30);
/// How long a failure speaks against a replica (linkerd's penalty).
pub const FAILURE_PENALTY: SpanUs = SpanUs::from_secs(5);
/// However long a replica asks to be spared, it is asked again then.
pub const SPARED_MAX: SpanUs = SpanUs::from_secs(60);
/// A report counts for so long: three looks, a second apart.
pub const REPORT_COUNTS: SpanUs = SpanUs::from_secs(3);
/// Tokens of prompts that a replica takes in a second, before it has shown its own rate.
pub const PREFILL_BEFORE: u32 = 8_000;
/// A shorter prompt says little of the rate: what it waits for is mostly others.
const PREFILL_TOKENS_MIN: u64 = 512;
/// The rate is what nine of ten prompts do not reach: each that does moves it by so many
/// thousandths of itself, and each that does not by a ninth of that.
const PREFILL_STEP_MILLI: u64 = 90;

/// How a request ended at a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Answered,
    /// The caller asked for what is not to be had (an answer of 400 to 499): that says neither that
    /// the replica is well nor that it is not.
    Declined,
    /// Broken off, refused a connection, silent for too long, or an answer that says it broke.
    Failed,
    /// It says that it has too much to do, and for how long.
    Overloaded {
        spare_for: SpanUs,
    },
    /// Who asked went away.
    Left,
}

/// What a replica says of itself. What it does not say is `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Signals {
    pub running: Option<u32>,
    pub waiting: Option<u32>,
    /// Use of its KV cache, in thousandths.
    pub kv_milli: Option<u32>,
}

/// The work of one replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Load {
    /// Sent and not answered with a byte yet.
    waiting: u32,
    /// Being answered.
    answering: u32,
    /// Tokens of prompts of those that wait, beside what the replica is thought to hold of them.
    waiting_tokens: u64,
    /// Answers since it joined.
    answers: u64,
    answer_us: u64,
    answer_at: Option<GatewayUs>,
    prefill_per_second: u32,
    /// Until when its last failure counts.
    failed_until: GatewayUs,
    /// Until when it asked to be spared.
    spared_until: GatewayUs,
    report: Option<(Signals, GatewayUs)>,
}

impl Default for Load {
    fn default() -> Load {
        Load {
            waiting: 0,
            answering: 0,
            waiting_tokens: 0,
            answers: 0,
            answer_us: ANSWER_BEFORE.0,
            answer_at: None,
            prefill_per_second: PREFILL_BEFORE,
            failed_until: GatewayUs::default(),
            spared_until: GatewayUs::default(),
            report: None,
        }
    }
}

impl Load {
    /// Requests sent and not ended.
    pub fn in_flight(&self) -> u32 {
        self.waiting.saturating_add(self.answering)
    }

    /// Requests being answered: what the replica works on at the same time.
    pub fn answering(&self) -> u32 {
        self.answering
    }

    pub fn waiting_tokens(&self) -> u64 {
        self.waiting_tokens
    }

    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// Tokens of prompts in a second, at least 1.
    pub fn prefill_per_second(&self) -> u32 {
        self.prefill_per_second.max(1)
    }

    /// How long an answer takes lately: what took longer counts at once, what took less by and by
    /// (the peak-EWMA of linkerd's balancer).
    pub fn answer_time(&self) -> SpanUs {
        SpanUs(self.answer_us)
    }

    pub fn has_answered(&self) -> bool {
        self.answer_at.is_some()
    }

    /// Whether it failed lately or asked to be spared.
    pub fn is_spared(&self, now: GatewayUs) -> bool {
        now < self.spared_until.max(self.failed_until)
    }

    /// What it said of itself, unless that is too long ago.
    pub fn signals(&self, now: GatewayUs) -> Option<Signals> {
        let (signals, at) = self.report?;
        (now.since(at) <= REPORT_COUNTS).then_some(signals)
    }

    /// The time until the prompts that wait there, and so many tokens more, are read.
    pub fn reads_within(&self, tokens: u64) -> SpanUs {
        let tokens = self.waiting_tokens.saturating_add(tokens);
        let micros = u128::from(tokens) * 1_000_000 / u128::from(self.prefill_per_second());
        SpanUs(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    pub(crate) fn charge(&mut self, tokens: u64) {
        self.waiting = self.waiting.saturating_add(1);
        self.waiting_tokens = self.waiting_tokens.saturating_add(tokens);
    }

    /// The first byte of an answer to what was charged with `tokens`, sent `took` ago, when prompts
    /// of `ahead_tokens` were waiting there.
    pub(crate) fn first_byte(&mut self, tokens: u64, took: SpanUs, ahead_tokens: u64) {
        self.take_back_waiting(tokens);
        self.answering = self.answering.saturating_add(1);
        self.learn_prefill(tokens.saturating_add(ahead_tokens), took);
    }

    /// The end of one that had no answer yet.
    pub(crate) fn end_waiting(&mut self, tokens: u64) {
        self.take_back_waiting(tokens);
    }

    /// The end of one that was being answered.
    pub(crate) fn end_answering(&mut self) {
        self.answering = self.answering.saturating_sub(1);
    }

    /// What an end says of the replica.
    pub(crate) fn learn(&mut self, outcome: Outcome, took: SpanUs, now: GatewayUs) {
        match outcome {
            Outcome::Answered => {
                self.answers = self.answers.saturating_add(1);
                self.failed_until = self.failed_until.min(now);
                self.learn_answer_time(took, now);
            }
            Outcome::Failed => {
                self.failed_until = self.failed_until.max(now.after(FAILURE_PENALTY));
            }
            Outcome::Overloaded { spare_for } => {
                let until = now.after(spare_for.min(SPARED_MAX));
                self.spared_until = self.spared_until.max(until);
            }
            Outcome::Declined | Outcome::Left => {}
        }
    }

    pub(crate) fn report(&mut self, signals: Signals, now: GatewayUs) {
        self.report = Some((signals, now));
    }

    fn take_back_waiting(&mut self, tokens: u64) {
        self.waiting = self.waiting.saturating_sub(1);
        self.waiting_tokens = self.waiting_tokens.saturating_sub(tokens);
    }

    fn learn_answer_time(&mut self, took: SpanUs, now: GatewayUs) {
        let before = self.answer_at.replace(now);
        let Some(before) = before.filter(|_| took.0 < self.answer_us) else {
            self.answer_us = took.0;
            return;
        };
        // What is left of the old, with 62 binary digits.
        let left = u128::from(decay::halved(now.since(before).0, ANSWER_HALF_LIFE.0));
        let more = u128::from(self.answer_us - took.0);
        let later = u128::from(took.0) + ((more * left) >> 62);
        self.answer_us = u64::try_from(later).unwrap_or(u64::MAX);
    }

    /// A running quantile (the 0.9 of the rates that were seen): up by nine steps when it is
    /// passed, down by one when not. The steps shrink with nothing: what a replica can do changes.
    fn learn_prefill(&mut self, tokens: u64, took: SpanUs) {
        if tokens < PREFILL_TOKENS_MIN {
            return;
        }
        let seen = u128::from(tokens) * 1_000_000 / u128::from(took.0.max(1));
        let known = u64::from(self.prefill_per_second());
        let step = (known * PREFILL_STEP_MILLI / 1_000).max(9);
        let next = if seen > u128::from(known) { known + step } else { known - step / 9 };
        self.prefill_per_second = u32::try_from(next.max(1)).unwrap_or(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn what_took_longer_counts_at_once_and_what_took_less_by_and_by() {
        let mut load = Load::default();
        assert_eq!((load.answer_time(), load.has_answered()), (ANSWER_BEFORE, false));
        let mut answer = |took_ms: u64, at_ms: u64| {
            let at = GatewayUs(at_ms * 1000);
            load.learn(Outcome::Answered, SpanUs::from_millis(took_ms), at);
            load.answer_time().0
        };
        assert_eq!(answer(100, 0), 100_000);
        assert_eq!(answer(500, 10), 500_000);
        // Ten seconds on, 1/e of what is above is left: 100 + 400 × 0.36788.
        assert_eq!(answer(100, 10_010), 247_151);
        assert_eq!(answer(100, 10_010), 247_151, "no time has passed");
        assert_eq!(answer(100, 10_000_000), 100_000);
    }

    #[test]
    fn a_failure_speaks_against_it_until_it_answers_and_a_wish_until_it_is_over() {
        let mut load = Load::default();
        let at = |seconds| GatewayUs(seconds * SECOND);
        load.learn(Outcome::Failed, SpanUs::ZERO, at(10));
        assert!(load.is_spared(at(14)) && !load.is_spared(at(15)));
        load.learn(Outcome::Answered, SpanUs::ZERO, at(11));
        assert!(!load.is_spared(at(11)));
        let day = SpanUs::from_secs(86_400);
        load.learn(Outcome::Overloaded { spare_for: day }, SpanUs::ZERO, at(20));
        load.learn(Outcome::Answered, SpanUs::ZERO, at(21));
        load.learn(Outcome::Left, SpanUs::ZERO, at(22));
        assert!(load.is_spared(at(79)) && !load.is_spared(at(80)));
    }

    #[test]
    fn the_rate_of_reading_is_what_one_prompt_in_ten_passes() {
        let mut load = Load::default();
        // Nine of ten prompts wait for something else too.
        for number in 0..2_000_u64 {
            let per_second = if number % 10 == 0 { 40_000 } else { 3_000 };
            load.charge(4_000);
            load.first_byte(4_000, SpanUs(4_000 * SECOND / per_second), 0);
            load.end_answering();
        }
        let rate = load.prefill_per_second();
        assert!((3_000..=44_000).contains(&rate), "{rate}");
        // All of them are read at 20,000.
        for _ in 0..2_000 {
            load.charge(2_000);
            load.first_byte(2_000, SpanUs(4_000 * SECOND / 20_000), 2_000);
            load.end_answering();
        }
        let rate = load.prefill_per_second();
        assert!((18_000..=22_000).contains(&rate), "{rate}");
        // A short one says nothing.
        load.charge(10);
        load.first_byte(10, SpanUs(SECOND), 0);
        assert_eq!(load.prefill_per_second(), rate);
        assert_eq!((load.in_flight(), load.answering(), load.waiting_tokens()), (1, 1, 0));
    }

    #[test]
    fn a_report_is_forgotten_when_three_are_missing() {
        let mut load = Load::default();
        assert_eq!(load.signals(GatewayUs(0)), None);
        let signals = Signals { waiting: Some(3), ..Signals::default() };
        load.report(signals, GatewayUs(SECOND));
        assert_eq!(load.signals(GatewayUs(4 * SECOND)), Some(signals));
        assert_eq!(load.signals(GatewayUs(4 * SECOND + 1)), None);
    }
}
