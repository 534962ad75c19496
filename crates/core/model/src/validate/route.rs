//! Rules for what a service says of its callers.

use super::{Complaints, DURATION_MAX};
use crate::route::{MODEL_BYTES_MAX, Route};
use crate::spec::{JobKind, JobSpec};
use crate::time::DurationMs;

pub(super) fn check(spec: &JobSpec, complaints: &mut Complaints) {
    let Route { model, port, balance: _, timeout, drain } = &spec.route;
    if spec.route == Route::default() {
        return;
    }
    if spec.kind != JobKind::Service {
        let kind = spec.kind.name();
        let message = format!("only services are asked by callers, and this is a {kind} job");
        complaints.add_with_hint("route", message, "remove it, or set kind = \"service\"");
        return;
    }
    if let Some(model) = model {
        check_model(model, complaints);
    }
    let is_reached = spec.tasks.iter().any(|task| !task.ports.is_empty());
    match port {
        Some(port) if !spec.tasks.iter().any(|task| task.ports.contains(port)) => {
            let message = format!("no task has a port named `{port}`");
            complaints.add_with_hint("route.port", message, "list it under a task's `ports`");
        }
        None if !is_reached => {
            let hint = "add ports = [\"http\"] to the task that is to be asked";
            complaints.add_with_hint("route", "no task has a port to be reached by", hint);
        }
        Some(_) | None => {}
    }
    if *timeout == DurationMs::ZERO || *timeout > DURATION_MAX {
        complaints.add("route.timeout", "expected more than zero and at most 366d");
    }
    if *drain > DURATION_MAX {
        complaints.add("route.drain", "expected at most 366d");
    }
}

/// It ends up in addresses, in headers of answers and in lines for people.
fn check_model(model: &str, complaints: &mut Complaints) {
    let is_known = |letter: char| letter.is_ascii_graphic() && letter != '"' && letter != '\\';
    if model.is_empty() || model.len() > MODEL_BYTES_MAX || !model.chars().all(is_known) {
        let hint = "as in model = \"meta-llama/Llama-3.1-8B\"";
        let message = format!(
            "expected 1 to {MODEL_BYTES_MAX} letters, digits and signs of ASCII without space, \
             quote or backslash"
        );
        complaints.add_with_hint("route.model", message, hint);
    }
}
