//! YAML, from the events of serde-saphyr's parser. Anchors are refused, since a
//! job file is one flat page and a chain of them can stand for gigabytes.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span as Range, Tag};

use crate::problem::Complaints;
use crate::text::{Span, shown};
use crate::tree::{DEPTH_MAX, Entry, Node, Table, VALUES_MAX, Value};

pub(crate) fn parse(text: &str, complaints: &mut Complaints) -> Option<Table> {
    let mut reader =
        Reader { events: Parser::new_from_str(text), text, complaints, values: 0, documents: 0 };
    match reader.document() {
        Ok(None) => Some(Table::default()),
        Ok(Some(Node { value: Value::Table(table), .. })) => Some(table),
        Ok(Some(node)) => {
            let message = format!("expected a table of keys, found {}", node.kind());
            complaints.add(node.span, "", message);
            None
        }
        Err(Stop { offset, message }) => {
            complaints.add(Span::in_file(offset..offset), "", message);
            None
        }
    }
}

/// The first error of the syntax; nothing after it can be trusted.
struct Stop {
    offset: usize,
    message: String,
}

struct Reader<'a, 'c> {
    events: Parser<'a, serde_saphyr::granit_parser::StrInput<'a>>,
    text: &'a str,
    complaints: &'c mut Complaints,
    values: usize,
    documents: usize,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the parser's enum may grow")]
impl<'a> Reader<'a, '_> {
    fn document(&mut self) -> Result<Option<Node>, Stop> {
        let mut root = None;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentEnd | Event::Comment(..) => {}
                Event::DocumentStart(..) => {
                    self.documents += 1;
                    if self.documents > 1 {
                        return Err(Stop {
                            offset: span.start,
                            message: "a second document begins here; a job file holds one".into(),
                        });
                    }
                }
                other => {
                    let node = self.node(other, span, 0)?;
                    // `---` alone, and comments alone, make a null.
                    root = Some(node).filter(|node| !matches!(node.value, Value::Null));
                }
            }
        }
        Ok(root)
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Stop> {
        match self.events.next_event() {
            None => Ok(None),
            Some(Ok((event, range))) => Ok(Some((event, self.span(&range)))),
            Some(Err(error)) => Err(self.syntax_error(&error)),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Stop> {
        self.values += 1;
        let stop = |message: String| Stop { offset: span.start, message };
        if self.values > VALUES_MAX {
            return Err(stop(format!("the job file holds more than {VALUES_MAX} values")));
        }
        if depth > DEPTH_MAX {
            return Err(stop(format!("nested more than {DEPTH_MAX} levels deep")));
        }
        let value = match event {
            Event::Scalar(text, style, anchor, tag) => {
                refuse_decoration(anchor, tag.as_deref()).map_err(stop)?;
                scalar(&text, style)
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_decoration(anchor, tag.as_deref()).map_err(stop)?;
                self.list(depth)?
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_decoration(anchor, tag.as_deref()).map_err(stop)?;
                self.table(depth)?
            }
            Event::Alias(_) | Event::Anchor(..) | Event::UnresolvedAlias(_) => {
                return Err(stop(ANCHORS.to_owned()));
            }
            _ => return Err(stop("expected a value".to_owned())),
        };
        Ok(Node { value, span })
    }

    fn list(&mut self, depth: usize) -> Result<Value, Stop> {
        let mut items = Vec::new();
        while let Some((event, span)) = self.next()? {
            match event {
                Event::SequenceEnd => break,
                Event::Comment(..) => {}
                other => items.push(self.node(other, span, depth + 1)?),
            }
        }
        Ok(Value::List(items))
    }

    fn table(&mut self, depth: usize) -> Result<Value, Stop> {
        let mut table = Table::default();
        while let Some((event, key_span)) = self.next()? {
            match event {
                Event::MappingEnd => break,
                Event::Comment(..) => continue,
                Event::Scalar(key, _, anchor, tag) => {
                    let stop = |message: String| Stop { offset: key_span.start, message };
                    refuse_decoration(anchor, tag.as_deref()).map_err(stop)?;
                    let node = self.value_of(depth, key_span)?;
                    let entry = Entry { key: key.into_owned(), key_span, node };
                    super::json::insert(&mut table, entry, self.text, self.complaints);
                }
                _ => {
                    let message = "a key must be a plain word".to_owned();
                    return Err(Stop { offset: key_span.start, message });
                }
            }
        }
        Ok(Value::Table(table))
    }

    fn value_of(&mut self, depth: usize, key_span: Span) -> Result<Node, Stop> {
        while let Some((event, span)) = self.next()? {
            if !matches!(event, Event::Comment(..)) {
                return self.node(event, span, depth + 1);
            }
        }
        Err(Stop { offset: key_span.start, message: "the value is missing".to_owned() })
    }

    fn span(&self, range: &Range) -> Span {
        match range.byte_range() {
            Some(bytes) => Span::in_file(bytes),
            None => Span::in_file(self.text.len()..self.text.len()),
        }
    }

    fn syntax_error(&self, error: &ScanError) -> Stop {
        let offset = error.marker().byte_offset().unwrap_or(self.text.len());
        Stop { offset, message: shown(error.info().lines().next().unwrap_or("not YAML")) }
    }
}

const ANCHORS: &str = "anchors and aliases are not accepted in a job file";

fn refuse_decoration(anchor: usize, tag: Option<&Tag>) -> Result<(), String> {
    if anchor != 0 {
        return Err(ANCHORS.to_owned());
    }
    match tag {
        Some(tag) => {
            Err(format!("tags are not accepted in a job file, found `{}`", shown(&tag.original())))
        }
        None => Ok(()),
    }
}

/// The core schema of YAML 1.2, in which `no` and `on` are words.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Boolean(true),
        "false" | "False" | "FALSE" => return Value::Boolean(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if is_digits(unsigned) {
        return Value::Integer(text.parse().ok());
    }
    if let Some(digits) = text.strip_prefix("0x").filter(|rest| is_radix(rest, 16)) {
        return Value::Integer(i128::from_str_radix(digits, 16).ok());
    }
    if let Some(digits) = text.strip_prefix("0o").filter(|rest| is_radix(rest, 8)) {
        return Value::Integer(i128::from_str_radix(digits, 8).ok());
    }
    let lower = unsigned.to_ascii_lowercase();
    let named = lower == ".inf" || text.eq_ignore_ascii_case(".nan");
    let begins = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if named || (begins && unsigned.parse::<f64>().is_ok()) {
        return Value::Float(shown(&lower));
    }
    Value::Text(text.to_owned())
}

fn is_digits(text: &str) -> bool {
    is_radix(text, 10)
}

fn is_radix(text: &str, radix: u32) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_digit(radix))
}
