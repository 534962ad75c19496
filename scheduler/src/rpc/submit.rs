//! Submits: one, or many in a call.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{JobSpec, Name};
use berth_placement::{never_fits, passes_quota};
use berth_proto::v1;
use berth_state::{Command, Refusal, Reply, SubmitJob};
use berth_wire::spec::{job_spec_from_proto, spec_digest};
use tonic::Status;

use super::{Shared, lookup, status};
use crate::access::Granted;
use crate::leader::{ENTRY_BYTES_MAX, Leader, Place};

/// Submits in one call; a thousand of ordinary size stay far below the
/// request's own limit.
const SUBMITS_MAX: usize = 10_000;
/// Submits of a call that are one wish: four of them fill an entry, and others
/// find room between them.
const SUBMITS_IN_WISH_MAX: usize = 64;
/// Submits of one call that are checked before others have a turn on this thread:
/// a thousand take 20 ms, in which no connection would be answered.
const CHECKED_AT_ONCE: usize = 32;

impl Shared {
    pub async fn submit_one(
        &self,
        granted: &Granted,
        leader: &Arc<Leader>,
        mut request: v1::SubmitRequest,
    ) -> Result<v1::SubmitReply, Status> {
        self.room_on_disk()?;
        let _place = let_in(leader, &wanted(granted, [&request]))?;
        let bytes = encoded_len(&request);
        let submit = checked(granted, &mut request)?;
        let warnings = warnings(leader, &request, &submit.spec)?;
        let commands = vec![Command::Submit(submit)];
        let answers = leader.propose_all(commands, bytes).await;
        let mut answers = answers.map_err(|error| status::from_propose(&error))?;
        let unanswered = || Status::internal("the submit was not answered");
        accepted(answers.pop().ok_or_else(unanswered)?, warnings)
    }

    /// Each submit is answered for itself. All of the call are proposed at
    /// once, in as few entries as hold them.
    pub async fn submit_many(
        &self,
        granted: &Granted,
        leader: &Arc<Leader>,
        request: v1::SubmitManyRequest,
    ) -> Result<v1::SubmitManyReply, Status> {
        self.room_on_disk()?;
        let count = request.submits.len();
        if count > SUBMITS_MAX {
            let message = format!("at most {SUBMITS_MAX} submits in a call, found {count}");
            return Err(status::invalid_field("submits", message));
        }
        granted.about(format!("{count} jobs"));
        // Before anything is looked at: what is refused should cost little.
        let wanted = wanted(granted, &request.submits);
        let _place = let_in(leader, &wanted)?;
        let mut results: Vec<Option<v1::SubmitResult>> = vec![None; count];
        let mut parts: Vec<Part> = Vec::new();
        for (position, mut request) in request.submits.into_iter().enumerate() {
            if position % CHECKED_AT_ONCE == CHECKED_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let bytes = encoded_len(&request);
            let submit = checked(granted, &mut request)
                .and_then(|submit| warnings(leader, &request, &submit.spec).map(|_| submit));
            let command = match submit {
                Ok(submit) => Command::Submit(submit),
                Err(refused) => {
                    results[position] = Some(refusal_result(&refused));
                    continue;
                }
            };
            match parts.last_mut() {
                Some(part) if part.has_room(bytes) => part.push(position, command, bytes),
                Some(_) | None => {
                    let mut part = Part::default();
                    part.push(position, command, bytes);
                    parts.push(part);
                }
            }
        }
        let proposals = parts.into_iter().map(|part| async move {
            (part.positions, leader.propose_all(part.commands, part.bytes).await)
        });
        for (positions, answers) in futures::future::join_all(proposals).await {
            let answers: Vec<_> = match answers {
                Ok(answers) => {
                    answers.into_iter().map(|answer| accepted(answer, Vec::new())).collect()
                }
                Err(error) => vec![Err(status::from_propose(&error)); positions.len()],
            };
            for (position, answer) in positions.into_iter().zip(answers) {
                results[position] = Some(match answer {
                    Ok(reply) => v1::SubmitResult {
                        result: Some(v1::submit_result::Result::Accepted(reply)),
                    },
                    Err(refused) => refusal_result(&refused),
                });
            }
        }
        let unanswered = || refusal_result(&Status::internal("the submit was not answered"));
        let results = results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect();
        Ok(v1::SubmitManyReply { results })
    }

