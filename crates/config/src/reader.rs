//! Reads typed settings out of a layer and collects every complaint.
//!
//! The sections name their keys, kinds and defaults once, in the calls they make
//! here; the list of known keys is what they asked for, so the two cannot part.

use std::collections::{BTreeMap, BTreeSet};

use crate::kind::{Kind, LABEL_VALUE, Shape};
use crate::layer::{Entry, KeyPath, Layer, RawValue, segments};
use crate::problem::Problem;
use crate::source::{Setting, Source};
use crate::suggest::nearest;
use crate::units;

/// One line of `berth config show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The whole key, as in `scheduler.raft.heartbeat`.
    pub key: String,
    /// The value in force; `None` where nothing is set and nothing built in.
    pub value: Option<String>,
    /// Where it came from.
    pub source: Source,
}

/// A pass of the sections over one layer, or over all of them merged.
pub(crate) struct Reader<'a> {
    layer: &'a Layer,
    pub(crate) problems: Vec<Problem>,
    pub(crate) rows: Vec<Row>,
    pub(crate) keys: Vec<&'static str>,
    pub(crate) list_keys: Vec<&'static str>,
    /// Keys whose value was refused; relations that involve one are not checked.
    pub(crate) failed: BTreeSet<&'static str>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(layer: &'a Layer) -> Self {
        Self {
            layer,
            problems: Vec::new(),
            rows: Vec::new(),
            keys: Vec::new(),
            list_keys: Vec::new(),
            failed: BTreeSet::new(),
        }
    }

    /// A setting that has a built-in value.
    pub(crate) fn setting<T>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
        default: T,
    ) -> Setting<T> {
        let setting =
            self.given(key, kind).unwrap_or(Setting { value: default, source: Source::Default });
        self.row(key, Some((kind.show)(&setting.value)), &setting.source);
        setting
    }

    /// A setting that may be absent.
    pub(crate) fn optional<T>(&mut self, key: &'static str, kind: &Kind<T>) -> Option<Setting<T>> {
        let setting = self.given(key, kind);
        let shown = setting.as_ref().map(|setting| (kind.show)(&setting.value));
        let source = setting.as_ref().map_or(&Source::Default, |setting| &setting.source);
        self.row(key, shown, source);
        setting
    }

    /// A list: an array in a file, commas between elsewhere.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
        default: Vec<T>,
    ) -> Setting<Vec<T>> {
        self.keys.push(key);
        self.list_keys.push(key);
        let entry = self.layer.get(&segments(key));
        let given = entry.and_then(|entry| {
            let elements = self.elements(key, entry)?;
            let parsed: Vec<Option<T>> =
                elements.iter().map(|element| self.parse(key, kind, element)).collect();
            let value = parsed.into_iter().collect::<Option<Vec<T>>>()?;
            let source = entry.source.clone();
            Some(Setting { value, source })
        });
        let setting = given.unwrap_or(Setting { value: default, source: Source::Default });
        let shown: Vec<String> = setting.value.iter().map(kind.show).collect();
        let shown = Some(shown.join(",")).filter(|text| !text.is_empty());
        self.row(key, shown, &setting.source);
        setting
    }

    /// Free members under `key`, each with its own source.
    pub(crate) fn labels(&mut self, key: &'static str) -> BTreeMap<String, Setting<String>> {
        self.keys.push(key);
        let prefix = segments(key);
        let mut found = BTreeMap::new();
        let layer = self.layer;
        for (path, entry) in layer.range(prefix.clone()..) {
            if !path.starts_with(&prefix) {
                break;
            }
            match &path[prefix.len()..] {
                [] => self.check_labels_table(key, entry),
                [name] => {
                    if let Some(label) = self.member(key, name, entry) {
                        self.rows.push(Row {
                            key: format!("{key}.{name}"),
                            value: Some(label.value.clone()),
                            source: label.source.clone(),
                        });
                        found.insert(name.clone(), label);
                    }
                }
                // The table one level up has been refused as a value already.
                [_, ..] => {}
            }
        }
        found
    }

    /// Complains about keys that no section asked for. To be called last.
    pub(crate) fn check_unknown(&mut self) {
        let mut refused: Option<&KeyPath> = None;
        for (path, entry) in self.layer {
            if refused.is_some_and(|above| path.starts_with(above)) || self.is_known(path) {
                continue;
            }
            refused = Some(path);
            let problem = self.unknown(path, entry);
            self.problems.push(problem);
        }
    }

    fn given<T>(&mut self, key: &'static str, kind: &Kind<T>) -> Option<Setting<T>> {
        self.keys.push(key);
        let entry = self.layer.get(&segments(key))?;
        let value = self.parse(key, kind, entry)?;
        let source = entry.source.clone();
        Some(Setting { value, source })
    }

    fn parse<T>(&mut self, key: &'static str, kind: &Kind<T>, entry: &Entry) -> Option<T> {
        let shape = if entry.is_typed() { kind.shape } else { Shape::Text };
        let parsed = match shape.text(&entry.value) {
            Ok(text) => (kind.parse)(text).map_err(|error| error.to_string()),
            Err(expected) => Err(format!("expected {expected}, found {}", entry.value.describe())),
        };
        match parsed {
            Ok(value) => Some(value),
            Err(message) => {
                self.refuse(key, entry, message);
                None
            }
        }
    }

    fn refuse(&mut self, key: &'static str, entry: &Entry, message: String) {
        let message = format!("{key}: {message}");
        self.problems.push(Problem::at(&entry.source, message));
        self.failed.insert(key);
    }

    /// The elements of a list, each as an entry at the list's own place.
    fn elements(&mut self, key: &'static str, entry: &Entry) -> Option<Vec<Entry>> {
        let values = match &entry.value {
            RawValue::List(values) => values.clone(),
            RawValue::Text(text) if !entry.is_typed() => {
                text.split(',').map(|part| RawValue::Text(part.trim().to_owned())).collect()
            }
            RawValue::Text(_)
            | RawValue::Integer(_)
            | RawValue::Float(_)
            | RawValue::Boolean(_)
            | RawValue::Datetime(_)
            | RawValue::Table => {
                let found = entry.value.describe();
                self.refuse(key, entry, format!("expected array, found {found}"));
                return None;
            }
        };
        let source = &entry.source;
        let element = |value| Entry { value, source: source.clone() };
        Some(values.into_iter().map(element).collect())
    }

    fn check_labels_table(&mut self, key: &'static str, entry: &Entry) {
        if entry.value == RawValue::Table {
            return;
        }
        let message = if entry.is_typed() {
            format!("expected table, found {}", entry.value.describe())
        } else {
            format!("expected KEY=VALUE, found {}", entry.value.describe())
        };
        self.refuse(key, entry, message);
    }

    fn member(&mut self, key: &'static str, name: &str, entry: &Entry) -> Option<Setting<String>> {
        if let Err(error) = units::label(&format!("{name}=")) {
            self.refuse(key, entry, error.to_string());
            return None;
        }
        let value = self.parse(key, &LABEL_VALUE, entry)?;
        let source = entry.source.clone();
        Some(Setting { value, source })
    }

    fn row(&mut self, key: &'static str, value: Option<String>, source: &Source) {
        self.rows.push(Row { key: key.to_owned(), value, source: source.clone() });
    }

    /// Whether `path` is a key, lies inside a map, or is a section on the way to a key.
    fn is_known(&self, path: &KeyPath) -> bool {
        let entry_is_table =
            self.layer.get(path).is_some_and(|entry| entry.value == RawValue::Table);
        self.keys.iter().any(|key| {
            let key_path = segments(key);
            let in_map = crate::layer::MAP_KEYS.contains(key) && path.starts_with(&key_path);
            in_map || *path == key_path || (entry_is_table && key_path.starts_with(path))
        })
    }

    fn unknown(&self, path: &KeyPath, entry: &Entry) -> Problem {
        let shown = units::shorten(&path.join("."));
        let section_of_keys = self.keys.iter().any(|key| segments(key).starts_with(path));
        if section_of_keys {
            let found = entry.value.describe();
            return Problem::at(&entry.source, format!("{shown}: expected table, found {found}"));
        }
        let problem = Problem::at(&entry.source, format!("unknown key `{shown}`"));
        match self.meant(path) {
            Some(key) => problem.hint(format!("did you mean `{key}`?")),
            None => problem,
        }
    }

    /// A key of the same level that is spelt alike, else the same word elsewhere.
    fn meant(&self, path: &KeyPath) -> Option<String> {
        let (last, parent) = path.split_last()?;
        let mut siblings: Vec<String> = Vec::new();
        for key in &self.keys {
            let key_path = segments(key);
            if key_path.len() > parent.len() && key_path.starts_with(parent) {
                siblings.push(key_path[parent.len()].clone());
            }
        }
        siblings.dedup();
        let candidates: Vec<&str> = siblings.iter().map(String::as_str).collect();
        if let Some(near) = nearest(last, &candidates) {
            let mut whole = parent.to_vec();
            whole.push(near.to_owned());
            return Some(whole.join("."));
        }
        self.keys.iter().find_map(|key| {
            let key_path = segments(key);
            let position = key_path.iter().position(|segment| segment == last)?;
            Some(key_path[..=position].join("."))
        })
    }
}
