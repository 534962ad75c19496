//! Reads level filters such as `info,berth_raft=debug`. There are no patterns
//! and no spans in it, so no regular expressions either; a misspelt level is
//! refused, where the library's own reader would take it for a target and log
//! everything of it.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// A filter that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "log filter `{filter}`: {problem}; expected a level (off, error, warn, info, debug, trace), \
     or several with commas between as in info,berth_raft=debug"
)]
pub struct FilterError {
    /// The whole filter as given.
    pub filter: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Parses a filter. A part without a target is the level of all others; what no
/// part names is logged from `info`. A target covers the modules below it.
///
/// # Errors
/// An unknown level, an empty target, or a target (or the default) given twice.
pub fn parse_filter(filter: &str) -> Result<Targets, FilterError> {
    let refuse = |problem: String| FilterError { filter: filter.to_owned(), problem };
    let mut seen: Vec<Option<&str>> = Vec::new();
    let mut targets = Targets::new().with_default(LevelFilter::INFO);
    for part in filter.split(',') {
        let (target, level) = match part.split_once('=') {
            Some((target, level)) => (Some(target.trim()), level.trim()),
            None => (None, part.trim()),
        };
        let level = level_of(level).ok_or_else(|| refuse(format!("unknown level `{level}`")))?;
        if target == Some("") {
            return Err(refuse(format!("no target in `{part}`")));
        }
        if seen.contains(&target) {
            let name = target.unwrap_or("the default level");
            return Err(refuse(format!("{name} is given twice")));
        }
        seen.push(target);
        targets = match target {
            Some(target) => targets.with_target(target, level),
            None => targets.with_default(level),
        };
    }
    Ok(targets)
}

fn level_of(word: &str) -> Option<LevelFilter> {
    match word {
        "off" => Some(LevelFilter::OFF),
        "error" => Some(LevelFilter::ERROR),
        "warn" => Some(LevelFilter::WARN),
        "info" => Some(LevelFilter::INFO),
        "debug" => Some(LevelFilter::DEBUG),
        "trace" => Some(LevelFilter::TRACE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::parse_filter;

    #[test]
    fn filters_choose_by_target() {
        for (filter, target, level, enabled) in [
            ("info", "berth_raft", Level::INFO, true),
            ("info", "berth_raft", Level::DEBUG, false),
            ("info,berth_raft=debug", "berth_raft", Level::DEBUG, true),
            ("info,berth_raft=debug", "berth_raft::log", Level::DEBUG, true),
            ("info,berth_raft=debug", "berth_wire", Level::DEBUG, false),
            ("berth_raft=off", "berth_raft", Level::ERROR, false),
            ("berth_raft=off", "berth_wire", Level::INFO, true),
            ("off", "berth_wire", Level::ERROR, false),
            ("a=debug,a::b=error", "a::b", Level::WARN, false),
            ("a=debug,a::b=error", "a::c", Level::DEBUG, true),
        ] {
            let targets = parse_filter(filter).unwrap();
            assert_eq!(targets.would_enable(target, &level), enabled, "{filter} {target} {level}");
        }
    }

    #[test]
    fn slips_are_refused() {
        for (filter, problem) in [
            ("", "unknown level ``"),
            ("infoo", "unknown level `infoo`"),
            ("INFO", "unknown level `INFO`"),
            ("info,berth_raft", "unknown level `berth_raft`"),
            ("info,=debug", "no target in `=debug`"),
            ("info,warn", "the default level is given twice"),
            ("a=info,a=warn", "a is given twice"),
            ("a=", "unknown level ``"),
        ] {
            let error = parse_filter(filter).unwrap_err();
            assert_eq!(error.problem, problem, "{filter}");
        }
    }
}
