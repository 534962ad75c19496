//! How a tree is ended: a signal, a grace, then SIGKILL to everything again and again until nothing is left. It
//! refuses to give up: what does not die is reported and asked again every second.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Change;
use crate::process::Stat;
use crate::protocol::StopSettings;
use crate::server::requests::named_signal;
use crate::server::tree::Tree;

const GRACE_MS: u64 = 30_000;
const LEFTOVER_GRACE_MS: u64 = 2_000;
const UNKILLABLE_AFTER_MS: u64 = 3_000;
/// A grace above this is no grace but a mistake, and `Instant` arithmetic stays in range.
const GRACE_MS_MAX: u64 = 30 * 86_400_000;
/// Between two looks at a tree that is being ended: quick at first, since most trees are gone at once.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(250);
const UNKILLABLE_PAUSE: Duration = Duration::from_secs(1);
/// Survivors named in a state.
const SURVIVING_MAX: usize = 64;

/// The stop settings with their defaults filled in.
#[derive(Debug)]
pub(super) struct StopPlan {
    pub(super) signal: Signal,
    pub(super) grace: Duration,
    leftover_grace: Duration,
    unkillable_after: Duration,
}

impl StopPlan {
    pub(super) fn new(settings: StopSettings) -> Self {
        let duration = |value: Option<u64>, default| {
            Duration::from_millis(value.unwrap_or(default).min(GRACE_MS_MAX))
        };
        Self {
            signal: settings
                .signal
                .and_then(|number| named_signal(number).ok())
                .unwrap_or(Signal::TERM),
            grace: duration(settings.grace_ms, GRACE_MS),
            leftover_grace: duration(settings.leftover_grace_ms, LEFTOVER_GRACE_MS),
            unkillable_after: duration(settings.unkillable_after_ms, UNKILLABLE_AFTER_MS),
        }
    }
}

/// How far the end of a tree has come.
#[derive(Debug)]
pub(super) enum Ending {
    NotAsked,
    /// Signalled; `look_at` is set once the main process is gone, when only a look tells whether strangers are left.
    Grace {
        until: Instant,
        look_at: Option<Look>,
    },
    Killing {
        since: Instant,
        look: Look,
        killed_count: usize,
        surviving: Vec<Stat>,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    at: Instant,
    pause: Duration,
}

impl Look {
    fn first(now: Instant) -> Self {
        Self { at: now, pause: PAUSE_MIN }
    }

    fn next(self, now: Instant, pause_max: Duration) -> Self {
        Self { at: now + self.pause, pause: (self.pause * 2).min(pause_max) }
    }
}

impl Ending {
    /// Signals the tree; SIGKILL follows after `grace`, or after what is left of an earlier one if that is less.
    pub(super) fn stop(&mut self, tree: &Tree, signal: Signal, grace: Duration, now: Instant) {
        let wanted = now + grace.min(Duration::from_millis(GRACE_MS_MAX));
        match self {
            Self::NotAsked => *self = Self::Grace { until: wanted, look_at: None },
            Self::Grace { until, .. } => *until = wanted.min(*until),
            Self::Killing { .. } => return,
        }
        signal_and_continue(tree, signal);
    }

    /// The main process has ended and something is left. If nobody asked for that, what is left is asked to end.
    pub(super) fn main_ended(&mut self, tree: &Tree, plan: &StopPlan, now: Instant) {
        match self {
            Self::NotAsked => {
                *self = Self::Grace {
                    until: now + plan.leftover_grace,
                    look_at: Some(Look::first(now)),
                };
                signal_and_continue(tree, Signal::TERM);
            }
            Self::Grace { look_at, .. } => *look_at = Some(Look::first(now)),
            Self::Killing { .. } => {}
        }
    }

    /// Does what is due. `Change::Phase` when the tree turns out not to be killable.
    pub(super) fn press(&mut self, tree: &Tree, plan: &StopPlan, now: Instant) -> Change {
        if let Self::Grace { until, look_at } = self {
            if now < *until {
                if let Some(look) = look_at.as_mut().filter(|look| now >= look.at) {
                    *look = look.next(now, PAUSE_MAX);
                }
                return Change::None;
            }
            *self = Self::Killing {
                since: now,
                look: Look::first(now),
                killed_count: 0,
                surviving: Vec::new(),
            };
        }
        let Self::Killing { since, look, killed_count, surviving } = self else {
            return Change::None;
        };
        if now < look.at {
            return Change::None;
        }
        *killed_count += tree.kill().unwrap_or_else(|error| {
            crate::server::log_trouble(format_args!("cannot kill the tree: {error}"));
            0
        });
        if now.duration_since(*since) < plan.unkillable_after {
            // Look again no later than when the patience ends.
            *look = look.next(now, PAUSE_MAX);
            look.at = look.at.min(*since + plan.unkillable_after);
            return Change::None;
        }
        *look = look.next(now, UNKILLABLE_PAUSE);
        let was_known = !surviving.is_empty();
        *surviving = tree.members().unwrap_or_default();
        surviving.truncate(SURVIVING_MAX);
        if was_known || surviving.is_empty() { Change::None } else { Change::Phase }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self {
            Self::NotAsked => None,
            Self::Grace { until, look_at } => {
                Some(look_at.map_or(*until, |look| look.at.min(*until)))
            }
            Self::Killing { look, .. } => Some(look.at),
        }
    }

    /// SIGKILL was sent to somebody.
    pub(super) fn has_killed(&self) -> bool {
        matches!(self, Self::Killing { killed_count, .. } if *killed_count > 0)
    }

    /// Who is left although SIGKILL was sent and the patience has passed.
    pub(super) fn surviving(&self) -> &[Stat] {
        match self {
            Self::NotAsked | Self::Grace { .. } => &[],
            Self::Killing { surviving, .. } => surviving,
        }
    }
}

/// A stopped process could not act on the signal, so it is also continued.
fn signal_and_continue(tree: &Tree, signal: Signal) {
    for signal in [signal, Signal::CONT] {
        if let Err(error) = tree.signal(signal) {
            crate::server::log_trouble(format_args!("cannot signal the tree: {error}"));
        }
    }
}
