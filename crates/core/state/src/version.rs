//! The cluster version: what apply decides depends on it and never on the
//! build, so that builds of two versions can share a cluster. A build knows all
//! versions up to its own; `Command::RaiseClusterVersion` is proposed once every
//! scheduler of the cluster knows the next one.
//!
//! Whatever changes a decision of apply, or adds a command or a row, asks
//! `ClusterRow::cluster_version` here, in one function per change.

use thiserror::Error;

use crate::command::{Command, Entry};

/// The highest cluster version whose rules this build knows. With the feature
/// `next-version` it is one more: such a build stands in for the release after
/// this one where upgrades are tested, and is of no other use.
pub const CLUSTER_VERSION_MAX: u32 = if cfg!(feature = "next-version") { 2 } else { 1 };

/// Something follows the rules of a cluster version that this build does not
/// know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error(
    "the cluster is at version {found}, and this build of berth knows versions up to {known}; a newer \
     one is needed"
)]
pub struct NewerCluster {
    pub found: u32,
    pub known: u32,
}

/// Whether this build can apply whatever follows the entry. A replica must not
/// apply one that it refuses: the others decide by rules it does not know. Asked by
/// the number alone, even where apply would refuse the command: a leader proposes a
/// version only when every scheduler knows it.
///
/// # Errors
/// The entry raises the cluster version above what this build knows.
pub fn check_entry(entry: &Entry) -> Result<(), NewerCluster> {
    for command in &entry.commands {
        if let Command::RaiseClusterVersion { version } = command {
            check(*version)?;
        }
    }
    Ok(())
}

pub(crate) fn check(found: u32) -> Result<(), NewerCluster> {
    let known = CLUSTER_VERSION_MAX;
    if found <= known { Ok(()) } else { Err(NewerCluster { found, known }) }
}

/// How far ids of jobs are apart: in a build with the feature `next-version` the
/// one thing that version 2 changes, for everybody to see.
pub(crate) fn job_id_step(cluster_version: u32) -> u64 {
    if cfg!(feature = "next-version") && cluster_version >= 2 { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use berth_model::{StateMs, WallMs};

    use super::*;

    #[test]
    fn an_entry_that_raises_too_far_is_not_for_this_build() {
        let check = |versions: &[u32]| {
            let raise = |version: &u32| Command::RaiseClusterVersion { version: *version };
            let commands = versions.iter().map(raise).collect();
            let proposer = "9.0.0".to_owned();
            check_entry(&Entry { state_ms: StateMs(0), wall_ms: WallMs(0), proposer, commands })
        };
        let known = CLUSTER_VERSION_MAX;
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[1, known]), Ok(()));
        let newer = NewerCluster { found: known + 1, known };
        assert_eq!(check(&[known, known + 1]), Err(newer));
    }
}
