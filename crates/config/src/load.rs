//! Puts the layers on top of each other.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::environment;
use crate::file;
use crate::flags::Flags;
use crate::layer::Layer;
use crate::problem::Problem;
use crate::reader::{Reader, Row};
use crate::relations;
use crate::sections::Config;
use crate::source::Source;

/// Which file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChoice {
    /// None at all.
    None,
    /// The usual one, if it is there.
    IfPresent(PathBuf),
    /// One that somebody named: its absence is a problem.
    Named(PathBuf),
}

/// Everything that configuration is made of.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// `berth.toml`; the file of the environment is looked for beside it.
    pub file: FileChoice,
    /// All variables; those not starting with `BERTH_` are passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// What the command line said.
    pub flags: Flags,
}

/// A configuration without problems.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The typed settings.
    pub config: Config,
    /// Odd things that do not stand in the way.
    pub warnings: Vec<Problem>,
    /// Every setting with its value and source, by key.
    pub rows: Vec<Row>,
}

/// A configuration with problems. Nothing may start on it.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Refused {
    /// All that is wrong, never empty.
    pub problems: Vec<Problem>,
    /// Odd things besides.
    pub warnings: Vec<Problem>,
    /// Every setting as far as it could be read, by key.
    pub rows: Vec<Row>,
}

/// All problems, one after another.
impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{problem}")?;
        }
        Ok(())
    }
}

/// Reads all layers.
///
/// # Errors
/// [`Refused`] lists every problem of every layer at once: what cannot be read,
/// unknown keys, wrong types and values, and relations that do not hold.
pub fn load(inputs: &Inputs) -> Result<Loaded, Box<Refused>> {
    let nothing = Layer::new();
    let mut known = Reader::new(&nothing);
    Config::read(&mut known);

    let environment = environment::read(&inputs.environment, &known.keys);
    let mut problems = environment.problems;
    let mut warnings = environment.warnings;
    let mut layers = Vec::new();
    read_files(inputs, environment.name.as_deref(), &mut layers, &mut problems, &mut warnings);
    layers.push(environment.layer);
    layers.push(inputs.flags.layer(&known.list_keys));

    // Each layer is checked by itself, so that a bad value is told even where a
    // later layer replaces it.
    let mut merged = Layer::new();
    for layer in layers {
        let mut reader = Reader::new(&layer);
        Config::read(&mut reader);
        reader.check_unknown();
        problems.append(&mut reader.problems);
        merged.extend(layer);
    }
    let mut reader = Reader::new(&merged);
    let config = Config::read(&mut reader);
    problems.extend(relations::check(&config, &reader));
    let mut rows = reader.rows;
    rows.sort_by(|left, right| left.key.cmp(&right.key));
    if problems.is_empty() {
        Ok(Loaded { config, warnings, rows })
    } else {
        Err(Box::new(Refused { problems, warnings, rows }))
    }
}

fn read_files(
    inputs: &Inputs,
    environment_name: Option<&str>,
    layers: &mut Vec<Layer>,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    let path = match &inputs.file {
        FileChoice::None => return,
        FileChoice::IfPresent(path) | FileChoice::Named(path) => path,
    };
    match file::read(path) {
        Some((layer, mut found)) => {
            layers.push(layer);
            problems.append(&mut found);
        }
        None if matches!(inputs.file, FileChoice::Named(_)) => {
            problems.push(Problem::new(path.display(), "there is no such file"));
        }
        None => {}
    }
    let Some(name) = environment_name else { return };
    let place = Source::Environment { variable: "BERTH_ENV".to_owned() };
    let Some(beside) = path_for_environment(path, name) else {
        let seen = crate::units::shorten(name);
        let message = format!("`{seen}` is no environment's name: letters, digits, `-`, `_`");
        problems.push(Problem::at(&place, message));
        return;
    };
    match file::read(&beside) {
        Some((layer, mut found)) => {
            layers.push(layer);
            problems.append(&mut found);
        }
        None => {
            let message = format!("there is no {} for it", beside.display());
            warnings.push(Problem::at(&place, message));
        }
    }
}

/// `dir/berth.toml` and `prod` make `dir/berth.prod.toml`. `None` where the name
/// could lead elsewhere.
fn path_for_environment(path: &Path, name: &str) -> Option<PathBuf> {
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !fits || name.len() > 63 {
        return None;
    }
    let stem = path.file_stem()?.to_str()?;
    let file_name = match path.extension() {
        Some(extension) => format!("{stem}.{name}.{}", extension.to_str()?),
        None => format!("{stem}.{name}"),
    };
    Some(path.with_file_name(file_name))
}

#[cfg(test)]
mod tests;
