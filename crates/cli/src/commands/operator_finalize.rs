//! `berth operator finalize`: the end of a rolling upgrade.

use berth_proto::v1::FinalizeRequest;
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece};
use crate::session::Session;

pub(crate) async fn run(session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let reply = session.client.finalize(FinalizeRequest {}).await?;
    let version = reply.cluster_version;
    let text = match reply.raised {
        true => format!("the cluster is at version {version}; no older build can take part in it"),
        false => format!("the cluster stays at version {version}"),
    };
    let answer = Answer {
        json: json!({
            "cluster_version": version,
            "raised": reply.raised,
            "held_back_by": reply.held_back_by,
        }),
        pieces: vec![Piece::Text(text)],
        ids: Vec::new(),
    };
    session.print(&answer)?;
    if !reply.held_back_by.is_empty() {
        let ids: Vec<String> = reply.held_back_by.iter().map(u64::to_string).collect();
        let ids = ids.join(", ");
        session.note(&format!("note: schedulers that know no later version: {ids}"));
        session.note("hint: `berth operator status` shows what each of them runs");
    }
    Ok(Exit::Done)
}
