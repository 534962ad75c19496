//! `berth gpu list`: every GPU of every node.

use berth_proto::v1::ListNodesRequest;
use clap::Args;

use crate::error::{CliError, Exit};
use crate::output::gpu_answer;
use crate::session::{Session, StaleArgs, consistency};

#[derive(Debug, Args)]
pub struct GpuListArgs {
    #[command(flatten)]
    pub stale: StaleArgs,
}

pub(crate) async fn run(
    args: GpuListArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let request = ListNodesRequest { consistency: consistency(args.stale) };
    let reply = session.client.list_nodes(request).await?;
    session.print(&gpu_answer(&reply.nodes))?;
    session.note_age(reply.stale_ms);
    Ok(Exit::Done)
}
