//! Brings Raft's members to what the state wishes, one change at a time. A
//! leader that falls in the middle leaves nothing to clean up: the next one
//! compares anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_raft::{Member, MembershipError, RaftStatus, Role};
use berth_state::{ClusterRow, Refusal, Seat};
use tracing::{debug, info, warn};

use super::Leader;

/// A member that lacks more entries than this is not healthy.
const BEHIND_MAX: u64 = 1000;
/// A learner that lacks more gets no vote yet: every commit would wait for it.
const BEHIND_MAX_TO_VOTE: u64 = 100;
/// How soon to compare again while something is under way, and when nothing is.
const LOOK_SOON: Duration = Duration::from_millis(50);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// After a change that failed.
const RETRY_WAIT: Duration = Duration::from_millis(300);

/// The next change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// What an earlier leader left half done.
    Finish,
    AddLearner {
        scheduler: u64,
        address: String,
    },
    Promote {
        scheduler: u64,
    },
    Remove {
        scheduler: u64,
    },
    /// The leader is to leave, and somebody else to see to it.
    HandOver {
        to: u64,
    },
}

/// How Raft's members stand to the wishes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    AsWished,
    /// Somebody has to catch up or to come back first.
    Waiting,
    Next(Step),
}

/// Whether the leader hears a member, and it has nearly all of the log.
pub fn is_healthy(member: &Member, raft: &RaftStatus) -> bool {
    member.is_heard() && behind(member, raft) <= BEHIND_MAX
}

/// Whether the voters without `scheduler` could go on by themselves at once, as
/// the leader hears them: one that answers and lacks much of the log holds up
/// whoever needs it.
pub fn majority_without(raft: &RaftStatus, scheduler: u64) -> bool {
    let stays = |member: &&Member| member.voter && member.id != scheduler;
    let voters = raft.members.iter().filter(stays).count();
    let able = raft.members.iter().filter(stays).filter(|member| {
        // The leader does not speak to itself.
        member.id == raft.node_id || is_healthy(member, raft)
    });
    able.count() * 2 > voters
}

/// What to do next as the leader. Removals come first: a dead voter costs every
/// other change.
pub fn standing(wished: &ClusterRow, raft: &RaftStatus) -> Standing {
    if raft.membership_is_joint {
        return Standing::Next(Step::Finish);
    }
    let mut waiting = false;
    let (own, others): (Vec<&Member>, Vec<&Member>) =
        raft.members.iter().partition(|member| member.id == raft.node_id);
    for member in others.iter().chain(&own) {
        if wished.seat(member.id) != Err(Refusal::SchedulerRemoved(member.id)) {
            continue;
        }
        if member.id == raft.node_id {
            match heir(wished, raft).filter(|_| majority_without(raft, member.id)) {
                Some(to) => return Standing::Next(Step::HandOver { to }),
                None => waiting = true,
            }
        } else if !member.voter || majority_without(raft, member.id) {
            return Standing::Next(Step::Remove { scheduler: member.id });
        } else {
            waiting = true;
        }
    }
    for member in raft.members.iter().filter(|member| !member.voter) {
        if wished.seat(member.id) == Ok(Seat::Voter) {
            if member.is_heard() && behind(member, raft) <= BEHIND_MAX_TO_VOTE {
                return Standing::Next(Step::Promote { scheduler: member.id });
            }
            waiting = true;
        }
    }
    let admitted = wished.schedulers.iter().filter(|(_, row)| row.seat.is_some());
    for (scheduler, row) in admitted {
        if !raft.members.iter().any(|member| member.id == *scheduler) {
            let address = row.address.clone();
            return Standing::Next(Step::AddLearner { scheduler: *scheduler, address });
        }
    }
    if waiting { Standing::Waiting } else { Standing::AsWished }
}

/// Who is to lead when this leader has to leave.
fn heir(wished: &ClusterRow, raft: &RaftStatus) -> Option<u64> {
    raft.heir_among(|member| is_healthy(member, raft) && wished.seat(member.id).is_ok())
}

