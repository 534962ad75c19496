//! Who belongs to the cluster: one change at a time, each followed until the
//! membership is a single set again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{AsyncRuntime, BasicNode, ChangeMembers, RaftMetrics};

use super::propose::leader_of;
use super::{MembershipError, RaftNode};
use crate::app::App;
use crate::device::Device;
use crate::status::{RaftStatus, Role};
use crate::transport::PeerTransport;
use crate::types::Types;

/// Held while a change is under way.
struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    fn take(taken: &'a AtomicBool) -> Result<Self, MembershipError> {
        if taken.swap(true, Ordering::AcqRel) {
            Err(MembershipError::InProgress)
        } else {
            Ok(Self(taken))
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

type WriteError<A, RT> = RaftError<Types<A, RT>, ClientWriteError<Types<A, RT>>>;

fn explain<A: App, RT: AsyncRuntime>(error: WriteError<A, RT>) -> MembershipError {
    match error {
        RaftError::Fatal(_) => MembershipError::Stopped,
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            MembershipError::NotLeader { leader: leader_of(&forward) }
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
            MembershipError::OutcomeUnknown
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::InProgress(_)
            | ChangeMembershipError::UncommittedLeaderLog(_) => MembershipError::InProgress,
            ChangeMembershipError::LearnerNotFound(missing) => {
                MembershipError::NotAMember(missing.node_id)
            }
            error @ (ChangeMembershipError::EmptyMembership(_)
            | ChangeMembershipError::UnsupportedMembershipTransition(_)
            | ChangeMembershipError::NodeMetadataChanged(_)) => {
                MembershipError::Refused(error.to_string())
            }
        },
        RaftError::APIError(ClientWriteError::PreconditionFailed(error)) => {
            MembershipError::Refused(error.to_string())
        }
    }
}

impl<A: App, RT: AsyncRuntime, D: Device, T: PeerTransport> RaftNode<A, RT, D, T> {
    fn leading(&self) -> Result<RaftStatus, MembershipError> {
        let status = self.status();
        match status.role {
            Role::Leader => Ok(status),
            Role::Stopped => Err(MembershipError::Stopped),
            Role::Learner | Role::Follower | Role::Candidate => {
                Err(MembershipError::NotLeader { leader: status.leader })
            }
        }
    }

    /// Adds a node without a vote, which then catches up in its own time: see
    /// its `matched_index`. The id must never have been used in this cluster.
    ///
    /// # Errors
    /// As the variants say.
    pub async fn add_learner(&self, id: u64, address: String) -> Result<(), MembershipError> {
        let _turn = Turn::take(&self.0.changing_members)?;
        let status = self.leading()?;
        let held = status.members.iter().find(|member| member.id == id);
        if held.is_some_and(|member| member.address != address) {
            return Err(MembershipError::IdTaken(id));
        }
        let wait = self.0.options.membership_wait;
        let work = async {
            let added = self.0.raft.add_learner(id, BasicNode::new(address), false).await;
            self.shown(&added.map_err(explain)?).await;
            Ok(())
        };
        let done = RT::timeout(wait, work).await;
        done.unwrap_or(Err(MembershipError::OutcomeUnknown))
    }

    /// Waits until this node's status shows a change. It does so a moment after the change was
    /// answered, and whoever asks for the next one is judged by it.
    async fn shown(&self, changed: &ClientWriteResponse<Types<A, RT>>) {
        let index = changed.log_id.index();
        let is_shown = |metrics: &RaftMetrics<Types<A, RT>>| {
            let shown = metrics.membership_config.log_id().as_ref();
            shown.is_some_and(|shown| shown.index() >= index)
        };
        // A node that stops meanwhile has made the change all the same.
        let _stopped = self.0.raft.wait(None).metrics(is_shown, "a change of members").await;
    }

    /// Gives learners a vote.
    ///
    /// # Errors
    /// As the variants say.
    pub async fn promote(&self, ids: BTreeSet<u64>) -> Result<(), MembershipError> {
        let _turn = Turn::take(&self.0.changing_members)?;
        let status = self.leading()?;
        for id in &ids {
            if !status.members.iter().any(|member| member.id == *id) {
                return Err(MembershipError::NotAMember(*id));
            }
        }
        self.change(ChangeMembers::AddVoterIds(ids)).await
    }

    /// Takes a member out, its vote first. A leader that removes itself steps
    /// down shortly after.
    ///
    /// # Errors
    /// As the variants say.
    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        let _turn = Turn::take(&self.0.changing_members)?;
        let status = self.leading()?;
        let member = status.members.iter().find(|member| member.id == id);
        let member = member.ok_or(MembershipError::NotAMember(id))?;
        let voters = status.members.iter().filter(|member| member.voter);
        if member.voter && voters.count() == 1 {
            return Err(MembershipError::LastVoter(id));
        }
        let ids = BTreeSet::from([id]);
        if member.voter {
            // Without `retain` this removes the node with its vote.
            self.change(ChangeMembers::RemoveVoters(ids)).await
        } else {
            self.change(ChangeMembers::RemoveNodes(ids)).await
        }
    }

    /// Ends a change that an earlier leader left half done, if there is one.
    ///
    /// # Errors
    /// As the variants say.
    pub async fn finish_change(&self) -> Result<(), MembershipError> {
        let _turn = Turn::take(&self.0.changing_members)?;
        self.leading()?;
        let wait = self.0.options.membership_wait;
        let finished = RT::timeout(wait, self.finish()).await;
        finished.unwrap_or(Err(MembershipError::OutcomeUnknown))
    }

    async fn finish(&self) -> Result<(), MembershipError> {
        if !self.status().membership_is_joint {
            return Ok(());
        }
        let finish = ChangeMembers::AddVoterIds(BTreeSet::new());
        let finished = self.0.raft.change_membership(finish, true).await;
        self.shown(&finished.map_err(explain)?).await;
        Ok(())
    }

    async fn change(&self, change: ChangeMembers<u64, BasicNode>) -> Result<(), MembershipError> {
        let wait = self.0.options.membership_wait;
        let work = async {
            self.finish().await?;
            let changed = self.0.raft.change_membership(change, false).await;
            self.shown(&changed.map_err(explain)?).await;
            Ok(())
        };
        let done = RT::timeout(wait, work).await;
        done.unwrap_or(Err(MembershipError::OutcomeUnknown))
    }

    /// Hands leadership to a voter and waits until it leads.
    ///
    /// # Errors
    /// As the variants say; `OutcomeUnknown` if it did not lead in time.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), MembershipError> {
        let status = self.leading()?;
        let is_voter = |id| {
            let mut members = status.members.iter();
            members.any(|member| member.id == id && member.voter)
        };
        if !is_voter(to) {
            return Err(MembershipError::NotAMember(to));
        }
        if to == status.node_id {
            return Ok(());
        }
        let asked = self.0.raft.trigger().transfer_leader(to).await;
        asked.map_err(|_| MembershipError::Stopped)?;
        let mut changes = self.status_changes();
        let leads = changes.wait_for(|status| {
            let leader = status.leader.as_ref();
            leader.is_some_and(|(id, _)| *id == to)
        });
        match RT::timeout(self.0.options.membership_wait, leads).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(MembershipError::Stopped),
            Err(_) => Err(MembershipError::OutcomeUnknown),
        }
    }
}
