//! What is wrong with a message, and where. A conversion goes on after a
//! problem so that all of them are told at once; it never puts a value of its
//! own in place of a bad one.

use std::fmt;

use berth_model::{Name, NameError, Violation};

/// Problems told of one message: enough to mend any real one, and a bound on
/// the answer to one made to be long.
pub(crate) const PROBLEMS_MAX: usize = 100;
/// Characters of a bad text that are repeated to its sender.
const SHOWN_CHARS_MAX: usize = 80;

/// Where a value stands in a message. Lives on the stack and becomes text only
/// when there is something to complain of.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    parent: Option<&'a Field<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Named(&'a str),
    Item(usize),
}

/// One thing wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem {
    pub field: String,
    pub cause: Cause,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// A message or a choice that must be there is not.
    Missing,
    /// An enum at its zero, which stands for nothing.
    Unspecified,
    /// An enum value that this version does not know.
    UnknownValue(i32),
    NotAName(NameError, String),
    NotAnAllocation(String),
    OutOfRange {
        allowed: &'static str,
        found: i128,
    },
    TooLong {
        bytes_max: usize,
        found: usize,
    },
    WrongLength {
        bytes: usize,
        found: usize,
    },
    /// Values that exclude each other, or are in the wrong order.
    Contradiction(&'static str),
}

/// The problems found so far.
#[derive(Default)]
pub(crate) struct Problems {
    found: Vec<Problem>,
    untold: usize,
}

impl<'a> Field<'a> {
    pub(crate) const ROOT: Field<'static> = Field { parent: None, step: Step::Root };

    pub(crate) fn named(&'a self, name: &'a str) -> Field<'a> {
        Field { parent: Some(self), step: Step::Named(name) }
    }

    pub(crate) fn item(&'a self, position: usize) -> Field<'a> {
        Field { parent: Some(self), step: Step::Item(position) }
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut inside = false;
        if let Some(parent) = self.parent {
            parent.fmt(formatter)?;
            inside = !matches!(parent.step, Step::Root);
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Named(name) if inside => write!(formatter, ".{name}"),
            Step::Named(name) => formatter.write_str(name),
            Step::Item(position) => write!(formatter, "[{position}]"),
        }
    }
}

impl Problems {
    pub(crate) fn add(&mut self, at: Field<'_>, cause: Cause) {
        if self.found.len() < PROBLEMS_MAX {
            self.found.push(Problem { field: at.to_string(), cause });
        } else {
            self.untold += 1;
        }
    }

    /// `value`, or a complaint that it is missing.
    pub(crate) fn present<T>(&mut self, at: Field<'_>, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.add(at, Cause::Missing);
        }
        value
    }

    pub(crate) fn name(&mut self, at: Field<'_>, text: &str) -> Option<Name> {
        match Name::new(text) {
            Ok(name) => Some(name),
            Err(error) => {
                self.add(at, Cause::NotAName(error, shown(text)));
                None
            }
        }
    }

    /// A name that may be absent: `Some(None)` when it is, `None` when bad.
    pub(crate) fn optional_name(
        &mut self,
        at: Field<'_>,
        text: Option<&str>,
    ) -> Option<Option<Name>> {
        text.map_or(Some(None), |text| self.name(at, text).map(Some))
    }

    pub(crate) fn port(&mut self, at: Field<'_>, port: u32) -> Option<u16> {
        self.narrow(at, "0 to 65535", port)
    }

    /// `value` in a smaller type.
    pub(crate) fn narrow<W, N>(
        &mut self,
        at: Field<'_>,
        allowed: &'static str,
        value: W,
    ) -> Option<N>
    where
        W: Copy + Into<i128>,
        N: TryFrom<W>,
    {
        let narrowed = N::try_from(value).ok();
        if narrowed.is_none() {
            self.add(at, Cause::OutOfRange { allowed, found: value.into() });
        }
        narrowed
    }

    pub(crate) fn bytes<const LENGTH: usize>(
        &mut self,
        at: Field<'_>,
        bytes: &[u8],
    ) -> Option<[u8; LENGTH]> {
        let array = <[u8; LENGTH]>::try_from(bytes).ok();
        if array.is_none() {
            self.add(at, Cause::WrongLength { bytes: LENGTH, found: bytes.len() });
        }
        array
    }

    /// `text`, if it has at most `bytes_max` bytes.
    pub(crate) fn short(
        &mut self,
        at: Field<'_>,
        text: String,
        bytes_max: usize,
    ) -> Option<String> {
        if text.len() <= bytes_max {
            return Some(text);
        }
        self.add(at, Cause::TooLong { bytes_max, found: text.len() });
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The first problem, for a reader that stops there.
    pub(crate) fn into_first(self) -> Option<Problem> {
        self.found.into_iter().next()
    }

    pub(crate) fn into_violations(self) -> Vec<Violation> {
        let mut violations: Vec<Violation> =
            self.found.into_iter().map(Problem::into_violation).collect();
        if self.untold > 0 {
            violations.push(Violation {
                field: String::new(),
                message: format!("and {} more problems", self.untold),
                hint: None,
            });
        }
        violations
    }

    /// `value`, unless there was a problem: then every one of them.
    pub(crate) fn verdict<T>(self, value: Option<T>) -> Result<T, Vec<Violation>> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            Some(_) | None => Err(self.into_violations()),
        }
    }
}

