//! Which replicas of a fleet there are at a moment, where their number follows the load: the leader's
//! own autoscaler, or a law that it is compared with.

use std::collections::BTreeMap;

use berth_autoscale::{Measure, Measured, Scaler, Seen};
use berth_model::{Autoscale, ScalingMetric, StateMs};
use berth_routing::{GatewayUs, SpanUs};

/// How often it is looked.
pub(super) const LOOK_EVERY: SpanUs = SpanUs::from_secs(1);
/// As Kubernetes' controller (`--horizontal-pod-autoscaler-sync-period`), and the span within which
/// its default policies count.
const KUBERNETES_EVERY: SpanUs = SpanUs::from_secs(15);
/// As its `--horizontal-pod-autoscaler-tolerance`.
const KUBERNETES_TOLERANCE: f64 = 0.1;
/// As its default `scaleDown.stabilizationWindowSeconds`.
const KUBERNETES_DOWN: SpanUs = SpanUs::from_secs(300);
/// More at once than these, or twice as many, come in no period of its default `scaleUp`.
const KUBERNETES_UP: u32 = 4;

/// By what the number of replicas is found.
#[derive(Clone, PartialEq, Debug)]
pub enum Law {
    /// The leader's own.
    Berth(Autoscale),
    /// Kubernetes' HorizontalPodAutoscaler, `autoscaling/v2` with its defaults, of the mean of
    /// requests at once of those that are ready.
    Kubernetes { min: u32, max: u32, target: f64 },
    /// From each moment on so many; of before the first as many as that has.
    Known(Vec<(GatewayUs, u32)>),
}

/// A fleet of which there are as many as a law says.
#[derive(Clone, PartialEq, Debug)]
pub struct ScalingOptions {
    pub law: Law,
    /// How long a replica takes to begin.
    pub start: SpanUs,
    /// A request that finds none waits for so long.
    pub wait: SpanUs,
    /// As many there are when the first request comes; at most the fleet.
    pub begins_with: u32,
}

/// What became of the replicas.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HerdReport {
    /// Sums over all replicas, from the moment in which one begins to start to its end.
    pub held: SpanUs,
    pub starts: u64,
    /// Each change, and to how many.
    pub changes: Vec<(GatewayUs, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Presence {
    Gone,
    Starting {
        since: GatewayUs,
        turn: u64,
    },
    Ready {
        since: GatewayUs,
    },
    /// It ends what it was asked.
    Draining {
        since: GatewayUs,
    },
}

pub(super) struct Herd {
    law: Following,
    start: SpanUs,
    pub(super) wait: SpanUs,
    wanted: u32,
    replicas: Vec<(Presence, u32)>,
    turns: u64,
    pub(super) report: HerdReport,
}

enum Following {
    Berth(Box<(Autoscale, Scaler)>),
    Kubernetes(Kubernetes),
    Known { counts: Vec<(GatewayUs, u32)>, next: usize },
}

/// Of two looks, what is between them.
struct Kubernetes {
    min: u32,
    max: u32,
    target: f64,
    looked_at: Option<GatewayUs>,
    /// What was asked for within the window for less.
    asked: Vec<(GatewayUs, u32)>,
}

/// A replica that begins, when it will be there, and which of its beginnings that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Beginning {
    pub replica: usize,
    pub ready_at: GatewayUs,
    pub turn: u64,
}

impl Herd {
    pub(super) fn new(options: &ScalingOptions, fleet: usize) -> Herd {
        let law = match &options.law {
            Law::Berth(rule) => Following::Berth(Box::new((rule.clone(), Scaler::new(StateMs(0))))),
            Law::Kubernetes { min, max, target } => Following::Kubernetes(Kubernetes {
                min: *min,
                max: *max,
                target: *target,
                looked_at: None,
                asked: Vec::new(),
            }),
            Law::Known(counts) => Following::Known { counts: counts.clone(), next: 0 },
        };
        let begun = Presence::Ready { since: GatewayUs(0) };
        let is_there = |index: usize| index < options.begins_with as usize;
        let presence = |index| if is_there(index) { begun } else { Presence::Gone };
        Herd {
            law,
            start: options.start,
            wait: options.wait,
            wanted: options.begins_with,
            replicas: (0..fleet).map(|index| (presence(index), 0)).collect(),
            turns: 0,
            report: HerdReport::default(),
        }
    }

