//! The services of the scripted cluster.

use std::pin::Pin;

use berth_proto::v1::exec_input::Input;
use berth_proto::v1::exec_output::Output;
use berth_proto::v1::jobs_server::Jobs;
use berth_proto::v1::nodes_server::Nodes;
use berth_proto::v1::operator_server::Operator;
use berth_proto::v1::*;
use tokio_stream::{Stream, iter};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Behaviour, Fake, data, refused};

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn hint(text: &str) -> ErrorDetail {
    ErrorDetail { hint: text.into(), request_id: "r-42".into(), ..ErrorDetail::default() }
}

impl Fake {
    fn find(&self, job: Option<JobRef>, if_version: Option<u32>) -> Result<Job, Status> {
        self.enter()?;
        let JobRef { namespace, job } = job.unwrap_or_default();
        if job == "1" {
            let message = "`1` is the beginning of several ids: 15 (sweep), 16 (train), 17 (chat)";
            return Err(refused(Code::FailedPrecondition, message, hint("give more of the id")));
        }
        if job == "secret" {
            let message = "the token has no right to this job";
            return Err(refused(Code::PermissionDenied, message, hint("ask for another token")));
        }
        let found = data::jobs()
            .into_iter()
            .find(|known| known.name == job || known.id.to_string() == job)
            .ok_or_else(|| {
                let message = format!("no job `{job}` in namespace `{namespace}`");
                refused(Code::NotFound, &message, hint("another namespace is named by --namespace"))
            })?;
        match if_version {
            Some(wanted) if wanted != found.version => {
                let message =
                    format!("job {} is at version {}, not {wanted}", found.id, found.version);
                Err(refused(Code::Aborted, &message, hint("look at `berth job history`")))
            }
            Some(_) | None => Ok(found),
        }
    }

    fn change(&self, request: Request<ChangeJobRequest>) -> Answer<Job> {
        let request = request.into_inner();
        self.find(request.job, request.if_version).map(Response::new)
    }

    fn node(&self, name: &str) -> Answer<Node> {
        self.enter()?;
        let found = data::nodes().into_iter().find(|node| node.name == name);
        let message = format!("no node `{name}`");
        found.map(Response::new).ok_or_else(|| refused(Code::NotFound, &message, hint("")))
    }
}

fn check(spec: &JobSpec, request: &SubmitRequest) -> Result<(), Status> {
    if spec.name == "huge" {
        let violation = |field: &str, message: &str, hint: &str| FieldViolation {
            field: field.into(),
            message: message.into(),
            hint: hint.into(),
        };
        let violations = vec![
            violation("tasks.main.memory", "expected 1B to 64TiB, found 1PiB", ""),
            violation("priority", "expected 0 to 100, found 200", "lower it"),
        ];
        let detail = ErrorDetail { violations, ..hint("") };
        return Err(refused(Code::InvalidArgument, "the job is not valid", detail));
    }
    if request.key == "used" {
        let message =
            "key `used` was used for job 16 with another spec: tasks.main.command differs";
        return Err(refused(Code::AlreadyExists, message, hint("take another key")));
    }
    Ok(())
}

#[tonic::async_trait]
impl Jobs for Fake {
    type EventsStream = Messages<Event>;
    type LogsStream = Messages<LogChunk>;
    type ExecStream = Messages<ExecOutput>;
    type FilesStream = Messages<FilesReply>;

    async fn submit(&self, request: Request<SubmitRequest>) -> Answer<SubmitReply> {
        self.enter()?;
        let request = request.into_inner();
        self.submitted.lock().unwrap().push(request.clone());
        match &self.behaviour {
            Behaviour::Silent => {
                self.arrived.notify_one();
                std::future::pending::<()>().await;
            }
            Behaviour::Loses => {
                let detail = ErrorDetail { outcome_unknown: true, ..ErrorDetail::default() };
                return Err(refused(Code::Unavailable, "leadership was lost", detail));
            }
            Behaviour::Answers | Behaviour::Redirects(_) | Behaviour::NoLeader => {}
        }
        let spec = request.spec.clone().unwrap_or_default();
        check(&spec, &request)?;
        // Submitting one of the known names waits for what is known of it.
        let known = data::jobs().into_iter().find(|job| job.name == spec.name);
        let sixteen =
            spec.tasks.iter().filter_map(|task| task.gpu.as_ref()).any(|gpu| gpu.count > 8);
        let warnings = if sixteen {
            vec!["no host can ever fit: largest has 2".to_owned()]
        } else {
            Vec::new()
        };
        Ok(Response::new(SubmitReply {
            job_id: known.map_or(18, |job| job.id),
            version: 1,
            existed: request.key == "seen",
            warnings,
        }))
    }

    async fn submit_many(&self, _: Request<SubmitManyRequest>) -> Answer<SubmitManyReply> {
        Err(Status::unimplemented("no command asks for this"))
    }

