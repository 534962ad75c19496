//! Submits with an idempotency key: the first one of a key makes a job, later
//! ones with the same content get the same job, others are refused.

use std::collections::BTreeMap;

use crate::linearizability::{Answer, Call, Model};

/// Submits by key. The object chooses the job's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submits;

/// What is asked, with the idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitAction {
    /// Submits a job.
    Submit {
        /// The idempotency key.
        key: String,
        /// Stands for the job's content.
        digest: u64,
    },
    /// Looks a job up by the key it was submitted with.
    Read {
        /// The idempotency key.
        key: String,
    },
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubmitAnswer {
    /// The job of this key and content, new or not.
    Accepted {
        /// The job's id.
        job_id: u64,
    },
    /// The key belongs to another content.
    Conflict,
    /// What a read found; `None` where the key has no job.
    Found(Option<u64>),
}

/// What stands under one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Submitted {
    /// Nothing yet.
    Nothing,
    /// A job.
    Job {
        /// Its content.
        digest: u64,
        /// Its id, once an answer has shown it.
        job_id: Option<u64>,
    },
}

impl Submitted {
    /// The state in which this is a job with the id `shown`, if it can be.
    fn with_id(self, shown: u64) -> Option<Self> {
        match self {
            Self::Job { digest, job_id } if job_id.is_none_or(|known| known == shown) => {
                Some(Self::Job { digest, job_id: Some(shown) })
            }
            Self::Job { .. } | Self::Nothing => None,
        }
    }
}

impl Model for Submits {
    type Key = String;
    type State = Submitted;
    type Operation = SubmitAction;
    type Outcome = SubmitAnswer;

    fn key_of(&self, operation: &SubmitAction) -> String {
        match operation {
            SubmitAction::Submit { key, .. } | SubmitAction::Read { key } => key.clone(),
        }
    }

    fn initial(&self) -> Submitted {
        Submitted::Nothing
    }

    fn step(
        &self,
        state: &Submitted,
        operation: &SubmitAction,
        outcome: Option<&SubmitAnswer>,
    ) -> Option<Submitted> {
        match operation {
            SubmitAction::Submit { digest, .. } => submit(*state, *digest, outcome),
            SubmitAction::Read { .. } => read(*state, outcome),
        }
    }

    fn only_observes(&self, state: &Submitted, _: &SubmitAction, outcome: &SubmitAnswer) -> bool {
        match (state, outcome) {
            // A job whose id is known never changes again.
            (Submitted::Job { job_id: Some(_), .. }, _) => true,
            (_, SubmitAnswer::Conflict | SubmitAnswer::Found(None)) => true,
            (_, SubmitAnswer::Accepted { .. } | SubmitAnswer::Found(Some(_))) => false,
        }
    }
}

fn submit(state: Submitted, wanted: u64, outcome: Option<&SubmitAnswer>) -> Option<Submitted> {
    let (after, conflicts) = match state {
        Submitted::Nothing => (Submitted::Job { digest: wanted, job_id: None }, false),
        Submitted::Job { digest, .. } => (state, digest != wanted),
    };
    match outcome {
        None => Some(after),
        Some(SubmitAnswer::Accepted { job_id }) if !conflicts => after.with_id(*job_id),
        Some(SubmitAnswer::Conflict) if conflicts => Some(after),
        Some(SubmitAnswer::Accepted { .. } | SubmitAnswer::Conflict | SubmitAnswer::Found(_)) => {
            None
        }
    }
}

fn read(state: Submitted, outcome: Option<&SubmitAnswer>) -> Option<Submitted> {
    match outcome {
        None => Some(state),
        Some(SubmitAnswer::Found(None)) => (state == Submitted::Nothing).then_some(state),
        Some(SubmitAnswer::Found(Some(job_id))) => state.with_id(*job_id),
        Some(SubmitAnswer::Accepted { .. } | SubmitAnswer::Conflict) => None,
    }
}

/// One job id that two keys were told is theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedId {
    /// The id.
    pub job_id: u64,
    /// The key that was told it first in the history given.
    pub first_key: String,
    /// The other key.
    pub second_key: String,
}

/// Ids shared by keys, which a check by key cannot see. None are allowed.
#[must_use]
pub fn shared_ids(history: &[Call<SubmitAction, SubmitAnswer>]) -> Vec<SharedId> {
    let mut key_of_id: BTreeMap<u64, String> = BTreeMap::new();
    let mut shared = Vec::new();
    for call in history {
        let Answer::Returned { outcome, .. } = &call.answer else { continue };
        let job_id = match outcome {
            SubmitAnswer::Accepted { job_id } | SubmitAnswer::Found(Some(job_id)) => *job_id,
            SubmitAnswer::Conflict | SubmitAnswer::Found(None) => continue,
        };
        let second_key = Submits.key_of(&call.operation);
        let first_key = key_of_id.entry(job_id).or_insert_with(|| second_key.clone()).clone();
        let found = SharedId { job_id, first_key, second_key };
        if found.first_key != found.second_key && !shared.contains(&found) {
            shared.push(found);
        }
    }
    shared
}
