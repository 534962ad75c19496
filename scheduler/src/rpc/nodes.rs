//! The Nodes service.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::{AllocationId, Drain, NodeState};
use berth_placement::{Elsewhere, SoftView};
use berth_proto::v1;
use berth_proto::v1::nodes_client::NodesClient;
use berth_reconcile::{DrainWait, drain_waits};
use berth_state::{ClusterState, Command, DevicePurpose, NodeRow, Purpose};
use tonic::{Request, Response, Status};

use super::route::{at_leader, where_asked};
use super::{Shared, lookup, settle, status};
use crate::access::Granted;
use crate::leader::Leader;

/// The longest drain: as long as a job is kept.
const DEADLINE_MS_MAX: u64 = 7 * 24 * 3_600_000;

pub struct NodesService(pub Shared);

#[tonic::async_trait]
impl v1::nodes_server::Nodes for NodesService {
    async fn list(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesReply>, Status> {
        where_asked!(self.0, request, NodesClient::list, |leader, granted, asked| {
            self.list_here(granted, leader, asked.consistency)
        })
    }

    async fn get(
        &self,
        request: Request<v1::GetNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        where_asked!(self.0, request, NodesClient::get, |leader, granted, asked| {
            self.get_here(granted, leader, asked)
        })
    }

    async fn cordon(&self, request: Request<v1::NodeRef>) -> Result<Response<v1::Node>, Status> {
        at_leader!(self.0, request, NodesClient::cordon, |leader, granted, asked| {
            self.set(granted, leader, asked.node, Purpose::Cordoned)
        })
    }

    async fn uncordon(&self, request: Request<v1::NodeRef>) -> Result<Response<v1::Node>, Status> {
        at_leader!(self.0, request, NodesClient::uncordon, |leader, granted, asked| {
            self.set(granted, leader, asked.node, Purpose::Work)
        })
    }

    async fn cordon_device(
        &self,
        request: Request<v1::DeviceRef>,
    ) -> Result<Response<v1::Node>, Status> {
        at_leader!(self.0, request, NodesClient::cordon_device, |leader, granted, asked| {
            self.set_device(granted, leader, asked.device, DevicePurpose::Cordoned)
        })
    }

    async fn uncordon_device(
        &self,
        request: Request<v1::DeviceRef>,
    ) -> Result<Response<v1::Node>, Status> {
        at_leader!(self.0, request, NodesClient::uncordon_device, |leader, granted, asked| {
            self.set_device(granted, leader, asked.device, DevicePurpose::Work)
        })
    }

    async fn get_device(
        &self,
        request: Request<v1::GetDeviceRequest>,
    ) -> Result<Response<v1::GetDeviceReply>, Status> {
        where_asked!(self.0, request, NodesClient::get_device, |leader, granted, asked| {
            self.get_device_here(granted, leader, asked)
        })
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        at_leader!(self.0, request, NodesClient::drain, |leader, granted, asked| {
            self.start_drain(granted, leader, asked)
        })
    }

    async fn list_orphans(
        &self,
        request: Request<v1::ListOrphansRequest>,
    ) -> Result<Response<v1::ListOrphansReply>, Status> {
        self.0.list_orphans(&Granted::of(&request)?, request.into_inner()).await.map(Response::new)
    }

    async fn stop_orphans(
        &self,
        request: Request<v1::StopOrphansRequest>,
    ) -> Result<Response<v1::StopOrphansReply>, Status> {
        at_leader!(self.0, request, NodesClient::stop_orphans, |leader, granted, asked| {
            self.0.stop_orphans(granted, leader, asked)
        })
    }

    async fn plan_defrag(
        &self,
        request: Request<v1::PlanDefragRequest>,
    ) -> Result<Response<v1::PlanDefragReply>, Status> {
        at_leader!(self.0, request, NodesClient::plan_defrag, |leader, granted, asked| {
            self.0.plan_defrag(granted, leader, asked)
        })
    }

    async fn defrag(
        &self,
        request: Request<v1::DefragRequest>,
    ) -> Result<Response<v1::DefragReply>, Status> {
        at_leader!(self.0, request, NodesClient::defrag, |leader, granted, asked| {
            self.0.defrag(granted, leader, asked)
        })
    }
}

impl NodesService {
    async fn list_here(
        &self,
        granted: &Granted,
        leader: Option<Arc<Leader>>,
        consistency: i32,
    ) -> Result<v1::ListNodesReply, Status> {
        let view = self.0.read(granted, consistency).await?;
        let nodes = view.state.nodes().values().map(|row| shown(row, leader.as_deref())).collect();
        Ok(v1::ListNodesReply { nodes, stale_ms: view.stale_ms })
    }

