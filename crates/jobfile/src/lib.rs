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

use berth_model::{JobSpec, Name, NamespaceSpec};

pub use problem::{Excerpt, Place, Problem, Refused};
pub use schema::{ArrayText, parse_array, parse_gpu, parse_share};
pub use source::{JOB_FILE_BYTES_MAX, read_path, read_stream};
pub use syntax::Syntax;

use problem::Complaints;
use text::{Sources, Span};
use tree::Table;

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
    let read = |tree: &Table, whole, complaints: &mut Complaints| {
        schema::read_job(tree, whole, &input.namespace, complaints)
    };
    parse_as(input, "there is no job in the file", read)
}

/// Reads a file of what is set for a namespace.
///
/// # Errors
/// As [`parse`].
pub fn parse_namespace(
    file_name: &str,
    syntax: Syntax,
    bytes: &[u8],
) -> Result<NamespaceSpec, Refused> {
    // It names itself; nothing of this stands for it.
    let namespace = Name::new("default").expect("letters make a name");
    let input = Input { file_name, syntax, bytes, overrides: &[], namespace };
    parse_as(&input, "there is no namespace in the file", schema::read_namespace)
}

/// Reads a file of one kind; `nothing` is what an empty one is told.
fn parse_as<T>(
    input: &Input<'_>,
    nothing: &str,
    read: impl FnOnce(&Table, Span, &mut Complaints) -> Option<T>,
) -> Result<T, Refused> {
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
        return Err(Refused::whole_file(input.file_name, nothing));
    }
    overrides::apply(input.overrides, &mut tree, &mut sources, &mut complaints);
    schema::mask_secrets(&tree, &mut sources);
    match read(&tree, Span::in_file(0..0), &mut complaints) {
        Some(read) if complaints.is_empty() => Ok(read),
        Some(_) | None => Err(complaints.into_refused(&sources)),
    }
}
