//! What one layer said, before anything is known about types.

use std::collections::BTreeMap;

use crate::source::Source;
use crate::units::shorten;

/// A key's segments, outermost first.
pub(crate) type KeyPath = Vec<String>;

/// The keys whose members are free: `agent.labels.rack` needs no declaration.
pub(crate) const MAP_KEYS: [&str; 1] = ["agent.labels"];

/// A value as its layer wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RawValue {
    Text(String),
    Integer(String),
    Float(String),
    Boolean(bool),
    Datetime(String),
    List(Vec<RawValue>),
    /// A section. Its members are entries of their own.
    Table,
}

impl RawValue {
    /// The type's name, for "found …".
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::Integer(_) => "integer",
            Self::Float(_) => "float",
            Self::Boolean(_) => "boolean",
            Self::Datetime(_) => "date",
            Self::List(_) => "array",
            Self::Table => "table",
        }
    }

    /// "integer `2`", or only the type where the value is not one token.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Text(text) | Self::Integer(text) | Self::Float(text) | Self::Datetime(text) => {
                format!("{} `{}`", self.type_name(), shorten(text))
            }
            Self::Boolean(value) => format!("boolean `{value}`"),
            Self::List(_) | Self::Table => self.type_name().to_owned(),
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: RawValue,
    pub(crate) source: Source,
}

impl Entry {
    /// Variables and flags carry only text, so text stands there for every type;
    /// files have types of their own, which are not converted silently.
    pub(crate) fn is_typed(&self) -> bool {
        match self.source {
            Source::File { .. } => true,
            Source::Default | Source::Environment { .. } | Source::Flag { .. } => false,
        }
    }
}

/// All that one layer said.
pub(crate) type Layer = BTreeMap<KeyPath, Entry>;

/// The segments of a key such as `scheduler.raft.heartbeat`.
pub(crate) fn segments(key: &str) -> KeyPath {
    key.split('.').map(str::to_owned).collect()
}

/// Inserts text from a variable or a flag; for a map key `k=v,k2=v2` becomes
/// one entry per pair, so that a later layer replaces single members.
pub(crate) fn insert_text(layer: &mut Layer, path: KeyPath, text: &str, source: Source) {
    let is_map = MAP_KEYS.contains(&path.join(".").as_str());
    if !is_map {
        let value = RawValue::Text(text.to_owned());
        layer.insert(path, Entry { value, source });
        return;
    }
    for pair in text.split(',') {
        let mut member = path.clone();
        let value = match pair.split_once('=') {
            Some((key, value)) => {
                member.push(key.to_owned());
                RawValue::Text(value.to_owned())
            }
            // Kept under the map's own key, where the reader complains about it.
            None => RawValue::Text(pair.to_owned()),
        };
        let source = source.clone();
        layer.insert(member, Entry { value, source });
    }
}
