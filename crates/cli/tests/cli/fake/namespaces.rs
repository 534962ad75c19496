//! The namespaces of the scripted cluster: one with a quota, one that only uses something.

use berth_proto::v1::namespaces_server::Namespaces;
use berth_proto::v1::*;
use tonic::{Code, Request, Response, Status};

use super::{Fake, refused};

fn research() -> Namespace {
    let limit = QuotaLimit {
        gpu_milli: Some(8_000),
        gpu_memory_bytes: Some(640 << 30),
        queued_jobs: Some(1_000),
        submits_per_second: Some(50),
        ..QuotaLimit::default()
    };
    let guaranteed = QuotaGuarantee {
        gpu_milli: Some(6_000),
        memory_bytes: Some(128 << 30),
        ..QuotaGuarantee::default()
    };
    Namespace {
        spec: Some(NamespaceSpec {
            name: "research".into(),
            description: "models and their trials".into(),
            quota: Some(Quota { limit: Some(limit), guaranteed: Some(guaranteed) }),
            range: Some(LimitRange {
                cpu: Some(Bounds { default_amount: Some(2_000), min: Some(500), max: None }),
                gpus: Some(Bounds { max: Some(4_000), ..Bounds::default() }),
                ..LimitRange::default()
            }),
            weight: Some(20),
        }),
        version: 3,
        changed_at_ms: Some(1_790_000_000_000),
        used: Some(QuotaUse {
            gpu_milli: 7_500,
            gpu_memory_bytes: 600 << 30,
            cpu_milli: 24_000,
            memory_bytes: 96 << 30,
            running_tasks: 8,
            queued_jobs: 12,
        }),
        stale_ms: None,
        share_now_milli: 469,
        share_lately_milli: 301,
    }
}

fn unset(name: &str, running_tasks: u64) -> Namespace {
    Namespace {
        spec: Some(NamespaceSpec { name: name.into(), ..NamespaceSpec::default() }),
        used: Some(QuotaUse { running_tasks, ..QuotaUse::default() }),
        ..Namespace::default()
    }
}

#[tonic::async_trait]
impl Namespaces for Fake {
    async fn apply(
        &self,
        request: Request<ApplyNamespaceRequest>,
    ) -> Result<Response<ApplyNamespaceReply>, Status> {
        self.enter()?;
        let ApplyNamespaceRequest { spec, if_version } = request.into_inner();
        if let Some(asked) = if_version.filter(|asked| *asked != 3) {
            let message = format!("namespace `research` is at version 3, not {asked}");
            let detail = ErrorDetail {
                hint: "look at the present version and decide again".into(),
                ..ErrorDetail::default()
            };
            return Err(refused(Code::Aborted, &message, detail));
        }
        let most = spec.and_then(|spec| spec.quota?.limit?.gpu_milli);
        let warnings = match most {
            Some(most) if most < 7_500 => vec!["GPUs: 7.5 in use and 4 allowed".to_owned()],
            Some(_) | None => Vec::new(),
        };
        Ok(Response::new(ApplyNamespaceReply { version: 4, warnings }))
    }

    async fn get(
        &self,
        request: Request<GetNamespaceRequest>,
    ) -> Result<Response<Namespace>, Status> {
        self.enter()?;
        let name = request.into_inner().name;
        Ok(Response::new(if name == "research" { research() } else { unset(&name, 0) }))
    }

    async fn list(
        &self,
        request: Request<ListNamespacesRequest>,
    ) -> Result<Response<ListNamespacesReply>, Status> {
        self.enter()?;
        // In two pages.
        let (one, more) = match request.into_inner().after.as_str() {
            "" => (unset("default", 2), true),
            _ => (research(), false),
        };
        Ok(Response::new(ListNamespacesReply { namespaces: vec![one], more, stale_ms: None }))
    }

    async fn delete(
        &self,
        request: Request<DeleteNamespaceRequest>,
    ) -> Result<Response<DeleteNamespaceReply>, Status> {
        self.enter()?;
        if request.into_inner().name == "research" {
            let message = "namespace `research` is in use: jobs that have not ended: 20";
            let detail = ErrorDetail { hint: "stop them first".into(), ..ErrorDetail::default() };
            return Err(refused(Code::FailedPrecondition, message, detail));
        }
        Ok(Response::new(DeleteNamespaceReply {}))
    }
}
