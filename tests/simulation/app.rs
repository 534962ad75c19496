//! The cluster state as the application that is replicated, with every entry
//! shown to the oracle.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use berth_raft::{App, EntryError, SnapshotError};
use berth_state::{Applied, ClusterState, Entry};
use berth_wire::log::v1 as log;
use berth_wire::snapshot::v1::{self as snapshot, SnapshotHeader, SnapshotReader};

use crate::inbox::{Inbox, SchedulerEvent, Signal};
use crate::oracle::Oracle;

/// What a replica shows of itself.
pub type Shown = Arc<Mutex<ClusterState>>;

pub struct SimApp {
    pub id: u64,
    pub life: u32,
    pub state: ClusterState,
    pub shown: Shown,
    pub oracle: Arc<Mutex<Oracle>>,
    pub inbox: Inbox,
}

impl App for SimApp {
    type Entry = Entry;
    type Reply = Arc<Applied>;
    type View = ClusterState;

    fn decode(bytes: &[u8]) -> Result<Entry, EntryError> {
        log::decode_entry(bytes).map_err(|error| EntryError::Garbled(error.to_string()))
    }

    fn apply(&mut self, index: u64, entry: &Entry) -> Arc<Applied> {
        let before = self.state.applied_index();
        let applied = self.state.apply(index, entry);
        let mut oracle = self.oracle.lock().unwrap();
        if index <= before {
            oracle.violated(format!("scheduler {} applied {index} after {before}", self.id));
        }
        oracle.applied(self.id, index, entry, &applied, &self.state);
        Arc::new(applied)
    }

    fn publish(&mut self, _: u64) {
        *self.shown.lock().unwrap() = self.state.clone();
        self.inbox.push(Signal::Scheduler(self.id, self.life, SchedulerEvent::Published));
    }

    fn view(&self) -> ClusterState {
        self.state.clone()
    }

    fn write_snapshot(view: &ClusterState, sink: &mut dyn Write) -> std::io::Result<()> {
        let header =
            SnapshotHeader { writer: "simulation".to_owned(), applied_index: view.applied_index() };
        snapshot::write_rows(&header, view.rows(), sink)
    }

    fn restore(&mut self, source: &mut dyn Read) -> Result<(), SnapshotError> {
        let garbled = |what: String| SnapshotError::Garbled(what);
        let mut reader =
            SnapshotReader::open(source).map_err(|error| garbled(error.to_string()))?;
        let applied_index = reader.header().applied_index;
        let state = ClusterState::from_rows(applied_index, reader.rows());
        reader.finish().map_err(|error| garbled(error.to_string()))?;
        self.state = state.map_err(|error| garbled(error.to_string()))?;
        self.oracle.lock().unwrap().restored(self.id, &self.state);
        Ok(())
    }
}