    async fn get_here(
        &self,
        granted: &Granted,
        leader: Option<Arc<Leader>>,
        asked: v1::GetNodeRequest,
    ) -> Result<v1::Node, Status> {
        let view = self.0.read(granted, asked.consistency).await?;
        let row = lookup::node(&view.state, &asked.node)?;
        let mut node = shown(&row, leader.as_deref());
        if let Purpose::Draining(drain) = row.purpose {
            let loads = leader.as_deref().map(Leader::loads).unwrap_or_default();
            let shown: BTreeSet<AllocationId> = row
                .live
                .iter()
                .chain(row.away.keys())
                .copied()
                .filter(|id| {
                    let job = view.state.jobs().get(&id.job);
                    job.is_some_and(|job| granted.sees(job.namespace()))
                })
                .collect();
            let waiting = move || waits_of_drain(&view.state, &row, drain, &shown, &loads);
            let waits = tokio::task::spawn_blocking(waiting).await;
            node.drain_waits = waits.map_err(|error| Status::internal(error.to_string()))?;
        }
        Ok(node)
    }

    async fn get_device_here(
        &self,
        granted: &Granted,
        leader: Option<Arc<Leader>>,
        asked: v1::GetDeviceRequest,
    ) -> Result<v1::GetDeviceReply, Status> {
        let state = self.0.read(granted, asked.consistency).await?.state;
        let found = lookup::device(&state, &asked.device)?;
        let row = lookup::node(&state, &found.node)?;
        let holds = |id: &&AllocationId| {
            let sees = state.jobs().get(&id.job).is_some_and(|job| granted.sees(job.namespace()));
            let live = state.allocations().get(*id);
            let away = row.away.get(*id).map(|away| &away.row);
            let claim = live.or(away).map(|allocation| &allocation.claim);
            let devices = claim.into_iter().flat_map(|claim| &claim.devices);
            sees && devices.into_iter().any(|device| device.uuid == found.uuid)
        };
        let allocations = row
            .live
            .iter()
            .chain(row.away.keys())
            .filter(holds)
            .map(AllocationId::to_string)
            .collect();
        let node = Some(shown(&row, leader.as_deref()));
        Ok(v1::GetDeviceReply { node, uuid: found.uuid, allocations })
    }

    async fn start_drain(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
        asked: v1::DrainRequest,
    ) -> Result<v1::Node, Status> {
        if asked.deadline_ms.is_some_and(|deadline| deadline > DEADLINE_MS_MAX) {
            return Err(status::invalid_field("deadline_ms", "expected at most 7d"));
        }
        let now = leader.clock.now();
        let deadline = asked.deadline_ms.map(|span| now.after(berth_model::DurationMs(span)));
        self.set(granted, leader, asked.node, Purpose::Draining(Drain { deadline })).await
    }

    async fn set(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
        node: String,
        purpose: Purpose,
    ) -> Result<v1::Node, Status> {
        let row = lookup::node(&self.0.read(granted, 0).await?.state, &node)?;
        granted.about(format!("node {}", row.name));
        let command = Command::SetSchedulable { node: row.id, purpose };
        self.change(&leader, command, &node).await
    }

    async fn set_device(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
        device: String,
        purpose: DevicePurpose,
    ) -> Result<v1::Node, Status> {
        let found = lookup::device(&self.0.read(granted, 0).await?.state, &device)?;
        granted.about(format!("GPU {} of node {}", found.uuid, found.node));
        let command = Command::SetDevicePurpose { node: found.id, uuid: found.uuid, purpose };
        self.change(&leader, command, &found.node).await
    }

