//! `--set KEY=VALUE`: values of the command line, put over those of the file
//! before anything is checked.

use crate::problem::Complaints;
use crate::syntax::parse_value;
use crate::text::{Sources, Span, shown};
use crate::tree::{DEPTH_MAX, Entry, Node, Table, Value};

/// Applies `overrides` in order. A value is read as TOML, or else is a string.
pub(crate) fn apply(
    overrides: &[String],
    tree: &mut Table,
    sources: &mut Sources<'_>,
    complaints: &mut Complaints,
) {
    for text in overrides {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let origin = sources.add_override(&shown(key));
        let span = Span::of_override(origin);
        let parts: Vec<&str> = key.split('.').map(str::trim).collect();
        if !text.contains('=') || parts.iter().any(|part| part.is_empty()) {
            complaints.add_with_hint(
                span,
                "",
                "expected KEY=VALUE",
                "the key is dotted, as in --set task.memory=32GiB",
            );
            continue;
        }
        if parts.len() > DEPTH_MAX {
            complaints.add(span, "", format!("nested more than {DEPTH_MAX} levels deep"));
            continue;
        }
        let value = parse_value(value.trim(), origin)
            .unwrap_or_else(|| Value::Text(value.trim().to_owned()));
        if let Err(message) = put(tree, &parts, Node { value, span }) {
            complaints.add(span, "", message);
        }
    }
}

fn put(table: &mut Table, parts: &[&str], node: Node) -> Result<(), String> {
    let Some((first, rest)) = parts.split_first() else { return Ok(()) };
    let span = node.span;
    if table.get(first).is_none() {
        let value = if rest.is_empty() { Value::Null } else { Value::Table(Table::default()) };
        let empty = Node { value, span };
        table.push(Entry { key: (*first).to_owned(), key_span: span, node: empty });
    }
    let Some(entry) = table.get_mut(first) else { return Ok(()) };
    if rest.is_empty() {
        entry.node = node;
        return Ok(());
    }
    match &mut entry.node.value {
        Value::Table(inner) => put(inner, rest, node),
        Value::Null
        | Value::Boolean(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::Date
        | Value::List(_) => {
            let kind = entry.node.kind();
            Err(format!("`{}` is a {kind} and holds no keys", shown(first)))
        }
    }
}
