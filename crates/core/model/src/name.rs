//! Names that people give to jobs, tasks, namespaces, nodes and ports.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The longest name, in bytes: as in DNS labels, so that a name can become one.
pub const NAME_BYTES_MAX: usize = 63;

/// A checked name: 1 to 63 of `a-z A-Z 0-9 . _ -`, beginning with a letter or a
/// digit and holding at least one letter, so that it can never be read as an id
/// or as a flag, nor leave a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is not a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NameError {
    #[error("a name must not be empty")]
    Empty,
    #[error("a name has at most 63 characters, this one has {0}")]
    TooLong(usize),
    #[error("a name must begin with a letter or a digit")]
    BadStart,
    #[error("a name consists of letters, digits, `.`, `_` and `-`; found {0:?}")]
    BadCharacter(char),
    #[error("a name must hold at least one letter, so that it cannot be taken for an id")]
    NoLetter,
}

impl Name {
    /// Checks `text` and makes it a name.
    pub fn new(text: &str) -> Result<Name, NameError> {
        let Some(first) = text.chars().next() else {
            return Err(NameError::Empty);
        };
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.chars().count()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some(bad) = text.chars().find(|c| !allowed(*c)) {
            return Err(NameError::BadCharacter(bad));
        }
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::BadStart);
        }
        if !text.chars().any(|c| c.is_ascii_alphabetic()) {
            return Err(NameError::NoLetter);
        }
        Ok(Name(Arc::from(text)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Name::new(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for text in ["a", "llama-8b", "3d_render.v2", "A100"] {
            assert_eq!(Name::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn what_could_be_an_id_a_flag_or_a_path_is_refused() {
        for (text, error) in [
            ("", NameError::Empty),
            ("17", NameError::NoLetter),
            ("1.2", NameError::NoLetter),
            ("-rf", NameError::BadStart),
            ("..", NameError::BadStart),
            ("../x", NameError::BadCharacter('/')),
            ("a b", NameError::BadCharacter(' ')),
            ("a\n", NameError::BadCharacter('\n')),
            ("Ünï", NameError::BadCharacter('Ü')),
        ] {
            assert_eq!(Name::new(text).unwrap_err(), error, "{text:?}");
        }
        assert_eq!(Name::new(&"a".repeat(300)).unwrap_err(), NameError::TooLong(300));
    }
}
