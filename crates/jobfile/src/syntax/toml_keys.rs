//! Where a TOML key that is given twice stood first. The parser reports the
//! second place alone.

use std::collections::BTreeMap;

use toml_parser::parser::{Event, EventKind, parse_document};
use toml_parser::{ErrorSink, ParseError, Source};

use crate::problem::Complaints;
use crate::text::{Span, shown};

/// Complains about each key in `duplicates`, naming its first place.
pub(crate) fn complain(text: &str, duplicates: &[Span], complaints: &mut Complaints) {
    let keys = keys(text);
    for duplicate in duplicates {
        let Some(key) = keys.iter().find(|key| key.start == duplicate.start) else {
            complaints.add(*duplicate, "", "the same key is given twice");
            continue;
        };
        let first = keys.iter().find(|other| other.path == key.path).map_or(0, |key| key.start);
        let line = text[..first].matches('\n').count() + 1;
        let name = shown(key.name);
        let message = if first < key.start {
            format!("`{name}` is given twice, first on line {line}")
        } else {
            format!("`{name}` is given twice")
        };
        complaints.add_with_hint(*duplicate, "", message, "keep one of them");
    }
}

/// Errors were reported when the tree was made.
struct Ignore;

impl ErrorSink for Ignore {
    fn report_error(&mut self, _error: ParseError) {}
}

/// The last part of a dotted key or of a header.
struct Key<'a> {
    start: usize,
    name: &'a str,
    path: PathId,
}

fn keys(text: &str) -> Vec<Key<'_>> {
    let tokens = Source::new(text).lex().into_vec();
    let mut reader = Reader {
        text,
        found: Vec::new(),
        paths: BTreeMap::new(),
        scopes: vec![Scope::new(ROOT)],
        paths_made: ROOT,
    };
    let mut receive = |event: Event| reader.receive(&event);
    parse_document(&tokens, &mut receive, &mut Ignore);
    reader.found
}

/// Stands for a path, so that long paths are kept once.
type PathId = usize;
const ROOT: PathId = 0;

/// A table whose keys are being read.
struct Scope<'a> {
    table: PathId,
    key: Vec<(usize, &'a str)>,
    after_separator: bool,
}

struct Reader<'a> {
    text: &'a str,
    found: Vec<Key<'a>>,
    paths: BTreeMap<(PathId, &'a str), PathId>,
    scopes: Vec<Scope<'a>>,
    paths_made: PathId,
}

impl<'a> Scope<'a> {
    fn new(table: PathId) -> Scope<'a> {
        Scope { table, key: Vec::new(), after_separator: false }
    }
}

impl<'a> Reader<'a> {
    fn receive(&mut self, event: &Event) {
        let Some(scope) = self.scopes.last_mut() else { return };
        match event.kind() {
            EventKind::StdTableOpen | EventKind::ArrayTableOpen => *scope = Scope::new(ROOT),
            EventKind::StdTableClose => {
                let table = self.take_key();
                self.scopes = vec![Scope::new(table)];
            }
            EventKind::ArrayTableClose => {
                self.take_key();
                // Each table of a list has keys of its own.
                let table = self.fresh();
                self.scopes = vec![Scope::new(table)];
            }
            EventKind::SimpleKey => {
                if scope.after_separator {
                    scope.key.clear();
                    scope.after_separator = false;
                }
                let span = event.span();
                let name = self.text.get(span.start()..span.end()).unwrap_or_default();
                scope.key.push((span.start(), name.trim_matches(['"', '\''])));
            }
            EventKind::KeyValSep => {
                scope.after_separator = true;
                self.take_key();
            }
            EventKind::InlineTableOpen => {
                let table = self.fresh();
                self.scopes.push(Scope::new(table));
            }
            EventKind::InlineTableClose => {
                if self.scopes.len() > 1 {
                    self.scopes.pop();
                }
            }
            EventKind::ArrayOpen
            | EventKind::ArrayClose
            | EventKind::Scalar
            | EventKind::ValueSep
            | EventKind::KeySep
            | EventKind::Whitespace
            | EventKind::Comment
            | EventKind::Newline
            | EventKind::Error => {}
        }
    }

    fn fresh(&mut self) -> PathId {
        self.paths_made += 1;
        self.paths_made
    }

    /// Records the key that the innermost scope has read; its path.
    fn take_key(&mut self) -> PathId {
        let Some(scope) = self.scopes.last_mut() else { return ROOT };
        let (mut path, parts) = (scope.table, std::mem::take(&mut scope.key));
        for (_, name) in &parts {
            let next = self.paths_made + 1;
            path = *self.paths.entry((path, name)).or_insert(next);
            self.paths_made = self.paths_made.max(path);
        }
        if let Some((start, name)) = parts.last() {
            self.found.push(Key { start: *start, name, path });
        }
        path
    }
}
