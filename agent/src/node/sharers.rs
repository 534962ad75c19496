//! Workers that share a GPU: each look at its memory says who uses what. A worker that uses
//! more than it was given is ended, and a part that was left is given on when what is used is
//! theirs who go on.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, DeviceClaim, EndCause, EndReport, MemoryBytes};
use berth_supervise::gpu::{Blind, Overuse, Owner, Process, SharedGpu, over_share};
use berth_supervise::{AgentMs, Worker};
use tracing::{info, warn};

use super::{Event, Node};
use crate::clock;
use crate::docker;
use crate::gpus::MemoryLook;
use crate::owners::{Sign, owners};

/// Why a worker was ended, in its allocation's directory.
const FILE: &str = "over-share";

/// What is known of GPUs that workers share.
#[derive(Default)]
pub struct Sharers {
    /// Of a look it is being found out whose the processes are; another waits for the next.
    under_way: bool,
    /// The last look that was taken.
    looks: u64,
    /// By allocation and GPU.
    overuse: BTreeMap<(AllocationId, String), Overuse>,
    /// Why nobody can say who uses what, by GPU; of the last look, and of two in a row: whose
    /// process ends meanwhile is not seen any more.
    suspected: BTreeMap<String, Blind>,
    blind: BTreeMap<String, Blind>,
}

/// What one look shows of the GPUs that are shared, by uuid; not of those that do not answer.
pub struct SharedLook {
    at: AgentMs,
    gpus: BTreeMap<String, SharedGpu>,
}

impl Sharers {
    /// Why nobody is watched on a GPU, if it is shared and that is so.
    pub fn blind(&self, uuid: &str) -> Option<Blind> {
        self.blind.get(uuid).copied()
    }
}

impl Node {
    /// Takes a new look at the GPUs that are shared. Whose processes are on them is found out
    /// beside the loop.
    pub(super) fn look_at_sharers(&mut self) {
        if self.sharers.under_way || self.sharers.looks == self.gpus.looks {
            return;
        }
        self.sharers.looks = self.gpus.looks;
        let claims = self.shared_claims();
        if claims.is_empty() {
            self.sharers = Sharers { looks: self.gpus.looks, ..Sharers::default() };
            return;
        }
        let told: BTreeMap<String, (MemoryLook, BTreeMap<AllocationId, MemoryBytes>)> = claims
            .into_iter()
            .filter_map(|(uuid, claims)| {
                Some((uuid.clone(), (self.gpus.memory_by(&uuid)?, claims)))
            })
            .collect();
        let sharing: BTreeSet<AllocationId> =
            told.values().flat_map(|(_, claims)| claims.keys().copied()).collect();
        let signs = sharing.into_iter().map(|id| (id, self.sign_of(id))).collect();
        let baseline = |uuid: &String| {
            self.guard.releases.get(uuid).and_then(|release| release.baseline_bytes()).unwrap_or(0)
        };
        let baselines: BTreeMap<String, u64> =
            told.keys().map(|uuid| (uuid.clone(), baseline(uuid))).collect();
        let (at, events) = (clock::now(), self.events.clone());
        let allocations = self.settings.dir.allocations();
        self.sharers.under_way = true;
        tokio::task::spawn_blocking(move || {
            let named = told.values().flat_map(|(look, _)| look.processes.iter().flatten());
            let pids: BTreeSet<u32> = named.map(|(pid, _)| *pid).collect();
            let owners = owners(&pids, &signs, &allocations);
            let process = |(pid, memory_bytes): (u32, Option<u64>)| Process {
                owner: owners.get(&pid).copied().unwrap_or(Owner::Unseen),
                memory_bytes,
            };
            let gpus = told.into_iter().map(|(uuid, (look, claims))| {
                let baseline_bytes = baselines.get(&uuid).copied().unwrap_or(0);
                let processes = look.processes.map(|all| all.into_iter().map(process).collect());
                let used_bytes = look.used_bytes;
                (uuid, SharedGpu { used_bytes, baseline_bytes, processes, claims })
            });
            let look = SharedLook { at, gpus: gpus.collect() };
            // The agent may be ending.
            let _ = events.send(Event::Sharers(look));
        });
    }

    /// What each worker on a shared GPU was given of its memory; by uuid.
    fn shared_claims(&self) -> BTreeMap<String, BTreeMap<AllocationId, MemoryBytes>> {
        let mut shared: BTreeMap<String, BTreeMap<AllocationId, MemoryBytes>> = BTreeMap::new();
        for (id, worker) in self.workers_here() {
            let claims = worker.devices().into_iter().flatten();
            for claim in claims.filter(|claim| claim.share.is_part()) {
                shared.entry(claim.uuid.clone()).or_default().insert(*id, claim.memory);
            }
        }
        shared
    }