    pub(super) fn is_ready(&self, replica: usize) -> bool {
        matches!(self.replicas[replica].0, Presence::Ready { .. })
    }

    pub(super) fn ready(&self) -> u32 {
        let ready = (0..self.replicas.len()).filter(|replica| self.is_ready(*replica)).count();
        u32::try_from(ready).unwrap_or(u32::MAX)
    }

    /// How many there are to be, with so many requests at once, of which some wait for a replica.
    pub(super) fn look(&mut self, now: GatewayUs, requests: u32) -> u32 {
        let ready = self.ready();
        let fleet = u32::try_from(self.replicas.len()).unwrap_or(u32::MAX);
        let wanted = self.wanted;
        let count = match &mut self.law {
            Following::Berth(both) => {
                let (rule, scaler) = &mut **both;
                let total = f64::from(requests);
                let concurrency = Measure { total, missing: 0 };
                let metrics = BTreeMap::from([(ScalingMetric::Concurrency, concurrency)]);
                let measured = Some(Measured { metrics, busy: requests > 0 });
                let now = StateMs(now.0 / 1_000);
                scaler.look(rule, &Seen { now, wanted, measured, in_flight_max: None }).count
            }
            Following::Kubernetes(law) => law.look(now, (wanted, ready), requests),
            Following::Known { counts, next } => {
                while counts.get(*next + 1).is_some_and(|(at, _)| *at <= now) {
                    *next += 1;
                }
                counts.get(*next).map_or(wanted, |(_, count)| *count)
            }
        };
        count.min(fleet)
    }

    /// From now on there are to be so many: those that begin. Those with the highest numbers end.
    pub(super) fn set(&mut self, count: u32, now: GatewayUs) -> Vec<Beginning> {
        if count != self.wanted {
            self.report.changes.push((now, count));
        }
        self.wanted = count;
        for replica in count as usize..self.replicas.len() {
            match self.replicas[replica].0 {
                Presence::Gone | Presence::Draining { .. } => {}
                Presence::Starting { since, .. } => self.end(replica, since, now),
                Presence::Ready { since } => {
                    self.replicas[replica].0 = Presence::Draining { since };
                    self.end_if_done(replica, now);
                }
            }
        }
        let begins = |(presence, _): &(Presence, u32)| *presence == Presence::Gone;
        let among = self.replicas.iter().take(count as usize);
        let beginning: Vec<usize> =
            among.enumerate().filter(|(_, one)| begins(one)).map(|(replica, _)| replica).collect();
        beginning.into_iter().map(|replica| self.begin(replica, now)).collect()
    }

    fn begin(&mut self, replica: usize, now: GatewayUs) -> Beginning {
        self.turns += 1;
        self.report.starts += 1;
        let turn = self.turns;
        self.replicas[replica].0 = Presence::Starting { since: now, turn };
        Beginning { replica, ready_at: now.after(self.start), turn }
    }

    /// Whether that beginning has come to something.
    pub(super) fn has_begun(&mut self, replica: usize, of: u64) -> bool {
        let Presence::Starting { since, turn } = self.replicas[replica].0 else { return false };
        if turn == of {
            self.replicas[replica].0 = Presence::Ready { since };
        }
        turn == of
    }

    pub(super) fn asked(&mut self, replica: usize) {
        self.replicas[replica].1 += 1;
    }

    /// One that it was asked has ended. What begins if that was the last of one that is wanted again.
    pub(super) fn answered(&mut self, replica: usize, now: GatewayUs) -> Option<Beginning> {
        self.replicas[replica].1 -= 1;
        self.end_if_done(replica, now);
        let is_wanted = replica < self.wanted as usize;
        let is_gone = self.replicas[replica].0 == Presence::Gone;
        (is_wanted && is_gone).then(|| self.begin(replica, now))
    }

