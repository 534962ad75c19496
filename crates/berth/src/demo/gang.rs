//! The gang of the story: members on several nodes that begin together and know of each other.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use berth_client::Client;
use berth_model::{Gang, GpuRequest, JobKind, JobSpec, Name, TaskSpec};
use berth_proto::v1;

use super::checks::Checks;
use super::story::{spec, submit, wait_for};
use super::traces;

/// More than any one node has GPUs for.
pub const MEMBERS: u32 = 6;

/// Submits it, and looks at what its members were told.
pub async fn tell(client: &Client, folder: &Path, checks: &mut Checks) -> anyhow::Result<u64> {
    let job = submit(client, &job_spec(folder)?, "demo-gang").await?;
    let begun = |job: &v1::Job| {
        job.finished_at_ms.is_some() || job.tasks.iter().all(|task| task.live == u64::from(MEMBERS))
    };
    wait_for(client, job, begun).await.context("wait for the gang")?;
    let reference = v1::JobRef { namespace: "default".to_owned(), job: job.to_string() };
    let request = v1::ListAllocationsRequest { job: Some(reference), ..Default::default() };
    let members = client.list_allocations(request).await?.allocations;
    let seats: Vec<&v1::GangSeat> =
        members.iter().filter_map(|member| member.seat.as_ref()).collect();
    let ranks: BTreeSet<u32> = seats.iter().map(|seat| seat.rank).collect();
    let masters: BTreeSet<(&str, u32)> =
        seats.iter().map(|seat| (seat.master_address.as_str(), seat.master_port)).collect();
    let nodes: BTreeSet<&str> = members.iter().map(|member| member.node.as_str()).collect();
    let (address, port) = masters.first().copied().context("no member has a seat")?;
    checks.say(&format!(
        "gang `gang` is job {job}: {} members on {} nodes, rank 0 at {address}:{port}",
        members.len(),
        nodes.len()
    ));
    let is_whole = ranks.len() == MEMBERS as usize
        && seats.iter().all(|seat| seat.world_size == MEMBERS)
        && masters.len() == 1;
    checks.equal("all members of the gang are of one world", &is_whole, &true);
    Ok(job)
}

fn job_spec(folder: &Path) -> anyhow::Result<JobSpec> {
    let command = traces::command(folder, "gang", "sleep 0.5");
    let task = TaskSpec {
        count: MEMBERS,
        gang: Some(Gang {}),
        gpu: Some(GpuRequest::whole(1)),
        ..TaskSpec::new(Name::new("main")?, JobKind::Batch, command)
    };
    spec("gang", JobKind::Batch, task)
}
