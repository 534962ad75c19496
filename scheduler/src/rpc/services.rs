//! The Services service.

use std::sync::Arc;

use berth_model::{JobId, JobKind};
use berth_proto::v1;
use berth_proto::v1::services_client::ServicesClient;
use berth_state::ClusterState;
use berth_wire::views;
use tonic::{Request, Response, Status};

use super::route::where_asked;
use super::{Shared, lookup};
use crate::access::Granted;
use crate::leader::Leader;

pub struct ServicesService(pub Shared);

#[tonic::async_trait]
impl v1::services_server::Services for ServicesService {
    async fn list(
        &self,
        request: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesReply>, Status> {
        where_asked!(self.0, request, ServicesClient::list, |leader, granted, asked| {
            self.list_here(granted, leader, asked)
        })
    }

    async fn get(
        &self,
        request: Request<v1::GetServiceRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        where_asked!(self.0, request, ServicesClient::get, |leader, granted, asked| {
            self.get_here(granted, leader, asked)
        })
    }
}

impl ServicesService {
    async fn list_here(
        &self,
        granted: &Granted,
        leader: Option<Arc<Leader>>,
        asked: v1::ListServicesRequest,
    ) -> Result<v1::ListServicesReply, Status> {
        let v1::ListServicesRequest { namespace, consistency } = asked;
        let view = self.0.read(granted, consistency).await?;
        let only = match namespace.as_str() {
            "" => None,
            text => Some(lookup::namespace(text)?),
        };
        if let Some(only) = &only {
            granted.check(only)?;
        }
        let mut services = services_of(&view.state, |row| {
            only.as_ref().is_none_or(|only| only == row.namespace())
                && granted.sees(row.namespace())
        });
        services.sort_by(|one, other| {
            (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name))
        });
        for service in &mut services {
            service.replicas.clear();
            if let Some(leader) = &leader {
                add_what_is_known(service, leader);
                service.uses.iter_mut().for_each(|used| used.replicas.clear());
            }
        }
        let gateways = leader.map(|leader| leader.gateways());
        Ok(v1::ListServicesReply { services, gateways, stale_ms: view.stale_ms })
    }

    async fn get_here(
        &self,
        granted: &Granted,
        leader: Option<Arc<Leader>>,
        asked: v1::GetServiceRequest,
    ) -> Result<v1::Service, Status> {
        let view = self.0.read(granted, asked.consistency).await?;
        let job = lookup::job(granted, &view.state, asked.job.as_ref())?;
        let Some(mut service) = views::service(&view.state, &job) else {
            let why = match job.kind() {
                JobKind::Service if job.is_ended() => "it has ended",
                JobKind::Service => "no task of it has a port",
                JobKind::Batch | JobKind::Daemon => "it is no service",
            };
            let message = format!("nobody can ask job {} ({}) anything: {why}", job.id, job.name());
            return Err(Status::not_found(message));
        };
        if let Some(leader) = leader {
            add_what_is_known(&mut service, &leader);
            service.gateways = Some(leader.gateways());
        }
        Ok(v1::Service { stale_ms: view.stale_ms, ..service })
    }
}

/// What the leader alone knows of it.
fn add_what_is_known(service: &mut v1::Service, leader: &Leader) {
    service.uses = leader.uses_of(&service.namespace, &service.name);
    if let Some(scaling) = &mut service.scaling {
        scaling.because = leader.scaled_because(JobId(service.job_id)).unwrap_or_default();
    }
}

fn services_of(
    state: &ClusterState,
    wanted: impl Fn(&berth_state::JobRow) -> bool,
) -> Vec<v1::Service> {
    let jobs = state.jobs().values().filter(|row| row.kind() == JobKind::Service && wanted(row));
    jobs.filter_map(|row| views::service(state, row)).collect()
}
