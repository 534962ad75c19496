//! Decisions of a cluster made anew from what was captured, and compared with what was decided
//! there.

use std::collections::BTreeMap;

use berth_model::{AllocationId, JobId, NodeId, TaskIndex};
use berth_placement::decide_anew;
use berth_state::decision::{Decision, Made, Waiting};
use berth_state::{ClusterState, Placement, Reservation};

/// Differences that are put into words; the others are counted.
pub const DIFFERENCES_SHOWN_MAX: usize = 16;

/// A decision made anew.
#[derive(Clone, PartialEq, Debug)]
pub struct Replayed {
    pub made: Made,
    pub differences: Differences,
}

/// In what two decisions differ.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Differences {
    /// In words, the first first.
    pub shown: Vec<String>,
    pub left_off: u64,
}

impl Differences {
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    fn add(&mut self, difference: String) {
        if self.shown.len() < DIFFERENCES_SHOWN_MAX {
            self.shown.push(difference);
        } else {
            self.left_off += 1;
        }
    }
}

/// Makes a decision anew, from its inputs alone, and compares.
pub fn replay(decision: &Decision) -> Replayed {
    let made = decide_anew(&decision.inputs).made();
    let differences = differences(&decision.inputs.view, &decision.made, &made);
    Replayed { made, differences }
}

/// In what the decision made now differs from the one made then.
pub fn differences(view: &ClusterState, then: &Made, now: &Made) -> Differences {
    let mut found = Differences::default();
    compare_places(view, then, now, &mut found);
    compare_waiting(then, now, &mut found);
    let wakeup = |made: &Made| made.next_wakeup.map(|at| at.0);
    let others = [
        ("next looks again at (ms)", format!("{:?}", wakeup(then)), format!("{:?}", wakeup(now))),
        ("was held back by its bounds", then.held_back.to_string(), now.held_back.to_string()),
        ("has more to plan at once", then.exhausted.to_string(), now.exhausted.to_string()),
    ];
    for (what, then, now) in others.into_iter().filter(|(_, then, now)| then != now) {
        found.add(format!("{what}: {then} then, {now} now"));
    }
    if found.is_empty() && then != now {
        found.add("the same tasks wait in another order".to_owned());
    }
    found
}

/// A place; of one that is kept, who ends for it there.
pub type Place<'a> = (&'a Placement, Option<&'a [AllocationId]>);

/// The places that a decision gives, and then those that it keeps.
pub fn places(made: &Made) -> Vec<Place<'_>> {
    let placed = made.placements.iter().map(|one| (one, None));
    let kept = made.reservations.iter();
    let kept =
        kept.map(|Reservation { placement, awaits, .. }| (placement, Some(awaits.as_slice())));
    placed.chain(kept).collect()
}

fn compare_places(view: &ClusterState, then: &Made, now: &Made, found: &mut Differences) {
    let (before, after) = (places(then), places(now));
    if before == after {
        return;
    }
    let count = found.shown.len();
    let by_id = |places: &[Place<'_>]| -> BTreeMap<AllocationId, usize> {
        places.iter().enumerate().map(|(at, (one, _))| (one.allocation(), at)).collect()
    };
    let (old, new) = (by_id(&before), by_id(&after));
    for (id, at) in &old {
        let was = words(view, before[*at]);
        match new.get(id).map(|at| after[*at]) {
            None => found.add(format!("{id}: {was} then, no place now")),
            Some(place) if place != before[*at] => {
                found.add(format!("{id}: {was} then, {} now", words(view, place)));
            }
            Some(_) => {}
        }
    }
    for (id, at) in new.iter().filter(|(id, _)| !old.contains_key(id)) {
        found.add(format!("{id}: no place then, {} now", words(view, after[*at])));
    }
    if found.shown.len() == count {
        let same = before.iter().zip(&after).take_while(|(one, other)| one == other).count();
        found.add(format!("the same places in another order, from the {}. on", same + 1));
    }
}

/// A place in words.
fn words(view: &ClusterState, (one, awaits): Place<'_>) -> String {
    let mut text = node_name(view, one.node);
    let devices: Vec<&str> = one.devices.iter().map(|device| device.uuid.as_str()).collect();
    if !devices.is_empty() {
        text.push_str(&format!(" with {}", devices.join(" ")));
    }
    for port in &one.ports {
        text.push_str(&format!(" {}={}", port.name, port.port));
    }
    if let Some(awaits) = awaits {
        let awaits: Vec<String> = awaits.iter().map(ToString::to_string).collect();
        match awaits.is_empty() {
            true => text.push_str(" kept"),
            false => text.push_str(&format!(" kept until {} end", awaits.join(" "))),
        }
    }
    let parts: Vec<String> =
        one.score.parts.iter().map(|(name, value)| format!("{name} {value}")).collect();
    if !parts.is_empty() {
        text.push_str(&format!(" ({})", parts.join(", ")));
    }
    text
}

/// The name of a node of the view.
pub fn node_name(view: &ClusterState, node: NodeId) -> String {
    view.nodes().get(&node).map_or_else(|| format!("node {}", node.0), |row| row.name.to_string())
}

fn compare_waiting(then: &Made, now: &Made, found: &mut Differences) {
    let by_task = |made: &Made| -> BTreeMap<(JobId, TaskIndex), Waiting> {
        made.waiting.iter().map(|one| ((one.job, one.task), one.clone())).collect()
    };
    let said = |one: Option<&Waiting>| {
        one.map_or_else(
            || "does not wait".to_owned(),
            |one| format!("{} placed, {} left waiting for {}", one.placed, one.left, one.why),
        )
    };
    let (old, new) = (by_task(then), by_task(now));
    let tasks = old.keys().chain(new.keys().filter(|task| !old.contains_key(task)));
    for task in tasks.filter(|task| old.get(task) != new.get(task)) {
        let (was, is) = (said(old.get(task)), said(new.get(task)));
        found.add(format!("task {}.{}: {was} then, {is} now", task.0, task.1.0));
    }
    if then.waiting_left_off != now.waiting_left_off {
        let (was, is) = (then.waiting_left_off, now.waiting_left_off);
        found.add(format!("tasks that wait and are not named: {was} then, {is} now"));
    }
}

#[cfg(test)]
mod tests;
