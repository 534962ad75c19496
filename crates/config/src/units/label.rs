//! Labels written `key=value`.

use super::UnitError;

const ALLOWED: &str = "KEY=VALUE, the key of 1 to 63 letters, digits, `-`, `_`, `.` or `/`, \
     the value of at most 255 characters";

/// A node label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// 1 to 63 letters, digits, `-`, `_`, `.` or `/`.
    pub key: String,
    /// At most 255 characters, none of them a control character; may be empty.
    pub value: String,
}

/// Parses `KEY=VALUE`.
///
/// # Errors
/// No `=`, or a key or value outside the limits of [`Label`].
pub fn label(text: &str) -> Result<Label, UnitError> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(UnitError::new(text, "has no `=`", ALLOWED));
    };
    let key_fits = (1..=63).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    if !key_fits {
        return Err(UnitError::new(text, "has an impossible key", ALLOWED));
    }
    if value.chars().count() > 255 || value.chars().any(char::is_control) {
        return Err(UnitError::new(text, "has an impossible value", ALLOWED));
    }
    Ok(Label { key: key.to_owned(), value: value.to_owned() })
}
