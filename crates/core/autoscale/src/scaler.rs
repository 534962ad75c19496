//! One service: what is measured comes in, a number of replicas comes out.

use std::collections::BTreeMap;

use berth_model::{Autoscale, DurationMs, ScalingMetric, ScalingPolicy, StateMs};

use crate::law::{Load, Pid, thousandths};
use crate::measured::{Measured, Samples};
use crate::pace::{Asked, Changes};

/// A load of so many times what the replicas are to carry is not waited with: as Knative's
/// autoscaler, which calls it a panic.
const PANIC_TIMES: f64 = 2.0;
/// It is looked for in the newest part of what is averaged.
const PANIC_PART: u64 = 5;

/// What it remembers of a service. It is soft: who leads next begins anew, and takes nothing away
/// before it has watched for long enough.
#[derive(Clone, Debug)]
pub struct Scaler {
    samples: Samples,
    asked: Asked,
    changes: Changes,
    pids: BTreeMap<ScalingMetric, Pid>,
    watched_since: StateMs,
    /// When something was last asked of it.
    busy_at: StateMs,
    panic_until: Option<StateMs>,
}

/// What there is to see of a service at a moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Seen {
    pub now: StateMs,
    /// Replicas that it is to have now.
    pub wanted: u32,
    /// `None`: nobody tells.
    pub measured: Option<Measured>,
    /// What one replica is sent at most.
    pub in_flight_max: Option<u32>,
}

/// What is to become of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Change {
    /// Replicas that it is to have from now on; mostly as many as it has.
    pub count: u32,
    pub why: Why,
}

/// What a number of replicas follows from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Why {
    /// There is nothing to go by.
    Unknown,
    /// It was outside its range.
    Range,
    /// Nobody has asked it anything for so long.
    Idle(DurationMs),
    /// There is none, and somebody asks.
    Woken,
    /// What its replicas have together of this, and what each is to have.
    Load { metric: ScalingMetric, total: f64, target: f64 },
}

/// What one metric asks for.
#[derive(Clone, Copy)]
struct Wish {
    count: u32,
    /// Replicas that would have just their target: of two that ask for as many the one that is
    /// nearer to asking for more is told of.
    carrying: f64,
    why: Why,
}

impl Scaler {
    /// One that begins to watch at `now`.
    #[must_use]
    pub fn new(now: StateMs) -> Scaler {
        Scaler {
            samples: Samples::default(),
            asked: Asked::default(),
            changes: Changes::default(),
            pids: BTreeMap::new(),
            watched_since: now,
            busy_at: now,
            panic_until: None,
        }
    }

    /// Goes on to `seen.now`, which is never before that of the last call.
    pub fn look(&mut self, rule: &Autoscale, seen: &Seen) -> Change {
        let Seen { now, wanted, .. } = *seen;
        let change = self.change(rule, seen);
        if change.count != wanted {
            let keep = rule.up.every.max(rule.down.every);
            self.changes.push(now, wanted, change.count, keep);
        }
        change
    }

    fn change(&mut self, rule: &Autoscale, seen: &Seen) -> Change {
        let Seen { now, wanted, ref measured, in_flight_max } = *seen;
        if !(rule.min..=rule.max).contains(&wanted) {
            return Change { count: wanted.clamp(rule.min, rule.max), why: Why::Range };
        }
        let Some(measured) = measured else {
            for pid in self.pids.values_mut() {
                pid.forget();
            }
            return Change { count: wanted, why: Why::Unknown };
        };
        if measured.busy {
            self.busy_at = now;
        }
        self.samples.push(now, measured.clone(), rule.average);
        let idle_for = now.since(self.busy_at);
        if rule.min == 0 && idle_for >= rule.idle {
            return Change { count: 0, why: Why::Idle(idle_for) };
        }
        let targets = rule.targets(in_flight_max);
        let wishes = targets
            .iter()
            .filter_map(|(metric, target)| self.wish(rule, seen, *metric, thousandths(*target)));
        let wish = wishes.max_by(|one, other| {
            one.count.cmp(&other.count).then(one.carrying.total_cmp(&other.carrying))
        });
        let wish = match (wish, wanted) {
            // Nobody has replicas to tell of.
            (wish, 0) if measured.busy => {
                let count = wish.map_or(1, |wish| wish.count.max(1));
                Wish { count, carrying: 0.0, why: Why::Woken }
            }
            (Some(wish), _) => wish,
            (None, _) => return Change { count: wanted, why: Why::Unknown },
        };
        // The last is taken away by nobody asking, and not by few asking.
        let least = rule.min.max(u32::from(wanted > 0));
        let wish = Wish { count: wish.count.clamp(least, rule.max), ..wish };
        Change { count: self.paced(rule, now, wanted, wish.count), why: wish.why }
    }

