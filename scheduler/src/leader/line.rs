//! Who is next into the log. Wishes stand in lanes, a lane for the submits of
//! each namespace and one for everything else, and lanes take turns: whoever
//! submits much waits for itself alone. Turns are equal in what they put into the
//! log, however it is cut into wishes (deficit round robin: Shreedhar and
//! Varghese, SIGCOMM 1995).

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use berth_model::Name;
use berth_state::Command;

use super::batch::Wish;

/// What a lane may put into the log in a turn: a quarter of an entry.
const QUANTUM: usize = 64;
/// So many bytes cost as much as a command, so that an entry that is full by its
/// bytes costs as much as one that is full by its commands.
const BYTES_OF_COMMAND: usize = 208;

/// The submits of a namespace, or everything else.
type LaneKey = Option<Name>;

#[derive(Default)]
struct Lane {
    /// Never empty.
    wishes: VecDeque<Wish>,
    /// What it may still put into the log. A lane that is empty saves up nothing.
    credit: usize,
}

/// Wishes that wait.
#[derive(Default)]
pub struct Line {
    lanes: BTreeMap<LaneKey, Lane>,
    /// Whose turn was last.
    last: LaneKey,
    /// Whose turn ended for want of room: it goes on in the next entry.
    interrupted: Option<LaneKey>,
    len: usize,
}

/// What one entry holds.
#[derive(Clone, Copy)]
pub struct Room {
    pub commands: usize,
    pub bytes: usize,
}

impl Line {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, wish: Wish) {
        self.lanes.entry(lane_of(&wish)).or_default().wishes.push_back(wish);
        self.len += 1;
    }

    /// The wishes of the next entry, at least one if any waits: lanes have their
    /// turns until the next wish has no room.
    pub fn next_entry(&mut self, mut room: Room) -> Vec<Wish> {
        let mut taken: Vec<Wish> = Vec::new();
        while let Some(key) = self.begin_turn() {
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            while let Some(wish) = lane.wishes.front() {
                let (commands, bytes, cost) = (wish.commands.len(), wish.bytes, cost(wish));
                if cost > lane.credit {
                    break;
                }
                if !taken.is_empty() && (commands > room.commands || bytes > room.bytes) {
                    self.interrupted = Some(key);
                    return taken;
                }
                lane.credit -= cost;
                room.commands = room.commands.saturating_sub(commands);
                room.bytes = room.bytes.saturating_sub(bytes);
                self.len -= 1;
                taken.extend(lane.wishes.pop_front());
            }
            if lane.wishes.is_empty() {
                self.lanes.remove(&key);
            }
            self.last = key;
        }
        taken
    }

    /// Everybody, in no order that matters.
    pub fn drain(&mut self) -> impl Iterator<Item = Wish> {
        self.len = 0;
        self.interrupted = None;
        std::mem::take(&mut self.lanes).into_values().flat_map(|lane| lane.wishes)
    }

    /// Whose turn it is, with what a turn is worth.
    fn begin_turn(&mut self) -> Option<LaneKey> {
        if let Some(key) = self.interrupted.take() {
            return Some(key);
        }
        let after = (Bound::Excluded(&self.last), Bound::Unbounded);
        let next = self.lanes.range::<LaneKey, _>(after).next().map(|(key, _)| key.clone());
        let key = next.or_else(|| self.lanes.keys().next().cloned())?;
        self.lanes.get_mut(&key)?.credit += QUANTUM;
        Some(key)
    }
}

fn cost(wish: &Wish) -> usize {
    wish.commands.len().max(wish.bytes.div_ceil(BYTES_OF_COMMAND)).max(1)
}

