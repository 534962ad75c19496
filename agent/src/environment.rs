//! What a worker finds in its environment, and `${NAME}` in what it runs.
//! Nothing of the agent's own environment gets in.

use std::collections::BTreeMap;
use std::path::Path;

use berth_model::{Name, PortClaim, TaskSpec};

use crate::wanted::Wanted;

/// The search path of a worker whose `env` sets none: the usual one of a Linux
/// login without a shell's additions.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A worker's whole environment.
pub type Environment = BTreeMap<String, String>;

/// The environment of one allocation on `node`. In the values of the job's own
/// `env`, `${NAME}` means what Berth sets, or the default `PATH`; the job
/// cannot replace what Berth sets.
pub fn environment(wanted: &Wanted, node: &Name, task_dir: &Path) -> Environment {
    let own = own_variables(wanted, node, task_dir);
    let mut known = own.clone();
    known.insert("PATH".to_owned(), PATH_DEFAULT.to_owned());
    let mut all = known.clone();
    let task = wanted.task();
    all.extend(task.env.iter().map(|(name, value)| (name.clone(), substitute(value, &known))));
    all.extend(own);
    all
}

fn own_variables(wanted: &Wanted, node: &Name, task_dir: &Path) -> Environment {
    let (id, job, task) = (wanted.row.allocation, &wanted.job, wanted.task());
    let uuids: Vec<&str> = wanted.row.devices.iter().map(|claim| claim.uuid.as_str()).collect();
    let mut variables = vec![
        ("CUDA_VISIBLE_DEVICES".to_owned(), uuids.join(",")),
        ("CUDA_DEVICE_ORDER".to_owned(), "PCI_BUS_ID".to_owned()),
        ("BERTH_JOB_ID".to_owned(), id.job.to_string()),
        ("BERTH_JOB_NAME".to_owned(), job.name.to_string()),
        ("BERTH_NAMESPACE".to_owned(), job.namespace.to_string()),
        ("BERTH_ALLOC_ID".to_owned(), id.to_string()),
        ("BERTH_TASK".to_owned(), task.name.to_string()),
        ("BERTH_TASK_INDEX".to_owned(), id.instance.0.to_string()),
        ("BERTH_ATTEMPT".to_owned(), id.attempt.0.to_string()),
        ("BERTH_NODE".to_owned(), node.to_string()),
        ("BERTH_TASK_DIR".to_owned(), task_dir.to_string_lossy().into_owned()),
    ];
    if let Some(array) = task.array {
        let index = u64::from(array.start) + u64::from(id.instance.0) * u64::from(array.step);
        variables.push(("BERTH_ARRAY_INDEX".to_owned(), index.to_string()));
    }
    // The least of its devices: what fits there fits on each of them.
    if let Some(bytes) = wanted.row.devices.iter().map(|claim| claim.memory.0).min() {
        variables.push(("BERTH_GPU_VRAM_BYTES".to_owned(), bytes.to_string()));
    }
    variables.extend(gang_variables(wanted));
    for claim in own_ports(wanted) {
        let name = format!("BERTH_PORT_{}", variable_name(&claim.name));
        variables.push((name, claim.port.to_string()));
    }
    if let Some(first) = own_ports(wanted).next() {
        variables.push(("PORT".to_owned(), first.port.to_string()));
    }
    variables.into_iter().collect()
}

/// The ports that the task asks for: the one where a gang meets has a name of its own.
fn own_ports(wanted: &Wanted) -> impl Iterator<Item = &PortClaim> {
    let in_gang = wanted.row.seat.is_some();
    let is_masters = |claim: &PortClaim| claim.name.as_str() == TaskSpec::MASTER_PORT;
    wanted.row.ports.iter().filter(move |claim| !(in_gang && is_masters(claim)))
}

/// What programs that are started as one read: the names are those of PyTorch.
fn gang_variables(wanted: &Wanted) -> Vec<(String, String)> {
    let Some(seat) = &wanted.row.seat else { return Vec::new() };
    let variables = [
        ("RANK", seat.rank.to_string()),
        ("WORLD_SIZE", seat.world_size.to_string()),
        ("NODE_RANK", seat.node_rank.to_string()),
        ("NNODES", seat.node_count.to_string()),
        ("LOCAL_RANK", seat.local_rank.to_string()),
        ("LOCAL_WORLD_SIZE", seat.local_world_size.to_string()),
        ("MASTER_ADDR", seat.master_address.clone()),
        ("MASTER_PORT", seat.master_port.to_string()),
    ];
    variables.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Capital letters, with `_` for what a variable's name cannot hold.
fn variable_name(name: &Name) -> String {
    let character = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.as_str().chars().map(character).collect()
}

/// `text` with every `${NAME}` that is set replaced. One that is not set stays
/// as it is, for a shell to make of it what it will, and `$${` is a plain
/// `${`. What is put in is not looked at again.
pub fn substitute(text: &str, variables: &Environment) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = &from[2..];
            continue;
        }
        result.push_str(before);
        let end = from.find('}');
        let value = end.and_then(|end| variables.get(&from[2..end]).zip(Some(end)));
        match value {
            Some((value, end)) => {
                result.push_str(value);
                rest = &from[end + 1..];
            }
            None => {
                result.push_str("${");
                rest = &from[2..];
            }
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_is_replaced() {
        let variables: Environment =
            [("PORT", "20000"), ("A", "${PORT}")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for (text, expected) in [
            ("", ""),
            ("--port=${PORT}", "--port=20000"),
            ("${PORT}${PORT}", "2000020000"),
            ("${HOME}/x", "${HOME}/x"),
            ("${A}", "${PORT}"),
            ("$${PORT}", "${PORT}"),
            ("$$${PORT}", "$${PORT}"),
            ("$PORT ${", "$PORT ${"),
            ("${PORT", "${PORT"),
            ("${NO ${PORT}}", "${NO 20000}"),
        ] {
            assert_eq!(substitute(text, &variables), expected, "{text}");
        }
    }
}
