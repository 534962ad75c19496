//! The layers that are TOML files.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::layer::{Entry, KeyPath, Layer, RawValue};
use crate::problem::Problem;
use crate::source::Source;

/// The most bytes of a file that are read; a real one has a few kilobytes.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the file at `path`. With problems, the layer holds what could be read.
/// `None` where there is no such file.
pub(crate) fn read(path: &Path) -> Option<(Layer, Vec<Problem>)> {
    match contents(path) {
        Ok(bytes) => Some(parse(path, &bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            let problem = Problem::new(path.display(), format!("cannot be read: {error}"));
            Some((Layer::new(), vec![problem]))
        }
    }
}

fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut limited = File::open(path)?.take(CONFIG_FILE_BYTES_MAX + 1);
    limited.read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn parse(path: &Path, bytes: &[u8]) -> (Layer, Vec<Problem>) {
    let refuse = |message: String| {
        let problem = Problem::new(path.display(), message);
        (Layer::new(), vec![problem])
    };
    if bytes.len() as u64 > CONFIG_FILE_BYTES_MAX {
        return refuse(format!("is larger than {CONFIG_FILE_BYTES_MAX} bytes"));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => return refuse(format!("is not UTF-8 at byte {}", error.valid_up_to())),
    };
    if text.trim().is_empty() {
        return refuse("is empty; a file without settings may be left out".to_owned());
    }
    let document = Document { path, text };
    let (table, errors) = DeTable::parse_recoverable(text);
    let root = table.into_inner();
    let problems = errors.iter().map(|error| document.syntax_problem(error, &root)).collect();
    let mut layer = Layer::new();
    document.flatten(&root, &KeyPath::new(), &mut layer);
    (layer, problems)
}

struct Document<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Document<'_> {
    fn source(&self, offset: usize) -> Source {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Source::File {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// The parser's complaint with its line and a caret; for a key given twice,
    /// also where it was first given.
    fn syntax_problem(&self, error: &toml::de::Error, root: &DeTable<'_>) -> Problem {
        let Some(span) = error.span() else {
            return Problem::new(self.path.display(), error.message());
        };
        let source = self.source(span.start);
        let message = match self.first_given(&span, root) {
            Some(first) if error.message() == "duplicate key" => {
                let key = self.text.get(span).unwrap_or_default();
                format!("`{key}` is given twice, first at {}", self.source(first))
            }
            Some(_) | None => self.with_caret(error.message(), span.start),
        };
        Problem::at(&source, message)
    }

    fn with_caret(&self, message: &str, offset: usize) -> String {
        // The parser points into the text, but nothing here depends on it.
        let Some(before) = self.text.get(..offset) else { return message.to_owned() };
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text[start..].lines().next().unwrap_or_default();
        // Long lines would bury the caret.
        if line.chars().count() > 120 {
            return message.to_owned();
        }
        let indent = before[start..].chars().count();
        format!("{message}\n  {line}\n  {:indent$}^", "")
    }

    /// The offset of what the key at `span` repeats. For a section that is the
    /// earlier header, since the parser forgets it; for any other key it is the
    /// outermost equal one before it, its own section first, since the parser
    /// keeps the first of two.
    fn first_given(&self, span: &Range<usize>, root: &DeTable<'_>) -> Option<usize> {
        let name = self.text.get(span.clone())?.trim_matches(['"', '\'']);
        let before = self.text.get(..span.start)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        if before[line_start..].trim_start().starts_with('[') {
            return self.header_before(line_start);
        }
        let section_start = before.rfind("\n[").unwrap_or(0);
        let mut found: Vec<(usize, usize)> = Vec::new();
        find_keys(root, name, 0, &mut found);
        found
            .into_iter()
            .filter(|(_, offset)| *offset < span.start)
            .min_by_key(|(depth, offset)| (*offset < section_start, *depth, *offset))
            .map(|(_, offset)| offset)
    }

    /// The offset of the name in the earlier line that opens the same section as
    /// the line at `line_start`.
    fn header_before(&self, line_start: usize) -> Option<usize> {
        let wanted = header(self.text[line_start..].lines().next()?)?;
        let mut offset = 0;
        for line in self.text[..line_start].split_inclusive('\n') {
            if header(line).is_some_and(|name| name == wanted) {
                return Some(offset + line.find(wanted)?);
            }
            offset += line.len();
        }
        None
    }

    fn flatten(&self, table: &DeTable<'_>, prefix: &KeyPath, layer: &mut Layer) {
        for (key, value) in table {
            let mut path = prefix.clone();
            path.push(key.get_ref().to_string());
            let source = self.source(key.span().start);
            if let DeValue::Table(inner) = value.get_ref() {
                self.flatten(inner, &path, layer);
            }
            let value = raw(value);
            layer.insert(path, Entry { value, source });
        }
    }
}

/// What stands between the brackets of a line that opens a section.
fn header(line: &str) -> Option<&str> {
    let inside = line.trim_start().strip_prefix('[')?;
    Some(inside.split_once(']')?.0.trim())
}

/// Depth and offset of each key spelt `name`.
fn find_keys(table: &DeTable<'_>, name: &str, depth: usize, found: &mut Vec<(usize, usize)>) {
    for (key, value) in table {
        if key.get_ref() == name {
            found.push((depth, key.span().start));
        }
        if let DeValue::Table(inner) = value.get_ref() {
            find_keys(inner, name, depth + 1, found);
        }
    }
}

/// The value without spans. Integers keep their digits, since their range is
/// checked where their meaning is known; other radixes are written out.
fn raw(value: &Spanned<DeValue<'_>>) -> RawValue {
    match value.get_ref() {
        DeValue::String(text) => RawValue::Text(text.to_string()),
        DeValue::Integer(integer) => {
            let digits = integer.as_str();
            match i128::from_str_radix(digits, integer.radix()) {
                Ok(number) => RawValue::Integer(number.to_string()),
                Err(_) => RawValue::Integer(digits.to_owned()),
            }
        }
        DeValue::Float(float) => RawValue::Float(float.as_str().to_owned()),
        DeValue::Boolean(value) => RawValue::Boolean(*value),
        DeValue::Datetime(date) => RawValue::Datetime(date.to_string()),
        DeValue::Array(array) => RawValue::List(array.iter().map(raw).collect()),
        DeValue::Table(_) => RawValue::Table,
    }
}