    /// The node as it is after a command about it.
    async fn change(
        &self,
        leader: &Leader,
        command: Command,
        node: &str,
    ) -> Result<v1::Node, Status> {
        settle(leader, command).await?;
        let row = lookup::node(&self.0.published.view(), node)?;
        Ok(shown(&row, Some(leader)))
    }
}

/// What the emptying of a node waits for. Places are looked for as the leader looks for them, as
/// far as this scheduler knows what is free; a few of them, as each costs O(nodes).
fn waits_of_drain(
    view: &ClusterState,
    row: &NodeRow,
    drain: Drain,
    shown: &BTreeSet<AllocationId>,
    loads: &SoftView,
) -> Vec<v1::DrainWait> {
    let now = view.cluster().state_ms;
    let mut elsewhere = Elsewhere::new(view, loads, now);
    let is_shown = |id: AllocationId| shown.contains(&id);
    let waits = drain_waits(view, row, is_shown, &mut |id| elsewhere.take(id).may_move());
    let elsewhere = &elsewhere;
    let until = match drain.deadline {
        Some(deadline) => format!("; stopped in {} s at the latest", deadline.since(now).0 / 1000),
        None => String::new(),
    };
    let spoken = |(id, wait): (AllocationId, DrainWait)| {
        let what = match wait {
            DrainWait::Place => {
                format!("waits for a place elsewhere: {}", elsewhere.why_not(id))
            }
            DrainWait::Turn => "waits for its turn to ask for a place elsewhere".to_owned(),
            DrainWait::Held => "its job is held, nothing would come in its place".to_owned(),
            DrainWait::OtherReplicas => "waits for other replicas to be ready".to_owned(),
            DrainWait::ItsEnd => "may finish".to_owned(),
            DrainWait::AllElse => "goes when all else is gone".to_owned(),
            DrainWait::ItsWorker => "was given up or replaced, its worker has not ended".to_owned(),
            DrainWait::SilentNode => "the node is silent".to_owned(),
        };
        v1::DrainWait { allocation_id: id.to_string(), reason: format!("{what}{until}") }
    };
    waits.into_iter().map(spoken).collect()
}

/// A node with what the leader last heard of it.
fn shown(row: &NodeRow, leader: Option<&Leader>) -> v1::Node {
    let mut node = berth_wire::views::node(row);
    if let Some(leader) = leader {
        node.last_report_ms = leader.heard_ms_ago(row.id);
        node.agent_refused =
            leader.turned_away(row.id).map(|(reason, ms_ago)| v1::AgentRefusal { reason, ms_ago });
        // Of a node that is silent nothing is known.
        if row.state == NodeState::Ready {
            measured(&mut node.devices, &leader.device_samples(row.id));
            let (cpu, memory) = leader.host_used_percent(row.id);
            node.cpu_used_percent = cpu.map(u32::from);
            node.memory_used_percent = memory.map(u32::from);
        }
    }
    node
}

fn mps_in_words(mps: &v1::MpsSample) -> String {
    match mps.missing.as_str() {
        "" => "its control daemon listens".to_owned(),
        problem => format!("not there: {problem}"),
    }
}

/// Adds what was measured of the devices. The agent may have told it before it told of
/// another inventory.
fn measured(devices: &mut [v1::DeviceStatus], samples: &[v1::DeviceSample]) {
    for device in devices {
        if let Some(sample) = samples.iter().find(|sample| sample.uuid == device.uuid) {
            device.memory_used_bytes = sample.memory_used_bytes;
            device.utilization_percent = sample.utilization_percent;
            device.temperature_celsius = sample.temperature_celsius;
            device.memory_errors = sample.memory_errors;
            device.unwatched.clone_from(&sample.unwatched);
            device.mps = sample.mps.as_ref().map(mps_in_words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_goes_to_the_device_that_it_was_measured_of() {
        let mut devices = ["GPU-a", "GPU-b"].map(|uuid| v1::DeviceStatus {
            uuid: uuid.to_owned(),
            allocated_milli: 1000,
            ..v1::DeviceStatus::default()
        });
        let sample = |uuid: &str, percent| v1::DeviceSample {
            uuid: uuid.to_owned(),
            utilization_percent: Some(percent),
            memory_used_bytes: Some(7),
            temperature_celsius: None,
            unwatched: None,
            mps: Some(v1::MpsSample { missing: "gone".to_owned(), shares: Vec::new() }),
            memory_errors: Some(v1::MemoryErrors {
                uncorrected_volatile: Some(percent.into()),
                ..v1::MemoryErrors::default()
            }),
        };
        measured(&mut devices, &[sample("GPU-gone", 1), sample("GPU-b", 87)]);
        let shown = devices.each_ref().map(|device| {
            (device.allocated_milli, device.utilization_percent, device.memory_used_bytes)
        });
        assert_eq!(shown, [(1000, None, None), (1000, Some(87), Some(7))]);
        let mps = devices.each_ref().map(|device| device.mps.as_deref());
        assert_eq!(mps, [None, Some("not there: gone")]);
        let uncorrected = |device: &v1::DeviceStatus| device.memory_errors?.uncorrected_volatile;
        assert_eq!(devices.each_ref().map(uncorrected), [None, Some(87)]);
    }
}