    async fn plan(&self, request: Request<PlanRequest>) -> Answer<PlanReply> {
        self.enter()?;
        let spec = request.into_inner().spec.unwrap_or_default();
        let placement = PlannedPlacement {
            task: "main".into(),
            index: 0,
            node: "gpu-01".into(),
            device_indices: vec![1],
            victims: Vec::new(),
        };
        let victim = PlannedVictim {
            allocation_id: "9.0.2.1".into(),
            job_name: "sweep-low".into(),
            priority: 20,
            namespace: "research".into(),
        };
        let kept = PlannedPlacement {
            index: 1,
            victims: vec![victim.clone(), victim],
            ..placement.clone()
        };
        let updates = spec.name == "chat";
        let waits = spec.name == "sweep";
        Ok(Response::new(PlanReply {
            placements: vec![placement],
            waiting: if waits { 19 } else { 0 },
            reasons: if waits { data::reasons() } else { Vec::new() },
            updates_job: updates.then_some(17),
            diff: if updates { vec!["tasks.main.count: 2 -> 1".into()] } else { Vec::new() },
            nodes_total: 2,
            kept: if waits { vec![kept] } else { Vec::new() },
            expected_start_ms: waits.then_some(1_790_000_000_000),
        }))
    }

    async fn get(&self, request: Request<GetJobRequest>) -> Answer<Job> {
        let found = self.find(request.into_inner().job, None);
        self.arrived.notify_one();
        found.map(Response::new)
    }

    async fn list(&self, request: Request<ListJobsRequest>) -> Answer<ListJobsReply> {
        self.enter()?;
        let request = request.into_inner();
        let mut jobs = data::jobs();
        jobs.retain(|job| {
            (request.namespace.is_empty() || job.namespace == request.namespace)
                && (request.states.is_empty() || request.states.contains(&job.state))
                && (request.before_id == 0 || job.id < request.before_id)
        });
        // Pages of two, so that lists have more than one.
        let more = jobs.len() > 2;
        let is_stale = request.consistency == i32::from(Consistency::Stale);
        jobs.truncate((request.page_size as usize).min(2));
        let next_before_id = jobs.last().filter(|_| more).map_or(0, |job| job.id);
        let stale_ms = is_stale.then_some(1_250);
        Ok(Response::new(ListJobsReply { jobs, next_before_id, stale_ms }))
    }

