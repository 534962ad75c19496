//! What every part of the walk needs: a value of the right kind, or a complaint
//! with its place.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use berth_config::nearest;
use berth_config::units::{self, UnitError};
use berth_model::{DurationMs, MemoryBytes, Name};

use super::keys::Keys;
use crate::problem::Complaints;
use crate::text::{Span, shown};
use crate::tree::{Node, Table, Value};

/// A walk over one file.
pub(super) struct Walk<'c> {
    pub(super) complaints: &'c mut Complaints,
    /// Where each value that was read stands, by its path.
    places: BTreeMap<String, Span>,
}

/// A value and its path.
#[derive(Clone)]
pub(super) struct Field<'t> {
    pub(super) node: &'t Node,
    pub(super) path: String,
}

impl<'c> Walk<'c> {
    pub(super) fn new(complaints: &'c mut Complaints) -> Walk<'c> {
        Walk { complaints, places: BTreeMap::new() }
    }

    /// The value of `key`, if it is given.
    pub(super) fn field<'t>(
        &mut self,
        table: &'t Table,
        path: &str,
        key: &str,
    ) -> Option<Field<'t>> {
        let entry = table.get(key)?;
        let path = join(path, key);
        self.places.insert(path.clone(), entry.node.span);
        Some(Field { node: &entry.node, path })
    }

    /// Says that `path` is to be looked for at `span`.
    pub(super) fn note(&mut self, path: String, span: Span) {
        self.places.insert(path, span);
    }

    /// The place of `path`, or of the nearest thing around it.
    pub(super) fn place_of(&self, path: &str) -> Option<Span> {
        let mut path = path;
        loop {
            if let Some(span) = self.places.get(path) {
                return Some(*span);
            }
            path = &path[..path.rfind('.')?];
        }
    }

    pub(super) fn complain(&mut self, field: &Field<'_>, message: impl Into<String>) {
        self.complaints.add(field.node.span, &field.path, message);
    }

    pub(super) fn complain_with_hint(
        &mut self,
        field: &Field<'_>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.complaints.add_with_hint(field.node.span, &field.path, message, hint);
    }

    /// "expected string, found integer".
    pub(super) fn wrong_kind(&mut self, field: &Field<'_>, expected: &str) {
        let message = format!("expected {expected}, found {}", seen(field.node));
        self.complain(field, message);
    }

    fn or_wrong_kind<T>(
        &mut self,
        value: Option<T>,
        field: &Field<'_>,
        expected: &str,
    ) -> Option<T> {
        if value.is_none() {
            self.wrong_kind(field, expected);
        }
        value
    }

    /// The table in `field`, its unknown keys refused.
    pub(super) fn table<'t>(&mut self, field: &Field<'t>, keys: &Keys) -> Option<&'t Table> {
        let table = self.any_table(field)?;
        self.refuse_unknown(table, &field.path, keys);
        Some(table)
    }

    /// The table in `field`, whose keys are the user's own.
    pub(super) fn any_table<'t>(&mut self, field: &Field<'t>) -> Option<&'t Table> {
        self.or_wrong_kind(field.node.as_table(), field, "table")
    }

    pub(super) fn refuse_unknown(&mut self, table: &Table, path: &str, keys: &Keys) {
        for entry in table.entries() {
            let key = entry.key.as_str();
            if keys.known.contains(&key) {
                continue;
            }
            if self.complaints.is_full() {
                self.complaints.omit();
                continue;
            }
            let full = join(path, key);
            let seen = shown(key);
            if keys.later.contains(&key) {
                let message = format!("`{seen}` is not supported by this version");
                self.complaints.add(entry.key_span, &full, message);
                continue;
            }
            let place = if path.is_empty() { keys.of.to_owned() } else { format!("`{path}`") };
            let hint = if keys.elsewhere.contains(&key) {
                format!("`{seen}` stands {}", keys.elsewhere_is)
            } else if let Some(near) = nearest(key, keys.known) {
                format!("did you mean `{near}`?")
            } else {
                format!("the keys here are {}", keys.known.join(", "))
            };
            let message = format!("unknown key `{seen}` in {place}");
            self.complaints.add_with_hint(entry.key_span, &full, message, hint);
        }
    }

    pub(super) fn text<'t>(&mut self, field: &Field<'t>) -> Option<&'t str> {
        self.or_wrong_kind(field.node.as_text(), field, "string")
    }

    pub(super) fn list<'t>(&mut self, field: &Field<'t>, expected: &str) -> Option<Vec<Field<'t>>> {
        let items = self.or_wrong_kind(field.node.as_list(), field, expected)?;
        let item = |(index, node)| Field { node, path: format!("{}[{index}]", field.path) };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A list of strings; one complaint for each item that is none.
    pub(super) fn texts(&mut self, field: &Field<'_>, expected: &str) -> Option<Vec<String>> {
        let items = self.list(field, expected)?;
        let texts = items.iter().map(|item| self.text(item).map(str::to_owned));
        let texts: Vec<Option<String>> = texts.collect();
        texts.into_iter().collect()
    }

    /// A whole number from `min` to `max`, both included.
    pub(super) fn integer(&mut self, field: &Field<'_>, min: u32, max: u32) -> Option<u32> {
        self.integer_of(field, min..=max, "")
    }

    /// As [`Walk::integer`], `things` being what is counted, after a space.
    pub(super) fn integer_of(
        &mut self,
        field: &Field<'_>,
        range: RangeInclusive<u32>,
        things: &str,
    ) -> Option<u32> {
        let Value::Integer(number) = &field.node.value else {
            self.wrong_kind(field, "integer");
            return None;
        };
        let read = number.and_then(|number| u32::try_from(number).ok());
        if let Some(read) = read.filter(|read| range.contains(read)) {
            return Some(read);
        }
        let found =
            number.map_or_else(|| "a number of over 38 digits".to_owned(), |n| n.to_string());
        let (min, max) = (range.start(), range.end());
        self.complain(field, format!("expected {min} to {max}{things}, found {found}"));
        None
    }

    pub(super) fn boolean(&mut self, field: &Field<'_>) -> Option<bool> {
        let value = if let Value::Boolean(value) = &field.node.value { Some(*value) } else { None };
        self.or_wrong_kind(value, field, "true or false")
    }

    pub(super) fn name(&mut self, field: &Field<'_>) -> Option<Name> {
        let text = self.text(field)?;
        match Name::new(text) {
            Ok(name) => Some(name),
            Err(error) => {
                self.complain(field, format!("`{}` is not a name: {error}", shown(text)));
                None
            }
        }
    }

    pub(super) fn duration(&mut self, field: &Field<'_>) -> Option<DurationMs> {
        self.quantity(field, "a duration such as 90s, 5m, 2h", units::duration_ms).map(DurationMs)
    }

    pub(super) fn size(&mut self, field: &Field<'_>) -> Option<MemoryBytes> {
        self.quantity(field, "a size such as 512MiB, 32GiB", units::size_bytes).map(MemoryBytes)
    }

    /// A string with a unit. A bare integer goes to the parser as well: its
    /// complaint names the unit that is missing.
    pub(super) fn quantity(
        &mut self,
        field: &Field<'_>,
        expected: &str,
        parse: fn(&str) -> Result<u64, UnitError>,
    ) -> Option<u64> {
        let parsed = match &field.node.value {
            Value::Text(text) => parse(text),
            Value::Integer(Some(number)) => parse(&number.to_string()),
            Value::Integer(None)
            | Value::Null
            | Value::Boolean(_)
            | Value::Float(_)
            | Value::Date
            | Value::List(_)
            | Value::Table(_) => {
                self.wrong_kind(field, expected);
                return None;
            }
        };
        match parsed {
            Ok(value) => Some(value),
            Err(error) => {
                self.complain(field, error.to_string());
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &mut self,
        field: &Field<'_>,
        words: &[(&'static str, T)],
        later: &[&'static str],
    ) -> Option<T> {
        let text = self.text(field)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let seen = shown(text);
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let all = names.join(", ");
        if later.contains(&text) {
            let message = format!("`{seen}` is not supported by this version");
            self.complain_with_hint(field, message, format!("this version has {all}"));
            return None;
        }
        let message = format!("expected one of {all}, found `{seen}`");
        match nearest(text, &names) {
            Some(near) => {
                self.complain_with_hint(field, message, format!("did you mean `{near}`?"))
            }
            None => self.complain(field, message),
        }
        None
    }
}

/// The kind of a value and, where it is short, the value.
fn seen(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => format!("string `{}`", shown(text)),
        Value::Integer(Some(number)) => format!("integer {number}"),
        Value::Float(text) if node.kind() == "fraction" => format!("fraction {text}"),
        Value::Boolean(value) => format!("boolean {value}"),
        Value::Null
        | Value::Integer(None)
        | Value::Float(_)
        | Value::Date
        | Value::List(_)
        | Value::Table(_) => node.kind().to_owned(),
    }
}

/// `path.key`, the key in quotes where it is not a plain word.
pub(super) fn join(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = match key {
        "" => "\"\"".to_owned(),
        key if key.chars().all(plain) => shown(key),
        key => format!("\"{}\"", shown(key)),
    };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
