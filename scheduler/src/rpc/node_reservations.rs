//! The NodeReservations service.

use std::sync::Arc;

use berth_model::{Name, NodeReservation, ReservedNodes, WallMs};
use berth_proto::v1;
use berth_proto::v1::node_reservations_client::NodeReservationsClient;
use berth_state::{ClusterState, Command, Reply};
use berth_wire::spec::node_reservation_from_proto;
use berth_wire::views;
use tonic::{Request, Response, Status};

use super::route::{at_leader, where_asked};
use super::{Shared, settle, status};
use crate::access::Granted;
use crate::leader::{Leader, clock};

/// Names of nodes that are not there, so that the warning is read.
const NAMED_MAX: usize = 16;

pub struct NodeReservationsService(pub Shared);

#[tonic::async_trait]
impl v1::node_reservations_server::NodeReservations for NodeReservationsService {
    async fn set(
        &self,
        request: Request<v1::SetNodeReservationRequest>,
    ) -> Result<Response<v1::SetNodeReservationReply>, Status> {
        at_leader!(self.0, request, NodeReservationsClient::set, |leader, granted, asked| {
            set_here(granted, leader, asked)
        })
    }

    async fn get(
        &self,
        request: Request<v1::GetNodeReservationRequest>,
    ) -> Result<Response<v1::NodeReservation>, Status> {
        where_asked!(self.0, request, NodeReservationsClient::get, |leader, granted, asked| {
            self.get_here(granted, leader, asked)
        })
    }

    async fn list(
        &self,
        request: Request<v1::ListNodeReservationsRequest>,
    ) -> Result<Response<v1::ListNodeReservationsReply>, Status> {
        where_asked!(self.0, request, NodeReservationsClient::list, |leader, granted, asked| {
            self.list_here(granted, leader, asked)
        })
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveNodeReservationRequest>,
    ) -> Result<Response<v1::RemoveNodeReservationReply>, Status> {
        at_leader!(
            self.0,
            request,
            NodeReservationsClient::remove,
            |leader, granted, asked| async {
                let name = named(granted, &asked.name)?;
                settle(&leader, Command::FreeNodes { name, if_version: asked.if_version }).await?;
                Ok(v1::RemoveNodeReservationReply {})
            }
        )
    }
}

async fn set_here(
    granted: &Granted,
    leader: Arc<Leader>,
    asked: v1::SetNodeReservationRequest,
) -> Result<v1::SetNodeReservationReply, Status> {
    let Some(mut spec) = asked.spec else {
        return Err(status::invalid_field("spec", "what is to be set is missing"));
    };
    let view = leader.published.view();
    if spec.from_ms == 0 {
        // Who repeats it means the same: what is in force goes on being so.
        let known =
            view.node_reservations().values().find(|row| row.spec.name.as_str() == spec.name);
        let known = known.filter(|row| row.begun).map(|row| row.spec.from);
        let WallMs(from) = known.unwrap_or_else(clock::wall);
        spec.from_ms = from;
    }
    let spec = node_reservation_from_proto(spec).map_err(status::invalid)?;
    granted.about(format!("reservation {} of nodes", spec.name));
    let warnings = not_there(&view, &spec).into_iter().collect();
    let command = Command::ReserveNodes { spec: Arc::new(spec), if_version: asked.if_version };
    let Reply::NodesReserved { version } = settle(&leader, command).await? else {
        return Err(Status::internal("a reservation was answered as something else"));
    };
    Ok(v1::SetNodeReservationReply { version, warnings })
}

/// What may be a slip of the pen. Nodes may come later, so that it is no more than a warning.
fn not_there(view: &ClusterState, spec: &NodeReservation) -> Option<String> {
    match &spec.nodes {
        ReservedNodes::Pool(pool) => {
            let is_empty = !view.nodes().values().any(|node| node.spec.pool == *pool);
            is_empty.then(|| format!("no node is in pool `{pool}`"))
        }
        ReservedNodes::Named(names) => {
            let missing = names.iter().filter(|name| view.node_named(name).is_none());
            let missing: Vec<String> = missing.map(|name| format!("`{name}`")).collect();
            let named = missing[..missing.len().min(NAMED_MAX)].join(", ");
            let more = missing.len().saturating_sub(NAMED_MAX);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            (!missing.is_empty()).then(|| format!("there is no node {named}{more}"))
        }
    }
}

impl NodeReservationsService {
    async fn get_here(
        &self,
        granted: &Granted,
        _leader: Option<Arc<Leader>>,
        asked: v1::GetNodeReservationRequest,
    ) -> Result<v1::NodeReservation, Status> {
        let view = self.0.read(granted, asked.consistency).await?;
        let name = named(granted, &asked.name)?;
        let row = view.state.node_reservations().get(&name);
        let row =
            row.ok_or_else(|| Status::not_found(format!("no nodes are reserved as `{name}`")))?;
        let sees = |namespace: &Name| granted.sees(namespace);
        let found = views::node_reservation(&view.state, row, &sees);
        Ok(v1::NodeReservation { stale_ms: view.stale_ms, ..found })
    }

    async fn list_here(
        &self,
        granted: &Granted,
        _leader: Option<Arc<Leader>>,
        asked: v1::ListNodeReservationsRequest,
    ) -> Result<v1::ListNodeReservationsReply, Status> {
        let view = self.0.read(granted, asked.consistency).await?;
        let sees = |namespace: &Name| granted.sees(namespace);
        let rows = view.state.node_reservations().values();
        let reservations = rows.map(|row| views::node_reservation(&view.state, row, &sees));
        let reservations = reservations.collect();
        Ok(v1::ListNodeReservationsReply { reservations, stale_ms: view.stale_ms })
    }
}

fn named(granted: &Granted, text: &str) -> Result<Name, Status> {
    let name = Name::new(text).map_err(|error| status::invalid_field("name", error.to_string()))?;
    granted.about(format!("reservation {name} of nodes"));
    Ok(name)
}
