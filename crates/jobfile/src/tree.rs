//! Values with their positions: what all three syntaxes become.

use std::collections::BTreeMap;

use crate::text::Span;

/// The deepest nesting of lists and tables. The keys of a job need five levels.
pub(crate) const DEPTH_MAX: usize = 32;
/// The most values in one file: ten times what the largest job holds.
pub(crate) const VALUES_MAX: usize = 50_000;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) span: Span,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Boolean(bool),
    /// `None` where it is beyond 128 bits.
    Integer(Option<i128>),
    /// As written: a share of a GPU is counted in thousandths, which no float holds.
    Float(String),
    Text(String),
    Date,
    List(Vec<Node>),
    Table(Table),
}

/// Entries in the order of the file, each key once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
    positions: BTreeMap<String, usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) node: Node,
}

impl Table {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.positions.get(key).and_then(|position| self.entries.get(*position))
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.positions.get(key).and_then(|position| self.entries.get_mut(*position))
    }

    /// Adds an entry whose key is new.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.positions.insert(entry.key.clone(), self.entries.len());
        self.entries.push(entry);
    }
}

impl Node {
    pub(crate) fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    pub(crate) fn as_table(&self) -> Option<&Table> {
        if let Value::Table(table) = &self.value { Some(table) } else { None }
    }

    pub(crate) fn as_list(&self) -> Option<&[Node]> {
        if let Value::List(items) = &self.value { Some(items) } else { None }
    }

    /// What kind of value it is, as in "expected integer, found string".
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Boolean(_) => "boolean",
            Value::Integer(_) => "integer",
            Value::Float(text) if text.contains("nan") => "NaN",
            Value::Float(text) if text.contains("inf") => "infinity",
            Value::Float(_) => "fraction",
            Value::Text(_) => "string",
            Value::Date => "date",
            Value::List(_) => "list",
            Value::Table(_) => "table",
        }
    }
}
