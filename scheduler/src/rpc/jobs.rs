//! The Jobs service: each call is routed here, and does its work elsewhere.

use std::sync::Arc;

use berth_model::node::DEVICES_MAX;
use berth_model::{CpuMilli, IMAGINED_MAX, JobKind, MemoryBytes, TaskIndex};
use berth_placement::{ImaginedNodes, what_would_happen, with_nodes};
use berth_proto::v1;
use berth_proto::v1::jobs_client::JobsClient;
use berth_state::{Command, JobChange, JobRow, SubmitJob};
use berth_wire::spec::{job_spec_from_proto, spec_digest};
use tonic::{Request, Response, Status, Streaming};

use super::events::EventStream;
use super::exec::ExecStream;
use super::files::FilesStream;
use super::logs::LogStream;
use super::route::{Route, at_leader, marked};
use super::{Shared, lookup, settle, status};
use crate::access::Granted;
use crate::leader::Leader;

pub struct JobsService(pub Shared);

#[tonic::async_trait]
impl v1::jobs_server::Jobs for JobsService {
    type EventsStream = EventStream;
    type LogsStream = LogStream;
    type ExecStream = ExecStream;
    type FilesStream = FilesStream;

    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitReply>, Status> {
        at_leader!(self.0, request, JobsClient::submit, |leader, granted, asked| {
            self.0.submit_one(granted, &leader, asked)
        })
    }

    async fn submit_many(
        &self,
        request: Request<v1::SubmitManyRequest>,
    ) -> Result<Response<v1::SubmitManyReply>, Status> {
        at_leader!(self.0, request, JobsClient::submit_many, |leader, granted, asked| {
            self.0.submit_many(granted, &leader, asked)
        })
    }

    async fn plan(
        &self,
        request: Request<v1::PlanRequest>,
    ) -> Result<Response<v1::PlanReply>, Status> {
        at_leader!(self.0, request, JobsClient::plan, |leader, granted, asked| {
            self.preview(granted, leader, asked)
        })
    }

    async fn get(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        self.0.get_job(&Granted::of(&request)?, request.into_inner()).await.map(Response::new)
    }

