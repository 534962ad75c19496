//! Moments, for scripts and for people.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn rfc3339(at_ms: u64) -> String {
    // The last moment of the year 9999, which is as far as four digits go.
    const LAST_MS: u64 = 253_402_300_799_999;
    let at = UNIX_EPOCH + Duration::from_millis(at_ms.min(LAST_MS));
    humantime::format_rfc3339_millis(at).to_string()
}

pub(crate) fn rfc3339_or_null(at_ms: Option<u64>) -> Value {
    at_ms.map_or(Value::Null, |at_ms| json!(rfc3339(at_ms)))
}

/// How long ago, in the largest unit: `12s`, `3m`, `5h`, `2d`.
pub(crate) fn ago(now_ms: u64, then_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1_000;
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_milliseconds_and_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        let cases = [(0, "0s"), (119, "119s"), (120, "2m"), (7_200, "2h"), (172_800, "2d")];
        for (seconds, expected) in cases {
            assert_eq!(ago(seconds * 1_000, 0), expected);
        }
        assert_eq!(ago(0, 5_000), "0s");
    }
}
