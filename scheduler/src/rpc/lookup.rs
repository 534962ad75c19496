//! From what a caller named to the row it means, at the freshness it asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::{AllocationId, Name, NodeId, NodeState, Violation};
use berth_proto::v1;
use berth_state::query::Found;
use berth_state::{ClusterState, JobRow, NodeRow};
use tonic::{Code, Status};

use super::{Shared, status};
use crate::access::Granted;

/// Of what a text could stand for so much is listed.
const LISTED_MAX: usize = 8;

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
    if let Ok(allocation) = text.parse::<AllocationId>() {
        let message = format!("expected a job, found the allocation {allocation}");
        let violation = Violation {
            field: "job".to_owned(),
            message,
            hint: Some(format!("its job is {}", allocation.job)),
        };
        return status::invalid(vec![violation]);
    }
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

/// A device, and the node that it is on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundDevice {
    pub id: NodeId,
    pub node: String,
    pub uuid: String,
}

/// The device that a caller means: a uuid, the beginning of one that fits no other, or
/// `NODE:INDEX`. One that is cordoned is found while it is away.
pub fn device(state: &ClusterState, text: &str) -> Result<FoundDevice, Status> {
    let found = |row: &NodeRow, uuid: &str| FoundDevice {
        id: row.id,
        node: row.name.to_string(),
        uuid: uuid.to_owned(),
    };
    if let Some((name, index)) = text.rsplit_once(':') {
        let row = node(state, name)?;
        let device = index
            .parse()
            .ok()
            .and_then(|index: u32| row.spec.devices.iter().find(|device| device.index == index));
        return device.map(|device| found(&row, &device.uuid)).ok_or_else(|| no_device(text));
    }
    let mut fitting = Vec::new();
    for row in state.nodes().values() {
        // What was on a node that is down may be on another by now.
        let present = row.devices_in_use().map(|device| device.uuid.as_str());
        let up = row.state != NodeState::Down;
        let away = row.cordoned_devices.iter().map(String::as_str).filter(|_| up);
        let all: BTreeSet<&str> = present.chain(away).collect();
        if all.contains(text) {
            return Ok(found(row, text));
        }
        let begin_so = all.into_iter().filter(|uuid| uuid.starts_with(text));
        fitting.extend(begin_so.map(|uuid| found(row, uuid)));
    }
    match fitting.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(no_device(text)),
        several => {
            let listed: Vec<String> = several
                .iter()
                .take(LISTED_MAX)
                .map(|one| format!("{} ({})", one.uuid, one.node))
                .collect();
            let hint = "name one of them by its full uuid".to_owned();
            let detail = v1::ErrorDetail { hint, ..v1::ErrorDetail::default() };
            let message = format!("`{text}` stands for several GPUs: {}", listed.join(", "));
            Err(status::status(Code::FailedPrecondition, message, &detail))
        }
    }
}

fn no_device(text: &str) -> Status {
    let shown: String = text.chars().take(64).collect();
    let hint = "list GPUs with `berth gpu list -o wide`".to_owned();
    let detail = v1::ErrorDetail { hint, ..v1::ErrorDetail::default() };
    status::status(Code::NotFound, format!("no GPU `{shown}`"), &detail)
}
