//! Processor shares: whole cores (`4`) or thousandths (`500m`).

use super::UnitError;
use super::number::{Grammar, split};

/// The most that one value may ask for: 4096 cores.
pub const CPU_MILLI_MAX: u64 = 4_096_000;

const ALLOWED: &str = "cores such as 4, or thousandths of a core such as 500m, from 1m to 4096";

/// Parses cores into thousandths of a core, from 1 to [`CPU_MILLI_MAX`].
///
/// # Errors
/// A sign, a fraction (`1.5` is written `1500m`), another unit, zero, or more
/// than 4096 cores.
pub fn cpu_milli(text: &str) -> Result<u64, UnitError> {
    if let Some(milli) = fraction_milli(text) {
        let problem = format!("is a fraction (write `{milli}m`)");
        return Err(UnitError::new(text, problem, ALLOWED));
    }
    let grammar = Grammar { allowed: ALLOWED, likely_unit: "", units: &[] };
    let quantity = split(text, &grammar)?;
    let milli = match quantity.unit {
        "" => quantity.amount.checked_mul(1_000),
        "m" => Some(quantity.amount),
        other => {
            let problem = format!("has the unknown unit `{}`", super::shorten(other));
            return Err(UnitError::new(text, problem, ALLOWED));
        }
    };
    match milli {
        Some(milli) if (1..=CPU_MILLI_MAX).contains(&milli) => Ok(milli),
        Some(_) | None => Err(UnitError::new(text, "is out of range", ALLOWED)),
    }
}

/// The thousandths meant by `1.5` and the like, to name them in the refusal.
fn fraction_milli(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.')?;
    if fraction.is_empty() || fraction.len() > 3 {
        return None;
    }
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let thousandths: u64 = format!("{fraction:0<3}").parse().ok()?;
    whole.checked_mul(1_000)?.checked_add(thousandths)
}

/// Writes thousandths of a core so that [`cpu_milli`] reads the same value back.
#[must_use]
pub fn format_cpu(cpu_milli: u64) -> String {
    if cpu_milli.is_multiple_of(1_000) {
        format!("{}", cpu_milli / 1_000)
    } else {
        format!("{cpu_milli}m")
    }
}
