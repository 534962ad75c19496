//! TOML, read by the `toml` crate after a look at how deep it is.

use std::ops::Range;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use super::toml_keys;
use crate::problem::{Complaints, PROBLEMS_MAX};
use crate::text::{Span, shown};
use crate::tree::{DEPTH_MAX, Entry, Node, Table, VALUES_MAX, Value};

/// A value takes at most a handful of tokens.
const TOKENS_MAX: usize = VALUES_MAX * 4;
/// What the `toml` crate calls a key given twice.
const DUPLICATE: &str = "duplicate key";
/// After a syntax error most that follows is its echo.
const SYNTAX_ERRORS_MAX: usize = 5;

pub(crate) fn parse(text: &str, complaints: &mut Complaints) -> Option<Table> {
    if let Err((offset, message)) = check_size(text) {
        complaints.add(Span::in_file(offset..offset), "", message);
        return None;
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    let (duplicates, broken): (Vec<_>, Vec<_>) =
        errors.iter().partition(|error| error.message() == DUPLICATE);
    for error in broken.iter().take(SYNTAX_ERRORS_MAX) {
        complaints.add(error_span(error), "", error.message());
    }
    if !broken.is_empty() {
        return None;
    }
    if !duplicates.is_empty() {
        let spans: Vec<Span> = duplicates.into_iter().take(PROBLEMS_MAX).map(error_span).collect();
        toml_keys::complain(text, &spans, complaints);
    }
    Some(convert_table(table.get_ref(), 0))
}

/// A value as in `key = VALUE`; `None` where it is none.
pub(crate) fn parse_value(text: &str, origin: usize) -> Option<Value> {
    check_size(text).ok()?;
    let parsed = DeValue::parse(text).ok()?;
    Some(convert(&parsed, origin).value)
}

fn error_span(error: &::toml::de::Error) -> Span {
    Span::in_file(error.span().unwrap_or(0..0))
}

/// Refuses what would make the parser's tree too deep or too large, before there
/// is a tree: dropping a very deep one would exhaust the stack.
fn check_size(text: &str) -> Result<(), (usize, String)> {
    let mut dots = 0;
    let mut open = 0_usize;
    for (count, token) in Source::new(text).lex().enumerate() {
        match token.kind() {
            TokenKind::Dot => dots += 1,
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => {
                open += 1;
                dots = 0;
            }
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => {
                open = open.saturating_sub(1);
                dots = 0;
            }
            TokenKind::Newline | TokenKind::Equals | TokenKind::Comma | TokenKind::Comment => {
                dots = 0;
            }
            TokenKind::Whitespace
            | TokenKind::LiteralString
            | TokenKind::BasicString
            | TokenKind::MlLiteralString
            | TokenKind::MlBasicString
            | TokenKind::Atom
            | TokenKind::Eof => {}
        }
        if dots + open > DEPTH_MAX {
            let message = format!("nested more than {DEPTH_MAX} levels deep");
            return Err((token.span().start(), message));
        }
        if count > TOKENS_MAX {
            let message = format!("the job file holds more than {VALUES_MAX} values");
            return Err((token.span().start(), message));
        }
    }
    Ok(())
}

fn convert_table(table: &DeTable<'_>, origin: usize) -> Table {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            key_span: span(key.span(), origin),
            node: convert(value, origin),
        })
        .collect();
    // The parser's table is ordered by key.
    entries.sort_by_key(|entry| entry.key_span.start);
    let mut ordered = Table::default();
    entries.into_iter().for_each(|entry| ordered.push(entry));
    ordered
}

fn convert(value: &Spanned<DeValue<'_>>, origin: usize) -> Node {
    let converted = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(integer) => {
            Value::Integer(i128::from_str_radix(integer.as_str(), integer.radix()).ok())
        }
        DeValue::Float(float) => Value::Float(shown(float.as_str())),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| convert(item, origin)).collect())
        }
        DeValue::Table(table) => Value::Table(convert_table(table, origin)),
    };
    Node { value: converted, span: span(value.span(), origin) }
}

fn span(range: Range<usize>, origin: usize) -> Span {
    Span { origin, start: range.start, end: range.end }
}
