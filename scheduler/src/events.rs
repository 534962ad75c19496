//! The newest events, kept in a bounded ring from which watchers read at their
//! own speed. Who asks for older ones is told to list again.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_model::WallMs;
use berth_state::Event;
use tokio::sync::watch;

/// Events kept: about 30 MB at the most, minutes of a busy cluster.
const EVENTS_MAX: usize = 100_000;

/// Where an event stands: the log index of its entry and its place in it. The
/// same on every scheduler, so a stream can be resumed at another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Token {
    pub index: u64,
    pub position: u32,
}

/// An event with its place and time.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub token: Token,
    pub at: WallMs,
    pub event: Event,
}

/// Why events after a token cannot be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone {
    /// Events after this token are still here.
    pub oldest: Token,
}

/// The ring. The lock guards only pushes and short copies.
pub struct EventRing {
    ring: Mutex<Ring>,
    newest: watch::Sender<Token>,
}

struct Ring {
    events: VecDeque<Recorded>,
    /// Everything up to here is no longer (or never was) in the ring.
    gone: Token,
}

impl EventRing {
    pub fn new() -> EventRing {
        let ring = Ring { events: VecDeque::new(), gone: Token::default() };
        EventRing { ring: Mutex::new(ring), newest: watch::Sender::new(Token::default()) }
    }

    pub fn push(&self, index: u64, at: WallMs, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut last = Token { index, position: 0 };
        let mut ring = self.lock();
        for (position, event) in (0..).zip(events) {
            last = Token { index, position };
            ring.events.push_back(Recorded { token: last, at, event });
        }
        while ring.events.len() > EVENTS_MAX {
            if let Some(old) = ring.events.pop_front() {
                ring.gone = old.token;
            }
        }
        drop(ring);
        self.newest.send_replace(last);
    }

    /// The state came from a snapshot: what led to it is not known here.
    pub fn reset(&self, index: u64) {
        let gone = Token { index, position: u32::MAX };
        let mut ring = self.lock();
        ring.events.clear();
        ring.gone = gone;
        drop(ring);
        self.newest.send_replace(gone);
    }

    /// At most `count_max` events after `after`, which may be `None` for
    /// everything that is still here.
    ///
    /// # Errors
    /// `Gone` where the ring no longer reaches back to `after`.
    pub fn after(&self, after: Option<Token>, count_max: usize) -> Result<Vec<Recorded>, Gone> {
        let ring = self.lock();
        let after = after.unwrap_or(ring.gone);
        if after < ring.gone {
            return Err(Gone { oldest: ring.gone });
        }
        let first = ring.events.partition_point(|recorded| recorded.token <= after);
        Ok(ring.events.iter().skip(first).take(count_max).cloned().collect())
    }

    /// Tells when there is something newer.
    pub fn newest(&self) -> watch::Receiver<Token> {
        self.newest.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // Nothing panics while the lock is held; a poisoned ring is whole.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.index, self.position)
    }
}

impl FromStr for Token {
    type Err = ();

    fn from_str(text: &str) -> Result<Token, ()> {
        let (index, position) = text.split_once('-').ok_or(())?;
        let index = index.parse().map_err(|_| ())?;
        let position = position.parse().map_err(|_| ())?;
        Ok(Token { index, position })
    }
}

#[cfg(test)]
mod tests {
    use berth_state::EventKind;

    use super::*;

    fn event() -> Event {
        Event { job: None, allocation: None, node: None, kind: EventKind::ClusterFounded }
    }

    #[test]
    fn a_stream_is_resumed_without_gap_or_repetition() {
        let ring = EventRing::new();
        ring.push(3, WallMs(1), vec![event(), event()]);
        ring.push(5, WallMs(2), vec![event()]);
        let tokens = |after: Option<&str>| -> Vec<String> {
            let after = after.map(|text| text.parse().unwrap());
            ring.after(after, 10).unwrap().iter().map(|one| one.token.to_string()).collect()
        };
        assert_eq!(tokens(None), ["3-0", "3-1", "5-0"]);
        assert_eq!(tokens(Some("3-0")), ["3-1", "5-0"]);
        assert_eq!(tokens(Some("4-0")), ["5-0"]);
        assert_eq!(tokens(Some("9-0")), Vec::<String>::new());
    }

    #[test]
    fn what_the_ring_no_longer_holds_is_said_to_be_gone() {
        let ring = EventRing::new();
        for index in 1..=(EVENTS_MAX as u64 + 10) {
            ring.push(index, WallMs(0), vec![event()]);
        }
        let old = Token { index: 3, position: 0 };
        assert_eq!(ring.after(Some(old), 1).unwrap_err().oldest, Token { index: 10, position: 0 });
        assert_eq!(ring.after(None, 1).unwrap()[0].token.index, 11);
        ring.reset(500_000);
        assert!(ring.after(Some(Token { index: 400_000, position: 0 }), 1).is_err());
        assert!(ring.after(None, 1).unwrap().is_empty());
    }

    #[test]
    fn a_token_that_was_edited_is_refused() {
        for text in ["", "7", "a-b", "7-", "-7", "1-2-3"] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }
}
