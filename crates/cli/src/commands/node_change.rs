//! `berth node cordon|uncordon NODE`: whether new work may come.

use berth_proto::v1::{Node, NodeRef};
use clap::Args;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, node_answer};
use crate::session::Session;
use crate::values;

#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Id or name
    #[arg(value_name = "NODE", value_parser = values::reference)]
    pub node: String,
}

pub(crate) async fn cordon(
    args: NodeArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let node = session.client.cordon_node(NodeRef { node: args.node }).await?;
    print_changed(&node, "accepts nothing new", session)
}

pub(crate) async fn uncordon(
    args: NodeArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let node = session.client.uncordon_node(NodeRef { node: args.node }).await?;
    print_changed(&node, "accepts work again", session)
}

/// Prints a node after a change to it.
pub(crate) fn print_changed(
    node: &Node,
    what: &str,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let text = format!("node {} {what}", node.name);
    let answer = Answer { pieces: vec![Piece::Text(text)], ..node_answer(node) };
    session.print(&answer)?;
    Ok(Exit::Done)
}