fn lane_of(wish: &Wish) -> LaneKey {
    match wish.commands.first() {
        Some(Command::Submit(submit)) => Some(submit.spec.namespace.clone()),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use berth_model::{Constraints, JobKind, JobSpec, Policy, SpecDigest};
    use berth_state::SubmitJob;
    use tokio::sync::oneshot;

    use super::*;

    const ROOM: Room = Room { commands: 256, bytes: 52_000 };

    fn wish(commands: Vec<Command>, bytes: usize) -> Wish {
        Wish { commands, bytes, answer: oneshot::channel().0 }
    }

    /// Submits of so many jobs, `bytes` long in all.
    fn submits(namespace: &str, count: usize, bytes: usize) -> Wish {
        let name = |text: &str| Name::new(text).unwrap();
        let spec = Arc::new(JobSpec {
            name: name("job"),
            namespace: name(namespace),
            kind: JobKind::Batch,
            priority: JobSpec::PRIORITY_DEFAULT,
            policy: Policy::LeastLoaded,
            constraints: Constraints::default(),
            tasks: Vec::new(),
            deadline: None,
            max_disconnect: JobSpec::MAX_DISCONNECT_DEFAULT,
            on_return: Default::default(),
            policy_origin: Default::default(),
            update: Default::default(),
            exclusive: false,
            preemption: berth_model::Preemption::default(),
            route: berth_model::Route::default(),
            autoscale: None,
        });
        let digest = SpecDigest([0; 32]);
        let one = SubmitJob { key: None, spec, digest, if_version: None };
        wish(vec![Command::Submit(one); count], bytes)
    }

    /// Commands of the next entry, by lane; `-` is for what is no submit.
    fn next(line: &mut Line) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for wish in line.next_entry(ROOM) {
            let lane = lane_of(&wish).map_or("-".to_owned(), |name| name.to_string());
            *found.entry(lane).or_default() += wish.commands.len();
        }
        found
    }

    fn check(line: &mut Line, expected: &[(&str, usize)]) {
        let expected = expected.iter().map(|(lane, count)| ((*lane).to_owned(), *count)).collect();
        assert_eq!(next(line), expected);
    }

    #[test]
    fn who_submits_much_waits_for_itself_alone() {
        let mut line = Line::default();
        for _ in 0..20 {
            line.push(submits("flood", 64, 1_000));
        }
        line.push(submits("other", 1, 100));
        for _ in 0..200 {
            line.push(wish(vec![Command::StopAwaiting], 50));
        }
        // Each has its turn, and a turn is worth the same.
        check(&mut line, &[("-", 127), ("flood", 128), ("other", 1)]);
        line.push(submits("other", 1, 100));
        check(&mut line, &[("-", 73), ("flood", 128), ("other", 1)]);
        check(&mut line, &[("flood", 256)]);
    }

    #[test]
    fn an_entry_is_filled_to_its_bounds_and_a_turn_goes_on_in_the_next() {
        let mut line = Line::default();
        for _ in 0..3 {
            line.push(submits("a", 1, 20_000));
            line.push(submits("b", 1, 20_000));
        }
        check(&mut line, &[("a", 1), ("b", 1)]);
        check(&mut line, &[("a", 1), ("b", 1)]);
        // Alone it may be longer than there is room.
        line.push(submits("c", 300, 80_000));
        let mut left = BTreeMap::new();
        while !line.is_empty() {
            for (lane, count) in next(&mut line) {
                *left.entry(lane).or_insert(0) += count;
            }
        }
        let expected = [("a".to_owned(), 1), ("b".to_owned(), 1), ("c".to_owned(), 300)];
        assert_eq!(left, BTreeMap::from(expected));
    }

    #[test]
    fn a_lane_keeps_its_order_and_nobody_is_forgotten() {
        let mut line = Line::default();
        for number in 0..400 {
            line.push(submits(["a", "b", "c"][number % 3], 1, 200 + number));
        }
        let mut seen: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        while !line.is_empty() {
            let wishes = line.next_entry(ROOM);
            assert!(!wishes.is_empty());
            for wish in wishes {
                let lane = lane_of(&wish).unwrap().to_string();
                seen.entry(lane).or_default().push(wish.bytes);
            }
        }
        assert_eq!(seen.values().map(Vec::len).sum::<usize>(), 400);
        assert!(seen.values().all(|bytes| bytes.is_sorted()));
        line.push(submits("a", 1, 1));
        assert_eq!((line.drain().count(), line.len()), (1, 0));
    }
}
