//! The order of one pass: the queue's, and where several namespaces wait, the next of whichever
//! stands first by its share, a few instances at a time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use berth_model::Name;
use berth_state::QueueKey;

use super::Run;
use super::rounds::Round;
use crate::fair::Shares;

/// Instances that a task is given before it is asked again whose turn it is: few, so that shares
/// meet what they should be, and some, since each turn begins with a look at the task.
const TURN_INSTANCES: usize = 8;

/// Whether a task has more to be looked at in the same pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Next {
    #[default]
    Done,
    More,
}

impl<'a> Run<'_, 'a> {
    /// Namespaces take turns, and what has waited for long has places kept for it. Where some jobs
    /// alone are planned there are too few tasks of each for it to be worth what it costs to know
    /// all shares, and others may have waited for longer.
    pub fn for_all(mut self) -> Self {
        self.in_turns = true;
        self.patience.keeps = !self.meter.keeps_nothing();
        self
    }

    pub(super) fn pass(&mut self, tasks: impl Iterator<Item = QueueKey>) {
        if !self.in_turns || !self.view.has_rivals() {
            return self.in_order(tasks);
        }
        let mut lines: BTreeMap<&'a Name, VecDeque<QueueKey>> = BTreeMap::new();
        for key in tasks {
            let Some(job) = self.view.jobs().get(&key.job) else { continue };
            lines.entry(job.namespace()).or_default().push_back(key);
        }
        // What a first round hands out counts in the second, whoever waits in it.
        if lines.len() <= 1 && self.round == Round::Only {
            return self.in_order(lines.into_values().flatten());
        }
        self.turn_instances = if lines.len() > 1 { TURN_INSTANCES } else { usize::MAX };
        self.shares.get_or_insert_with(|| Shares::of(self.view));
        let mut heads = BinaryHeap::with_capacity(lines.len());
        let firsts: Vec<(&Name, QueueKey)> =
            lines.iter().filter_map(|(name, line)| Some((*name, *line.front()?))).collect();
        firsts.into_iter().for_each(|(name, key)| heads.push(self.head(name, key)));
        while let Some(Reverse((_, key, name))) = heads.pop() {
            if self.meter.exhausted || !self.meter.spend() {
                break;
            }
            let Some(line) = lines.get_mut(name) else { continue };
            if self.visit(key) == Next::Done {
                line.pop_front();
            }
            if let Some(next) = line.front().copied() {
                heads.push(self.head(name, next));
            }
        }
    }

    fn in_order(&mut self, tasks: impl Iterator<Item = QueueKey>) {
        for key in tasks {
            if self.meter.exhausted || !self.meter.spend() {
                break;
            }
            self.visit(key);
        }
    }

    fn head(&self, name: &'a Name, key: QueueKey) -> Reverse<(i64, QueueKey, &'a Name)> {
        let behind = self.shares.as_ref().map_or(0, |shares| shares.behind_ms(name));
        Reverse((key.virtual_submit_ms.saturating_add(behind), key, name))
    }
}
