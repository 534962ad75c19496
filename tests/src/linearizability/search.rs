//! The search for an order of the calls that explains every answer.

use std::collections::HashSet;

use super::CallOf;
use super::bitset::{Bitset, Compact};
use super::history::Answer;
use super::model::Model;

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// There is an order.
    Found,
    /// There is none.
    Impossible,
    /// The budget ran out first.
    Exhausted,
}

pub(super) struct SearchResult {
    pub(super) ending: Ending,
    pub(super) steps: u64,
    /// The longest order that was found, as positions in the calls given.
    pub(super) longest: Vec<usize>,
    /// The answer that no configuration got past, as a position in the calls given:
    /// each of them still had to place an answer of that time or before. `None` in
    /// a history without answers.
    pub(super) wall: Option<usize>,
}

/// A call that answered.
struct Known<'a, O, R> {
    position: usize,
    invoked_at: u64,
    returned_at: u64,
    operation: &'a O,
    outcome: &'a R,
}

/// A call that did not.
struct Lost<'a, O> {
    position: usize,
    invoked_at: u64,
    operation: &'a O,
    /// The call before it that asked for the same.
    twin: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Choice {
    Known(usize),
    Lost(usize),
}

/// A configuration on the way, and what may come next in it.
struct Frame<S> {
    state: S,
    arrived_by: Option<Choice>,
    choices: std::vec::IntoIter<Choice>,
}

pub(super) struct Search<'a, M: Model> {
    model: &'a M,
    /// By time of invocation.
    known: Vec<Known<'a, M::Operation, M::Outcome>>,
    /// By time of invocation.
    lost: Vec<Lost<'a, M::Operation>>,
    known_done: Bitset,
    known_done_count: usize,
    lost_done: Bitset,
    /// The latest first return (and whose it is) of any configuration entered.
    wall: Option<(u64, usize)>,
    steps: u64,
}