    /// What a metric asks for; `None` where nobody tells it.
    fn wish(
        &mut self,
        rule: &Autoscale,
        seen: &Seen,
        metric: ScalingMetric,
        target: f64,
    ) -> Option<Wish> {
        let (now, wanted) = (seen.now, seen.wanted);
        // With no replica there is no mean to be had: the newest is all.
        let span = if wanted == 0 { DurationMs(1) } else { rule.average };
        let mean = self.samples.mean(metric, now, span)?;
        let newest = DurationMs((rule.average.0 / PANIC_PART).max(1));
        let newest = self.samples.mean(metric, now, newest).unwrap_or(mean);
        if newest.total >= PANIC_TIMES * target * f64::from(wanted.max(1)) {
            self.panic_until = Some(now.after(rule.average));
        }
        let total = if self.panics(now) { newest.total.max(mean.total) } else { mean.total };
        let load = Load { wanted, total, target };
        let (carrying, why) = (total / target, Why::Load { metric, total, target });
        if rule.policy == ScalingPolicy::Pid {
            let asked = self.pids.entry(metric).or_default().asked(&load, rule, now);
            let load = Load { total: asked * target, ..load };
            return Some(Wish { count: load.settled(asked, rule), carrying, why });
        }
        // Who has not told is taken for idle where there are to be more,
        let more = load.settled(load.asked(rule), rule);
        if more > wanted {
            return Some(Wish { count: more, carrying, why });
        }
        // and for full where there are to be fewer; and what has just come may come again, however
        // little it is in the mean.
        let missing = f64::from(newest.missing) * target;
        let load = Load { total: total.max(newest.total) + missing, ..load };
        let fewer = load.settled(load.asked(rule), rule).min(wanted);
        Some(Wish { count: fewer, carrying, why })
    }

    fn panics(&self, now: StateMs) -> bool {
        self.panic_until.is_some_and(|until| now < until)
    }

    /// As many as its pace allows.
    fn paced(&mut self, rule: &Autoscale, now: StateMs, wanted: u32, asked: u32) -> u32 {
        self.asked.push(now, asked, rule.up.window.max(rule.down.window));
        let watched = now.since(self.watched_since);
        // What was asked for longer ago than the window counts no more; of a shorter time nothing
        // is known.
        let up = self.asked.least(now, rule.up.window).filter(|_| watched >= rule.up.window);
        let down = self.asked.most(now, rule.down.window).filter(|_| watched >= rule.down.window);
        let is_due = |every| {
            // These go a part of the way each time.
            let by_parts = matches!(rule.policy, ScalingPolicy::Step | ScalingPolicy::HalfGap);
            !by_parts || self.changes.newest().is_none_or(|at| now.since(at) >= every)
        };
        match (up, down) {
            (Some(more), _) if more > wanted && is_due(rule.up.every) => {
                more.min(self.changes.most(now, wanted, &rule.up))
            }
            (_, Some(fewer)) if fewer < wanted && !self.panics(now) && is_due(rule.down.every) => {
                fewer.max(self.changes.least(now, wanted, &rule.down))
            }
            (_, _) => wanted,
        }
    }
}

#[cfg(test)]
mod tests;
