//! Identifiers. Jobs and nodes are numbered by counters in the replicated
//! state and never reused; an allocation's id is derived from what it is an
//! attempt of, so nobody has to agree on it.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use thiserror::Error;

/// A job, numbered from 1 in the order in which the cluster accepted them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct JobId(pub u64);

/// A node, numbered from 1 in the order in which agents first registered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub u64);

/// The position of a task in its job's list of tasks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TaskIndex(pub u16);

/// One copy of a task: an array position, a replica, or (for a daemon) the
/// number of the node it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct InstanceIndex(pub u32);

/// The number of a try at an instance, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Attempt(pub u32);

/// One attempt of an instance. Written `job.task.instance.attempt`, as in
/// `17.0.3.1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AllocationId {
    pub job: JobId,
    pub task: TaskIndex,
    pub instance: InstanceIndex,
    pub attempt: Attempt,
}

/// Why a text is not an id.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ParseIdError {
    #[error("expected a number, found `{0}`")]
    NotANumber(String),
    #[error(
        "expected an allocation id such as `17.0.3.1` (job.task.instance.attempt), found `{0}`"
    )]
    NotAnAllocation(String),
}

impl fmt::Display for JobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

impl fmt::Display for AllocationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}.{}", self.job.0, self.task.0, self.instance.0, self.attempt.0)
    }
}

impl FromStr for JobId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        number(text).map(JobId)
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        number(text).map(NodeId)
    }
}

impl FromStr for AllocationId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseIdError::NotAnAllocation(text.to_owned());
        let parts: Vec<&str> = text.split('.').collect();
        let [job, task, instance, attempt] = parts.as_slice() else {
            return Err(refuse());
        };
        let parsed = || -> Result<AllocationId, ParseIntError> {
            Ok(AllocationId {
                job: JobId(job.parse()?),
                task: TaskIndex(task.parse()?),
                instance: InstanceIndex(instance.parse()?),
                attempt: Attempt(attempt.parse()?),
            })
        };
        let id = parsed().map_err(|_| refuse())?;
        // `+7` and `007` parse as numbers but are not how an id is written.
        if id.to_string() == text { Ok(id) } else { Err(refuse()) }
    }
}

fn number(text: &str) -> Result<u64, ParseIdError> {
    let refuse = || ParseIdError::NotANumber(text.to_owned());
    let value: u64 = text.parse().map_err(|_| refuse())?;
    if value.to_string() == text { Ok(value) } else { Err(refuse()) }
}

impl AllocationId {
    /// Below every attempt of the instance, and above all that come before it.
    pub fn first_of(job: JobId, task: TaskIndex, instance: InstanceIndex) -> AllocationId {
        AllocationId { job, task, instance, attempt: Attempt(0) }
    }
}

impl Attempt {
    /// The first attempt of every instance.
    pub const FIRST: Attempt = Attempt(1);

    /// The attempt after this one.
    #[must_use]
    pub fn next(self) -> Attempt {
        Attempt(self.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_id_reads_back_as_written() {
        let id: AllocationId = "17.0.3.1".parse().unwrap();
        assert_eq!(id.job, JobId(17));
        assert_eq!(id.instance, InstanceIndex(3));
        assert_eq!(id.to_string(), "17.0.3.1");
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in
            ["", "17", "17.0.3", "17.0.3.1.1", "a.0.0.1", "017.0.3.1", "+1.0.0.1", "1.0.0.-1"]
        {
            assert!(text.parse::<AllocationId>().is_err(), "{text}");
        }
        assert!("+7".parse::<JobId>().is_err());
        assert!(" 7".parse::<JobId>().is_err());
    }
}
