//! Rules for what a service says of its callers.

use super::{Complaints, DURATION_MAX};
use crate::route::{MODEL_BYTES_MAX, Route, WAITING_MAX};
use crate::spec::{JobKind, JobSpec};
use crate::time::DurationMs;

pub(super) fn check(spec: &JobSpec, complaints: &mut Complaints) {
    let Route { model, port, timeout, drain, wait, waiting_max, in_flight_max, .. } = &spec.route;
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
    for (field, span) in [("route.drain", drain), ("route.wait", wait)] {
        if *span > DURATION_MAX {
            complaints.add(field, "expected at most 366d");
        }
    }
    if *waiting_max > WAITING_MAX {
        complaints.add("route.waiting_max", format!("expected at most {WAITING_MAX}"));
    }
    if in_flight_max.is_some_and(|most| most == 0 || most > WAITING_MAX) {
        complaints.add("route.in_flight_max", format!("expected 1 to {WAITING_MAX}"));
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
