//! The consensus library's type parameters, fixed once. Nothing here is
//! public outside the crate.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use openraft::impls::{
    BoxedErrorSource, Entry as RaftEntry, EntryPayload, InlineBatch, OneshotResponder,
    leader_id_std,
};
use openraft::vote::RaftLeaderId;
use openraft::{AsyncRuntime, BasicNode, OptionalSend, RaftTypeConfig};

use crate::app::{Answer, App, Proposal};

/// Type parameters for an application and a runtime.
pub struct Types<A, RT>(PhantomData<fn() -> (A, RT)>);

impl<A, RT> Clone for Types<A, RT> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<A, RT> Copy for Types<A, RT> {}
impl<A, RT> Default for Types<A, RT> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<A, RT> fmt::Debug for Types<A, RT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}
impl<A, RT> PartialEq for Types<A, RT> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<A, RT> Eq for Types<A, RT> {}
impl<A, RT> PartialOrd for Types<A, RT> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<A, RT> Ord for Types<A, RT> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type Committed = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<Committed>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload<A> = EntryPayload<Proposal<A>, u64, BasicNode>;
pub(crate) type Entry<A> = RaftEntry<Committed, Payload<A>>;
pub(crate) type StoredMembership = openraft::StoredMembership<Committed, u64, BasicNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<Committed, u64, BasicNode>;

impl<A: App, RT: AsyncRuntime> RaftTypeConfig for Types<A, RT> {
    type D = Proposal<A>;
    type R = Answer<A>;
    type NodeId = u64;
    type Node = BasicNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload<A>;
    type Entry = Entry<A>;
    type AsyncRuntime = RT;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

pub(crate) type SnapshotOf =
    openraft::Snapshot<Committed, u64, BasicNode, crate::snapshot::SnapshotData>;
