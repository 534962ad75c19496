//! A store that begins with a state: what a restored cluster starts from. Made
//! offline, on a disk that holds nothing yet.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use openraft::{BasicNode, Membership};

use crate::app::App;
use crate::device::snapshots::SnapshotStore;
use crate::device::{Device, Identity, LogDevice, OpenError, Opened, Position, VoteRecord};
use crate::fatal::FatalCell;
use crate::log::to_log_id;
use crate::snapshot;
use crate::types::{SnapshotMeta, StoredMembership};

/// The term that the state stands in; the first leader begins the next one.
const TERM: u64 = 1;

/// Why a store was not made.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// The device was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is a log or a snapshot already.
    #[error("there is a store already; choose an empty directory")]
    NotEmpty,
    /// The disk failed; what lies there is of no use.
    #[error("write the store")]
    Io(#[from] io::Error),
}

/// Makes a store whose log goes on after `index`, with `view` as its snapshot
/// and this node as its only member.
///
/// # Errors
/// See [`FoundingError`]. Nothing of what was there is touched.
pub fn found_store<A: App, D: Device>(
    device: &D,
    identity: Identity,
    address: &str,
    index: u64,
    view: &A::View,
) -> Result<(), FoundingError> {
    let Opened { mut log, recovered, snapshots, health: _, keep } =
        device.open(identity, &FatalCell::default())?;
    let known = snapshots.list()?;
    if recovered.last().is_some() || recovered.vote.is_some() || !known.is_empty() {
        return Err(FoundingError::NotEmpty);
    }
    let last = Position { term: TERM, index };
    let members = Membership::new(
        vec![BTreeSet::from([identity.node_id])],
        BTreeMap::from([(identity.node_id, BasicNode::new(address))]),
    )
    .map_err(|error| io::Error::other(error.to_string()))?;
    let log_id = to_log_id(last);
    let meta = SnapshotMeta {
        last_log_id: Some(log_id),
        last_membership: StoredMembership::new(Some(log_id), members),
    };
    // The snapshot first: a log that begins after `index` is of no use alone.
    snapshot::build::<A, _>(&snapshots, identity.cluster_id, &meta, view)?;
    log.purge_to(last)?;
    log.save_vote(VoteRecord { term: TERM, node_id: identity.node_id, committed: false })?;
    log.save_committed(last)?;
    log.sync()?;
    // In this order: the log's last write happens under the lock.
    drop(log);
    drop(keep);
    Ok(())
}
