//! Port ranges such as `20000-29999`.

use std::fmt;

use super::UnitError;

const ALLOWED: &str = "a range of ports such as 20000-29999, within 1 to 65535";

/// A range of ports, both ends included; `first <= last` and neither is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest port of the range.
    pub first: u16,
    /// The highest port of the range.
    pub last: u16,
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

/// Parses `FIRST-LAST`, or one port as a range of one.
///
/// # Errors
/// A port outside 1 to 65535, or a range that runs backwards.
pub fn port_range(text: &str) -> Result<PortRange, UnitError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(text, first)?, port(text, last)?);
    if first > last {
        let problem = format!("runs backwards (did you mean `{last}-{first}`?)");
        return Err(UnitError::new(text, problem, ALLOWED));
    }
    Ok(PortRange { first, last })
}

fn port(text: &str, part: &str) -> Result<u16, UnitError> {
    if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UnitError::new(text, "is not a range of ports", ALLOWED));
    }
    match part.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => {
            let problem = format!("has port {} out of range", super::shorten(part));
            Err(UnitError::new(text, problem, ALLOWED))
        }
    }
}
