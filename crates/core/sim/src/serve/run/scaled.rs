//! A fleet of which there are as many as the load asks for.

use berth_routing::SpanUs;

use super::super::engine::Engine;
use super::super::herd::{Beginning, LOOK_EVERY};
use super::{Event, Run};

impl Run<'_> {
    pub(super) fn no_replica(&mut self, index: usize) {
        match &self.herd {
            Some(herd) if herd.ready() == 0 && herd.wait > SpanUs::ZERO => {
                let until = self.now.after(herd.wait);
                self.waiting.insert(index);
                self.tell(until, Event::GivesUp { index });
            }
            Some(_) | None => self.sums.refused += 1,
        }
    }

    /// Looks, until nobody is left to ask anything.
    pub(super) fn scale(&mut self) {
        let requests = self.open.len() + self.between.len() + self.waiting.len();
        let Some(herd) = &mut self.herd else { return };
        let count = herd.look(self.now, u32::try_from(requests).unwrap_or(u32::MAX));
        let beginning = herd.set(count, self.now);
        self.set_members();
        beginning.into_iter().for_each(|one| self.begin(one));
        if self.sums.ended() < self.sums.offered {
            self.tell(self.now.after(LOOK_EVERY), Event::Scales);
        }
    }

    fn begin(&mut self, Beginning { replica, ready_at, turn }: Beginning) {
        // It has nothing in its cache.
        let fresh = Engine::new(self.options.fleet[replica], self.block_tokens);
        let (hit, all) = std::mem::replace(&mut self.replicas[replica].engine, fresh).hit();
        self.hit = (self.hit.0 + hit, self.hit.1 + all);
        self.tell(ready_at, Event::Begins { replica, turn });
    }

    pub(super) fn begins(&mut self, replica: usize, turn: u64) {
        if self.herd.as_mut().is_some_and(|herd| herd.has_begun(replica, turn)) {
            self.set_members();
            let waiting = std::mem::take(&mut self.waiting);
            waiting.into_iter().for_each(|index| self.send(index, 1, Vec::new()));
        }
    }

    pub(super) fn has_one_less(&mut self, replica: usize) {
        let now = self.now;
        let begins = self.herd.as_mut().and_then(|herd| herd.answered(replica, now));
        if let Some(begins) = begins {
            self.begin(begins);
        }
    }
}
