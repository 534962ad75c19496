//! The three syntaxes.

mod json;
mod toml;
mod toml_keys;
mod yaml;

use std::path::Path;

use crate::problem::Complaints;
use crate::tree::Table;

/// How a job file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    Toml,
    Yaml,
    Json,
}

impl Syntax {
    /// By the ending of the name; TOML where it tells nothing.
    #[must_use]
    pub fn of_path(path: &Path) -> Syntax {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("yaml" | "yml") => Syntax::Yaml,
            Some("json") => Syntax::Json,
            Some(_) | None => Syntax::Toml,
        }
    }
}

/// The tree of `text`. `None` after a syntax error; keys given twice are
/// complained about too, but leave a tree in which the first one stands.
pub(crate) fn parse(syntax: Syntax, text: &str, complaints: &mut Complaints) -> Option<Table> {
    match syntax {
        Syntax::Toml => toml::parse(text, complaints),
        Syntax::Yaml => yaml::parse(text, complaints),
        Syntax::Json => json::parse(text, complaints),
    }
}

pub(crate) use toml::parse_value;
