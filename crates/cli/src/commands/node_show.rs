//! `berth node show NODE`: a node and its GPUs.

use berth_proto::v1::GetNodeRequest;
use clap::Args;

use crate::error::{CliError, Exit};
use crate::output::node_answer;
use crate::session::{Session, StaleArgs, consistency};
use crate::values;

#[derive(Debug, Args)]
pub struct NodeShowArgs {
    /// Id or name
    #[arg(value_name = "NODE", value_parser = values::reference)]
    pub node: String,

    #[command(flatten)]
    pub stale: StaleArgs,
}

pub(crate) async fn run(
    args: NodeShowArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let request = GetNodeRequest { node: args.node, consistency: consistency(args.stale) };
    let node = session.client.get_node(request).await?;
    session.print(&node_answer(&node))?;
    Ok(Exit::Done)
}
