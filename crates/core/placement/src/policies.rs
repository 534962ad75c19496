//! Which node is preferred among those that fit: a policy is a list of terms, the first of
//! which decides, then the next. After all of them the node that was registered first comes
//! first, so that no two nodes ever tie: a fixed order fills one node after another, where
//! chance would spread equals over all of them (worth five points of GPUs that can be used,
//! on the traces that docs/placement.md describes).

use berth_model::{AllocationId, Policy};
use berth_state::ScoreParts;

use crate::terms::cost::{self, Losses};
use crate::terms::{Look, Term, terms_of};

/// The most terms that a policy has.
pub const TERMS_MAX: usize = 3;

/// A node's rank for one request: what the policy's terms come to, in their order; unused
/// ones are 0. Less is better, and only scores of one policy are compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Score(pub [u32; TERMS_MAX]);

/// The score of a node under a policy. Pure.
pub(crate) fn score(terms: &[Term], look: Look<'_>) -> Score {
    let mut score = Score::default();
    for (part, term) in score.0.iter_mut().zip(terms) {
        *part = term.value(look);
    }
    score
}

/// Whose turn it is, as a position among `ring_len` suitable nodes in the order
/// of their ids. Derived from what is placed, so that nothing has to be
/// remembered: consecutive instances, and consecutive jobs of one instance, go
/// to consecutive nodes, and another attempt moves on. 0 for an empty ring.
pub fn turn(allocation: AllocationId, ring_len: usize) -> usize {
    let AllocationId { job, task, instance, attempt } = allocation;
    let count = job
        .0
        .wrapping_add(u64::from(task.0))
        .wrapping_add(u64::from(instance.0))
        .wrapping_add(u64::from(attempt.0.saturating_sub(1)));
    let length = u64::try_from(ring_len).unwrap_or(u64::MAX).max(1);
    usize::try_from(count % length).unwrap_or(0)
}

impl Score {
    /// With what is known of one term only now.
    pub(crate) fn with(mut self, terms: &[Term], term: Term, value: u32) -> Score {
        let part = terms.iter().zip(&mut self.0).find(|(one, _)| **one == term);
        if let Some((_, part)) = part {
            *part = value;
        }
        self
    }

    /// The parts by name, in the order in which they decide; what a sum is made of behind it.
    pub(crate) fn parts(&self, policy: Policy, look: Look<'_>, view_index: u64) -> ScoreParts {
        let mut parts = Vec::new();
        for (term, value) in terms_of(policy, look.task).iter().zip(self.0) {
            if *term != Term::Cost {
                parts.push((term.name().to_owned(), i64::from(value)));
                continue;
            }
            let losses = cost::best_place(look).map_or_else(Losses::default, |(losses, _)| losses);
            let all = cost::milli_of_steps(value);
            let by_itself = cost::milli_of_steps(losses.steps());
            parts.push((term.name().to_owned(), all));
            parts.push(("stranded_milli".to_owned(), losses.stranded_milli));
            parts.push(("remnants_milli".to_owned(), losses.remnants_milli));
            parts.push(("cores_milli".to_owned(), losses.cores_milli));
            parts.push(("scarcity_milli".to_owned(), all - by_itself));
        }
        ScoreParts { policy: policy.name().to_owned(), parts, view_index }
    }
}
