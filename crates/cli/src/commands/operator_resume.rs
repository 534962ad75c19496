//! `berth operator resume`: a restored cluster waits no longer for its nodes.

use berth_proto::v1::ResumeRequest;
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece};
use crate::session::Session;

pub(crate) async fn run(session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let reply = session.client.resume(ResumeRequest {}).await?;
    let text = match reply.missing {
        0 => "the cluster waits for nothing, and places work".to_owned(),
        missing => format!("the cluster waits no longer for {missing} nodes, and places work"),
    };
    let answer = Answer {
        json: json!({ "missing": reply.missing }),
        pieces: vec![Piece::Text(text)],
        ids: Vec::new(),
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}
