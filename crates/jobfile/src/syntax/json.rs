//! JSON with positions, which serde_json does not give. Strings and numbers are
//! found here and decoded by serde_json.

use crate::problem::Complaints;
use crate::text::{Span, shown};
use crate::tree::{DEPTH_MAX, Entry, Node, Table, VALUES_MAX, Value};

pub(crate) fn parse(text: &str, complaints: &mut Complaints) -> Option<Table> {
    let mut reader = Reader { text, at: 0, values: 0, complaints };
    reader.skip_space();
    if reader.at == text.len() {
        return Some(Table::default());
    }
    match reader.document() {
        Ok(table) => Some(table),
        Err(message) => {
            let at = reader.at;
            complaints.add(Span::in_file(at..at), "", message);
            None
        }
    }
}

/// Puts `entry` into `table`, or complains where its key is there already.
pub(super) fn insert(table: &mut Table, entry: Entry, text: &str, complaints: &mut Complaints) {
    let Some(first) = table.get(&entry.key) else {
        table.push(entry);
        return;
    };
    // Counting lines for a complaint that is not listed would be quadratic.
    if complaints.is_full() {
        complaints.omit();
    } else {
        let line = text[..first.key_span.start].matches('\n').count() + 1;
        let message = format!("`{}` is given twice, first on line {line}", shown(&entry.key));
        complaints.add_with_hint(entry.key_span, "", message, "keep one of them");
    }
}

struct Reader<'a, 'c> {
    text: &'a str,
    at: usize,
    values: usize,
    complaints: &'c mut Complaints,
}

impl<'a> Reader<'a, '_> {
    fn document(&mut self) -> Result<Table, String> {
        let node = self.value(0)?;
        self.skip_space();
        if self.at < self.text.len() {
            return Err("expected the end of the file".to_owned());
        }
        let kind = node.kind();
        if let Value::Table(table) = node.value {
            return Ok(table);
        }
        self.at = node.span.start;
        Err(format!("expected a table of keys, found {kind}"))
    }

    fn value(&mut self, depth: usize) -> Result<Node, String> {
        self.values += 1;
        if depth > DEPTH_MAX {
            return Err(format!("nested more than {DEPTH_MAX} levels deep"));
        }
        if self.values > VALUES_MAX {
            return Err(format!("the job file holds more than {VALUES_MAX} values"));
        }
        self.skip_space();
        let start = self.at;
        let value = match self.peek() {
            Some('{') => self.table(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => Value::Text(self.string()?),
            Some('-' | '0'..='9') => self.number()?,
            Some('a'..='z' | 'A'..='Z') => self.word()?,
            Some(other) => {
                return Err(format!("expected a value, found `{}`", shown(&other.to_string())));
            }
            None => return Err("expected a value, found the end of the file".to_owned()),
        };
        Ok(Node { value, span: Span::in_file(start..self.at) })
    }

    fn table(&mut self, depth: usize) -> Result<Value, String> {
        let mut table = Table::default();
        self.at += 1;
        self.skip_space();
        if self.take('}') {
            return Ok(Value::Table(table));
        }
        loop {
            self.skip_space();
            let start = self.at;
            if self.peek() != Some('"') {
                return Err("expected a key in double quotes".to_owned());
            }
            let key = self.string()?;
            let key_span = Span::in_file(start..self.at);
            self.skip_space();
            if !self.take(':') {
                return Err("expected `:` after the key".to_owned());
            }
            let node = self.value(depth + 1)?;
            insert(&mut table, Entry { key, key_span, node }, self.text, self.complaints);
            self.skip_space();
            if self.take('}') {
                return Ok(Value::Table(table));
            }
            if !self.take(',') {
                return Err("expected `,` or `}`".to_owned());
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        self.at += 1;
        self.skip_space();
        if self.take(']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.take(']') {
                return Ok(Value::List(items));
            }
            if !self.take(',') {
                return Err("expected `,` or `]`".to_owned());
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let start = self.at;
        let mut escaped = false;
        for (offset, byte) in self.text[start + 1..].bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    let end = start + offset + 2;
                    let literal = &self.text[start..end];
                    let decoded = serde_json::from_str(literal)
                        .map_err(|_| "the string holds a control character or a bad escape");
                    self.at = if decoded.is_ok() { end } else { start };
                    return decoded.map_err(str::to_owned);
                }
                b'\n' => break,
                _ => {}
            }
        }
        Err("the string has no end on its line".to_owned())
    }

    fn number(&mut self) -> Result<Value, String> {
        let literal = self.run(|c| matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'));
        // Only for its form: a number's range is checked where it is used.
        if serde_json::from_str::<serde::de::IgnoredAny>(literal).is_err() {
            return Err(format!("`{}` is not a number", shown(literal)));
        }
        self.at += literal.len();
        if literal.contains(['.', 'e', 'E']) {
            return Ok(Value::Float(shown(literal)));
        }
        Ok(Value::Integer(literal.parse().ok()))
    }

    fn word(&mut self) -> Result<Value, String> {
        let word = self.run(|c| c.is_ascii_alphanumeric() || c == '_');
        let value = match word {
            "true" => Value::Boolean(true),
            "false" => Value::Boolean(false),
            "null" => Value::Null,
            _ => return Err(format!("expected a value, found `{}`", shown(word))),
        };
        self.at += word.len();
        Ok(value)
    }

    /// The text from here on whose characters all fit.
    fn run(&self, fits: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        &rest[..rest.find(|c| !fits(c)).unwrap_or(rest.len())]
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn skip_space(&mut self) {
        self.at += self.run(|c| matches!(c, ' ' | '\t' | '\r' | '\n')).len();
    }
}
