//! Policies that stand for what jobs leave out.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use berth_model::{JobSpec, Name, POOL_POLICIES_MAX, Policy, PolicyOrigin, SpecDigest};

use super::Step;
use crate::command::SubmitJob;
use crate::event::EventKind;
use crate::refusal::Refusal;
use crate::state::Reply;
use crate::table::StableHasher;

impl Step<'_> {
    /// For what is submitted from now on. A pool needs no nodes yet.
    pub(super) fn set_policy_default(
        &mut self,
        pool: Option<&Name>,
        policy: Option<Policy>,
    ) -> Result<Reply, Refusal> {
        if self.state.cluster.id == [0; 16] {
            return Err(Refusal::NotFounded);
        }
        let defaults = &mut self.state.cluster.policies;
        let before = match (pool, policy) {
            (None, _) => std::mem::replace(&mut defaults.cluster, policy),
            (Some(pool), None) => defaults.pools.remove(pool),
            (Some(pool), Some(policy)) => {
                let is_new = !defaults.pools.contains_key(pool);
                if is_new && defaults.pools.len() >= POOL_POLICIES_MAX {
                    return Err(Refusal::TooManyPoolPolicies);
                }
                defaults.pools.insert(pool.clone(), policy)
            }
        };
        if before != policy {
            let pool = pool.cloned();
            self.emit(None, None, None, EventKind::PolicyDefaultChanged { pool, policy });
        }
        Ok(Reply::Done)
    }

    /// A submit with the policy that it leaves out.
    pub(super) fn with_policy(&self, submit: &SubmitJob) -> SubmitJob {
        let mut submit = submit.clone();
        if submit.spec.policy_origin == PolicyOrigin::LeftOut {
            let mut spec = JobSpec::clone(&submit.spec);
            self.state.cluster.policies.fill(&mut spec);
            submit.digest = digest_of_filled(submit.digest, spec.policy);
            submit.spec = Arc::new(spec);
        }
        submit
    }
}

/// The same file under another default is another version, and under one that says what stood
/// before it is the same: nothing is replaced then.
fn digest_of_filled(SpecDigest(mut digest): SpecDigest, policy: Policy) -> SpecDigest {
    if policy == Policy::default() {
        return SpecDigest(digest);
    }
    let mut hasher = StableHasher::default();
    // The name: it is there for ever, and the order of the variants is not.
    policy.name().hash(&mut hasher);
    for (byte, mixed) in digest.iter_mut().zip(hasher.finish().to_le_bytes()) {
        *byte ^= mixed;
    }
    SpecDigest(digest)
}