impl<'a, M: Model> Search<'a, M> {
    pub(super) fn new(model: &'a M, calls: &[&'a CallOf<M>]) -> Self {
        let mut known = Vec::new();
        let mut lost: Vec<Lost<'a, M::Operation>> = Vec::new();
        for (position, call) in calls.iter().enumerate() {
            let (invoked_at, operation) = (call.invoked_at, &call.operation);
            match &call.answer {
                Answer::Returned { at, outcome } => {
                    known.push(Known { position, invoked_at, returned_at: *at, operation, outcome })
                }
                Answer::Unknown => lost.push(Lost { position, invoked_at, operation, twin: None }),
            }
        }
        known.sort_by_key(|call| (call.invoked_at, call.returned_at, call.position));
        lost.sort_by_key(|call| (call.invoked_at, call.position));
        for index in 0..lost.len() {
            let operation = lost[index].operation;
            lost[index].twin =
                lost[..index].iter().rposition(|earlier| earlier.operation == operation);
        }
        Self {
            model,
            known_done: Bitset::new(known.len()),
            known_done_count: 0,
            lost_done: Bitset::new(lost.len()),
            known,
            lost,
            wall: None,
            steps: 0,
        }
    }

    /// Depth first over configurations (which calls are done, what state that
    /// left), each entered once.
    pub(super) fn run(mut self, steps_max: u64) -> SearchResult {
        let mut entered: HashSet<(Compact, Compact, M::State)> = HashSet::new();
        let mut longest = Vec::new();
        let mut longest_known = 0;
        let initial = self.model.initial();
        let mut frames = vec![self.frame(initial, None)];
        let mut ending = Ending::Impossible;
        if self.known.is_empty() {
            ending = Ending::Found;
            frames.clear();
        }
        while let Some(frame) = frames.last_mut() {
            if self.steps > steps_max {
                ending = Ending::Exhausted;
                break;
            }
            let Some(choice) = frame.choices.next() else {
                let left = frames.pop().and_then(|frame| frame.arrived_by);
                left.into_iter().for_each(|choice| self.undo(choice));
                continue;
            };
            let Some(next) = self.take(&frame.state, choice) else { continue };
            self.mark(choice);
            let configuration = (self.known_done.compact(), self.lost_done.compact(), next.clone());
            if !entered.insert(configuration) {
                self.undo(choice);
                continue;
            }
            let frame = self.frame(next, Some(choice));
            frames.push(frame);
            if self.known_done_count > longest_known {
                longest_known = self.known_done_count;
                longest = self.order(&frames);
            }
            if self.known_done_count == self.known.len() {
                ending = Ending::Found;
                break;
            }
        }
        let wall = self.wall.map(|(_, index)| self.known[index].position);
        SearchResult { ending, steps: self.steps, longest, wall }
    }

    fn frame(&mut self, state: M::State, arrived_by: Option<Choice>) -> Frame<M::State> {
        let choices = self.choices(&state).into_iter();
        Frame { state, arrived_by, choices }
    }

    /// The calls that may come next: those begun before the first return among
    /// the calls still to be placed.
    ///
    /// Pruning: an answered call that fits now and only observes is taken at once
    /// and alone. Whatever order places it later also works with it moved here,
    /// since it changes nothing there and nothing here.
    fn choices(&mut self, state: &M::State) -> Vec<Choice> {
        let mut choices = Vec::new();
        let mut first_return = u64::MAX;
        let mut first_to_return = None;
        for index in self.known_done.first_absent()..self.known.len() {
            let call = &self.known[index];
            // Later calls begin later still, so none of them returns earlier.
            if call.invoked_at > first_return {
                break;
            }
            if self.known_done.contains(index) {
                continue;
            }
            if call.returned_at < first_return || first_to_return.is_none() {
                first_return = call.returned_at;
                first_to_return = Some((first_return, index));
            }
            choices.push(Choice::Known(index));
        }
        self.wall = self.wall.max(first_to_return);
        for choice in &choices {
            if self.only_observes(state, *choice) {
                return vec![*choice];
            }
        }
        choices.retain(|choice| match choice {
            Choice::Known(index) => !self.has_earlier_like(*index, first_return),
            Choice::Lost(_) => true,
        });
        // Answered calls first: most lost ones never took effect.
        for index in 0..self.lost.len() {
            if self.lost[index].invoked_at > first_return {
                break;
            }
            if self.may_use_lost(index) {
                choices.push(Choice::Lost(index));
            }
        }
        choices
    }

    /// Pruning: of answered calls that may come next, asked the same and were
    /// answered the same, the one that returned first goes first. In an order with
    /// the other one first the two can change places: the other may stand wherever
    /// this one may, since it returned no earlier, and this one may stand here.
    fn has_earlier_like(&self, index: usize, first_return: u64) -> bool {
        let call = &self.known[index];
        let range = self.known_done.first_absent()..self.known.len();
        range
            .map(|other_index| (other_index, &self.known[other_index]))
            .take_while(|(_, other)| other.invoked_at <= first_return)
            .filter(|(other_index, _)| !self.known_done.contains(*other_index))
            .any(|(other_index, other)| {
                (other.returned_at, other_index) < (call.returned_at, index)
                    && other.operation == call.operation
                    && other.outcome == call.outcome
            })
    }

    fn only_observes(&mut self, state: &M::State, choice: Choice) -> bool {
        match choice {
            Choice::Known(index) => {
                let (operation, outcome) = (self.known[index].operation, self.known[index].outcome);
                self.model.only_observes(state, operation, outcome)
                    && self.take(state, choice).is_some()
            }
            Choice::Lost(_) => false,
        }
    }

    /// Pruning: of lost calls that ask for the same, the earlier one goes first.
    /// It may be used whenever the later one may, to the same effect.
    fn may_use_lost(&self, index: usize) -> bool {
        let twin_used = self.lost[index].twin.is_none_or(|twin| self.lost_done.contains(twin));
        !self.lost_done.contains(index) && twin_used
    }

    /// The state after `choice`, if it fits.
    ///
    /// Pruning: a lost call that changes nothing is never used, since leaving it
    /// out is allowed and leaves more room.
    fn take(&mut self, state: &M::State, choice: Choice) -> Option<M::State> {
        self.steps += 1;
        match choice {
            Choice::Known(index) => {
                let call = &self.known[index];
                self.model.step(state, call.operation, Some(call.outcome))
            }
            Choice::Lost(index) => {
                let next = self.model.step(state, self.lost[index].operation, None);
                next.filter(|next| next != state)
            }
        }
    }

    fn mark(&mut self, choice: Choice) {
        match choice {
            Choice::Known(index) => {
                self.known_done.insert(index);
                self.known_done_count += 1;
            }
            Choice::Lost(index) => self.lost_done.insert(index),
        }
    }

    fn undo(&mut self, choice: Choice) {
        match choice {
            Choice::Known(index) => {
                self.known_done.remove(index);
                self.known_done_count -= 1;
            }
            Choice::Lost(index) => self.lost_done.remove(index),
        }
    }

    fn order(&self, frames: &[Frame<M::State>]) -> Vec<usize> {
        let position = |choice: Choice| match choice {
            Choice::Known(index) => self.known[index].position,
            Choice::Lost(index) => self.lost[index].position,
        };
        frames.iter().filter_map(|frame| frame.arrived_by).map(position).collect()
    }
}
