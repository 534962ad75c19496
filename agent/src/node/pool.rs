//! The shims: two warm ones always, and as many more as are in use. A shim
//! whose allocation has ended and is acknowledged is free at once; its next
//! start forgets the old one in the same message.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_model::{AllocationId, EndCause};
use berth_shim::protocol::{ExitRequest, RequestBody, RetireRequest, StartRequest};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Event, Node};
use crate::shim_link::{self, Connected, ShimLink};

/// Shims ready for a start at any time. A start of a shim costs a few
/// milliseconds that no submit should wait for.
const WARM: usize = 2;
/// Shims being started at once.
const STARTING_MAX: usize = 4;
/// Free shims kept at most: enough lanes for a thousand short instances a
/// second, 4 MiB each at most.
const FREE_MAX: usize = 64;
/// How long more free shims than the warm ones are kept.
const TRIM_AFTER: Duration = Duration::from_secs(10);
/// Failures in a row after which waiting allocations are told.
const FAILURES_MAX: u32 = 3;
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The number of a shim's directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ShimId(pub u64);

/// All shims of this agent.
#[derive(Default)]
pub struct Pool {
    shims: BTreeMap<ShimId, Shim>,
    /// Those that take a start now; the last one freed is the first taken.
    free: Vec<ShimId>,
    starting: usize,
    last: u64,
    failures: u32,
    retry_at: Option<Instant>,
    trim_at: Option<Instant>,
    /// Shims that were told to quit and whose directories go with them.
    ending: Vec<JoinHandle<()>>,
}

struct Shim {
    link: ShimLink,
    dir: PathBuf,
    holds: Holds,
}

/// What a shim is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holds {
    Nothing,
    Alive(AllocationId),
    /// Ended, acknowledged, and not retired yet.
    Spent(AllocationId),
}

impl Pool {
    /// The next number, above every directory that is there.
    pub fn starting_after(last: u64) -> Pool {
        Pool { last, ..Pool::default() }
    }

    pub fn trim_at(&self) -> Option<Instant> {
        self.trim_at.into_iter().chain(self.retry_at).min()
    }

    /// Whether every shim has quit.
    pub fn is_over(&mut self) -> bool {
        self.ending.retain(|ending| !ending.is_finished());
        self.shims.is_empty() && self.starting == 0 && self.ending.is_empty()
    }

    /// Takes away the sockets of shims that are left, which makes them quit
    /// as soon as they hold nothing alive.
    pub fn disown(&self) {
        for shim in self.shims.values() {
            // Gone already is as good.
            let _ = std::fs::remove_dir_all(&shim.dir);
        }
    }

    pub fn insert_idle(&mut self, id: ShimId, dir: PathBuf, link: ShimLink) {
        self.shims.insert(id, Shim { link, dir, holds: Holds::Nothing });
        self.free(id);
    }

    pub fn insert_holding(
        &mut self,
        id: ShimId,
        dir: PathBuf,
        link: ShimLink,
        allocation: AllocationId,
    ) {
        self.shims.insert(id, Shim { link, dir, holds: Holds::Alive(allocation) });
    }

    /// What the shim works for, if anything.
    pub fn allocation_of(&self, id: ShimId) -> Option<AllocationId> {
        match self.shims.get(&id)?.holds {
            Holds::Alive(allocation) => Some(allocation),
            Holds::Nothing | Holds::Spent(_) => None,
        }
    }

    /// Asks the shim something.
    pub fn ask(&self, id: ShimId, request: RequestBody) {
        if let Some(shim) = self.shims.get(&id) {
            shim.link.ask(request);
        }
    }

    /// The connection is gone and with it what is known of the shim.
    pub fn remove(&mut self, id: ShimId) -> Option<PathBuf> {
        self.free.retain(|free| *free != id);
        self.shims.remove(&id).map(|shim| shim.dir)
    }

    /// Gives the start to a free shim and says to which.
    fn start(&mut self, allocation: AllocationId, mut request: StartRequest) -> Option<ShimId> {
        let id = self.free.pop()?;
        let shim = self.shims.get_mut(&id)?;
        if let Holds::Spent(spent) = shim.holds {
            request.retire_allocation_id = spent.to_string();
        }
        shim.holds = Holds::Alive(allocation);
        shim.link.ask(RequestBody::Start(request));
        Some(id)
    }

    /// The allocation has ended and everybody knows.
    pub fn release(&mut self, id: ShimId) {
        let Some(shim) = self.shims.get_mut(&id) else { return };
        if let Holds::Alive(allocation) = shim.holds {
            shim.holds = Holds::Spent(allocation);
            self.free(id);
        }
    }

