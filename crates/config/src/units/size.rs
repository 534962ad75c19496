//! Sizes such as `32GiB` (powers of 1024) and `80GB` (powers of 1000).

use super::UnitError;
use super::number::{Grammar, scaled};

/// The largest size accepted: one pebibyte, above any single host's memory or
/// disk, so that a larger number is a slip of the unit.
pub const SIZE_BYTES_MAX: u64 = 1 << 50;

const UNITS: [(&str, u64); 11] = [
    ("B", 1),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
    ("PB", 1_000_000_000_000_000),
    ("PiB", 1 << 50),
];

/// Parses a size into bytes: a whole number and `B`, `KB` … `PB` (decimal) or
/// `KiB` … `PiB` (binary), at most `1PiB`.
///
/// # Errors
/// A bare number, sign, fraction, unknown unit or value out of range.
pub fn size_bytes(text: &str) -> Result<u64, UnitError> {
    let grammar = Grammar {
        allowed: "a size such as 512MiB, 32GiB (binary) or 80GB (decimal), at most 1PiB",
        likely_unit: "GiB",
        units: &UNITS,
    };
    scaled(text, &grammar, SIZE_BYTES_MAX)
}

/// Writes bytes in the largest unit that divides them, so that [`size_bytes`]
/// reads the same value back and `80GB` stays `80GB`.
#[must_use]
pub fn format_size(size_bytes: u64) -> String {
    let unit = UNITS
        .iter()
        .rev()
        .find(|(_, factor)| size_bytes >= *factor && size_bytes.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) => format!("{}{name}", size_bytes / factor),
        None => format!("{size_bytes}B"),
    }
}
