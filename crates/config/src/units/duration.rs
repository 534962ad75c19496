//! Durations such as `90s`, `5m`, `250ms`.

use super::UnitError;
use super::number::{Grammar, scaled};

/// The longest duration accepted anywhere: ten years of 365 days. Anything
/// longer is a slip, and the bound keeps sums of a few of them far from overflow.
pub const DURATION_MS_MAX: u64 = 3_650 * 86_400_000;

const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Parses a duration into milliseconds: a whole number and one of
/// `ms`, `s`, `m`, `h`, `d`, from `0ms` to 3650 days.
///
/// # Errors
/// A bare number, sign, fraction, unknown unit or value out of range.
pub fn duration_ms(text: &str) -> Result<u64, UnitError> {
    let grammar = Grammar {
        allowed: "a duration such as 250ms, 90s, 5m, 2h, 7d (at most 3650d)",
        likely_unit: "s",
        units: &UNITS,
    };
    scaled(text, &grammar, DURATION_MS_MAX)
}

/// As [`duration_ms`], but within `min_ms..=max_ms`; the error names both.
///
/// # Errors
/// As [`duration_ms`], and a value outside the given range.
pub fn duration_ms_between(text: &str, min_ms: u64, max_ms: u64) -> Result<u64, UnitError> {
    let allowed = format!(
        "a duration such as 250ms, 90s, 5m, 2h, 7d, from {} to {}",
        format_duration(min_ms),
        format_duration(max_ms)
    );
    let grammar = Grammar { allowed: &allowed, likely_unit: "s", units: &UNITS };
    let value = scaled(text, &grammar, DURATION_MS_MAX)?;
    if (min_ms..=max_ms).contains(&value) {
        Ok(value)
    } else {
        Err(UnitError::new(text, "is out of range", allowed))
    }
}

/// Writes milliseconds in the largest unit that divides them, so that
/// [`duration_ms`] reads the same value back.
#[must_use]
pub fn format_duration(duration_ms: u64) -> String {
    let unit = UNITS
        .iter()
        .rev()
        .find(|(_, factor)| duration_ms >= *factor && duration_ms.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) => format!("{}{name}", duration_ms / factor),
        None => format!("{duration_ms}ms"),
    }
}
