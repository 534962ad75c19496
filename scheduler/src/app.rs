//! The cluster state as the application that Raft replicates, and what every
//! replica shows of it: the view, the recent events, what has ended.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use berth_model::StateMs;
use berth_raft::{Answerer, App, EntryError, SnapshotError};
use berth_state::{Applied, ClusterState, Entry, Event, EventKind, RestoreError, invariants};
use berth_wire::DecodeError;
use berth_wire::log::v1 as log;
use berth_wire::snapshot::v1::{self as snapshot, ReadError, SnapshotHeader, SnapshotReader};
use tokio::sync::watch;

use crate::events::EventRing;
use crate::history::{Endings, History};
use crate::leader::clock::wall;
use crate::peers::{Checkpoints, Peers, Report, StateAt};
use crate::pulse::Pulse;
use crate::sessions::Sessions;

/// What a replica publishes after each run of applies.
pub struct Published {
    view: watch::Sender<ClusterState>,
    pub events: EventRing,
    pub history: History,
    pub sessions: Sessions,
    /// When the newest state came, by this machine's monotonic clock; the lock
    /// guards the value.
    seen: Mutex<Instant>,
    /// Counts revocations of machines.
    revocations: watch::Sender<u64>,
    /// What the other schedulers say of themselves.
    pub peers: Peers,
    /// The lock guards single notes and looks.
    checkpoints: Mutex<Checkpoints>,
    program: OnceLock<u64>,
    /// Of the threads of the calls.
    pub pulse: Pulse,
}

impl Published {
    pub fn new() -> Published {
        Published {
            view: watch::Sender::new(ClusterState::default()),
            events: EventRing::new(),
            history: History::new(),
            sessions: Sessions::new(),
            seen: Mutex::new(Instant::now()),
            revocations: watch::Sender::new(0),
            peers: Peers::new(),
            checkpoints: Mutex::default(),
            program: OnceLock::new(),
            pulse: Pulse::default(),
        }
    }

    /// What this scheduler says of itself when another asks.
    pub fn report(&self) -> Report {
        let now = {
            let view = self.view.borrow();
            StateAt { index: view.applied_index(), hash: view.hash() }
        };
        let checkpoints = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let states = checkpoints.iter().chain([now]).collect();
        Report::own(self.program.get().copied(), states, wall())
    }

    /// Once it is known which program this is.
    pub fn note_program(&self, program: u64) {
        // Known already: it does not change while it runs.
        let _ = self.program.set(program);
    }

    /// The cluster's time as far as this replica can tell: from the newest
    /// entry on it goes by this machine's own clock.
    pub fn now(&self) -> StateMs {
        let last = self.view.borrow().cluster().state_ms;
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = u64::try_from(seen.elapsed().as_millis()).unwrap_or(u64::MAX);
        StateMs(last.0.saturating_add(elapsed))
    }

    /// Since something was last applied here. Of an idle cluster it is long, and
    /// means nothing.
    pub fn last_commit_age(&self) -> Duration {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Changes whenever a machine was revoked.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.revocations.subscribe()
    }

    /// Every newest applied state from now on.
    pub fn views(&self) -> watch::Receiver<ClusterState> {
        self.view.subscribe()
    }

    /// The newest applied state; O(1).
    pub fn view(&self) -> ClusterState {
        self.view.borrow().clone()
    }
}

/// The replicated application.
pub struct ClusterApp {
    state: ClusterState,
    published: Arc<Published>,
    /// Events of applied entries that are not shown yet.
    fresh: Vec<(u64, Vec<Event>)>,
}

impl ClusterApp {
    pub fn new(published: Arc<Published>) -> ClusterApp {
        ClusterApp { state: ClusterState::default(), published, fresh: Vec::new() }
    }

    /// Checks the nodes that an entry touched. Apply refuses whatever would
    /// break an invariant, so a finding here is a defect or broken memory, and
    /// a replica that has one must not go on.
    fn check_touched(&self, events: &[Event]) {
        for event in events {
            let EventKind::DesiredChanged { .. } = event.kind else { continue };
            let node = event.node.and_then(|node| self.state.nodes().get(&node));
            if let Some(node) = node {
                let broken = invariants::check_node(&self.state, node);
                assert!(broken.is_empty(), "the cluster state is broken: {broken:?}");
            }
        }
    }
}

impl App for ClusterApp {
    type Entry = Entry;
    type Reply = Arc<Applied>;
    type View = ClusterState;

    fn decode(bytes: &[u8]) -> Result<Entry, EntryError> {
        let entry = log::decode_entry(bytes).map_err(|error| {
            if let DecodeError::UnknownSchema { found, known, .. } = error {
                EntryError::UnknownSchema { found, known }
            } else if error.needs_newer() {
                EntryError::NeedsNewer(error.to_string())
            } else {
                EntryError::Garbled(error.to_string())
            }
        })?;
        let follows = berth_state::version::check_entry(&entry);
        follows.map_err(|newer| EntryError::NeedsNewer(newer.to_string()))?;
        Ok(entry)
    }

    fn apply(&mut self, index: u64, entry: &Entry) -> Arc<Applied> {
        let mut applied = self.state.apply(index, entry);
        self.check_touched(&applied.events);
        let checkpoints = &self.published.checkpoints;
        let mut checkpoints = checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoints.note(index, || self.state.hash());
        self.fresh.push((index, std::mem::take(&mut applied.events)));
        Arc::new(applied)
    }