/// What is wrong with the set of voters, as one may tell an operator.
pub fn warnings(raft: &RaftStatus) -> Vec<String> {
    let voters: Vec<&Member> = raft.members.iter().filter(|member| member.voter).collect();
    let mut found = Vec::new();
    if voters.len() == 2 {
        found.push("two voters bear the loss of none; add a third".to_owned());
    } else if !voters.is_empty() && voters.len().is_multiple_of(2) {
        let count = voters.len();
        found.push(format!(
            "{count} voters bear the loss of {}, as {} do",
            count / 2 - 1,
            count - 1
        ));
    }
    if raft.role == Role::Leader {
        let silent: Vec<String> = voters
            .iter()
            .filter(|member| member.id != raft.node_id && !member.is_heard())
            .map(|member| member.id.to_string())
            .collect();
        let spare = (voters.len() - silent.len()).saturating_sub(voters.len() / 2 + 1);
        if !silent.is_empty() {
            found.push(format!(
                "voters that do not answer: {}; the loss of {spare} more is borne",
                silent.join(", "),
            ));
        }
    }
    found
}

/// Entries that a member lacks; without end if it is not known to hold any.
fn behind(member: &Member, raft: &RaftStatus) -> u64 {
    let Some(matched) = member.matched_index else { return u64::MAX };
    raft.last_log_index.unwrap_or(0).saturating_sub(matched)
}

/// Runs for a term of leadership.
pub async fn run(leader: Arc<Leader>) {
    loop {
        let raft = leader.node.status();
        let wait = match standing(leader.published.view().cluster(), &raft) {
            // Without a majority no step can succeed.
            _ if !leader.has_quorum() => LOOK_AGAIN,
            Standing::AsWished => LOOK_AGAIN,
            Standing::Waiting => LOOK_SOON,
            Standing::Next(Step::Promote { scheduler }) if !follows(&leader, scheduler) => {
                LOOK_SOON
            }
            Standing::Next(step) => match take(&leader, &step).await {
                // Handed over, or lost: another leader goes on.
                _ if leader.ended.is_cancelled() => return,
                Ok(()) => {
                    info!(?step, "members changed");
                    continue;
                }
                Err(error @ (MembershipError::InProgress | MembershipError::NotLeader { .. })) => {
                    debug!(?step, %error, "members not changed yet");
                    RETRY_WAIT
                }
                Err(error) => {
                    warn!(?step, %error, "members not changed");
                    RETRY_WAIT
                }
            },
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = leader.members_wake.notified() => {}
            () = leader.ended.cancelled() => return,
        }
    }
}

/// Whether a scheduler is known to follow the rules of the cluster: with a vote it
/// would be missed if it stopped at them.
fn follows(leader: &Leader, scheduler: u64) -> bool {
    let version = leader.published.view().cluster().cluster_version;
    let said = leader.published.peers.said(scheduler);
    said.is_some_and(|said| said.cluster_version_max >= version)
}

