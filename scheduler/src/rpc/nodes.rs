//! The Nodes service.

use std::sync::Arc;

use berth_model::Drain;
use berth_proto::v1;
use berth_proto::v1::nodes_client::NodesClient;
use berth_state::{Command, NodeRow, Purpose};
use tonic::{Request, Response, Status};

use super::route::at_leader;
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
        let consistency = request.get_ref().consistency;
        if consistency != 0 {
            return self
                .list_here(&Granted::of(&request)?, None, consistency)
                .await
                .map(Response::new);
        }
        at_leader!(self.0, request, NodesClient::list, |leader, granted, asked| {
            self.list_here(granted, Some(leader), asked.consistency)
        })
    }

    async fn get(
        &self,
        request: Request<v1::GetNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let consistency = request.get_ref().consistency;
        if consistency != 0 {
            return self
                .get_here(&Granted::of(&request)?, None, request.into_inner())
                .await
                .map(Response::new);
        }
        at_leader!(self.0, request, NodesClient::get, |leader, granted, asked| {
            self.get_here(granted, Some(leader), asked)
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
        Ok(shown(&row, leader.as_deref()))
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
        let command = Command::SetSchedulable { node: row.id, purpose };
        granted.about(format!("node {}", row.name));
        settle(&leader, command).await?;
        let row = lookup::node(&self.0.published.view(), &node)?;
        Ok(shown(&row, Some(&leader)))
    }
}

/// A node with what the leader last heard of it.
fn shown(row: &NodeRow, leader: Option<&Leader>) -> v1::Node {
    let mut node = berth_wire::views::node(row);
    node.last_report_ms = leader.and_then(|leader| leader.heard_ms_ago(row.id));
    node
}
