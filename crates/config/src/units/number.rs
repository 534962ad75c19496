//! The part that all quantities share: a whole number, then a unit.

use super::UnitError;
use crate::suggest::nearest;

/// A whole number and the unit that followed it.
pub(super) struct Quantity<'a> {
    pub(super) amount: u64,
    pub(super) unit: &'a str,
}

/// What a kind of quantity allows, for the messages.
pub(super) struct Grammar<'a> {
    pub(super) allowed: &'a str,
    /// The unit that a bare number most likely meant.
    pub(super) likely_unit: &'a str,
    pub(super) units: &'a [(&'a str, u64)],
}

/// Splits `text` into a number and a unit and refuses what is neither.
///
/// `None` as unit is possible only where `text` is a bare number.
pub(super) fn split<'a>(text: &'a str, grammar: &Grammar<'_>) -> Result<Quantity<'a>, UnitError> {
    let refuse = |problem: String| Err(UnitError::new(text, problem, grammar.allowed));
    if text.is_empty() {
        return refuse("is empty".to_owned());
    }
    if text.starts_with('-') {
        return refuse("is negative".to_owned());
    }
    if text.starts_with('+') {
        return refuse("has a sign".to_owned());
    }
    if text.trim() != text {
        return refuse("has spaces around it".to_owned());
    }
    let digits_end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    if digits.is_empty() {
        return refuse("does not start with a number".to_owned());
    }
    if unit.starts_with(['.', ',']) {
        return refuse("is not a whole number".to_owned());
    }
    match digits.parse::<u64>() {
        Ok(amount) => Ok(Quantity { amount, unit }),
        Err(_) => refuse("is out of range".to_owned()),
    }
}

/// Parses `<whole number><unit>` into base units, at most `limit`.
pub(super) fn scaled(text: &str, grammar: &Grammar<'_>, limit: u64) -> Result<u64, UnitError> {
    let quantity = split(text, grammar)?;
    let refuse = |problem: String| Err(UnitError::new(text, problem, grammar.allowed));
    if quantity.unit.is_empty() {
        return refuse(format!(
            "has no unit (did you mean `{}{}`?)",
            quantity.amount, grammar.likely_unit
        ));
    }
    let spaceless = quantity.unit.trim_start();
    let known = grammar.units.iter().find(|(name, _)| *name == spaceless);
    let Some((name, factor)) = known else {
        let names: Vec<&str> = grammar.units.iter().map(|(name, _)| *name).collect();
        let seen = super::shorten(spaceless);
        return match nearest(spaceless, &names) {
            Some(near) => refuse(format!(
                "has the unknown unit `{seen}` (did you mean `{}{near}`?)",
                quantity.amount
            )),
            None => refuse(format!("has the unknown unit `{seen}`")),
        };
    };
    if spaceless.len() != quantity.unit.len() {
        return refuse(format!("has a space before the unit (write `{}{name}`)", quantity.amount));
    }
    match quantity.amount.checked_mul(*factor) {
        Some(amount) if amount <= limit => Ok(amount),
        Some(_) | None => refuse("is out of range".to_owned()),
    }
}
