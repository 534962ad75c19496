//! What is wrong with a job file, in the words that the user reads.

use std::fmt;

use crate::text::{Sources, Span};

/// Where a problem is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the file; lines and columns (in characters) count from 1.
    File { name: String, line: usize, column: usize },
    /// In a `--set`.
    Override { key: String },
    /// The file as a whole.
    Whole { name: String },
}

/// The line of a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// Values of environment variables are replaced by `***`.
    pub line: String,
    /// Characters before the caret.
    pub caret_indent: usize,
}

/// One thing wrong with a job file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// The path of the value, such as `tasks.main.gpu.count`; empty where the
    /// problem is not about one value.
    pub path: String,
    /// What is wrong, what was seen, what is allowed.
    pub message: String,
    /// The next step, where there is one.
    pub hint: Option<String>,
    pub excerpt: Option<Excerpt>,
}

/// Everything that is wrong with a job file; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    pub problems: Vec<Problem>,
}

impl Refused {
    pub(crate) fn whole_file(file_name: &str, message: impl Into<String>) -> Refused {
        let place = Place::Whole { name: file_name.to_owned() };
        let problem = Problem {
            place,
            path: String::new(),
            message: message.into(),
            hint: None,
            excerpt: None,
        };
        Refused { problems: vec![problem] }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { name, line, column } => write!(formatter, "{name}:{line}:{column}"),
            Place::Override { key } => write!(formatter, "--set {key}"),
            Place::Whole { name } => formatter.write_str(name),
        }
    }
}

impl Problem {
    /// The first line: place, path and message.
    #[must_use]
    pub fn headline(&self) -> String {
        let path = if self.path.is_empty() { "" } else { ": " };
        format!("{}{path}{}: {}", self.place, self.path, self.message)
    }
}

/// The headline, the line with a caret, and the hint.
impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.headline())?;
        if let (Some(excerpt), Place::File { line, .. }) = (&self.excerpt, &self.place) {
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            let indent = " ".repeat(excerpt.caret_indent);
            write!(formatter, "\n  {number} | {}\n  {margin} | {indent}^", excerpt.line)?;
        }
        match &self.hint {
            Some(hint) => write!(formatter, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{problem}")?;
        }
        Ok(())
    }
}

/// The most problems of one file that are listed: nobody mends more in one go,
/// and a hostile file must not buy unbounded output.
pub(crate) const PROBLEMS_MAX: usize = 50;

/// A problem before its place is worked out.
#[derive(Debug)]
pub(crate) struct Complaint {
    pub(crate) span: Span,
    pub(crate) path: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// Problems as they are found.
#[derive(Debug)]
pub(crate) struct Complaints {
    found: Vec<Complaint>,
    omitted: usize,
}

impl Complaints {
    pub(crate) fn new() -> Complaints {
        Complaints { found: Vec::new(), omitted: 0 }
    }

    pub(crate) fn add(&mut self, span: Span, path: &str, message: impl Into<String>) {
        self.push(Complaint { span, path: path.to_owned(), message: message.into(), hint: None });
    }

    pub(crate) fn add_with_hint(
        &mut self,
        span: Span,
        path: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let (message, hint) = (message.into(), Some(hint.into()));
        self.push(Complaint { span, path: path.to_owned(), message, hint });
    }

    pub(crate) fn push(&mut self, complaint: Complaint) {
        if self.found.len() < PROBLEMS_MAX {
            self.found.push(complaint);
        } else {
            self.omit();
        }
    }

    /// Counts a problem that is not listed.
    pub(crate) fn omit(&mut self) {
        self.omitted += 1;
    }

    /// Whether the list is at its limit.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= PROBLEMS_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether `path`, something in it, or something that it is in has been
    /// complained about: a second complaint would only repeat the first.
    pub(crate) fn covers(&self, path: &str) -> bool {
        let within = |inner: &str, outer: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.found
            .iter()
            .filter(|complaint| !complaint.path.is_empty())
            .any(|complaint| within(path, &complaint.path) || within(&complaint.path, path))
    }

    pub(crate) fn into_refused(mut self, sources: &Sources<'_>) -> Refused {
        self.found.sort_by(|left, right| {
            (left.span.origin, left.span.start, &left.path).cmp(&(
                right.span.origin,
                right.span.start,
                &right.path,
            ))
        });
        let omitted = self.omitted;
        let mut problems: Vec<Problem> = self
            .found
            .into_iter()
            .map(|complaint| Problem {
                place: sources.place(complaint.span),
                excerpt: sources.excerpt(complaint.span),
                path: complaint.path,
                message: complaint.message,
                hint: complaint.hint,
            })
            .collect();
        if let Some(last) = problems.last_mut().filter(|_| omitted > 0) {
            last.hint = Some(format!("{omitted} more problems are not listed"));
        }
        Refused { problems }
    }
}
