//! Texts that values came from, and places in them.

use std::ops::Range;

use crate::problem::{Excerpt, Place};

/// The longest line that is shown; a longer one would bury the caret.
const EXCERPT_CHARS_MAX: usize = 120;

/// Where something stands. Offsets are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// 0 is the file, later ones are overrides of the command line.
    pub(crate) origin: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    pub(crate) fn in_file(range: Range<usize>) -> Span {
        Span { origin: 0, start: range.start, end: range.end }
    }

    /// A whole override.
    pub(crate) fn of_override(origin: usize) -> Span {
        Span { origin, start: 0, end: 0 }
    }
}

/// The file and the overrides.
pub(crate) struct Sources<'a> {
    file_name: &'a str,
    file_text: &'a str,
    overrides: Vec<String>,
    /// Ranges of the file that must not be repeated in a message.
    masked: Vec<Range<usize>>,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(file_name: &'a str) -> Sources<'a> {
        Sources { file_name, file_text: "", overrides: Vec::new(), masked: Vec::new() }
    }

    pub(crate) fn set_file_text(&mut self, text: &'a str) {
        self.file_text = text;
    }

    /// Adds an override; its origin.
    pub(crate) fn add_override(&mut self, key: &str) -> usize {
        self.overrides.push(key.to_owned());
        self.overrides.len()
    }

    pub(crate) fn mask(&mut self, span: Span) {
        if span.origin == 0 {
            self.masked.push(span.start..span.end);
        }
    }

    pub(crate) fn place(&self, span: Span) -> Place {
        if let Some(key) = span.origin.checked_sub(1).and_then(|index| self.overrides.get(index)) {
            return Place::Override { key: key.clone() };
        }
        let before = self.before(span.start);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place::File {
            name: self.file_name.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// The line at `span` with what must not be shown replaced, and where its
    /// caret stands. `None` for overrides and for lines that are too long.
    pub(crate) fn excerpt(&self, span: Span) -> Option<Excerpt> {
        if span.origin != 0 || self.file_text.is_empty() {
            return None;
        }
        let start = self.before(span.start).rfind('\n').map_or(0, |newline| newline + 1);
        let rest = self.file_text[start..].char_indices();
        let line = rest.take_while(|(_, character)| !matches!(character, '\n' | '\r'));
        let mut shown = String::new();
        let mut caret_indent = 0;
        // A masked value may be long and shown short; such a line is given up.
        for (count, (offset, character)) in line.enumerate() {
            if count > EXCERPT_CHARS_MAX {
                return None;
            }
            let at = start + offset;
            match self.masked.iter().find(|range| range.contains(&at)) {
                Some(range) if range.start == at => shown.push_str("***"),
                // A value of several lines began on an earlier one.
                Some(_) if offset == 0 => shown.push_str("***"),
                Some(_) => {}
                None => push_printable(&mut shown, character),
            }
            if at < span.start {
                caret_indent = shown.chars().count();
            }
        }
        (!shown.trim().is_empty()).then_some(Excerpt { line: shown, caret_indent })
    }

    fn before(&self, offset: usize) -> &str {
        let mut offset = offset.min(self.file_text.len());
        while !self.file_text.is_char_boundary(offset) {
            offset -= 1;
        }
        &self.file_text[..offset]
    }
}

/// Tabs as one space, so that the caret stays below its column; other control
/// characters as a mark, so that a file cannot steer a terminal.
fn push_printable(shown: &mut String, character: char) {
    shown.push(match character {
        '\t' => ' ',
        control if control.is_control() => '\u{fffd}',
        other => other,
    });
}

/// `text` fit for a message: control characters escaped, at most 48 characters.
pub(crate) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 48;
    let mut result = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == CHARS_MAX {
            result.push('…');
            break;
        }
        if character.is_control() {
            result.extend(character.escape_default());
        } else {
            result.push(character);
        }
    }
    result
}
