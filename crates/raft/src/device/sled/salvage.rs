//! The newest state that a stopped node's directory knows, without writing to
//! it: for when no majority is left to ask.

use std::io;
use std::path::Path;

use super::load::load;
use super::open::list_snapshots;
use super::verify::LogCopy;
use crate::app::App;
use crate::device::high_water::HighWater;
use crate::device::snapshots::SnapshotStore;
use crate::device::{Identity, Position, Recovered};
use crate::log::from_record;
use crate::snapshot;
use openraft::EntryPayload;

/// How far a directory reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salvaged {
    /// The last entry in its log. Of several directories the one with the
    /// greatest knows everything that was ever acknowledged, if any does.
    pub last: Position,
    /// The last entry that it knew to be committed.
    pub committed: Option<Position>,
}

/// Brings `app` to where the directory ends: its newest whole snapshot, then
/// every entry behind it. Entries that were never committed are among them:
/// whether they were, only the majority knew that is gone. Needs room for a
/// copy of the log in the system's temporary directory.
///
/// # Errors
/// The directory cannot be read, or something in it is damaged; `verify` then
/// says what.
pub fn newest_state<A: App>(data_dir: &Path, app: &mut A) -> io::Result<Salvaged> {
    let (identity, recovered) = read_store(data_dir)?;
    let Recovered { committed, purged, records, .. } = recovered;
    let restored = restore_newest(data_dir, identity.cluster_id, app)?;
    if purged.is_some_and(|purged| restored.is_none_or(|restored| restored < purged)) {
        return Err(refuse("no whole snapshot reaches to the beginning of the log".to_owned()));
    }
    let mut last = restored;
    for record in records {
        let position = record.position();
        if restored.is_some_and(|restored| position.index <= restored.index) {
            continue;
        }
        if let EntryPayload::Normal(proposal) = from_record::<A>(record)?.payload {
            let entry = A::decode(&proposal.bytes)
                .map_err(|error| refuse(format!("entry {}: {error}", position.index)))?;
            app.apply(position.index, &entry);
        }
        last = Some(position);
    }
    let last = last.ok_or_else(|| refuse("the log is empty".to_owned()))?;
    Ok(Salvaged { last, committed })
}

fn refuse(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whose a stopped node's log is, and all of it.
///
/// # Errors
/// It cannot be read, or something in it is damaged.
pub(crate) fn read_store(data_dir: &Path) -> io::Result<(Identity, Recovered)> {
    let note = HighWater::read(data_dir).map_err(|error| refuse(error.to_string()))?;
    let note = note.ok_or_else(|| refuse("there is no log".to_owned()))?;
    let copy = LogCopy::of(data_dir)?;
    let loaded = load(&copy.0).map_err(|error| refuse(error.to_string()))?;
    match loaded.problems.first() {
        Some(problem) => Err(refuse(problem.to_string())),
        None => Ok((note.identity, loaded.recovered)),
    }
}

fn restore_newest<A: App>(
    data_dir: &Path,
    cluster_id: [u8; 16],
    app: &mut A,
) -> io::Result<Option<Position>> {
    let Some((store, names)) = list_snapshots(data_dir)? else { return Ok(None) };
    for name in names.into_iter().rev() {
        let whole = store
            .open(name)
            .and_then(|(mut source, _)| snapshot::check(&mut *source, cluster_id))
            .is_ok();
        if whole {
            snapshot::restore(&store, cluster_id, name, app)?;
            return Ok(Some(Position { term: name.term, index: name.index }));
        }
    }
    Ok(None)
}
