//! From what a caller named to the row it means, at the freshness it asked.

use std::sync::Arc;

use berth_model::Name;
use berth_proto::v1;
use berth_state::query::Found;
use berth_state::{ClusterState, JobRow, NodeRow};
use tonic::{Code, Status};

use super::{Shared, status};
use crate::access::Granted;

/// A view with what is known of its age.
pub struct FreshView {
    pub state: ClusterState,
    /// For stale reads: since this scheduler was last sure of a leader;
    /// `u64::MAX` if never.
    pub stale_ms: Option<u64>,
}

impl Shared {
    /// The state at the freshness that the caller asked for. It may know of a
    /// revocation that the gate did not know of yet, so the caller is asked for
    /// once more.
    pub async fn read(&self, granted: &Granted, consistency: i32) -> Result<FreshView, Status> {
        let stale_ms = match v1::Consistency::try_from(consistency) {
            Ok(v1::Consistency::Unspecified) => {
                self.node.read_index().await.map_err(|error| status::from_read(&error))?;
                None
            }
            Ok(v1::Consistency::Stale) => Some(self.node.leader_heard_ms().unwrap_or(u64::MAX)),
            Err(_) => {
                let message = format!("unknown value {consistency}; 0 is linearizable, 1 is stale");
                return Err(status::invalid_field("consistency", message));
            }
        };
        let state = self.published.view();
        granted.still(&state, self.published.now())?;
        Ok(FreshView { state, stale_ms })
    }
}

/// The namespace of a reference; `default` if none is given.
pub fn namespace(text: &str) -> Result<Name, Status> {
    let text = if text.is_empty() { "default" } else { text };
    Name::new(text).map_err(|error| status::invalid_field("namespace", error.to_string()))
}

/// The job that a caller means, where it may see the namespace.
pub fn job(
    granted: &Granted,
    state: &ClusterState,
    reference: Option<&v1::JobRef>,
) -> Result<Arc<JobRow>, Status> {
    let Some(reference) = reference else {
        return Err(status::invalid_field("job", "a job is missing; give its id or name"));
    };
    let namespace = namespace(&reference.namespace)?;
    granted.check(&namespace)?;
    let found = found(state, &namespace, reference)?;
    granted.about(format!("job {} {}/{}", found.id, found.namespace(), found.name()));
    Ok(found)
}

fn found(
    state: &ClusterState,
    namespace: &Name,
    reference: &v1::JobRef,
) -> Result<Arc<JobRow>, Status> {
    match state.find_job(namespace, &reference.job) {
        Found::One(row) => Ok(row),
        Found::None => Err(no_such_job(state, namespace, &reference.job)),
        Found::Several(rows) => {
            let listed: Vec<String> =
                rows.iter().map(|row| format!("{} ({})", row.id, row.name())).collect();
            let detail = v1::ErrorDetail {
                hint: "name one of them by its full id".to_owned(),
                ..v1::ErrorDetail::default()
            };
            let message =
                format!("`{}` stands for several jobs: {}", reference.job, listed.join(", "));
            Err(status::status(Code::FailedPrecondition, message, &detail))
        }
    }
}

fn no_such_job(state: &ClusterState, namespace: &Name, text: &str) -> Status {
    // The nearest names, by the letters that they begin with.
    let prefix: String = text.chars().take(3).collect();
    let near: Vec<&str> = state
        .jobs()
        .values()
        .filter(|job| job.namespace() == namespace && job.name().as_str().starts_with(&prefix))
        .map(|job| job.name().as_str())
        .take(3)
        .collect();
    let hint = if near.is_empty() || prefix.is_empty() {
        "list jobs with `berth job list`, or look in another --namespace".to_owned()
    } else {
        format!("did you mean {}? Or is it in another --namespace?", near.join(", "))
    };
    let shown: String = text.chars().take(64).collect();
    let message = format!("no job `{shown}` in namespace `{namespace}`");
    let detail = v1::ErrorDetail { hint, ..v1::ErrorDetail::default() };
    status::status(Code::NotFound, message, &detail)
}

/// The node that a caller means.
pub fn node(state: &ClusterState, text: &str) -> Result<Arc<NodeRow>, Status> {
    state.find_node(text).cloned().ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        let detail = v1::ErrorDetail {
            hint: "list nodes with `berth node list`".to_owned(),
            ..v1::ErrorDetail::default()
        };
        status::status(Code::NotFound, format!("no node `{shown}`"), &detail)
    })
}