    fn free(&mut self, id: ShimId) {
        self.free.push(id);
        if self.free.len() > FREE_MAX {
            self.end_one();
        } else if self.free.len() > WARM && self.trim_at.is_none() {
            self.trim_at = Some(Instant::now() + TRIM_AFTER);
        }
    }

    /// Ends the free shim that has waited longest.
    fn end_one(&mut self) {
        if !self.free.is_empty() {
            let id = self.free.remove(0);
            self.end(id);
        }
    }

    /// Lets a shim without a living worker quit.
    pub fn end(&mut self, id: ShimId) {
        if let Some(shim) = self.shims.remove(&id) {
            if let Holds::Spent(allocation) | Holds::Alive(allocation) = shim.holds {
                let allocation_id = allocation.to_string();
                shim.link.ask(RequestBody::Retire(RetireRequest { allocation_id }));
            }
            shim.link.ask(RequestBody::Exit(ExitRequest {}));
            self.ending.retain(|ending| !ending.is_finished());
            self.ending.push(remove_later(shim.dir, shim.link));
        }
    }

    /// Lets every free shim quit.
    pub fn end_free(&mut self) {
        while !self.free.is_empty() {
            self.end_one();
        }
    }

    fn trim(&mut self) {
        if self.trim_at.is_some_and(|at| Instant::now() >= at) {
            // Half at a time: load that comes and goes keeps some of them.
            for _ in 0..self.free.len().saturating_sub(WARM).div_ceil(2) {
                self.end_one();
            }
            let more = self.free.len() > WARM;
            self.trim_at = more.then(|| Instant::now() + TRIM_AFTER);
        }
    }
}

/// Removes the directory once the shim has closed its connection, which it
/// does when it quits.
fn remove_later(dir: PathBuf, link: ShimLink) -> JoinHandle<()> {
    tokio::spawn(async move {
        link.closed().await;
        if let Err(error) = tokio::fs::remove_dir_all(&dir).await {
            debug!(dir = %dir.display(), %error, "shim directory is left");
        }
    })
}

impl Node {
    /// Gives waiting allocations their shims, as far as there are any.
    pub(super) fn launch_waiting(&mut self) {
        while !self.pool.free.is_empty() {
            let Some(id) = self.waiting.pop_front() else { return };
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            let Some(request) = worker.request.take() else { continue };
            worker.shim = self.pool.start(id, *request);
            self.set_worker(id, berth_supervise::Worker::Launching);
        }
    }

    /// Starts shims until enough are free or on their way.
    pub(super) fn fill_pool(&mut self) {
        self.pool.trim();
        if self.pool.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.pool.retry_at = None;
        let wanted = self.waiting.len() + WARM;
        while self.pool.starting < STARTING_MAX
            && self.pool.free.len() + self.pool.starting < wanted
        {
            self.start_shim();
        }
    }

    fn start_shim(&mut self) {
        self.pool.starting += 1;
        self.pool.last += 1;
        let id = ShimId(self.pool.last);
        let dir = self.settings.dir.shims().join(id.0.to_string());
        let (settings, events) = (Arc::clone(&self.settings), self.events.clone());
        tokio::task::spawn_blocking(move || {
            let outcome = shim_link::spawn(&settings.shim, &dir).map_err(|error| in_words(&error));
            // The agent may be ending.
            let _ = events.send(Event::ShimStarted(id, outcome));
        });
    }

    pub(super) fn shim_started(&mut self, id: ShimId, outcome: Result<Connected, String>) {
        self.pool.starting = self.pool.starting.saturating_sub(1);
        match outcome {
            Ok(connected) => {
                self.pool.failures = 0;
                let dir = connected.handle.dir().to_owned();
                let link = self.link(id, connected);
                self.pool.insert_idle(id, dir, link);
            }
            Err(problem) => {
                warn!(problem, "shim cannot be started");
                self.pool.failures += 1;
                self.pool.retry_at = Some(Instant::now() + RETRY_AFTER);
                if self.pool.failures >= FAILURES_MAX {
                    self.fail_waiting(&problem);
                }
            }
        }
    }

    /// Better placed elsewhere than waiting here for ever.
    fn fail_waiting(&mut self, problem: &str) {
        for id in std::mem::take(&mut self.waiting) {
            let waits = self.workers.get(&id).is_some_and(|worker| worker.request.is_some());
            if waits {
                let reason = format!("the node cannot start workers: {problem}");
                self.end_unstarted(id, EndCause::HostFault, reason);
            }
        }
    }

    pub(super) fn link(&self, id: ShimId, connected: Connected) -> ShimLink {
        let events = self.events.clone();
        ShimLink::start(connected.handle, move |news| {
            // The agent may be ending.
            let _ = events.send(Event::Shim(id, news));
        })
    }
}

/// The error with its sources, for a reason that travels.
pub fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
