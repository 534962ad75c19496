//! What lies in a directory.

use berth_proto::v1::{FileEntry, FileKind};
use serde_json::{Value, json};

use super::{Answer, Piece, Table, rfc3339};

pub(crate) fn entries_answer(entries: &[FileEntry]) -> Answer {
    let mut table = Table::new(&["MODE", "SIZE", "MODIFIED", "NAME"], &[]);
    for entry in entries {
        let arrow = if entry.link.is_empty() { "" } else { " -> " };
        table.row(vec![
            mode(entry),
            entry.size_bytes.to_string(),
            rfc3339(entry.modified_at_ms),
            format!("{}{arrow}{}", entry.name, entry.link),
        ]);
    }
    Answer {
        json: entries.iter().map(entry_json).collect(),
        pieces: vec![Piece::Table(table)],
        // A name is one line, whatever it holds.
        ids: entries.iter().map(|entry| entry.name.replace(char::is_control, " ")).collect(),
    }
}

fn entry_json(entry: &FileEntry) -> Value {
    json!({
        "name": entry.name,
        "kind": kind_name(entry.kind()),
        "size_bytes": entry.size_bytes,
        "modified_at": rfc3339(entry.modified_at_ms),
        "mode": format!("{:04o}", entry.mode),
        "link": Some(&entry.link).filter(|link| !link.is_empty()),
    })
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Link => "link",
        FileKind::Other => "other",
        FileKind::Unspecified => "unknown",
    }
}

/// As `ls -l` shows it, without what is rarer.
fn mode(entry: &FileEntry) -> String {
    let kind = match entry.kind() {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Link => 'l',
        FileKind::Other | FileKind::Unspecified => '?',
    };
    let bits = ['r', 'w', 'x'].into_iter().cycle().take(9).enumerate();
    let bits =
        bits.map(|(place, letter)| if entry.mode >> (8 - place) & 1 == 1 { letter } else { '-' });
    [kind].into_iter().chain(bits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_shown_as_they_are_known() {
        let check = |kind: FileKind, bits: u32, expected: &str| {
            let entry = FileEntry { kind: kind.into(), mode: bits, ..FileEntry::default() };
            assert_eq!(mode(&entry), expected);
        };
        check(FileKind::File, 0o644, "-rw-r--r--");
        check(FileKind::Directory, 0o1755, "drwxr-xr-x");
        check(FileKind::Link, 0o777, "lrwxrwxrwx");
        check(FileKind::Other, 0, "?---------");
    }
}
