//! `berth operator transfer`: hands the leadership on.

use berth_proto::v1::TransferRequest;
use clap::Args;
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct TransferArgs {
    /// The scheduler to lead; whichever is furthest unless given
    #[arg(long, value_name = "ID")]
    pub to: Option<u64>,
}

pub(crate) async fn run(
    args: TransferArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let reply = session.client.transfer(TransferRequest { to: args.to }).await?;
    let answer = Answer {
        json: json!({ "leader": reply.leader_id }),
        pieces: vec![Piece::Text(format!("scheduler {} leads", reply.leader_id))],
        ids: vec![reply.leader_id.to_string()],
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}
