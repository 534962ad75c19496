//! `array = "0-99"`, `"0-99:2"`, `"0-99%10"`.

use berth_model::ArraySpec;

use crate::text::shown;

/// An array as written: its positions and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrayText {
    pub spec: ArraySpec,
    pub count: u32,
}

/// Reads `FIRST-LAST[:STEP][%AT_ONCE]`.
///
/// # Errors
/// What is wrong, as a sentence.
pub fn parse_array(text: &str) -> Result<ArrayText, String> {
    let malformed = || {
        format!(
            "expected FIRST-LAST, FIRST-LAST:STEP or either with %AT_ONCE, such as 0-99, 0-99:2, \
             0-99%10; found `{}`",
            shown(text)
        )
    };
    let (range, parallel) = match text.split_once('%') {
        Some((range, parallel)) => (range, Some(number(parallel).ok_or_else(malformed)?)),
        None => (text, None),
    };
    let (range, step) = match range.split_once(':') {
        Some((range, step)) => (range, number(step).ok_or_else(malformed)?),
        None => (range, 1),
    };
    let (first, last) = range.split_once('-').ok_or_else(malformed)?;
    let (first, last) = (number(first).ok_or_else(malformed)?, number(last).ok_or_else(malformed)?);
    if first > last {
        return Err(format!("the first index {first} is above the last index {last}"));
    }
    if step == 0 || parallel == Some(0) {
        return Err("the step and the number at once must be at least 1".to_owned());
    }
    let Some(count) = ((last - first) / step).checked_add(1) else {
        return Err(format!("indices from {first} to {last} are too many"));
    };
    Ok(ArrayText { spec: ArraySpec { start: first, step, parallel_max: parallel }, count })
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, start: u32, step: u32, parallel_max: Option<u32>, count: u32) {
        let expected = ArrayText { spec: ArraySpec { start, step, parallel_max }, count };
        assert_eq!(parse_array(text), Ok(expected), "{text}");
    }

    #[test]
    fn ranges_steps_and_limits_are_read() {
        check("0-99", 0, 1, None, 100);
        check("5-5", 5, 1, None, 1);
        check("0-99:2", 0, 2, None, 50);
        check("1-10:3", 1, 3, None, 4);
        check("0-99%10", 0, 1, Some(10), 100);
        check("0-99:50%2", 0, 50, Some(2), 2);
    }

    #[test]
    fn anything_else_is_refused() {
        for (text, part) in [
            ("", "expected FIRST-LAST"),
            ("7", "expected FIRST-LAST"),
            ("1,3", "expected FIRST-LAST"),
            ("-1-3", "expected FIRST-LAST"),
            ("+1-3", "expected FIRST-LAST"),
            ("0-99999999999", "expected FIRST-LAST"),
            ("9-3", "the first index 9 is above the last index 3"),
            ("0-9:0", "at least 1"),
            ("0-9%0", "at least 1"),
            ("0-4294967295", "too many"),
        ] {
            let error = parse_array(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
