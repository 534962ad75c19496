//! Events, one to a line in every format.

use berth_proto::v1::Event;
use serde_json::{Value, json};

use super::rfc3339;

pub(crate) fn event_json(event: &Event) -> Value {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    json!({
        "token": event.token,
        "at": rfc3339(event.at_ms),
        "kind": event.kind,
        "job_id": event.job_id,
        "allocation_id": given(&event.allocation_id),
        "node": given(&event.node),
        "message": event.message,
    })
}

/// The line for people.
pub(crate) fn event_line(event: &Event) -> String {
    let mut parts = vec![rfc3339(event.at_ms), event.kind.clone()];
    parts.extend(event.job_id.map(|id| format!("job={id}")));
    let named = [("allocation", &event.allocation_id), ("node", &event.node)];
    let named = named.into_iter().filter(|(_, value)| !value.is_empty());
    parts.extend(named.map(|(name, value)| format!("{name}={value}")));
    parts.push(event.message.clone());
    let line = parts.join("  ");
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim_end()
        .to_owned()
}
