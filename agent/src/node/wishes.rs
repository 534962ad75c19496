//! Desired state: what is believed, and how it gets to the disk.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use berth_model::{AllocationId, DurationMs, EndCause};
use berth_proto::v1;
use berth_shim::protocol::{LeaseRequest, RequestBody};
use berth_supervise::{AgentMs, Lease, Refusal};
use berth_wire::agent::{Delta, delta_from_proto, full_from_proto};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::Node;
use crate::allocation_dir::FoundRecord;
use crate::clock;
use crate::journal::{Found, Outcome};
use crate::wanted::{
    Specs, Wishes, digest_of, drop_unused, full_of, offer_of_delta, offer_of_full,
};

/// Between two tries to write desired state to a disk that refuses it.
const JOURNAL_RETRY: Duration = Duration::from_secs(1);
/// For how long writing may fail before what waits is given back: within ten seconds the
/// cluster knows that this node takes nothing.
pub const JOURNAL_PATIENCE: Duration = Duration::from_secs(8);

/// A wish on its way to the disk.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// What brings it.
    sequence: u64,
    /// No older form of it can be on the disk.
    is_new: bool,
}

/// How a change of desired state came.
enum Kept {
    Whole,
    Change(Box<Delta>),
}

/// The rows before a change.
struct Before {
    known: BTreeSet<AllocationId>,
    /// On disk, or on their way there, as they are now.
    unchanged: BTreeSet<AllocationId>,
}

impl Node {
    pub(super) fn take_full(&mut self, message: v1::Full) {
        self.full_requested = false;
        match full_from_proto(message) {
            Ok(full) => {
                let offer = offer_of_full(full, &mut self.specs);
                let Some(offer) = offer else {
                    // To ask again would bring the same again.
                    error!("full desired state refers to an unknown specification");
                    return;
                };
                let known = self.known();
                let outcome = self.wishes.take(offer, digest_of);
                self.took(outcome, &Before { known, unchanged: BTreeSet::new() }, Kept::Whole);
            }
            Err(violations) => error!(?violations, "full desired state cannot be read"),
        }
    }

    pub(super) fn take_delta(&mut self, message: v1::Delta) {
        let delta = match delta_from_proto(message) {
            Ok(delta) => delta,
            Err(violations) => {
                warn!(?violations, "change of desired state cannot be read");
                return self.ask_for_full();
            }
        };
        let Some(offer) = offer_of_delta(delta.clone(), &mut self.specs) else {
            warn!("change of desired state refers to an unknown specification");
            return self.ask_for_full();
        };
        let changed: BTreeSet<AllocationId> =
            delta.upserts.iter().map(|row| row.allocation).collect();
        let known = self.known();
        let unchanged = known.difference(&changed).copied().collect();
        let outcome = self.wishes.take(offer, digest_of);
        self.took(outcome, &Before { known, unchanged }, Kept::Change(Box::new(delta)));
    }

    fn known(&self) -> BTreeSet<AllocationId> {
        self.wishes.rows.keys().copied().collect()
    }

    fn took(&mut self, outcome: Result<(), Refusal>, before: &Before, kept: Kept) {
        match outcome {
            Ok(()) => {}
            Err(refusal) if refusal.needs_full() => {
                info!(%refusal, "desired state must be sent whole");
                return self.ask_for_full();
            }
            Err(refusal) => return debug!(%refusal, "old desired state is ignored"),
        }
        for id in self.observed.note_wanted(&self.wishes) {
            self.remember_wanted(id);
        }
        self.adopt_wishes();
        drop_unused(&mut self.specs, &self.wishes);
        let sequence = match kept {
            Kept::Change(delta) if !self.journal.wants_snapshot() => self.journal.append(&delta),
            Kept::Change(_) | Kept::Whole => self.write_snapshot(),
        };
        for id in self.wishes.rows.keys() {
            let begun = self.observed.allocations.contains_key(id);
            if !before.unchanged.contains(id) && !begun {
                let waits = self.pending.get(id);
                let is_new = !before.known.contains(id) || waits.is_some_and(|waits| waits.is_new);
                self.pending.insert(*id, Pending { sequence, is_new });
            }
        }
        self.pending.retain(|id, _| self.wishes.rows.contains_key(id));
        self.observed.not_durable = self.pending.keys().copied().collect();
    }

    fn write_snapshot(&mut self) -> u64 {
        self.journal.replace(&full_of(&self.wishes), &self.settings.boot_id)
    }

    /// What runs is what is wanted: its row is the one to look at.
    fn adopt_wishes(&mut self) {
        for (id, worker) in &mut self.workers {
            if let Some(row) = self.wishes.rows.get(id) {
                worker.wanted = Some(row.payload.clone());
            }
        }
    }

    /// Over a restart its absence from desired state must still mean "stop".
    fn remember_wanted(&self, id: AllocationId) {
        let dir = self.dir_of(id);
        if let FoundRecord::Record(mut record) = dir.record() {
            record.wanted_in = self.wishes.version.incarnation;
            if let Err(error) = dir.write_record(&record) {
                warn!(%id, %error, "allocation record cannot be written");
            }
        }
    }