    /// By what the processes of a worker are known.
    fn sign_of(&self, id: AllocationId) -> Sign {
        if let Some(container) = docker::id_of(self.dir_of(id).path()) {
            return Sign::Container(container);
        }
        match self.mark_of(id).cgroup_dirs {
            dirs if dirs.is_empty() => Sign::Environment,
            dirs => Sign::Cgroups(dirs),
        }
    }

    /// It is known who uses what.
    pub(super) fn sharers_seen(&mut self, look: SharedLook) {
        self.sharers.under_way = false;
        let shared = self.shared_claims();
        self.sharers.blind.retain(|uuid, _| shared.contains_key(uuid));
        self.sharers.suspected.retain(|uuid, _| shared.contains_key(uuid));
        let goes_on = |id: AllocationId, uuid: &str| {
            shared.get(uuid).is_some_and(|claims| claims.contains_key(&id))
        };
        self.sharers.overuse.retain(|(id, uuid), _| goes_on(*id, uuid));
        for (uuid, mut gpu) in look.gpus {
            // What one has left meanwhile is nobody's.
            gpu.claims.retain(|id, _| goes_on(*id, &uuid));
            if gpu.claims.is_empty() {
                continue;
            }
            if let Some(release) = self.guard.releases.get_mut(&uuid) {
                release.looked_beside(gpu.used_bytes, gpu.explained_bytes());
            }
            self.note_blindness(&uuid, gpu.blind());
            self.end_those_over(&uuid, &gpu, look.at);
        }
        self.after_guarding();
    }

    fn note_blindness(&mut self, uuid: &str, blind: Option<Blind>) {
        let Some(blind) = blind else {
            self.sharers.suspected.remove(uuid);
            if self.sharers.blind.remove(uuid).is_some() {
                info!(uuid, "who uses how much of a shared GPU is known again");
            }
            return;
        };
        let before = self.sharers.suspected.insert(uuid.to_owned(), blind);
        if before == Some(blind) && self.sharers.blind(uuid) != Some(blind) {
            let reason = blind.reason();
            info!(uuid, reason, "who uses how much of a shared GPU is not known");
            self.sharers.blind.insert(uuid.to_owned(), blind);
        }
    }

    /// Ends those that use more of a GPU than they were given, and nobody else.
    fn end_those_over(&mut self, uuid: &str, gpu: &SharedGpu, at: AgentMs) {
        let uses = gpu.uses();
        for (id, claim) in &gpu.claims {
            let used = uses.get(id).copied();
            let overuse = self.sharers.overuse.entry((*id, uuid.to_owned())).or_default();
            let is_over = overuse.looked(used, *claim, at);
            let worker = self.observed.allocations.get(id).map(|seen| seen.worker);
            if let (true, Some(used), Some(Worker::Launching | Worker::Running)) =
                (is_over, used, worker)
            {
                self.end_for_memory(*id, over_share(used, uuid, *claim));
            }
        }
    }

    /// The end of a worker that was ended for its use of a GPU's memory is its own fault, whatever
    /// it did when it was asked to end.
    pub(super) fn with_overuse(&self, id: AllocationId, end: EndReport) -> EndReport {
        let shares = |claims: &[DeviceClaim]| claims.iter().any(|claim| claim.share.is_part());
        let worker = self.workers.get(&id);
        if !worker.and_then(|worker| worker.devices()).is_some_and(shares) {
            return end;
        }
        let Ok(reason) = std::fs::read_to_string(self.dir_of(id).path().join(FILE)) else {
            return end;
        };
        match end.cause {
            EndCause::Exited | EndCause::Stopped | EndCause::Unseen => {
                EndReport { cause: EndCause::OutOfMemory, reason, ..end }
            }
            EndCause::CannotStart
            | EndCause::PortTaken
            | EndCause::OutOfMemory
            | EndCause::HostRebooted
            | EndCause::Fenced
            | EndCause::HostFault => end,
        }
    }

    /// Ends a worker as it is to be ended. Why stands beside it, for an agent that finds the
    /// end after this one.
    fn end_for_memory(&mut self, id: AllocationId, reason: String) {
        warn!(%id, reason, "allocation is ended");
        metrics::counter!("berth_agent_over_share_total").increment(1);
        if let Err(error) = std::fs::write(self.dir_of(id).path().join(FILE), reason) {
            warn!(%id, %error, "why it is ended cannot be written down");
        }
        self.ask_to_stop(id, None);
        self.checks.remove(&id);
        self.set_worker(id, Worker::Stopping);
    }
}