async fn take(leader: &Leader, step: &Step) -> Result<(), MembershipError> {
    let change = async {
        match step {
            Step::Finish => leader.node.finish_change().await,
            Step::AddLearner { scheduler, address } => {
                leader.node.add_learner(*scheduler, address.clone()).await
            }
            Step::Promote { scheduler } => leader.node.promote(BTreeSet::from([*scheduler])).await,
            Step::Remove { scheduler } => leader.node.remove(*scheduler).await,
            Step::HandOver { to } => leader.node.transfer_leader(*to).await,
        }
    };
    tokio::select! {
        changed = change => changed,
        () = leader.ended.cancelled() => Err(MembershipError::NotLeader { leader: None }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use berth_state::SchedulerRow;

    use super::*;

    const VOTER: Option<Seat> = Some(Seat::Voter);

    /// The founder leads as 1; the others as given.
    fn raft(others: &[Member]) -> RaftStatus {
        let own = Member {
            id: 1,
            address: "a:1".to_owned(),
            voter: true,
            matched_index: Some(9_999),
            heard_ms: None,
        };
        RaftStatus {
            node_id: 1,
            term: 1,
            leader: Some((1, "a:1".to_owned())),
            role: Role::Leader,
            members: std::iter::once(own).chain(others.iter().cloned()).collect(),
            membership_is_joint: false,
            last_log_index: Some(9_999),
            applied_index: Some(9_999),
            snapshot_index: None,
            purged_index: None,
            millis_since_quorum: Some(0),
        }
    }

    fn voter(id: u64) -> Member {
        let address = format!("a:{id}");
        Member { id, address, voter: true, matched_index: Some(9_999), heard_ms: Some(10) }
    }

    fn learner(id: u64, matched: u64) -> Member {
        Member { voter: false, matched_index: Some(matched), ..voter(id) }
    }

    fn dead(id: u64) -> Member {
        Member { heard_ms: Some(60_000), ..voter(id) }
    }

    fn wished(seats: &[(u64, Option<Seat>)]) -> ClusterRow {
        let row = |(id, seat): &(u64, Option<Seat>)| {
            let address = format!("a:{id}");
            (*id, SchedulerRow { instance_key: [0; 16], address, seat: *seat })
        };
        let schedulers: BTreeMap<_, _> = seats.iter().map(row).collect();
        ClusterRow { id: [1; 16], schedulers, ..ClusterRow::default() }
    }

    #[track_caller]
    fn check(seats: &[(u64, Option<Seat>)], others: &[Member], expected: &Standing) {
        assert_eq!(&standing(&wished(seats), &raft(others)), expected);
    }

    #[test]
    fn what_is_half_done_is_finished_first() {
        let half = RaftStatus { membership_is_joint: true, ..raft(&[voter(2), voter(3)]) };
        let wished = wished(&[(2, VOTER), (3, None)]);
        assert_eq!(standing(&wished, &half), Standing::Next(Step::Finish));
    }

    #[test]
    fn an_admitted_scheduler_is_added_catches_up_and_votes() {
        let add = Step::AddLearner { scheduler: 2, address: "a:2".to_owned() };
        check(&[(2, VOTER)], &[], &Standing::Next(add));
        check(&[(2, VOTER)], &[learner(2, 10)], &Standing::Waiting);
        let silent = Member { heard_ms: None, ..learner(2, 9_999) };
        check(&[(2, VOTER)], &[silent], &Standing::Waiting);
        let empty = Member { matched_index: None, ..learner(2, 0) };
        check(&[(2, VOTER)], &[empty], &Standing::Waiting);
        let promote = Standing::Next(Step::Promote { scheduler: 2 });
        check(&[(2, VOTER)], &[learner(2, 9_950)], &promote);
        check(&[(2, VOTER)], &[learner(2, 9_000)], &Standing::Waiting);
        check(&[(2, VOTER)], &[voter(2)], &Standing::AsWished);
        check(&[(2, Some(Seat::Learner))], &[learner(2, 10)], &Standing::AsWished);
    }

    #[test]
    fn a_removed_scheduler_goes_first_and_never_with_the_majority() {
        let three = [(2, VOTER), (3, None), (4, VOTER)];
        let remove = Standing::Next(Step::Remove { scheduler: 3 });
        check(&three, &[voter(2), voter(3), learner(4, 9_999)], &remove);
        // The dead one goes while the others are a majority of themselves.
        check(&[(2, VOTER), (3, None)], &[voter(2), dead(3)], &remove);
        // Without 3 there would be 1 and a dead 2: no majority of two.
        check(&[(2, VOTER), (3, None)], &[dead(2), voter(3)], &Standing::Waiting);
        // Nor with a 2 that answers and has to be sent a snapshot first.
        let behind = Member { matched_index: Some(10), ..voter(2) };
        check(&[(2, VOTER), (3, None)], &[behind, voter(3)], &Standing::Waiting);
        check(&[(2, VOTER), (3, None)], &[voter(2), learner(3, 0)], &remove);
        check(&[(3, None)], &[], &Standing::AsWished);
    }

    #[test]
    fn an_operator_is_warned_of_even_numbers_and_of_silence() {
        let check = |others: &[Member], expected: &[&str]| {
            assert_eq!(warnings(&raft(others)), expected);
        };
        check(&[], &[]);
        check(&[voter(2)], &["two voters bear the loss of none; add a third"]);
        check(&[voter(2), voter(3)], &[]);
        check(&[voter(2), voter(3), learner(4, 0)], &[]);
        check(&[voter(2), voter(3), voter(4)], &["4 voters bear the loss of 1, as 3 do"]);
        let none = "voters that do not answer: 3; the loss of 0 more is borne";
        check(&[voter(2), dead(3)], &[none]);
    }

    #[test]
    fn a_leader_that_is_removed_hands_over_last() {
        let both = [(1, None), (2, VOTER), (3, None)];
        let remove = Standing::Next(Step::Remove { scheduler: 3 });
        check(&both, &[voter(2), voter(3)], &remove);
        let leave = Standing::Next(Step::HandOver { to: 2 });
        check(&both, &[voter(2)], &leave);
        check(&[(1, None), (2, VOTER)], &[dead(2)], &Standing::Waiting);
        // Whoever would lead then could not remove it.
        let alone = [(1, None), (2, VOTER), (3, VOTER)];
        check(&alone, &[voter(2), dead(3)], &Standing::Waiting);
    }
}
