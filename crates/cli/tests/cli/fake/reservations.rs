//! The reservations of nodes of the scripted cluster.

use berth_proto::v1::node_reservations_server::NodeReservations;
use berth_proto::v1::*;
use tonic::{Code, Request, Response, Status};

use super::{Fake, refused};

fn launch() -> NodeReservation {
    NodeReservation {
        spec: Some(NodeReservationSpec {
            name: "launch".into(),
            nodes: vec!["gpu-1".into(), "gpu-9".into()],
            namespaces: vec!["research".into()],
            priority_min: Some(80),
            from_ms: 1_790_000_000_000,
            until_ms: Some(1_790_003_600_000),
            end_running: true,
            ..NodeReservationSpec::default()
        }),
        version: 2,
        begun: true,
        changed_at_ms: 1_789_990_000_000,
        nodes: vec!["gpu-1".into()],
        node_count: 1,
        others_running: 3,
        ..NodeReservation::default()
    }
}

fn closed() -> NodeReservation {
    NodeReservation {
        spec: Some(NodeReservationSpec {
            name: "racks".into(),
            pool: Some("old".into()),
            from_ms: 1_800_000_000_000,
            ..NodeReservationSpec::default()
        }),
        version: 1,
        nodes: vec!["old-1".into()],
        node_count: 1_001,
        ..NodeReservation::default()
    }
}

#[tonic::async_trait]
impl NodeReservations for Fake {
    async fn set(
        &self,
        request: Request<SetNodeReservationRequest>,
    ) -> Result<Response<SetNodeReservationReply>, Status> {
        self.enter()?;
        let spec = request.into_inner().spec.unwrap_or_default();
        if spec.nodes.iter().any(|node| node == "gpu-1") {
            let message = format!(
                "node `gpu-1` is reserved as `launch` at a time at which `{}` would be in force",
                spec.name
            );
            let hint = "end that one first, or leave the node out".into();
            let detail = ErrorDetail { hint, ..ErrorDetail::default() };
            return Err(refused(Code::FailedPrecondition, &message, detail));
        }
        let warnings = spec.nodes.iter().map(|node| format!("there is no node `{node}`"));
        Ok(Response::new(SetNodeReservationReply { version: 1, warnings: warnings.collect() }))
    }

    async fn get(
        &self,
        request: Request<GetNodeReservationRequest>,
    ) -> Result<Response<NodeReservation>, Status> {
        self.enter()?;
        match request.into_inner().name.as_str() {
            "launch" => Ok(Response::new(launch())),
            "racks" => Ok(Response::new(closed())),
            name => {
                let message = format!("no nodes are reserved as `{name}`");
                Err(refused(Code::NotFound, &message, ErrorDetail::default()))
            }
        }
    }

    async fn list(
        &self,
        _: Request<ListNodeReservationsRequest>,
    ) -> Result<Response<ListNodeReservationsReply>, Status> {
        self.enter()?;
        let reservations = vec![launch(), closed()];
        Ok(Response::new(ListNodeReservationsReply { reservations, stale_ms: None }))
    }

    async fn remove(
        &self,
        _: Request<RemoveNodeReservationRequest>,
    ) -> Result<Response<RemoveNodeReservationReply>, Status> {
        self.enter()?;
        Ok(Response::new(RemoveNodeReservationReply {}))
    }
}