    fn publish(&mut self, _applied_index: u64) {
        let mut endings = Endings::default();
        for (_, events) in &self.fresh {
            endings.note(events);
        }
        self.published.history.record(&mut endings);
        self.published.view.send_replace(self.state.clone());
        *self.published.seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.published.history.take_back(&endings);
        let wall = self.state.cluster().wall_ms;
        for (index, events) in self.fresh.drain(..) {
            for event in &events {
                if let (EventKind::DesiredChanged { .. }, Some(node)) = (&event.kind, event.node) {
                    self.published.sessions.wake(node);
                }
                if let EventKind::MachineRevoked { .. } = &event.kind {
                    self.published.revocations.send_modify(|count| *count += 1);
                }
            }
            self.published.events.push(index, wall, events);
        }
    }

    fn view(&self) -> ClusterState {
        self.state.clone()
    }

    fn answerer(&self) -> Answerer {
        let published = self.published.clone();
        Arc::new(move |_| published.report().encode())
    }

    fn write_snapshot(view: &ClusterState, sink: &mut dyn Write) -> std::io::Result<()> {
        let writer = env!("CARGO_PKG_VERSION").to_owned();
        let header = SnapshotHeader { writer, applied_index: view.applied_index() };
        snapshot::write_rows(&header, view.rows(), sink)
    }

    fn restore(&mut self, source: &mut dyn Read) -> Result<(), SnapshotError> {
        let mut reader = SnapshotReader::open(source).map_err(unreadable)?;
        let applied_index = reader.header().applied_index;
        let state = ClusterState::from_rows(applied_index, reader.rows());
        // A reader that stopped early explains more than the rows that it left
        // out.
        reader.finish().map_err(unreadable)?;
        self.state = state.map_err(|error| {
            if let RestoreError::NewerCluster(newer) = error {
                return SnapshotError::NeedsNewer(newer.to_string());
            }
            SnapshotError::Garbled(error.to_string())
        })?;
        // What happened before is not known here: watchers list again.
        self.fresh.clear();
        self.published.events.reset(self.state.applied_index());
        Ok(())
    }
}

fn unreadable(error: ReadError) -> SnapshotError {
    if let ReadError::Decode { source: DecodeError::UnknownSchema { found, known, .. }, .. } = error
    {
        return SnapshotError::UnknownSchema { found, known };
    }
    if let ReadError::Decode { source, .. } = &error
        && source.needs_newer()
    {
        return SnapshotError::NeedsNewer(source.to_string());
    }
    if let ReadError::Io(error) = error {
        return SnapshotError::Io(error);
    }
    SnapshotError::Garbled(error.to_string())
}

#[cfg(test)]
mod tests {
    use berth_model::{
        AllocationId, AllocationState, Claim, InstanceIndex, JobId, NodeId, Outcome, SpecDigest,
        WallMs,
    };
    use berth_state::AllocationRow;
    use berth_state::rows::ScoreParts;

    use super::*;

    /// States shown while another thread looks.
    const SHOWN: u32 = 20_000;

    fn id(index: u64) -> AllocationId {
        let instance = InstanceIndex(u32::try_from(index).unwrap());
        AllocationId { job: JobId(1), instance, ..AllocationId::default() }
    }

    fn ended(index: u64) -> Event {
        let row = AllocationRow {
            id: id(index),
            node: NodeId(1),
            job_version: 1,
            spec_digest: SpecDigest::default(),
            claim: Claim::default(),
            state: AllocationState::Planned,
            reason: String::new(),
            planned_at: StateMs(0),
            running_since: None,
            started_at: None,
            score: ScoreParts::default(),
            seat: None,
            draining: None,
        };
        let (outcome, reason) = (Outcome::Succeeded, String::new());
        let kind = EventKind::AllocationEnded { outcome, reason, row: Arc::new(row), report: None };
        Event { job: None, allocation: Some(id(index)), node: None, kind }
    }

    fn nothing(index: u64) -> Entry {
        let (state_ms, wall_ms) = (StateMs(index), WallMs(index));
        Entry { state_ms, wall_ms, proposer: String::new(), commands: Vec::new() }
    }

    /// A reader of logs took a job for over whose second attempt had begun and ended: the state
    /// had it no more, and the history had it not yet.
    #[test]
    fn what_has_ended_is_remembered_before_it_is_gone_from_the_state() {
        let published = Arc::new(Published::new());
        let mut app = ClusterApp::new(published.clone());
        let looks = std::thread::spawn(move || {
            loop {
                let newest = published.view().applied_index();
                let known = newest == 0 || published.history.get(id(newest)).is_some();
                assert!(known, "the state after entry {newest} was shown too early");
                if newest == u64::from(SHOWN) {
                    return;
                }
            }
        });
        for index in 1..=u64::from(SHOWN) {
            app.state.apply(index, &nothing(index));
            app.fresh.push((index, vec![ended(index)]));
            app.publish(index);
        }
        looks.join().unwrap();
    }

    #[test]
    fn what_came_back_is_forgotten_once_the_state_has_it() {
        let published = Arc::new(Published::new());
        let mut app = ClusterApp::new(published.clone());
        let back = |index| {
            let kind = EventKind::AllocationReturned { reason: String::new() };
            Event { job: None, allocation: Some(id(index)), node: None, kind }
        };
        let entries = [
            vec![ended(1), ended(2)],
            vec![back(1), ended(3), back(3)],
            vec![back(2), ended(2), ended(3)],
        ];
        for (index, events) in (1..).zip(entries) {
            app.fresh.push((index, events));
            if index != 2 {
                app.publish(index);
            }
        }
        let known = [1, 2, 3].map(|index| published.history.get(id(index)).is_some());
        assert_eq!(known, [false, true, true]);
    }
}
