//! The kinds of value that settings have: what a file must write, how the text
//! is read, how the value is shown.

use std::path::{Component, Path, PathBuf};

use crate::layer::RawValue;
use crate::sections::{HostUse, LogFormat, OutputFormat, RaftProfile};
use crate::units::{self, Address, PortRange, SimulatedGpus, UnitError};

/// The TOML types that a kind accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    Boolean,
    Integer,
    /// `4` or `"500m"`.
    IntegerOrText,
}

impl Shape {
    /// The value's text where the type fits, else what was expected.
    pub(crate) fn text(self, value: &RawValue) -> Result<&str, &'static str> {
        match (self, value) {
            (Self::Text | Self::IntegerOrText, RawValue::Text(text))
            | (Self::Integer | Self::IntegerOrText, RawValue::Integer(text)) => Ok(text),
            (Self::Boolean, RawValue::Boolean(true)) => Ok("true"),
            (Self::Boolean, RawValue::Boolean(false)) => Ok("false"),
            (Self::Text, _) => Err("string"),
            (Self::Boolean, _) => Err("boolean"),
            (Self::Integer, _) => Err("integer"),
            (Self::IntegerOrText, _) => Err("integer or string"),
        }
    }
}

/// How values of one kind are read and shown.
pub(crate) struct Kind<T> {
    pub(crate) shape: Shape,
    pub(crate) parse: fn(&str) -> Result<T, UnitError>,
    pub(crate) show: fn(&T) -> String,
}

const fn text_kind<T>(parse: fn(&str) -> Result<T, UnitError>, show: fn(&T) -> String) -> Kind<T> {
    Kind { shape: Shape::Text, parse, show }
}

pub(crate) const PATH: Kind<PathBuf> = text_kind(path, |path| path.display().to_string());
pub(crate) const ADDRESS: Kind<Address> = text_kind(units::address, Address::to_string);
pub(crate) const LISTEN: Kind<Address> = text_kind(units::listen_address, Address::to_string);
pub(crate) const NAME: Kind<String> = text_kind(name, String::clone);
/// One word of a command.
pub(crate) const WORD: Kind<String> = text_kind(word, String::clone);
pub(crate) const LABEL_VALUE: Kind<String> = text_kind(label_value, String::clone);
pub(crate) const SIZE: Kind<u64> = text_kind(units::size_bytes, |bytes| units::format_size(*bytes));
/// From where artifacts may come.
pub(crate) const ARTIFACTS: Kind<String> = text_kind(artifacts, String::clone);
pub(crate) const PORTS: Kind<PortRange> = text_kind(units::port_range, PortRange::to_string);
pub(crate) const GPUS: Kind<SimulatedGpus> =
    text_kind(units::simulated_gpus, SimulatedGpus::to_string);
pub(crate) const LEVEL: Kind<String> = text_kind(level_filter, String::clone);
/// Timers of consensus and leases: a minute is beyond any use.
pub(crate) const TIMER: Kind<u64> = text_kind(
    |text| units::duration_ms_between(text, 1, 60_000),
    |duration_ms| units::format_duration(*duration_ms),
);
/// Longer waits: a week is beyond any use.
pub(crate) const WAIT: Kind<u64> = text_kind(
    |text| units::duration_ms_between(text, 1, 7 * 86_400_000),
    |duration_ms| units::format_duration(*duration_ms),
);
pub(crate) const CPU: Kind<u64> = Kind {
    shape: Shape::IntegerOrText,
    parse: units::cpu_milli,
    show: |milli| units::format_cpu(*milli),
};
pub(crate) const SWITCH: Kind<bool> =
    Kind { shape: Shape::Boolean, parse: switch, show: bool::to_string };
pub(crate) const COUNT: Kind<u64> =
    Kind { shape: Shape::Integer, parse: count, show: u64::to_string };
/// Of something that may run short: nobody waits for nothing to be in use.
pub(crate) const PERCENT: Kind<u64> =
    Kind { shape: Shape::Integer, parse: percent, show: u64::to_string };
/// As many tasks as may share one GPU, at least the one.
pub(crate) const SHARERS: Kind<u64> =
    Kind { shape: Shape::Integer, parse: sharers, show: u64::to_string };
pub(crate) const PROFILE: Kind<RaftProfile> = text_kind(
    |text| one_of(text, &RaftProfile::ALL, RaftProfile::as_str),
    |profile| profile.as_str().to_owned(),
);
pub(crate) const HOST_USE: Kind<HostUse> = text_kind(
    |text| one_of(text, &HostUse::ALL, HostUse::as_str),
    |host_use| host_use.as_str().to_owned(),
);
/// One whose meaning does not depend on where anybody stands.
pub(crate) const FULL_PATH: Kind<PathBuf> = text_kind(full_path, |path| path.display().to_string());
pub(crate) const DEVICE_PATH: Kind<PathBuf> =
    text_kind(device_path, |path| path.display().to_string());
pub(crate) const OUTPUT: Kind<OutputFormat> = text_kind(
    |text| one_of(text, &OutputFormat::ALL, OutputFormat::as_str),
    |format| format.as_str().to_owned(),
);
pub(crate) const LOG_FORMAT: Kind<LogFormat> = text_kind(
    |text| one_of(text, &LogFormat::ALL, LogFormat::as_str),
    |format| format.as_str().to_owned(),
);

