//! The keys of a job file: one walk over the tree, whatever its syntax.

mod array;
mod artifact;
mod autoscale;
mod gpu;
mod health;
mod job;
mod keys;
mod namespace;
mod task;
mod walk;

pub use array::{ArrayText, parse_array};
pub use gpu::{parse_gpu, parse_share};
pub(crate) use job::read_job;
pub(crate) use namespace::read_namespace;

use crate::text::Sources;
use crate::tree::{Node, Table, Value};

/// Marks the values of environment variables, so that no excerpt repeats them:
/// they are where people keep tokens.
pub(crate) fn mask_secrets(tree: &Table, sources: &mut Sources<'_>) {
    let single = tree.get("task").into_iter().map(|entry| &entry.node);
    let several = match tree.get("tasks").map(|entry| &entry.node.value) {
        Some(Value::Table(tasks)) => tasks.entries(),
        Some(_) | None => &[],
    };
    for task in single.chain(several.iter().map(|entry| &entry.node)) {
        if let Value::Table(task) = &task.value
            && let Some(env) = task.get("env")
        {
            mask_leaves(&env.node, sources);
        }
    }
}

fn mask_leaves(node: &Node, sources: &mut Sources<'_>) {
    match &node.value {
        Value::Table(table) => {
            table.entries().iter().for_each(|entry| mask_leaves(&entry.node, sources));
        }
        Value::List(items) => items.iter().for_each(|item| mask_leaves(item, sources)),
        Value::Null
        | Value::Boolean(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::Date => sources.mask(node.span),
    }
}
