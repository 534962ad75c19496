//! `berth gpu show GPU`: one GPU, what is wrong with it, and what holds it.

use berth_proto::v1::GetDeviceRequest;
use clap::Args;

use crate::error::{CliError, Exit};
use crate::output::one_gpu_answer;
use crate::session::{Session, StaleArgs, consistency};
use crate::values;

#[derive(Debug, Args)]
pub struct GpuShowArgs {
    /// Its uuid, the beginning of one that fits no other, or NODE:INDEX
    #[arg(value_name = "GPU", value_parser = values::reference)]
    pub gpu: String,

    #[command(flatten)]
    pub stale: StaleArgs,
}

pub(crate) async fn run(
    args: GpuShowArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let request = GetDeviceRequest { device: args.gpu, consistency: consistency(args.stale) };
    let reply = session.client.get_device(request).await?;
    session.print(&one_gpu_answer(&reply))?;
    Ok(Exit::Done)
}
