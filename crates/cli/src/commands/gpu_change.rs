//! `berth gpu cordon|uncordon GPU`: whether new work may come to one GPU.

use berth_proto::v1::{DeviceRef, Node};
use clap::Args;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, node_answer};
use crate::session::Session;
use crate::values;

#[derive(Debug, Args)]
pub struct GpuArgs {
    /// Its uuid, the beginning of one that fits no other, or NODE:INDEX
    #[arg(value_name = "GPU", value_parser = values::reference)]
    pub gpu: String,
}

pub(crate) async fn cordon(args: GpuArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let device = DeviceRef { device: args.gpu.clone() };
    let node = session.client.cordon_device(device).await?;
    let what = "keeps what runs on it and takes nothing new";
    print_changed(&args.gpu, &node, what, session)
}

pub(crate) async fn uncordon(
    args: GpuArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let device = DeviceRef { device: args.gpu.clone() };
    let node = session.client.uncordon_device(device).await?;
    print_changed(&args.gpu, &node, "takes work again", session)
}

fn print_changed(
    gpu: &str,
    node: &Node,
    what: &str,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let text = format!("GPU {gpu} of node {} {what}", node.name);
    let answer = Answer { pieces: vec![Piece::Text(text)], ..node_answer(node) };
    session.print(&answer)?;
    Ok(Exit::Done)
}