fn path(text: &str) -> Result<PathBuf, UnitError> {
    let allowed = "a path of at most 4096 bytes";
    if text.is_empty() {
        return Err(UnitError::new(text, "is empty", allowed));
    }
    if text.contains('\0') || text.len() > 4_096 {
        return Err(UnitError::new(text, "is no path", allowed));
    }
    Ok(PathBuf::from(text))
}

fn full_path(text: &str) -> Result<PathBuf, UnitError> {
    let path = path(text)?;
    let is_plain =
        path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && is_plain {
        Ok(path)
    } else {
        Err(UnitError::new(text, "is no path from the root", "a path like `/data`, without `..`"))
    }
}

fn device_path(text: &str) -> Result<PathBuf, UnitError> {
    let path = full_path(text)?;
    if path.starts_with("/dev") && path != Path::new("/dev") {
        Ok(path)
    } else {
        Err(UnitError::new(text, "is not below `/dev`", "a path like `/dev/infiniband`"))
    }
}

/// Names of nodes, pools, zones, namespaces and users: they end up in ids,
/// paths and tables, so the set is that of a DNS label with `_` and `.`.
fn name(text: &str) -> Result<String, UnitError> {
    let allowed = "1 to 63 letters, digits, `-`, `_` or `.`, at least one of them a letter, \
         the first and last a letter or digit";
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric());
    if fits { Ok(text.to_owned()) } else { Err(UnitError::new(text, "is not a name", allowed)) }
}

fn word(text: &str) -> Result<String, UnitError> {
    let fits = !text.is_empty() && !text.contains('\0');
    let allowed = "a program, or one of its arguments";
    if fits { Ok(text.to_owned()) } else { Err(UnitError::new(text, "is no word", allowed)) }
}

fn label_value(text: &str) -> Result<String, UnitError> {
    units::label(&format!("value={text}")).map(|label| label.value)
}

/// Agents read it whole; what is said here is said before one starts.
fn artifacts(text: &str) -> Result<String, UnitError> {
    const SCHEMES: [&str; 6] = ["file", "http", "https", "s3", "gs", "az"];
    let (scheme, rest) = text.split_once("://").unwrap_or((text, "all"));
    let is_known = SCHEMES.contains(&scheme) || text == "loopback";
    if is_known && !rest.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    let allowed = "a scheme (https, http, s3, gs, az, file), `loopback`, or the beginning of a \
                   URL such as https://HOST/PATH/";
    Err(UnitError::new(text, "names no place", allowed))
}

fn switch(text: &str) -> Result<bool, UnitError> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(UnitError::new(text, "is neither on nor off", "true or false")),
    }
}

fn count(text: &str) -> Result<u64, UnitError> {
    // Far above any sensible limit and still safe to multiply.
    const COUNT_MAX: u64 = 1_000_000_000;
    match text.parse::<u64>() {
        Ok(count) if count <= COUNT_MAX && !text.starts_with('+') => Ok(count),
        Ok(_) | Err(_) => {
            let allowed = format!("a whole number from 0 to {COUNT_MAX}");
            Err(UnitError::new(text, "is out of range", allowed))
        }
    }
}

fn percent(text: &str) -> Result<u64, UnitError> {
    match text.parse::<u64>() {
        Ok(percent @ 1..=100) if !text.starts_with('+') => Ok(percent),
        Ok(_) | Err(_) => {
            Err(UnitError::new(text, "is out of range", "a whole number from 1 to 100".to_owned()))
        }
    }
}

fn sharers(text: &str) -> Result<u64, UnitError> {
    // Above what anybody shares a GPU among, and still a small number.
    const SHARERS_MAX: u64 = 64;
    match text.parse::<u64>() {
        Ok(count @ 1..=SHARERS_MAX) if !text.starts_with('+') => Ok(count),
        Ok(_) | Err(_) => {
            let allowed = format!("a whole number from 1 to {SHARERS_MAX}");
            Err(UnitError::new(text, "is out of range", allowed))
        }
    }
}

/// `info` or `info,berth_raft=debug`. Only the form is checked here; what it
/// means is the business of whoever sets up the log.
fn level_filter(text: &str) -> Result<String, UnitError> {
    let allowed = "a level (off, error, warn, info, debug, trace), \
         or several with commas between as in info,berth_raft=debug";
    for part in text.split(',') {
        let (target, level) = match part.split_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, part),
        };
        let target_fits = target.is_none_or(|target| {
            !target.is_empty()
                && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte))
        });
        if !target_fits {
            return Err(UnitError::new(text, "has an impossible target", allowed));
        }
        if !["off", "error", "warn", "info", "debug", "trace"].contains(&level) {
            let problem = format!("has the unknown level `{}`", units::shorten(level));
            return Err(UnitError::new(text, problem, allowed));
        }
    }
    Ok(text.to_owned())
}

fn one_of<T: Copy>(text: &str, all: &[T], word: fn(&T) -> &'static str) -> Result<T, UnitError> {
    let found = all.iter().find(|candidate| word(candidate) == text);
    found.copied().ok_or_else(|| {
        let words: Vec<&str> = all.iter().map(word).collect();
        let problem = match crate::suggest::nearest(text, &words) {
            Some(near) => format!("is unknown (did you mean `{near}`?)"),
            None => "is unknown".to_owned(),
        };
        UnitError::new(text, problem, format!("one of {}", words.join(", ")))
    })
}
