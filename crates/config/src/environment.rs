//! The layer of `BERTH_…` variables.

use std::ffi::OsString;

use crate::layer::{Layer, MAP_KEYS, insert_text, segments};
use crate::problem::Problem;
use crate::source::Source;
use crate::suggest::nearest_within;

const PREFIX: &str = "BERTH_";

/// Variables that are no configuration keys but have a meaning: for clients, for
/// tests, and those that an agent sets for the workers it starts.
pub const KNOWN_VARIABLES: [&str; 20] = [
    "BERTH_SERVER",
    "BERTH_TLS_DIR",
    "BERTH_TOKEN",
    "BERTH_NAMESPACE",
    "BERTH_ENV",
    "BERTH_TRACES",
    "BERTH_TESTS_REQUIRE",
    "BERTH_ALLOC_ID",
    "BERTH_JOB_ID",
    "BERTH_JOB_NAME",
    "BERTH_TASK",
    "BERTH_TASK_INDEX",
    "BERTH_TASK_DIR",
    "BERTH_ARRAY_INDEX",
    "BERTH_ATTEMPT",
    "BERTH_NODE",
    "BERTH_GPU_VRAM_BYTES",
    "BERTH_MAX_BATCH",
    "BERTH_DEV_DATA_DIR",
    "BERTH_NVML_SCRIPT",
];

/// A worker's port by name: `BERTH_PORT_HTTP` and so on.
const WORKER_PORT_PREFIX: &str = "BERTH_PORT_";

/// Short names of daily use, for the keys they set.
const SHORT_NAMES: [(&str, &str); 3] = [
    ("BERTH_SERVER", "client.server"),
    ("BERTH_NAMESPACE", "client.namespace"),
    ("BERTH_TLS_DIR", "client.tls_dir"),
];

/// What the variables said.
pub(crate) struct Environment {
    pub(crate) layer: Layer,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
    /// The value of `BERTH_ENV`, where it is set and not empty.
    pub(crate) name: Option<String>,
}

/// The variable that sets `key`.
pub(crate) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// Reads the variables that start with `BERTH_`. `keys` are all the keys there are.
pub(crate) fn read(variables: &[(OsString, OsString)], keys: &[&str]) -> Environment {
    let mut found =
        Environment { layer: Layer::new(), problems: Vec::new(), warnings: Vec::new(), name: None };
    let mut ours: Vec<(&str, &OsString)> = variables
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    ours.sort_unstable();
    for (name, value) in ours {
        read_variable(&mut found, name, value, keys);
    }
    found
}

fn read_variable(found: &mut Environment, name: &str, value: &OsString, keys: &[&str]) {
    let short = SHORT_NAMES.iter().find(|(short, _)| *short == name);
    let path = match short {
        Some((_, key)) => Some(segments(key)),
        None => path_of(name, keys),
    };
    let is_known = KNOWN_VARIABLES.contains(&name) || name.starts_with(WORKER_PORT_PREFIX);
    if path.is_none() && !is_known {
        found.warnings.push(unknown(name, keys));
        return;
    }
    if path.is_none() && name != "BERTH_ENV" {
        return;
    }
    let Some(text) = value.to_str() else {
        let place = Source::Environment { variable: name.to_owned() };
        found.problems.push(Problem::at(&place, "the value is not UTF-8"));
        return;
    };
    match path {
        Some(path) => insert(found, path, name, text),
        None => found.name = Some(text.to_owned()).filter(|text| !text.is_empty()),
    }
}

fn insert(found: &mut Environment, path: Vec<String>, name: &str, text: &str) {
    let source = Source::Environment { variable: name.to_owned() };
    if let Some(earlier) = found.layer.get(&path) {
        let same = earlier.value == crate::layer::RawValue::Text(text.to_owned());
        if !same {
            let message =
                format!("sets {}, as does {} with another value", path.join("."), earlier.source);
            found.problems.push(Problem::at(&source, message).hint("unset one of the two"));
        }
        return;
    }
    insert_text(&mut found.layer, path, text, source);
}

/// The known key, or member of a map, that a long name such as
/// `BERTH_SCHEDULER__DATA_DIR` stands for.
fn path_of(name: &str, keys: &[&str]) -> Option<Vec<String>> {
    let rest = name.strip_prefix(PREFIX)?;
    let path: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
    let key = path.join(".");
    let is_member = path.len() == 3 && MAP_KEYS.contains(&path[..2].join(".").as_str());
    let known = keys.contains(&key.as_str()) || MAP_KEYS.contains(&key.as_str()) || is_member;
    known.then_some(path)
}

fn unknown(name: &str, keys: &[&str]) -> Problem {
    let mut names: Vec<String> = keys.iter().map(|key| variable_of(key)).collect();
    names.extend(KNOWN_VARIABLES.iter().map(|known| (*known).to_owned()));
    let candidates: Vec<&str> = names.iter().map(String::as_str).collect();
    let place = Source::Environment { variable: name.to_owned() };
    let problem = Problem::at(&place, "no setting has this name; it is ignored");
    // Few slips: the names are long and share their beginnings, so a third of
    // one would offer unrelated keys of the same section.
    match nearest_within(name, &candidates, 3) {
        Some(near) => problem.hint(format!("did you mean {near}?")),
        None => {
            problem.hint("levels are separated by two underscores, as in BERTH_SCHEDULER__DATA_DIR")
        }
    }
}