    async fn list(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsReply>, Status> {
        self.0.list_jobs(&Granted::of(&request)?, request.into_inner()).await.map(Response::new)
    }

    async fn list_allocations(
        &self,
        request: Request<v1::ListAllocationsRequest>,
    ) -> Result<Response<v1::ListAllocationsReply>, Status> {
        let granted = Granted::of(&request)?;
        let asked = request.get_ref().clone();
        let may_be_stale = asked.consistency != 0;
        let leader = self.0.leading().filter(|_| !may_be_stale);
        let told = self.0.list_allocations(&granted, leader, asked).await?;
        let time_sliced = |one: &v1::Allocation| one.isolation == berth_wire::views::TIME_SLICED;
        if !may_be_stale && told.allocations.iter().any(time_sliced) {
            // Whether their memory is watched the leader alone knows; without it all else is true.
            if let Ok(Route::There(forward)) = self.0.route(&request) {
                let mut client = JobsClient::new(forward.channel.clone());
                let call = client.list_allocations(marked(request));
                if let Ok(more) = self.0.forwarded(forward, call).await {
                    return Ok(more);
                }
            }
        }
        Ok(Response::new(told))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainReply>, Status> {
        at_leader!(self.0, request, JobsClient::explain, |leader, granted, asked| {
            self.0.explain_job(granted, leader, asked)
        })
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryReply>, Status> {
        self.0.job_history(&Granted::of(&request)?, request.into_inner()).await.map(Response::new)
    }

    async fn stop(
        &self,
        request: Request<v1::ChangeJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let change = JobChange::Stop { reason: "stopped by a user".to_owned() };
        at_leader!(self.0, request, JobsClient::stop, |leader, granted, asked| {
            self.change(granted, leader, asked.job, asked.if_version, change)
        })
    }

    async fn restart(
        &self,
        request: Request<v1::ChangeJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        at_leader!(self.0, request, JobsClient::restart, |leader, granted, asked| {
            self.change(granted, leader, asked.job, asked.if_version, JobChange::Restart)
        })
    }

    async fn hold(
        &self,
        request: Request<v1::ChangeJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        at_leader!(self.0, request, JobsClient::hold, |leader, granted, asked| {
            self.change(granted, leader, asked.job, asked.if_version, JobChange::Hold)
        })
    }

    async fn release(
        &self,
        request: Request<v1::ChangeJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        at_leader!(self.0, request, JobsClient::release, |leader, granted, asked| {
            self.change(granted, leader, asked.job, asked.if_version, JobChange::Release)
        })
    }

    async fn purge(
        &self,
        request: Request<v1::ChangeJobRequest>,
    ) -> Result<Response<v1::PurgeReply>, Status> {
        at_leader!(self.0, request, JobsClient::purge, |leader, granted, asked| {
            self.purge_job(granted, leader, asked)
        })
    }

    async fn scale(
        &self,
        request: Request<v1::ScaleJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        at_leader!(self.0, request, JobsClient::scale, |leader, granted, asked| {
            self.scale_job(granted, leader, asked)
        })
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackJobRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        at_leader!(self.0, request, JobsClient::rollback, |leader, granted, asked| {
            let change = JobChange::Rollback { to_version: asked.to_version };
            self.change(granted, leader, asked.job, asked.if_version, change)
        })
    }

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<EventStream>, Status> {
        self.0.watch(Granted::of(&request)?, request.into_inner()).await.map(Response::new)
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<LogStream>, Status> {
        self.0.logs(&Granted::of(&request)?, request.into_inner()).await.map(Response::new)
    }

    async fn exec(
        &self,
        request: Request<Streaming<v1::ExecInput>>,
    ) -> Result<Response<ExecStream>, Status> {
        self.0.exec(&Granted::of(&request)?, request.into_inner()).await.map(Response::new)
    }

    async fn files(
        &self,
        request: Request<v1::FilesRequest>,
    ) -> Result<Response<FilesStream>, Status> {
        self.0.files(&Granted::of(&request)?, request.into_inner()).await.map(Response::new)
    }
}

impl JobsService {
    /// Finds the job at the leader's newest state, proposes, and answers with
    /// the job as it is then.
    async fn change(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
        job: Option<v1::JobRef>,
        if_version: Option<u32>,
        change: JobChange,
    ) -> Result<v1::Job, Status> {
        let row = self.find(granted, job.as_ref()).await?;
        let command = Command::ChangeJob { job: row.id, if_version, change };
        settle(&leader, command).await?;
        self.0.job_now(row.id)
    }

    async fn purge_job(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
        asked: v1::ChangeJobRequest,
    ) -> Result<v1::PurgeReply, Status> {
        let row = self.find(granted, asked.job.as_ref()).await?;
        let change = JobChange::Purge;
        let command = Command::ChangeJob { job: row.id, if_version: asked.if_version, change };
        settle(&leader, command).await?;
        Ok(v1::PurgeReply { job_id: row.id.0 })
    }

    /// A scale is a new version whose only difference is the number.
    async fn scale_job(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
        asked: v1::ScaleJobRequest,
    ) -> Result<v1::Job, Status> {
        let row = self.find(granted, asked.job.as_ref()).await?;
        if row.kind() != JobKind::Service {
            let kind = row.kind().name();
            return Err(Status::failed_precondition(format!(
                "only services scale; this is a {kind}"
            )));
        }
        if let Some(rule) = &row.spec.autoscale {
            let (min, max) = (rule.min, rule.max);
            return Err(Status::failed_precondition(format!(
                "its replicas follow its load, {min} to {max} of them; submit the job with other \
                 `replicas`"
            )));
        }
        let task = task_named(&row, &asked.task)?;
        let mut spec = (*row.spec).clone();
        spec.tasks[usize::from(task.0)].count = asked.count;
        let problems = berth_model::validate(&spec);
        if !problems.is_empty() {
            return Err(status::invalid(problems));
        }
        let digest = spec_digest(&spec);
        let if_version = Some(asked.if_version.unwrap_or(row.version));
        let submit = SubmitJob { key: None, spec: Arc::new(spec), digest, if_version };
        settle(&leader, Command::Submit(submit)).await?;
        self.0.job_now(row.id)
    }

    async fn preview(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
        asked: v1::PlanRequest,
    ) -> Result<v1::PlanReply, Status> {
        let Some(spec) = asked.spec else {
            return Err(status::invalid_field("spec", "the job's specification is missing"));
        };
        let spec = Arc::new(job_spec_from_proto(spec).map_err(status::invalid)?);
        granted.check(&spec.namespace)?;
        let view = self.0.read(granted, 0).await?.state;
        let (soft, now) = (leader.loads(), leader.clock.now());
        let imagined = imagined_nodes(asked.imagined)?;
        let preview = tokio::task::spawn_blocking(move || {
            let view =
                with_nodes(&view, now, &imagined).map_err(|why| status::from_refusal(&why))?;
            let preview = what_would_happen(&view, &soft, now, &spec);
            super::reads::plan_reply(&view, &preview, now)
        });
        let preview = preview.await;
        let mut reply = preview.map_err(|_| Status::internal("the plan did not finish"))??;
        let victims = reply.kept.iter_mut().flat_map(|kept| &mut kept.victims);
        for victim in victims.filter(|victim| !granted.sees_namespace(&victim.namespace)) {
            victim.job_name = String::new();
            victim.namespace = String::new();
        }
        Ok(reply)
    }

    async fn find(
        &self,
        granted: &Granted,
        job: Option<&v1::JobRef>,
    ) -> Result<Arc<JobRow>, Status> {
        let view = self.0.read(granted, 0).await?.state;
        lookup::job(granted, &view, job)
    }
}

/// The task of this name; the only one if the name is empty.
pub fn task_named(row: &JobRow, name: &str) -> Result<TaskIndex, Status> {
    let names: Vec<&str> = row.spec.tasks.iter().map(|task| task.name.as_str()).collect();
    let position = match (name, names.as_slice()) {
        ("", [_]) => Some(0),
        ("", _) => None,
        (name, names) => names.iter().position(|known| *known == name),
    };
    let position = position.and_then(|position| u16::try_from(position).ok());
    position.map(TaskIndex).ok_or_else(|| {
        let what = if name.is_empty() {
            "the job has several tasks; name one".to_owned()
        } else {
            format!("the job has no task `{name}`")
        };
        status::invalid_field("task", format!("{what}: {}", names.join(", ")))
    })
}

fn imagined_nodes(asked: Vec<v1::ImaginedNodes>) -> Result<Vec<ImaginedNodes>, Status> {
    let total = asked.iter().fold(0_u32, |sum, nodes| sum.saturating_add(nodes.count));
    if total > IMAGINED_MAX {
        let message = format!("expected at most {IMAGINED_MAX} nodes in all, found {total}");
        return Err(status::invalid_field("imagined", message));
    }
    let most = u32::try_from(DEVICES_MAX).unwrap_or(u32::MAX);
    if let Some(nodes) = asked.iter().find(|nodes| nodes.gpus > most) {
        let message = format!("expected at most {most} GPUs on a node, found {}", nodes.gpus);
        return Err(status::invalid_field("imagined.gpus", message));
    }
    let nodes = asked.into_iter().map(|nodes| ImaginedNodes {
        count: nodes.count,
        gpus: nodes.gpus,
        model: nodes.model,
        gpu_memory: MemoryBytes(nodes.gpu_memory_bytes),
        cpu: CpuMilli(nodes.cpu_milli),
        memory: MemoryBytes(nodes.memory_bytes),
    });
    Ok(nodes.collect())
}
