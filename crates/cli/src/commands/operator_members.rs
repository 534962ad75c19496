//! `berth operator promote` and `remove`: who votes, and who leaves.

use berth_proto::v1::{PromoteRequest, RemoveRequest};
use clap::Args;
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct MemberArgs {
    /// The scheduler, by its id in `berth operator status`
    #[arg(value_name = "ID", value_parser = scheduler_id)]
    pub id: u64,
}

fn scheduler_id(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a scheduler's id, such as 2".to_owned())
}

pub(crate) async fn promote(
    args: MemberArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let MemberArgs { id } = args;
    let reply = session.client.promote(PromoteRequest { id }).await?;
    let text = if reply.done {
        format!("scheduler {id} votes")
    } else {
        format!("scheduler {id} will vote when it has caught up")
    };
    say(session, json!({ "id": id, "done": reply.done }), id, text)
}

pub(crate) async fn remove(
    args: MemberArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let MemberArgs { id } = args;
    let reply = session.client.remove(RemoveRequest { id }).await?;
    let text = if reply.done {
        format!("scheduler {id} is out; its id is never used again")
    } else {
        format!("scheduler {id} will be out as soon as the others are a majority without it")
    };
    say(session, json!({ "id": id, "done": reply.done }), id, text)
}

fn say(
    session: &mut Session<'_, '_>,
    json: serde_json::Value,
    id: u64,
    text: String,
) -> Result<Exit, CliError> {
    let answer = Answer { json, pieces: vec![Piece::Text(text)], ids: vec![id.to_string()] };
    session.print(&answer)?;
    Ok(Exit::Done)
}
