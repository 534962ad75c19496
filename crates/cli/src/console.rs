//! Where a command reads and writes. Nothing else in this crate prints.

use std::io::{self, IsTerminal, Read, Write};

use crate::error::CliError;

/// The three streams and what is known about them.
pub struct Console<'a> {
    pub input: Box<dyn Read + 'a>,
    pub out: Box<dyn Write + 'a>,
    pub error: Box<dyn Write + 'a>,
    /// Columns of the terminal that stdout is; `None` where it is none.
    pub width: Option<u16>,
    pub error_is_terminal: bool,
    /// Whether the locale can show `…`.
    pub unicode: bool,
}

impl<'a> Console<'a> {
    #[must_use]
    pub fn of_process() -> Console<'a> {
        let terminal = io::stdout().is_terminal();
        let width = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0);
        Console {
            input: Box::new(io::stdin()),
            out: Box::new(io::stdout()),
            error: Box::new(io::stderr()),
            width: width.filter(|width| terminal && *width > 0),
            error_is_terminal: io::stderr().is_terminal(),
            unicode: locale_is_unicode(|name| std::env::var(name).ok()),
        }
    }

    /// Stands for what does not fit a column.
    pub(crate) fn cut_mark(&self) -> &'static str {
        if self.unicode { "…" } else { "~" }
    }

    /// Writes data. A reader that went away is an end, not a failure.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                CliError::ClosedPipe
            } else {
                CliError::Output(error)
            }
        })
    }

    /// Writes what a command somewhere else wrote to its standard error.
    pub(crate) fn error_data(&mut self, bytes: &[u8]) {
        // Where stderr is gone there is nobody left to tell.
        drop(self.error.write_all(bytes).and_then(|()| self.error.flush()));
    }

    /// Writes a line of data.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), CliError> {
        self.data(format!("{line}\n").as_bytes())
    }

    /// Writes a line for people.
    pub(crate) fn error_line(&mut self, line: &str) {
        // Where stderr is gone there is nobody left to tell.
        drop(writeln!(self.error, "{line}"));
    }

    /// Replaces the last line of progress; nothing where nobody watches.
    pub(crate) fn progress(&mut self, text: &str) {
        if self.error_is_terminal {
            drop(write!(self.error, "\r\x1b[K{text}").and_then(|()| self.error.flush()));
        }
    }

    /// Takes the line of progress away.
    pub(crate) fn end_progress(&mut self) {
        self.progress("");
    }
}

/// By the first of the variables that decide it.
fn locale_is_unicode(variable: impl Fn(&str) -> Option<String>) -> bool {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let locale = names.into_iter().filter_map(variable).find(|value| !value.is_empty());
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_decides_the_locale() {
        let check = |variables: &[(&str, &str)], expected: bool| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(locale_is_unicode(variable), expected, "{variables:?}");
        };
        check(&[("LANG", "en_GB.UTF-8")], true);
        check(&[("LANG", "C.utf8")], true);
        check(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")], false);
        check(&[("LC_ALL", ""), ("LANG", "en_GB.UTF-8")], true);
        check(&[], false);
    }
}
