//! `berth operator snapshot`: has a scheduler write its state down now.

use berth_proto::v1::SnapshotRequest;
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece};
use crate::session::Session;

pub(crate) async fn run(session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let reply = session.client.snapshot(SnapshotRequest {}).await?;
    let answer = Answer {
        json: json!({ "index": reply.index }),
        pieces: vec![Piece::Text(format!("snapshot written at index {}", reply.index))],
        ids: vec![reply.index.to_string()],
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}