    fn end_if_done(&mut self, replica: usize, now: GatewayUs) {
        if let (Presence::Draining { since }, 0) = self.replicas[replica] {
            self.end(replica, since, now);
        }
    }

    fn end(&mut self, replica: usize, since: GatewayUs, now: GatewayUs) {
        self.replicas[replica].0 = Presence::Gone;
        self.report.held = SpanUs(self.report.held.0 + now.since(since).0);
    }

    /// Everything ends.
    pub(super) fn close(mut self, now: GatewayUs) -> HerdReport {
        for replica in 0..self.replicas.len() {
            match self.replicas[replica].0 {
                Presence::Gone => {}
                Presence::Starting { since, .. }
                | Presence::Ready { since }
                | Presence::Draining { since } => self.end(replica, since, now),
            }
        }
        self.report
    }
}

impl Kubernetes {
    fn look(&mut self, now: GatewayUs, (wanted, ready): (u32, u32), requests: u32) -> u32 {
        if self.looked_at.is_some_and(|at| now.since(at) < KUBERNETES_EVERY) {
            return wanted;
        }
        self.looked_at = Some(now);
        let asked = self.asked(wanted, ready, requests).clamp(self.min, self.max);
        self.asked.retain(|(at, _)| now.since(*at) < KUBERNETES_DOWN);
        self.asked.push((now, asked));
        if asked >= wanted {
            return asked.min(wanted.saturating_mul(2).max(wanted.saturating_add(KUBERNETES_UP)));
        }
        self.asked.iter().map(|(_, asked)| *asked).max().unwrap_or(wanted).min(wanted)
    }

    /// Replicas that are not ready yet are taken for idle.
    fn asked(&self, wanted: u32, ready: u32, requests: u32) -> u32 {
        let carrying = f64::from(requests) / self.target;
        let mean_over = |replicas: u32| carrying / f64::from(replicas.max(1));
        let ratio = mean_over(ready);
        let ratio = if ratio > 1.0 && wanted > ready { mean_over(wanted).max(1.0) } else { ratio };
        if (ratio - 1.0).abs() <= KUBERNETES_TOLERANCE {
            return wanted;
        }
        let counted = if ratio > 1.0 { wanted } else { ready };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "requests are few, and never below zero"
        )]
        let asked = (f64::from(counted) * ratio - 1e-9).ceil().max(0.0) as u32;
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn law() -> Kubernetes {
        Kubernetes { min: 1, max: 100, target: 10.0, looked_at: None, asked: Vec::new() }
    }

    fn at(seconds: u64) -> GatewayUs {
        GatewayUs(seconds * 1_000_000)
    }

    /// Its documentation's: twice the target doubles, half of it halves, a tenth beside it is left.
    #[test]
    fn kubernetes_law_is_as_its_documentation_says() {
        let of = |wanted, ready, requests| law().asked(wanted, ready, requests);
        assert_eq!(of(5, 5, 100), 10);
        assert_eq!(of(5, 5, 25), 3);
        assert_eq!(of(10, 10, 109), 10);
        assert_eq!(of(10, 10, 111), 12);
        // Those that are not ready yet count as idle.
        assert_eq!(of(10, 5, 100), 10);
        assert_eq!(of(10, 5, 150), 15);
    }

    #[test]
    fn kubernetes_law_looks_every_fifteen_seconds_and_takes_away_after_five_minutes() {
        let mut law = law();
        assert_eq!(law.look(at(0), (1, 1), 200), 5, "four more");
        assert_eq!(law.look(at(14), (5, 5), 200), 5);
        assert_eq!(law.look(at(15), (5, 5), 200), 10, "or twice as many");
        assert_eq!(law.look(at(30), (10, 10), 10), 10);
        assert_eq!(law.look(at(300), (10, 10), 10), 10);
        assert_eq!(law.look(at(315), (10, 10), 10), 1);
    }
}
