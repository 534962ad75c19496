//! `berth node drain NODE`: moves everything off.

use berth_proto::v1::DrainRequest;
use clap::Args;

use super::node_change::print_changed;
use crate::error::{CliError, Exit};
use crate::session::Session;
use crate::values;

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Id or name
    #[arg(value_name = "NODE", value_parser = values::reference)]
    pub node: String,

    /// When what is still there is stopped, such as 5m
    #[arg(long, value_name = "DURATION", value_parser = values::duration_ms, allow_hyphen_values = true)]
    pub deadline: Option<u64>,
}

pub(crate) async fn run(args: DrainArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let request = DrainRequest { node: args.node, deadline_ms: args.deadline };
    let node = session.client.drain_node(request).await?;
    let what = format!("is draining; allocations left: {}", node.allocations);
    print_changed(&node, &what, session)
}
