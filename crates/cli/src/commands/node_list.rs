//! `berth node list`: nodes and how full they are.

use berth_proto::v1::ListNodesRequest;
use clap::Args;

use crate::error::{CliError, Exit};
use crate::output::nodes_answer;
use crate::session::{Session, StaleArgs, consistency};

#[derive(Debug, Args)]
pub struct NodeListArgs {
    #[command(flatten)]
    pub stale: StaleArgs,
}

pub(crate) async fn run(
    args: NodeListArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let request = ListNodesRequest { consistency: consistency(args.stale) };
    let reply = session.client.list_nodes(request).await?;
    session.print(&nodes_answer(&reply.nodes))?;
    session.note_age(reply.stale_ms);
    Ok(Exit::Done)
}
