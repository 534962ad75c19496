//! Whether a task can be a gang.

use super::Complaints;
use crate::gang::{GANG_MEMBERS_MAX, GANG_PLAN_BYTES_MAX};
use crate::spec::{JobKind, JobSpec, TaskSpec};

pub(super) fn check(spec: &JobSpec, task: &TaskSpec, complaints: &mut Complaints) {
    if task.gang.is_none() {
        return;
    }
    let at = |field: &str| format!("tasks.{}.{field}", task.name);
    if spec.kind == JobKind::Daemon {
        complaints.add(at("gang"), "a daemon's instances come and go with the nodes");
    }
    if task.array.is_some_and(|array| array.parallel_max.is_some()) {
        complaints.add_with_hint(
            at("gang"),
            "a gang runs all at once, and its array has a limit of how many may",
            "leave out the `%` of the array",
        );
    }
    if task.count > GANG_MEMBERS_MAX {
        let message =
            format!("expected at most {GANG_MEMBERS_MAX} members of a gang, found {}", task.count);
        complaints.add(at("gang"), message);
    } else if task.plan_bytes() > GANG_PLAN_BYTES_MAX {
        let message = format!(
            "{} members with all their GPUs and ports are more than one plan can hold",
            task.count
        );
        complaints.add_with_hint(
            at("gang"),
            message,
            "such as 1024 members of a GPU each, or 300 of 8",
        );
    }
    if task.ports.iter().any(|port| port.as_str().eq_ignore_ascii_case(TaskSpec::MASTER_PORT)) {
        let message = "`master` is the port that a gang's first member is given by itself";
        complaints.add_with_hint(at("ports"), message, "use ${MASTER_PORT}");
    }
}
