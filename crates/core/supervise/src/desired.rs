//! The desired state of a node and which messages about it are believed.
//! Messages may come twice, late, in any order and from a scheduler that is
//! no longer the leader.

use std::collections::BTreeMap;

use berth_model::{AllocationId, StopPolicy};
use thiserror::Error;

/// Which desired state: the counter of restores of the cluster, then the
/// counter of changes for this node. Ordered in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Version {
    /// Zero: none was ever accepted.
    pub incarnation: u64,
    pub generation: u64,
}

/// Everything that should be on the node. `T` is what the driver needs to
/// carry a row out and no decision looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Desired<T> {
    pub version: Version,
    pub rows: BTreeMap<AllocationId, DesiredRow<T>>,
}

/// What is wanted of one allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredRow<T> {
    pub order: Order,
    /// Must stop when the lease ends.
    pub exclusive: bool,
    pub stop: StopPolicy,
    pub payload: T,
}

/// Whether the allocation should be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    Run,
    Stop,
}

/// A message that changes the desired state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Offer<T, D> {
    Full {
        version: Version,
        rows: BTreeMap<AllocationId, DesiredRow<T>>,
        digest: D,
    },
    Delta {
        incarnation: u64,
        from: u64,
        to: u64,
        upserts: BTreeMap<AllocationId, DesiredRow<T>>,
        removed: Vec<AllocationId>,
        digest: D,
    },
}

/// Why an offer was not taken. The held state is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// A repetition, or a scheduler that no longer leads: nothing to do.
    #[error("is older than what is held: {offered:?}, not {held:?}")]
    Stale { held: Version, offered: Version },
    /// It cannot be added to what is held: ask for everything.
    #[error("does not follow what is held: from {from:?}, not {held:?}")]
    Gap { held: Version, from: Version },
    /// The outcome is not what the sender meant: ask for everything.
    #[error("does not have the digest that it names at {offered:?}")]
    Mismatch { offered: Version },
}

impl Refusal {
    /// Whether a full state must be asked for.
    #[must_use]
    pub fn needs_full(self) -> bool {
        match self {
            Refusal::Stale { .. } => false,
            Refusal::Gap { .. } | Refusal::Mismatch { .. } => true,
        }
    }
}

impl<T> Default for Desired<T> {
    fn default() -> Desired<T> {
        Desired { version: Version::default(), rows: BTreeMap::new() }
    }
}

