//! `berth version`: of this binary; the schedulers' is in `operator status`.

use serde_json::json;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece};
use crate::session::Session;

pub(crate) fn run(session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let answer = Answer {
        json: json!({ "version": VERSION }),
        pieces: vec![Piece::Text(format!("berth {VERSION}"))],
        ids: vec![VERSION.to_owned()],
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}
