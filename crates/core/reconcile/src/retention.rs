//! Forgetting what is old or too much. Apply checks each wish again.

use berth_model::{DurationMs, JobId, NodeId, NodeState, StateMs};
use berth_state::{ClusterState, Command, retention as limits};

/// Things of each kind forgotten in one command.
const REAP_MAX: usize = 256;
/// Keys are texts of up to 256 bytes: so many bytes of them in one command
/// leave it well inside a log entry, which an entry of 256 long keys is not,
/// and a command that never fits would stop retention for ever.
const REAP_KEY_BYTES_MAX: usize = 32 << 10;
/// What a key costs beside its texts: tags and lengths.
const KEY_EXTRA_BYTES: usize = 16;

pub(crate) fn commands(view: &ClusterState, now: StateMs) -> Option<Command> {
    let jobs = jobs(view, now);
    let nodes: Vec<NodeId> = view
        .nodes()
        .values()
        .filter(|node| node.state == NodeState::Down && node.live.is_empty())
        .filter(|node| now.since(node.since) >= limits::DOWN_NODES_KEPT)
        .map(|node| node.id)
        .take(REAP_MAX)
        .collect();
    let mut key_bytes = 0;
    let keys: Vec<_> = view
        .forgettable_keys(now)
        .take(REAP_MAX)
        .take_while(|(namespace, key)| {
            key_bytes += namespace.as_str().len() + key.len() + KEY_EXTRA_BYTES;
            key_bytes <= REAP_KEY_BYTES_MAX
        })
        .map(|(namespace, key)| (namespace.clone(), key.to_owned()))
        .collect();
    let anything = !jobs.is_empty() || !nodes.is_empty() || !keys.is_empty();
    anything.then_some(Command::Reap { jobs, nodes, keys })
}

fn jobs(view: &ClusterState, now: StateMs) -> Vec<JobId> {
    let mut total: u64 = view.finished_instances().map(|(_, count)| count).sum();
    let mut by_namespace: std::collections::BTreeMap<_, u64> =
        view.finished_instances().map(|(namespace, count)| (namespace.clone(), count)).collect();
    let crowded = |total: u64, here: u64| {
        total > limits::FINISHED_INSTANCES_MAX || here > limits::FINISHED_INSTANCES_IN_NAMESPACE_MAX
    };
    let any_crowded = crowded(total, 0) || by_namespace.values().any(|here| crowded(0, *here));
    let mut jobs = Vec::new();
    for (at, id) in view.finished() {
        let old = now.since(at) >= DurationMs(limits::JOBS_KEPT.0);
        if jobs.len() >= REAP_MAX || !(old || any_crowded) {
            break;
        }
        let Some(row) = view.jobs().get(&id) else { continue };
        let here = by_namespace.get(row.namespace()).copied().unwrap_or(0);
        let spared = view.newest_finished() == Some(id) || !crowded(total, here);
        if !old && spared {
            continue;
        }
        let count = view.finished_weight(id);
        total = total.saturating_sub(count);
        by_namespace.insert(row.namespace().clone(), here.saturating_sub(count));
        jobs.push(id);
    }
    jobs
}
