//! Those who wait for a replica, in the order in which they came.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;

/// What the waiting of one service have in hand at most, in bytes of their bodies.
const BYTES_MAX: u64 = 256 << 20;

/// One is called when a replica may be there for it, and the next one when that has found it: who
/// comes later does not come first, and nobody is woken in vain by the hundred.
#[derive(Debug, Default)]
pub(crate) struct Room {
    waiting: BTreeMap<u64, Waiting>,
    /// The number of the last who came.
    last: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Waiting {
    bell: Arc<Notify>,
    bytes: u64,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Waits,
    Called,
}

/// No more may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RoomFull;

impl Room {
    pub fn count(&self) -> usize {
        self.waiting.len()
    }

    /// A number, and what rings when it is called.
    ///
    /// # Errors
    /// If so many wait already, or with so much.
    pub fn enter(&mut self, bytes: u64, count_max: u32) -> Result<(u64, Arc<Notify>), RoomFull> {
        let is_full = self.waiting.len() >= count_max as usize;
        if is_full || self.bytes.saturating_add(bytes) > BYTES_MAX {
            return Err(RoomFull);
        }
        self.last += 1;
        self.bytes += bytes;
        let bell = Arc::new(Notify::new());
        let waiting = Waiting { bell: Arc::clone(&bell), bytes, stage: Stage::Waits };
        self.waiting.insert(self.last, waiting);
        Ok((self.last, bell))
    }

    /// Calls the first who has not been called.
    pub fn call(&mut self) {
        let next = self.waiting.values_mut().find(|waiting| waiting.stage == Stage::Waits);
        if let Some(next) = next {
            next.stage = Stage::Called;
            next.bell.notify_one();
        }
    }

    pub fn call_all(&mut self) {
        for waiting in self.waiting.values_mut() {
            waiting.stage = Stage::Called;
            waiting.bell.notify_one();
        }
    }

    /// Who was called found nobody, and waits on in its place.
    pub fn wait_on(&mut self, number: u64) {
        if let Some(waiting) = self.waiting.get_mut(&number) {
            waiting.stage = Stage::Waits;
        }
    }

    /// Whoever leaves after it was called, with a replica or without, has the next one called.
    pub fn leave(&mut self, number: u64) {
        let Some(left) = self.waiting.remove(&number) else { return };
        self.bytes = self.bytes.saturating_sub(left.bytes);
        if left.stage == Stage::Called {
            self.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those who have been called, by their numbers.
    fn called(room: &Room) -> Vec<u64> {
        let called = room.waiting.iter().filter(|(_, waiting)| waiting.stage == Stage::Called);
        called.map(|(number, _)| *number).collect()
    }

    #[test]
    fn they_are_called_one_after_the_other_in_the_order_in_which_they_came() {
        let mut room = Room::default();
        let numbers = [0; 4].map(|bytes| room.enter(bytes, 10).unwrap().0);
        assert_eq!(called(&room), [0_u64; 0]);
        room.call();
        assert_eq!(called(&room), numbers[..1]);
        // It has found a replica, and there may be another.
        room.leave(numbers[0]);
        assert_eq!(called(&room), numbers[1..2]);
        // It has not: nobody else would.
        room.wait_on(numbers[1]);
        assert_eq!(called(&room), [0_u64; 0]);
        room.call();
        room.call();
        assert_eq!(called(&room), numbers[1..3]);
        // Who goes away passes the call on, if it was called.
        room.leave(numbers[2]);
        assert_eq!(called(&room), [numbers[1], numbers[3]]);
        room.wait_on(numbers[3]);
        room.leave(numbers[3]);
        assert_eq!((called(&room), room.count()), (numbers[1..2].to_vec(), 1));
        room.leave(numbers[1]);
        room.leave(numbers[1]);
        room.call();
        assert_eq!(room.count(), 0);
    }

    #[test]
    fn so_many_wait_and_with_so_much() {
        let mut room = Room::default();
        let first = room.enter(BYTES_MAX - 1, 2).unwrap().0;
        assert_eq!(room.enter(2, 2).unwrap_err(), RoomFull);
        room.enter(1, 2).unwrap();
        assert_eq!(room.enter(0, 2).unwrap_err(), RoomFull);
        room.leave(first);
        room.enter(BYTES_MAX - 1, 2).unwrap();
        assert_eq!(room.enter(0, 0).unwrap_err(), RoomFull);
    }
}
