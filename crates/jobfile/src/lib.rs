//! Reads job files, because a job that is misread costs GPU hours: TOML, YAML
//! and JSON with the same keys become one [`JobSpec`], and every complaint says
//! where it is, what was found and what would be right. It refuses what it does
//! not know instead of passing it over, and it knows no cluster.
//!
//! The three syntaxes make one tree of values with positions; one walk over that
//! tree knows the keys; `berth_model::validate` has the last word on sense.
#![forbid(unsafe_code)]

mod bytes;
mod overrides;
mod problem;
mod schema;
mod source;
mod syntax;
mod text;
mod tree;

use berth_model::{JobSpec, Name};

pub use problem::{Excerpt, Place, Problem, Refused};
pub use schema::{ArrayText, parse_array, parse_gpu, parse_share};
pub use source::{JOB_FILE_BYTES_MAX, read_path, read_stream};
pub use syntax::Syntax;

use problem::Complaints;
use text::{Sources, Span};

/// A job file and what the command line adds to it.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// How complaints call the file.
    pub file_name: &'a str,
    pub syntax: Syntax,
    /// The contents; more than [`JOB_FILE_BYTES_MAX`] are refused.
    pub bytes: &'a [u8],
    /// `KEY=VALUE` with a dotted key, applied in order.
    pub overrides: &'a [String],
    /// Where the file names no namespace.
    pub namespace: Name,
}

/// Reads a job file.
///
/// # Errors
/// [`Refused`] lists every problem of the file at once, in the order of the
/// file. A syntax error hides the others, since what follows it is a guess.
pub fn parse(input: &Input<'_>) -> Result<JobSpec, Refused> {
    let mut sources = Sources::new(input.file_name);
    let text = match bytes::decode(input.bytes) {
        Ok(text) => text,
        Err(message) => return Err(Refused::whole_file(input.file_name, message)),
    };
    sources.set_file_text(text);
    let mut complaints = Complaints::new();
    let tree = syntax::parse(input.syntax, text, &mut complaints);
    let Some(mut tree) = tree else {
        return Err(complaints.into_refused(&sources));
    };
    if tree.is_empty() && input.overrides.is_empty() {
        return Err(Refused::whole_file(input.file_name, "there is no job in the file"));
    }
    overrides::apply(input.overrides, &mut tree, &mut sources, &mut complaints);
    schema::mask_secrets(&tree, &mut sources);
    let whole = Span::in_file(0..0);
    let spec = schema::read_job(&tree, whole, &input.namespace, &mut complaints);
    match spec {
        Some(spec) if complaints.is_empty() => Ok(spec),
        Some(_) | None => Err(complaints.into_refused(&sources)),
    }
}