    fn room_on_disk(&self) -> Result<(), Status> {
        if self.node.disk_is_low() {
            return Err(status::disk_low(self.node.disk_free_bytes()));
        }
        Ok(())
    }
}

/// Whose share of the room submits take. Those that will be refused take none:
/// nobody uses up what is others'.
fn wanted<'a>(
    granted: &Granted,
    requests: impl IntoIterator<Item = &'a v1::SubmitRequest>,
) -> BTreeMap<Name, usize> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for spec in requests.into_iter().filter_map(|request| request.spec.as_ref()) {
        *counts.entry(&spec.namespace).or_default() += 1;
    }
    let mut wanted = BTreeMap::new();
    for (text, count) in counts {
        if let Ok(namespace) = lookup::namespace(text)
            && granted.check(&namespace).is_ok()
        {
            *wanted.entry(namespace).or_default() += count;
        }
    }
    wanted
}

/// Room for what a call submits, at no more than what quotas allow in a second.
fn let_in(leader: &Leader, wanted: &BTreeMap<Name, usize>) -> Result<Place, Status> {
    let view = leader.published.view();
    let rate = |name: &Name| view.namespace(name)?.spec.quota.limit.submits_per_second;
    leader.admission.enter(wanted, rate).map_err(status::not_now)
}

/// What the submitter should know before the job is proposed.
///
/// # Errors
/// A request that is `strict` is refused where no node could ever hold it, or its quota is less
/// than it asks for.
fn warnings(
    leader: &Leader,
    request: &v1::SubmitRequest,
    spec: &JobSpec,
) -> Result<Vec<String>, Status> {
    let view = leader.published.view();
    let never = never_fits(|| view.nodes().values().map(|node| &**node), spec);
    match never.or_else(|| passes_quota(&view, spec)) {
        Some(what) if request.strict => Err(status::never_fits(what)),
        Some(what) => Ok(vec![what]),
        None => Ok(Vec::new()),
    }
}

/// Submits of one call that go into one entry.
#[derive(Default)]
struct Part {
    /// Where their answers belong.
    positions: Vec<usize>,
    commands: Vec<Command>,
    bytes: usize,
}

impl Part {
    fn has_room(&self, bytes: usize) -> bool {
        self.commands.len() < SUBMITS_IN_WISH_MAX && self.bytes + bytes <= ENTRY_BYTES_MAX
    }

    fn push(&mut self, position: usize, command: Command, bytes: usize) {
        self.positions.push(position);
        self.commands.push(command);
        self.bytes += bytes;
    }
}

/// How long the command for a request is in the log, or a little more: the
/// specification is the same message there.
fn encoded_len(request: &v1::SubmitRequest) -> usize {
    const FRAMING: usize = 64;
    request.spec.as_ref().map_or(0, prost::Message::encoded_len) + request.key.len() + FRAMING
}

/// The wish that a request stands for; takes specification and key out of it.
fn checked(granted: &Granted, request: &mut v1::SubmitRequest) -> Result<SubmitJob, Status> {
    let Some(spec) = request.spec.take() else {
        return Err(status::invalid_field("spec", "the job's specification is missing"));
    };
    let spec = job_spec_from_proto(spec).map_err(status::invalid)?;
    granted.check(&spec.namespace)?;
    granted.about(format!("job {}/{}", spec.namespace, spec.name));
    let digest = spec_digest(&spec);
    let key = Some(std::mem::take(&mut request.key)).filter(|key| !key.is_empty());
    Ok(SubmitJob { key, spec: Arc::new(spec), digest, if_version: request.if_version })
}

fn accepted(
    answer: Result<Reply, Refusal>,
    warnings: Vec<String>,
) -> Result<v1::SubmitReply, Status> {
    match answer {
        Ok(Reply::Submitted { job, version, existed }) => {
            Ok(v1::SubmitReply { job_id: job.0, version, existed, warnings })
        }
        Ok(other) => Err(Status::internal(format!("unexpected answer {other:?}"))),
        Err(refusal) => Err(status::from_refusal(&refusal)),
    }
}

fn refusal_result(refused: &Status) -> v1::SubmitResult {
    v1::SubmitResult { result: Some(v1::submit_result::Result::Refused(status::problem(refused))) }
}