impl<T: Clone> Desired<T> {
    /// Takes an offer that is newer than what is held and leads to exactly the
    /// state that its sender meant. `digest_of` is the digest both sides use.
    ///
    /// A full state of the held version is taken again: it repairs a
    /// disagreement about content.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn take<D: PartialEq>(
        &mut self,
        offer: Offer<T, D>,
        digest_of: impl Fn(Version, &BTreeMap<AllocationId, DesiredRow<T>>) -> D,
    ) -> Result<(), Refusal> {
        let held = self.version;
        let (version, rows, digest) = match offer {
            Offer::Full { version, rows, digest } => {
                if version < held {
                    return Err(Refusal::Stale { held, offered: version });
                }
                (version, rows, digest)
            }
            Offer::Delta { incarnation, from, to, upserts, removed, digest } => {
                let from = Version { incarnation, generation: from };
                let version = Version { incarnation, generation: to };
                if version <= held {
                    return Err(Refusal::Stale { held, offered: version });
                }
                if from != held || version <= from {
                    return Err(Refusal::Gap { held, from });
                }
                let mut rows = self.rows.clone();
                for allocation in removed {
                    rows.remove(&allocation);
                }
                rows.extend(upserts);
                (version, rows, digest)
            }
        };
        if digest_of(version, &rows) != digest {
            return Err(Refusal::Mismatch { offered: version });
        }
        self.version = version;
        self.rows = rows;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Digest = Vec<AllocationId>;
    type Matches = fn(Refusal) -> bool;

    fn id(instance: u32) -> AllocationId {
        format!("1.0.{instance}.1").parse().unwrap()
    }

    fn rows(instances: &[u32]) -> BTreeMap<AllocationId, DesiredRow<()>> {
        let row = DesiredRow {
            order: Order::Run,
            exclusive: false,
            stop: StopPolicy::default(),
            payload: (),
        };
        instances.iter().map(|instance| (id(*instance), row.clone())).collect()
    }

    fn digest_of(_: Version, rows: &BTreeMap<AllocationId, DesiredRow<()>>) -> Digest {
        rows.keys().copied().collect()
    }

    fn full(incarnation: u64, generation: u64, instances: &[u32]) -> Offer<(), Digest> {
        let version = Version { incarnation, generation };
        let digest = instances.iter().map(|instance| id(*instance)).collect();
        Offer::Full { version, rows: rows(instances), digest }
    }

    fn delta(
        span: (u64, u64),
        upserts: &[u32],
        removed: &[u32],
        after: &[u32],
    ) -> Offer<(), Digest> {
        Offer::Delta {
            incarnation: 1,
            from: span.0,
            to: span.1,
            upserts: rows(upserts),
            removed: removed.iter().map(|instance| id(*instance)).collect(),
            digest: after.iter().map(|instance| id(*instance)).collect(),
        }
    }

    /// What becomes of `offer` after instances 1 and 2 at (1, 10).
    fn check(offer: Offer<(), Digest>, expected: Result<(Version, &[u32]), Matches>) {
        let mut desired = Desired::default();
        desired.take(full(1, 10, &[1, 2]), digest_of).unwrap();
        let before = desired.clone();
        let outcome = desired.take(offer.clone(), digest_of);
        match expected {
            Ok((version, instances)) => {
                assert_eq!(outcome, Ok(()), "{offer:?}");
                assert_eq!((desired.version, desired.rows), (version, rows(instances)));
            }
            Err(matches) => {
                assert!(matches(outcome.unwrap_err()), "{offer:?}");
                assert_eq!(desired, before, "a refused offer changes nothing");
            }
        }
    }

    #[test]
    fn only_what_follows_is_taken() {
        let at = |incarnation, generation| Version { incarnation, generation };
        let stale: Matches = |refusal| matches!(refusal, Refusal::Stale { .. });
        let gap: Matches = |refusal| matches!(refusal, Refusal::Gap { .. });
        let mismatch: Matches = |refusal| matches!(refusal, Refusal::Mismatch { .. });
        check(delta((10, 11), &[3], &[1], &[2, 3]), Ok((at(1, 11), &[2, 3])));
        check(delta((10, 15), &[], &[1, 2], &[]), Ok((at(1, 15), &[])));
        check(full(1, 12, &[9]), Ok((at(1, 12), &[9])));
        check(full(1, 10, &[1]), Ok((at(1, 10), &[1])));
        check(full(2, 1, &[]), Ok((at(2, 1), &[])));
        check(full(1, 9, &[]), Err(stale));
        check(full(0, 99, &[]), Err(stale));
        check(delta((9, 10), &[3], &[], &[1, 2, 3]), Err(stale));
        check(delta((11, 12), &[3], &[], &[1, 2, 3]), Err(gap));
        check(delta((9, 12), &[3], &[], &[1, 2, 3]), Err(gap));
        check(delta((10, 11), &[3], &[], &[1, 3]), Err(mismatch));
        let Offer::Delta { from, to, upserts, removed, digest, .. } =
            delta((10, 11), &[3], &[], &[1, 2, 3])
        else {
            unreachable!()
        };
        let other = Offer::Delta { incarnation: 2, from, to, upserts, removed, digest };
        check(other, Err(gap));
        assert!(!Refusal::Stale { held: at(1, 2), offered: at(1, 1) }.needs_full());
        assert!(Refusal::Mismatch { offered: at(1, 1) }.needs_full());
    }
}
