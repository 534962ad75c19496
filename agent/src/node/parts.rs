//! GPUs that are cut up and made whole again while workers go on: a device that is gone lives on
//! under what is offered in its place, for as long as somebody holds it.

use std::collections::BTreeSet;

use tracing::warn;

use super::Node;
use crate::clock;
use crate::gpus::PART;

impl Node {
    /// What lies over a device that a worker here holds, and is another: a GPU that was cut up
    /// when the worker began and is whole now, or the other way round.
    pub(super) fn overlapping(&self) -> impl Iterator<Item = &str> {
        self.claims_here().flat_map(|claim| {
            let uuid = claim.uuid.as_str();
            let whole = self.whole_of(uuid).filter(|whole| *whole != uuid);
            let may_be_any = self.whole_of(uuid).is_none() && uuid.starts_with(PART);
            let any = may_be_any.then(|| self.gpus.wholes()).into_iter().flatten();
            whole.into_iter().chain(self.gpus.parts(uuid)).chain(any)
        })
    }

    /// One that is in MIG mode and offers nothing would be missed without a word.
    pub(super) fn tell_of_bare(&mut self) {
        let now: BTreeSet<String> = self.gpus.bare().map(str::to_owned).collect();
        for uuid in now.difference(&self.guard.bare) {
            warn!(uuid, "GPU is in MIG mode and has no slice that can be offered");
        }
        self.guard.bare = now;
    }

    /// The GPU that a device is, or is a part of, or was as long as a worker holds it.
    pub(super) fn whole_of(&self, uuid: &str) -> Option<&str> {
        let before = || self.guard.wholes.get(uuid).map(String::as_str);
        self.gpus.whole(uuid).or_else(before)
    }

    /// As which devices that what one was is offered now.
    pub(super) fn offered_of<'a>(&'a self, uuid: &'a str) -> Vec<&'a str> {
        match self.whole_of(uuid) {
            Some(whole) if whole == uuid && self.gpus.is_cut(uuid) => {
                self.gpus.parts(uuid).collect()
            }
            Some(whole) if self.gpus.whole(uuid).is_none() && !self.gpus.is_cut(whole) => {
                vec![whole]
            }
            Some(_) | None => vec![uuid],
        }
    }

    /// Learns of which GPU each part is, and forgets parts that are gone and held by nobody.
    /// What was not seen free of one is to be seen free of what it is offered as now.
    pub(super) fn keep_wholes(&mut self) {
        let now = self.gpus.all_parts().map(|(part, whole)| (part.to_owned(), whole.to_owned()));
        let now: Vec<(String, String)> = now.collect();
        self.guard.wholes.extend(now);
        let claimed: BTreeSet<&str> = self.claims_here().map(|claim| claim.uuid.as_str()).collect();
        let is_gone = |uuid: &str| {
            uuid.starts_with(PART) && self.gpus.is_cut_away(uuid) && !claimed.contains(uuid)
        };
        let known = self.guard.releases.keys().chain(self.guard.gpus.keys());
        let known = known.chain(self.guard.wholes.keys());
        let gone: BTreeSet<String> = known.filter(|uuid| is_gone(uuid)).cloned().collect();
        for uuid in gone {
            let offered = self.offered_of(&uuid).into_iter().map(str::to_owned).next();
            let unfree = self.guard.releases.remove(&uuid).is_some_and(|last| !last.is_free());
            if let Some(offered) = offered.filter(|offered| unfree && *offered != uuid) {
                self.guard.releases.entry(offered).or_default().left(clock::now());
            }
            self.guard.wholes.remove(&uuid);
            self.guard.gpus.remove(&uuid);
        }
    }
}