    async fn list_allocations(
        &self,
        request: Request<ListAllocationsRequest>,
    ) -> Answer<ListAllocationsReply> {
        let request = request.into_inner();
        let job = self.find(request.job, None)?;
        let mut allocations = data::allocations();
        allocations.retain(|allocation| allocation.job_id == job.id);
        // One to a page.
        let position: usize = request.page_token.parse().unwrap_or(0);
        let next = if position + 1 < allocations.len() {
            (position + 1).to_string()
        } else {
            String::new()
        };
        let page = allocations.into_iter().skip(position).take(1).collect();
        Ok(Response::new(ListAllocationsReply { allocations: page, next_page_token: next }))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Answer<ExplainReply> {
        self.find(request.into_inner().job, None)?;
        Ok(Response::new(data::explanation()))
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Answer<HistoryReply> {
        self.find(request.into_inner().job, None)?;
        let version = |version, current| JobVersion {
            version,
            submitted_at_ms: data::SUBMITTED_MS,
            current,
            spec: None,
        };
        Ok(Response::new(HistoryReply { versions: vec![version(3, true), version(2, false)] }))
    }

    async fn stop(&self, request: Request<ChangeJobRequest>) -> Answer<Job> {
        self.change(request)
    }

    async fn restart(&self, request: Request<ChangeJobRequest>) -> Answer<Job> {
        self.change(request)
    }

    async fn hold(&self, request: Request<ChangeJobRequest>) -> Answer<Job> {
        self.change(request)
    }

    async fn release(&self, request: Request<ChangeJobRequest>) -> Answer<Job> {
        self.change(request)
    }

    async fn purge(&self, request: Request<ChangeJobRequest>) -> Answer<PurgeReply> {
        let request = request.into_inner();
        let job = self.find(request.job, request.if_version)?;
        Ok(Response::new(PurgeReply { job_id: job.id }))
    }

    async fn scale(&self, request: Request<ScaleJobRequest>) -> Answer<Job> {
        let request = request.into_inner();
        self.find(request.job, request.if_version).map(Response::new)
    }

    async fn rollback(&self, request: Request<RollbackJobRequest>) -> Answer<Job> {
        let request = request.into_inner();
        self.find(request.job, request.if_version).map(Response::new)
    }

    async fn events(&self, request: Request<EventsRequest>) -> Answer<Messages<Event>> {
        self.enter()?;
        let request = request.into_inner();
        if request.after == "old" {
            let message = "token `old` is older than what is kept, which begins at `e-1`";
            return Err(refused(Code::OutOfRange, message, hint("list, then follow")));
        }
        Ok(Response::new(Box::pin(iter(data::events().into_iter().map(Ok)))))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Answer<Messages<LogChunk>> {
        let request = request.into_inner();
        self.find(request.job, None)?;
        let data = if request.stderr { "a warning\n" } else { "line 1\nline 2\n" };
        let first = LogChunk {
            data: data.as_bytes().to_vec().into(),
            allocation_id: "17.main.0.1".into(),
            node: "gpu-01".into(),
            note: String::new(),
        };
        let mut chunks = vec![Ok(first)];
        if request.follow {
            let note = "the attempt has ended with exit code 0".into();
            chunks.push(Ok(LogChunk { note, ..LogChunk::default() }));
        }
        if request.attempt == 7 {
            let message = "host gpu-01 is down; nothing after this can be read";
            chunks.push(Err(refused(Code::NotFound, message, hint(""))));
        }
        Ok(Response::new(Box::pin(iter(chunks))))
    }

    /// Says its arguments, and what it then reads goes nowhere: a real one is in the tests of
    /// `berth` itself.
    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Answer<Messages<ExecOutput>> {
        let first = request.into_inner().message().await?.and_then(|first| first.input);
        let Some(Input::Start(start)) = first else {
            return Err(Status::invalid_argument("a start is missing"));
        };
        self.find(start.job, None)?;
        let said = start.command.join("|") + "\n";
        let ended = match start.command[0].as_str() {
            "away" => ExecEnded { problem: "it cannot be run".to_owned(), ..ExecEnded::default() },
            _ => ExecEnded { exit_code: Some(3), ..ExecEnded::default() },
        };
        let begun = ExecBegun { allocation_id: "17.main.0.1".into(), node: "gpu-01".into() };
        let told = [
            Output::Begun(begun),
            Output::Stdout(said.into()),
            Output::Stderr("a warning\n".into()),
            Output::Ended(ended),
        ];
        let told = told.map(|output| Ok(ExecOutput { output: Some(output) }));
        Ok(Response::new(Box::pin(iter(told))))
    }

    async fn files(&self, request: Request<FilesRequest>) -> Answer<Messages<FilesReply>> {
        let request = request.into_inner();
        self.find(request.job, None)?;
        let entry = |name: &str, kind: FileKind, mode: u32, link: &str| FileEntry {
            name: name.to_owned(),
            kind: kind.into(),
            size_bytes: 1_536,
            modified_at_ms: data::NOW_MS,
            mode,
            link: link.to_owned(),
        };
        let (file, directory) = (FileKind::File, FileKind::Directory);
        let replies = match request.path.as_str() {
            "" => vec![
                Ok(FilesReply {
                    subject: Some(entry(".", directory, 0o755, "")),
                    ..FilesReply::default()
                }),
                Ok(FilesReply {
                    entries: vec![
                        entry("latest", FileKind::Link, 0o777, "models/3"),
                        entry("models", directory, 0o755, ""),
                        entry("run.sh", file, 0o750, ""),
                    ],
                    ..FilesReply::default()
                }),
            ],
            "run.sh" => vec![
                Ok(FilesReply {
                    subject: Some(entry("run.sh", file, 0o750, "")),
                    ..FilesReply::default()
                }),
                Ok(FilesReply { data: "exec serve\n".into(), ..FilesReply::default() }),
            ],
            path => {
                let message = format!("there is no `{path}` in the task's directory");
                vec![Err(refused(Code::NotFound, &message, hint("")))]
            }
        };
        Ok(Response::new(Box::pin(iter(replies))))
    }
}

#[tonic::async_trait]
impl Nodes for Fake {
    async fn list(&self, _: Request<ListNodesRequest>) -> Answer<ListNodesReply> {
        self.enter()?;
        Ok(Response::new(ListNodesReply { nodes: data::nodes(), stale_ms: None }))
    }

    async fn get(&self, request: Request<GetNodeRequest>) -> Answer<Node> {
        self.node(&request.into_inner().node)
    }

    async fn cordon(&self, request: Request<NodeRef>) -> Answer<Node> {
        self.node(&request.into_inner().node)
    }

    async fn uncordon(&self, request: Request<NodeRef>) -> Answer<Node> {
        self.node(&request.into_inner().node)
    }

    async fn get_device(&self, request: Request<GetDeviceRequest>) -> Answer<GetDeviceReply> {
        let (name, index) = request.get_ref().device.split_once(':').unwrap();
        let node = self.node(name)?.into_inner();
        let device = &node.devices[index.parse::<usize>().unwrap()];
        let (uuid, held) = (device.uuid.clone(), device.allocated_milli > 0);
        let allocations = held.then(|| "15.0.1.1".to_owned()).into_iter().collect();
        Ok(Response::new(GetDeviceReply { node: Some(node), uuid, allocations }))
    }

    async fn cordon_device(&self, request: Request<DeviceRef>) -> Answer<Node> {
        self.node(request.into_inner().device.split(':').next().unwrap())
    }

    async fn uncordon_device(&self, request: Request<DeviceRef>) -> Answer<Node> {
        self.node(request.into_inner().device.split(':').next().unwrap())
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Answer<Node> {
        self.node(&request.into_inner().node)
    }

    async fn list_orphans(&self, _: Request<ListOrphansRequest>) -> Answer<ListOrphansReply> {
        self.enter()?;
        Ok(Response::new(ListOrphansReply { orphans: data::orphans(), stale_ms: None }))
    }

    async fn plan_defrag(&self, request: Request<PlanDefragRequest>) -> Answer<PlanDefragReply> {
        self.enter()?;
        Ok(Response::new(data::defrag(request.into_inner().moves_max)))
    }

    async fn defrag(&self, request: Request<DefragRequest>) -> Answer<DefragReply> {
        self.enter()?;
        Ok(Response::new(data::moved(&request.into_inner())))
    }

    async fn stop_orphans(&self, request: Request<StopOrphansRequest>) -> Answer<StopOrphansReply> {
        self.enter()?;
        let StopOrphansRequest { allocation_ids: ids, node } = request.into_inner();
        if let Some(unknown) = ids.iter().find(|id| *id != "9.0.0.1") {
            return Err(Status::not_found(format!("no orphan {unknown}")));
        }
        let on_node = if node.is_empty() { 0 } else { 2 };
        let stopping = u32::try_from(ids.len()).unwrap() + on_node;
        Ok(Response::new(StopOrphansReply { stopping }))
    }
}

#[tonic::async_trait]
impl Operator for Fake {
    async fn status(&self, _: Request<StatusRequest>) -> Answer<ClusterStatus> {
        self.enter()?;
        Ok(Response::new(data::status()))
    }

    async fn join(&self, _: Request<JoinRequest>) -> Answer<JoinReply> {
        Err(Status::unimplemented("no command asks for this"))
    }

    async fn promote(&self, _: Request<PromoteRequest>) -> Answer<PromoteReply> {
        self.enter()?;
        Ok(Response::new(PromoteReply { done: true }))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Answer<RemoveReply> {
        self.enter()?;
        Ok(Response::new(RemoveReply { done: request.into_inner().id == 3 }))
    }

    async fn set_policy_default(
        &self,
        request: Request<SetPolicyDefaultRequest>,
    ) -> Answer<SetPolicyDefaultReply> {
        self.enter()?;
        Ok(Response::new(data::policy_set(request.into_inner())))
    }

    async fn list_policy_defaults(
        &self,
        _: Request<ListPolicyDefaultsRequest>,
    ) -> Answer<ListPolicyDefaultsReply> {
        self.enter()?;
        Ok(Response::new(data::policy_defaults()))
    }

    async fn transfer(&self, request: Request<TransferRequest>) -> Answer<TransferReply> {
        self.enter()?;
        Ok(Response::new(TransferReply { leader_id: request.into_inner().to.unwrap_or(1) }))
    }

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Answer<SnapshotReply> {
        self.enter()?;
        Ok(Response::new(SnapshotReply { index: 121 }))
    }

    type BackupStream = Messages<BackupPiece>;

    async fn backup(&self, _: Request<BackupRequest>) -> Answer<Self::BackupStream> {
        self.enter()?;
        let bytes = data::backup();
        let pieces: Vec<_> =
            bytes.chunks(64).map(|piece| Ok(BackupPiece { data: piece.to_vec().into() })).collect();
        Ok(Response::new(Box::pin(iter(pieces))))
    }

    type CaptureStream = Messages<CapturePiece>;

    async fn capture(&self, _: Request<CaptureRequest>) -> Answer<Self::CaptureStream> {
        self.enter()?;
        let bytes = data::capture();
        let pieces: Vec<_> = bytes
            .chunks(64)
            .map(|piece| Ok(CapturePiece { data: piece.to_vec().into() }))
            .collect();
        Ok(Response::new(Box::pin(iter(pieces))))
    }

    async fn resume(&self, _: Request<ResumeRequest>) -> Answer<ResumeReply> {
        self.enter()?;
        Ok(Response::new(ResumeReply { missing: 2 }))
    }

    async fn finalize(&self, _: Request<FinalizeRequest>) -> Answer<FinalizeReply> {
        self.enter()?;
        Ok(Response::new(data::finalized()))
    }

    async fn state_hash(&self, _: Request<StateHashRequest>) -> Answer<StateHashReply> {
        Err(Status::unimplemented("no command asks for this"))
    }
}
