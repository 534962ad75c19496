//! The Namespaces service.

use std::sync::Arc;

use berth_model::{Amounts, Name, NamespaceSpec, Resource};
use berth_proto::v1;
use berth_proto::v1::namespaces_client::NamespacesClient;
use berth_state::{ClusterState, Command, Reply};
use berth_wire::spec::namespace_spec_from_proto;
use berth_wire::views;
use tonic::{Request, Response, Status};

use super::route::{at_leader, where_asked};
use super::{Shared, settle, status};
use crate::access::Granted;
use crate::leader::Leader;

/// Namespaces in one answer: at some 200 bytes each far below what a client takes.
const PAGE_MAX: usize = 1000;

pub struct NamespacesService(pub Shared);

#[tonic::async_trait]
impl v1::namespaces_server::Namespaces for NamespacesService {
    async fn apply(
        &self,
        request: Request<v1::ApplyNamespaceRequest>,
    ) -> Result<Response<v1::ApplyNamespaceReply>, Status> {
        at_leader!(self.0, request, NamespacesClient::apply, |leader, granted, asked| {
            apply_here(granted, leader, asked)
        })
    }

    async fn get(
        &self,
        request: Request<v1::GetNamespaceRequest>,
    ) -> Result<Response<v1::Namespace>, Status> {
        where_asked!(self.0, request, NamespacesClient::get, |leader, granted, asked| {
            self.get_here(granted, leader, asked)
        })
    }

    async fn list(
        &self,
        request: Request<v1::ListNamespacesRequest>,
    ) -> Result<Response<v1::ListNamespacesReply>, Status> {
        where_asked!(self.0, request, NamespacesClient::list, |leader, granted, asked| {
            self.list_here(granted, leader, asked)
        })
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteNamespaceRequest>,
    ) -> Result<Response<v1::DeleteNamespaceReply>, Status> {
        at_leader!(self.0, request, NamespacesClient::delete, |leader, granted, asked| async {
            let name = named(granted, "name", &asked.name)?;
            let command = Command::DeleteNamespace { name, if_version: asked.if_version };
            settle(&leader, command).await?;
            Ok(v1::DeleteNamespaceReply {})
        })
    }
}

async fn apply_here(
    granted: &Granted,
    leader: Arc<Leader>,
    asked: v1::ApplyNamespaceRequest,
) -> Result<v1::ApplyNamespaceReply, Status> {
    let Some(spec) = asked.spec else {
        return Err(status::invalid_field("spec", "what is to be set is missing"));
    };
    let spec = namespace_spec_from_proto(spec).map_err(status::invalid)?;
    granted.about(format!("namespace {}", spec.name));
    granted.check(&spec.name)?;
    let spec = Arc::new(spec);
    let command = Command::ApplyNamespace { spec: spec.clone(), if_version: asked.if_version };
    let Reply::NamespaceSet { version } = settle(&leader, command).await? else {
        return Err(Status::internal("a namespace was answered as something else"));
    };
    let view = leader.published.view();
    let warnings = overdrawn(&view, &spec).into_iter().chain(overpromised(&view, &spec));
    let warnings = warnings.collect();
    Ok(v1::ApplyNamespaceReply { version, warnings })
}

/// What is in use beyond what is allowed.
fn overdrawn(view: &ClusterState, spec: &NamespaceSpec) -> Vec<String> {
    let used = view.quota_use(&spec.name);
    let limits = spec.quota.limit.amounts.iter();
    let over = limits.filter(|(resource, most)| used.of(**resource) > **most);
    let told = over.map(|(resource, most)| {
        let (label, used) = (resource.label(), resource.show(used.of(*resource)));
        let (most, what) = (resource.show(*most), what_waits(*resource));
        format!("{label}: {used} in use and {most} allowed; nothing is ended, {what} until less is")
    });
    told.collect()
}

/// What is guaranteed to all namespaces together beyond what the nodes have: not all of them could
/// have theirs.
fn overpromised(view: &ClusterState, spec: &NamespaceSpec) -> Vec<String> {
    let have = view.capacity();
    let all = view.guaranteed().filter_map(|name| view.guarantee(name));
    let all = all.fold(Amounts::default(), |sum, sure| sum.plus(sure.in_all()));
    let own = spec.quota.guaranteed.amounts.keys();
    let over = own.filter(|resource| all.of(**resource) > have.of(**resource));
    let told = over.map(|resource| {
        let (all, have) = (resource.show(all.of(*resource)), resource.show(have.of(*resource)));
        let label = resource.label();
        format!(
            "{label}: {all} are guaranteed to all namespaces together, and the nodes have {have}"
        )
    });
    told.collect()
}

fn what_waits(resource: Resource) -> &'static str {
    match resource {
        Resource::QueuedJobs => "and no job is taken",
        Resource::Gpus
        | Resource::GpuMemory
        | Resource::Cpu
        | Resource::Memory
        | Resource::RunningTasks => "and nothing that needs some starts",
    }
}

impl NamespacesService {
    async fn get_here(
        &self,
        granted: &Granted,
        _leader: Option<Arc<Leader>>,
        asked: v1::GetNamespaceRequest,
    ) -> Result<v1::Namespace, Status> {
        let view = self.0.read(granted, asked.consistency).await?;
        let name = named(granted, "name", &asked.name)?;
        let capacity = view.state.capacity();
        let found = views::namespace(&view.state, capacity, &name);
        Ok(v1::Namespace { stale_ms: view.stale_ms, ..found })
    }

    async fn list_here(
        &self,
        granted: &Granted,
        _leader: Option<Arc<Leader>>,
        asked: v1::ListNamespacesRequest,
    ) -> Result<v1::ListNamespacesReply, Status> {
        let view = self.0.read(granted, asked.consistency).await?;
        let state = &view.state;
        let set = state.namespaces().map(|row| &row.spec.name);
        let used = state.namespaces_in_use().map(|(name, _)| name);
        let after = asked.after.as_str();
        let seen = |name: &&Name| name.as_str() > after && granted.sees(name);
        let names: std::collections::BTreeSet<&Name> = set.chain(used).filter(seen).collect();
        let more = names.len() > PAGE_MAX;
        let page = names.into_iter().take(PAGE_MAX);
        let capacity = state.capacity();
        let namespaces = page.map(|name| views::namespace(state, capacity, name)).collect();
        Ok(v1::ListNamespacesReply { namespaces, more, stale_ms: view.stale_ms })
    }
}

/// The namespace that a caller names, where it may see it.
fn named(granted: &Granted, field: &str, text: &str) -> Result<Name, Status> {
    let name = Name::new(text).map_err(|error| status::invalid_field(field, error.to_string()))?;
    granted.about(format!("namespace {name}"));
    granted.check(&name)?;
    Ok(name)
}
