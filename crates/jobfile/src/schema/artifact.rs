//! `artifacts` of a task.

use berth_model::{Artifact, Checksum, shown_source};

use super::keys;
use super::walk::{Field, Walk};
use crate::text::shown;

/// Whether sources and places make sense is the server's word, told at the places noted here.
/// Nothing, if one cannot be read: those after it would be told at wrong places.
pub(super) fn read(walk: &mut Walk<'_>, artifacts: &Field<'_>) -> Vec<Artifact> {
    let items = walk.list(artifacts, "list of tables").unwrap_or_default();
    let read: Vec<Option<Artifact>> = items.iter().map(|item| read_one(walk, item)).collect();
    read.into_iter().collect::<Option<_>>().unwrap_or_default()
}

fn read_one(walk: &mut Walk<'_>, item: &Field<'_>) -> Option<Artifact> {
    let table = walk.table(item, &keys::ARTIFACT)?;
    let Some(source) = walk.field(table, &item.path, "source") else {
        let hint = "write { source = \"https://HOST/FILE\" }";
        walk.complain_with_hint(item, "`source` is missing", hint);
        return None;
    };
    let checksum = match walk.field(table, &item.path, "checksum") {
        None => None,
        Some(checksum) => Some(read_checksum(walk, &checksum)?),
    };
    let to = match walk.field(table, &item.path, "to") {
        Some(to) => walk.text(&to)?.to_owned(),
        None => {
            walk.note(format!("{}.to", item.path), source.node.span);
            let text = walk.text(&source)?;
            shown_source(text).rsplit('/').next().unwrap_or_default().to_owned()
        }
    };
    Some(Artifact { source: walk.text(&source)?.to_owned(), checksum, to })
}

fn read_checksum(walk: &mut Walk<'_>, field: &Field<'_>) -> Option<Checksum> {
    let text = walk.text(field)?;
    match Checksum::parse(text) {
        Ok(checksum) => Some(checksum),
        Err(error) => {
            let message = format!("{error}, found `{}`", shown(text));
            walk.complain_with_hint(field, message, "`sha256sum FILE` prints the digits");
            None
        }
    }
}
