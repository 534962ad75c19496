//! What a node knows about itself and the cluster, in our own words.

use openraft::async_runtime::{Watch, WatchReceiver};
use openraft::{AsyncRuntime, Instant as _, RaftMetrics, ServerState};

use crate::app::App;
use crate::types::Types;

/// A node's part in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Receives the log, has no vote.
    Learner,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads; see `millis_since_quorum` for how sure it is.
    Leader,
    /// Takes no part any more.
    Stopped,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Where peers reach it.
    pub address: String,
    /// Whether it has a vote.
    pub voter: bool,
    /// The last entry it is known to hold; only a leader knows.
    pub matched_index: Option<u64>,
    /// Milliseconds since it last answered; only a leader knows, and only of
    /// the others.
    pub heard_ms: Option<u64>,
}

/// A member that has not answered for longer is not counted on. Heartbeats are
/// 50 to 150 ms apart.
const HEARD_MS_MAX: u64 = 1500;

impl Member {
    /// Whether the leader that this was asked of has heard it lately.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.heard_ms.is_some_and(|heard| heard <= HEARD_MS_MAX)
    }
}

/// A node's state at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftStatus {
    /// This node.
    pub node_id: u64,
    /// Its term.
    pub term: u64,
    /// Whom it believes to lead, with the address if it is a member.
    pub leader: Option<(u64, String)>,
    /// Its part.
    pub role: Role,
    /// All members, by id.
    pub members: Vec<Member>,
    /// Whether a change of members is half done; the next one finishes it.
    pub membership_is_joint: bool,
    /// End of its log.
    pub last_log_index: Option<u64>,
    /// The last entry applied.
    pub applied_index: Option<u64>,
    /// The last entry inside its newest snapshot.
    pub snapshot_index: Option<u64>,
    /// The last entry no longer in its log.
    pub purged_index: Option<u64>,
    /// For a leader: milliseconds since a majority last answered, `None`
    /// before the first answer. A sole voter is its own majority.
    pub millis_since_quorum: Option<u64>,
}

impl RaftStatus {
    /// The voter that a leader should hand over to: one that answers, and then
    /// whoever is furthest.
    #[must_use]
    pub fn heir(&self) -> Option<u64> {
        self.heir_among(|_| true)
    }

    /// As `heir`, of those that are fit.
    #[must_use]
    pub fn heir_among(&self, fit: impl Fn(&Member) -> bool) -> Option<u64> {
        let others = self.members.iter().filter(|member| member.voter && member.id != self.node_id);
        let best = others
            .filter(|member| fit(member))
            .max_by_key(|member| (member.is_heard(), member.matched_index, member.id));
        best.map(|member| member.id)
    }

    pub(crate) fn initial(node_id: u64) -> Self {
        Self {
            node_id,
            term: 0,
            leader: None,
            role: Role::Learner,
            members: Vec::new(),
            membership_is_joint: false,
            last_log_index: None,
            applied_index: None,
            snapshot_index: None,
            purged_index: None,
            millis_since_quorum: None,
        }
    }

    pub(crate) fn read<A: App, RT: AsyncRuntime>(metrics: &RaftMetrics<Types<A, RT>>) -> Self {
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let address_of = |id: u64| {
            let node = membership.get_node(&id);
            node.map_or_else(String::new, |node| node.addr.clone())
        };
        let matched = |id: u64| {
            let replication = metrics.replication.as_ref()?;
            replication.get(&id)?.as_ref().map(|log_id| log_id.index)
        };
        let heard = |id: u64| {
            let last = metrics.heartbeat.as_ref()?.get(&id)?.as_ref()?;
            u64::try_from(last.into_inner().elapsed().as_millis()).ok()
        };
        let members = membership.nodes().map(|(id, node)| Member {
            id: *id,
            address: node.addr.clone(),
            voter: voters.contains(id),
            matched_index: matched(*id),
            heard_ms: heard(*id).filter(|_| *id != metrics.id),
        });
        let is_leader = metrics.state == ServerState::Leader;
        let acked = metrics.last_quorum_acked.as_ref().map(|acked| {
            let elapsed = acked.into_inner().elapsed();
            u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
        });
        let alone = voters == [metrics.id];
        Self {
            node_id: metrics.id,
            term: metrics.current_term,
            leader: metrics.current_leader.map(|id| (id, address_of(id))),
            role: match metrics.state {
                _ if metrics.running_state.is_err() => Role::Stopped,
                ServerState::Learner => Role::Learner,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Leader => Role::Leader,
                ServerState::Shutdown => Role::Stopped,
            },
            members: members.collect(),
            membership_is_joint: membership.get_joint_config().len() > 1,
            last_log_index: metrics.last_log_index,
            applied_index: metrics.last_applied.map(|log_id| log_id.index),
            snapshot_index: metrics.snapshot.map(|log_id| log_id.index),
            purged_index: metrics.purged.map(|log_id| log_id.index),
            millis_since_quorum: if is_leader && alone { Some(0) } else { acked }
                .filter(|_| is_leader),
        }
    }
}

type Receiver<RT> = <<RT as AsyncRuntime>::Watch as Watch>::Receiver<RaftStatus>;

/// Follows a node's status. Steps in between may be skipped, the newest one
/// never is.
pub struct StatusWatch<RT: AsyncRuntime>(pub(crate) Receiver<RT>);

impl<RT: AsyncRuntime> Clone for StatusWatch<RT> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<RT: AsyncRuntime> StatusWatch<RT> {
    /// The newest status.
    #[must_use]
    pub fn current(&self) -> RaftStatus {
        self.0.borrow_watched().clone()
    }

    /// Waits until the status differs from the one seen last; `None` when the
    /// node has stopped for good.
    pub async fn changed(&mut self) -> Option<RaftStatus> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }

    /// Waits until the status is as wanted; `None` when the node has stopped
    /// for good before it was.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&RaftStatus) -> bool + Send,
    ) -> Option<RaftStatus> {
        loop {
            let current = self.0.borrow_and_update().clone();
            if wanted(&current) {
                return Some(current);
            }
            self.0.changed().await.ok()?;
        }
    }
}
