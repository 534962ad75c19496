//! How a new version of a service or daemon takes the place of the one before.

use crate::spec::JobKind;
use crate::time::DurationMs;

/// When a new version gets on, when it has failed, and what becomes of it then.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct UpdatePolicy {
    /// A version of which no further replica gets ready for so long has failed; `None`: it is
    /// waited for.
    pub progress_deadline: Option<DurationMs>,
    /// A replica of the new version has run for so long, and is ready, before the next one of an
    /// older version gives it its place.
    pub min_ready: DurationMs,
    pub on_failure: OnFailure,
}

/// What becomes of a version that has failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum OnFailure {
    /// It keeps the places that it has, and takes no more.
    #[default]
    Hold,
    /// The version that was last seen to serve takes its place.
    Rollback,
}

impl UpdatePolicy {
    /// Of a job file that says nothing: time to load a large model.
    pub const PROGRESS_DEADLINE_DEFAULT: DurationMs = DurationMs::from_secs(600);
    /// Of a job file that says nothing: what cannot run at all has mostly ended by then.
    pub const MIN_READY_DEFAULT: DurationMs = DurationMs::from_secs(5);
    /// So often a replica of a new version may fail where its restarts are not counted.
    pub const FAILURES_MAX: u32 = 3;

    /// What a job file of this kind that says nothing asks for. A batch job is never updated.
    pub fn default_for(kind: JobKind) -> UpdatePolicy {
        if !kind.is_named() {
            return UpdatePolicy::default();
        }
        UpdatePolicy {
            progress_deadline: Some(UpdatePolicy::PROGRESS_DEADLINE_DEFAULT),
            min_ready: UpdatePolicy::MIN_READY_DEFAULT,
            on_failure: OnFailure::Rollback,
        }
    }
}

impl OnFailure {
    pub const ALL: [OnFailure; 2] = [OnFailure::Hold, OnFailure::Rollback];

    pub fn name(self) -> &'static str {
        match self {
            OnFailure::Hold => "hold",
            OnFailure::Rollback => "rollback",
        }
    }
}