impl Problem {
    fn into_violation(self) -> Violation {
        let hint = self.cause.hint().map(str::to_owned);
        Violation { field: self.field, message: self.cause.to_string(), hint }
    }
}

impl Cause {
    fn hint(&self) -> Option<&'static str> {
        match self {
            Cause::UnknownValue(_) => {
                Some("the sender may be newer than this server: upgrade the server first")
            }
            Cause::Missing | Cause::Unspecified => Some("set it; nothing is assumed in its place"),
            Cause::NotAName(..) => {
                Some("1 to 63 of a-z A-Z 0-9 . _ -, a letter among them, not beginning with . _ -")
            }
            Cause::NotAnAllocation(_)
            | Cause::OutOfRange { .. }
            | Cause::TooLong { .. }
            | Cause::WrongLength { .. }
            | Cause::Contradiction(_) => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Missing => formatter.write_str("is missing"),
            Cause::Unspecified => formatter.write_str("is not specified"),
            Cause::UnknownValue(value) => {
                write!(formatter, "the value {value} is not known to this version")
            }
            Cause::NotAName(error, text) => write!(formatter, "`{text}`: {error}"),
            Cause::NotAnAllocation(text) => {
                write!(formatter, "expected an allocation id such as `17.0.3.1`, found `{text}`")
            }
            Cause::OutOfRange { allowed, found } => {
                write!(formatter, "expected {allowed}, found {found}")
            }
            Cause::TooLong { bytes_max, found } => {
                write!(formatter, "expected at most {bytes_max} bytes, found {found}")
            }
            Cause::WrongLength { bytes, found } => {
                write!(formatter, "expected {bytes} bytes, found {found}")
            }
            Cause::Contradiction(what) => formatter.write_str(what),
        }
    }
}

/// A text as it may be repeated to its sender: short, and without control
/// characters.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String =
        text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_people_write_it() {
        let tasks = Field::ROOT.named("tasks");
        let task = tasks.item(2);
        assert_eq!(task.named("ports").item(0).to_string(), "tasks[2].ports[0]");
        assert_eq!(Field::ROOT.to_string(), "");
    }

    #[test]
    fn the_list_of_problems_is_bounded_and_says_so() {
        let mut problems = Problems::default();
        for position in 0..PROBLEMS_MAX + 7 {
            problems.add(Field::ROOT.named("ports").item(position), Cause::Missing);
        }
        let violations = problems.into_violations();
        assert_eq!(violations.len(), PROBLEMS_MAX + 1);
        assert_eq!(violations[PROBLEMS_MAX].message, "and 7 more problems");
    }

    #[test]
    fn a_bad_text_is_repeated_short_and_harmless() {
        assert_eq!(shown("a\u{1b}[2J\n"), "a\\u{1b}[2J\\n");
        assert_eq!(shown(&"x".repeat(5000)).chars().count(), SHOWN_CHARS_MAX + 1);
    }
}
