//! Which of the waiting tasks a plan must look at. Those that were found to
//! have no place get none until something makes room, so a stream of submits
//! behind a long queue costs no look at the whole queue for each.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_model::JobId;
pub use berth_state::decision::Scope;

/// More new jobs than this are no fewer than everything.
const NEW_MAX: usize = 10_000;

/// What is known of the queue.
#[derive(Default)]
pub struct Backlog(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Counts what made room, or might have.
    room: u64,
    /// Up to which count everything that waits, the new jobs aside, is known
    /// to have no place.
    settled: Option<u64>,
    /// Jobs that no plan has looked at.
    new: BTreeSet<JobId>,
}

/// A plan under way. The view that it plans on must be taken after it began.
#[derive(Debug)]
pub struct Look {
    room: u64,
    pub scope: Scope,
}

impl Backlog {
    /// Something is free that was not, or due, or not known any more.
    pub fn made_room(&self) {
        self.known().room += 1;
    }

    /// Jobs that came, or came anew, without making room.
    pub fn add(&self, jobs: impl IntoIterator<Item = JobId>) {
        let mut known = self.known();
        known.new.extend(jobs);
        if known.new.len() > NEW_MAX {
            known.new.clear();
            known.room += 1;
        }
    }

    /// Whether only what comes now can have a place.
    pub fn is_settled(&self) -> bool {
        let known = self.known();
        known.settled == Some(known.room) && known.new.is_empty()
    }

    /// Everything that waits was looked at and has no place.
    pub fn settle(&self) {
        let mut known = self.known();
        known.settled = Some(known.room);
    }

    pub fn begin(&self) -> Look {
        let mut known = self.known();
        let new = std::mem::take(&mut known.new);
        let scope = if known.settled == Some(known.room) {
            Scope::Jobs(new.into_iter().collect())
        } else {
            Scope::Everything
        };
        Look { room: known.room, scope }
    }

    /// What `look` saw has no place, as far as it is not placed.
    pub fn end(&self, look: &Look) {
        if look.scope == Scope::Everything {
            self.known().settled = Some(look.room);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_looked_at_until_there_is_room() {
        let backlog = Backlog::default();
        let first = backlog.begin();
        assert_eq!(first.scope, Scope::Everything, "a new leader knows nothing");
        backlog.add([JobId(1)]);
        assert!(!backlog.is_settled());
        backlog.end(&first);
        assert!(!backlog.is_settled(), "the job came after the look had begun");
        let second = backlog.begin();
        assert_eq!(second.scope, Scope::Jobs(vec![JobId(1)]));
        backlog.end(&second);
        assert!(backlog.is_settled());
        backlog.made_room();
        assert_eq!(backlog.begin().scope, Scope::Everything);
    }

    #[test]
    fn room_that_comes_during_a_look_is_not_missed() {
        let backlog = Backlog::default();
        let look = backlog.begin();
        backlog.made_room();
        backlog.end(&look);
        assert!(!backlog.is_settled());
        assert_eq!(backlog.begin().scope, Scope::Everything);
        backlog.settle();
        let look = backlog.begin();
        backlog.made_room();
        backlog.end(&look);
        assert!(!backlog.is_settled(), "a look at a few jobs settles nothing else");
    }

    #[test]
    fn too_many_new_jobs_are_everything() {
        let backlog = Backlog::default();
        backlog.settle();
        backlog.add((0..=NEW_MAX as u64).map(JobId));
        assert_eq!(backlog.begin().scope, Scope::Everything);
    }
}