    pub(super) fn journal_reported(&mut self, (sequence, outcome): Outcome) {
        match outcome {
            Ok(()) => {
                if self.journal_retry_at.take().is_some() {
                    info!("desired state is on disk again");
                }
                self.journal_failing_since = None;
                self.durable_sequence = sequence;
                self.pending.retain(|_, waits| waits.sequence > sequence);
                self.observed.not_durable = self.pending.keys().copied().collect();
            }
            Err(problem) => {
                error!(problem, "desired state cannot be written; nothing new is started");
                let now = Instant::now();
                self.journal_retry_at = Some(now + JOURNAL_RETRY);
                if now - *self.journal_failing_since.get_or_insert(now) >= JOURNAL_PATIENCE {
                    self.give_back_pending(&problem);
                }
            }
        }
    }

    /// Better placed elsewhere than waiting here for a disk that may stay
    /// full. The cluster leaves the node alone for a while then. What might be
    /// begun by the next agent from an older form on the disk stays.
    fn give_back_pending(&mut self, problem: &str) {
        let reason = format!("the node cannot write desired state: {problem}");
        let waiting: Vec<_> = self.pending.iter().map(|(id, waits)| (*id, waits.is_new)).collect();
        for (id, is_new) in waiting {
            if self.observed.allocations.contains_key(&id) {
                continue;
            }
            if is_new || self.remember_unstarted(id, EndCause::HostFault, &reason) {
                self.end_unstarted(id, EndCause::HostFault, reason.clone());
            }
        }
    }

    pub(super) fn retry_journal(&mut self) {
        if self.journal_retry_at.is_some_and(|at| Instant::now() >= at) {
            self.journal_retry_at = Some(Instant::now() + JOURNAL_RETRY);
            let sequence = self.write_snapshot();
            self.pending.values_mut().for_each(|waits| waits.sequence = sequence);
        }
    }

    /// Tells the shims of exclusive work how long it may run now. They end it
    /// then, also when no agent is left to say so.
    pub(super) fn pass_lease_on(&mut self) {
        let Some(AgentMs(ends_at_boot_ms)) = self.observed.lease.exclusive_ends_at() else {
            return;
        };
        for (id, worker) in &mut self.workers {
            if !worker.leased || worker.end.is_some() {
                continue;
            }
            match (&mut worker.request, worker.shim) {
                (Some(request), _) => request.lease_ends_at_boot_ms = Some(ends_at_boot_ms),
                (None, Some(shim)) => {
                    let allocation_id = id.to_string();
                    let request = LeaseRequest { allocation_id, ends_at_boot_ms };
                    self.pool.ask(shim, RequestBody::Lease(request));
                }
                (None, None) => {}
            }
        }
    }

    /// For the next agent on this directory; not synced, as a reboot ends
    /// every worker anyway.
    pub(super) fn keep_lease(&self) {
        let Some((renewed_at, length)) = self.observed.lease.renewal() else { return };
        let text = format!("{} {} {}\n", self.settings.boot_id, renewed_at.0, length.0);
        let path = self.settings.dir.file("lease");
        let temporary = path.with_extension("new");
        let written =
            std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &path));
        if let Err(error) = written {
            debug!(%error, "lease cannot be kept");
        }
    }
}

/// The lease as the last agent kept it during this boot.
pub fn kept_lease(text: &str, boot_id: &str, stop_after: Option<DurationMs>) -> Lease {
    let mut lease = Lease::none(stop_after);
    let mut fields = text.split_whitespace();
    let same_boot = fields.next() == Some(boot_id);
    let mut number = || fields.next()?.parse().ok();
    if let (true, Some(renewed_at), Some(length)) = (same_boot, number(), number()) {
        let renewed_at: AgentMs = AgentMs(renewed_at);
        // A moment to come was written by nobody.
        if renewed_at <= clock::now() {
            lease.renew(renewed_at, DurationMs(length));
        }
    }
    lease
}

/// The desired state that the journal amounts to.
///
/// # Errors
/// An entry is whole and cannot be understood: another release wrote it.
pub fn replay(found: &Found) -> anyhow::Result<(Wishes, Specs)> {
    let (mut wishes, mut specs) = (Wishes::default(), Specs::default());
    for entry in &found.entries {
        let offer = match (&entry.full, &entry.delta) {
            (Some(full), _) => {
                let full = full_from_proto(full.clone());
                let full = full.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
                offer_of_full(full, &mut specs)
            }
            (None, Some(delta)) => {
                let delta = delta_from_proto(delta.clone());
                let delta = delta.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
                offer_of_delta(delta, &mut specs)
            }
            (None, None) => continue,
        };
        let offer = offer.context("a row refers to an unknown specification")?;
        wishes.take(offer, digest_of)?;
    }
    Ok((wishes, specs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_outlives_the_agent_but_not_the_boot() {
        let now = clock::now();
        let text = format!("boot-1 {} 60000\n", now.0);
        assert!(kept_lease(&text, "boot-1", None).holds(now));
        assert!(!kept_lease(&text, "boot-2", None).holds(now));
        assert!(!kept_lease("boot-1", "boot-1", None).holds(now));
        let future = format!("boot-1 {} 60000\n", now.0 + 1_000_000);
        assert!(!kept_lease(&future, "boot-1", None).holds(now));
    }
}
