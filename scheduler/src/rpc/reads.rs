//! Reads of jobs: from the published view, at the freshness that was asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::{AllocationId, JobId, JobKind, StateMs};
use berth_placement::{Explanation, PlanPreview, explain, waits_for_quota};
use berth_proto::v1;
use berth_state::{AllocationRow, ClusterState, JobRow};
use berth_wire::spec::policy_origin_to_proto;
use berth_wire::views;
use tonic::Status;

use super::{Shared, lookup, status};
use crate::access::Granted;
use crate::history::EndedAllocation;
use crate::leader::Leader;
use crate::leader::clock::wall;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

impl Shared {
    pub async fn get_job(
        &self,
        granted: &Granted,
        request: v1::GetJobRequest,
    ) -> Result<v1::Job, Status> {
        let view = self.read(granted, request.consistency).await?;
        let row = lookup::job(granted, &view.state, request.job.as_ref())?;
        let mut job = views::job(&view.state, &row);
        if request.with_spec {
            job.spec = Some(berth_wire::spec::job_spec_to_proto(&row.spec));
        }
        if job.reason.is_empty() {
            job.reason = waits_for_quota(&view.state, &row).unwrap_or_default();
        }
        job.stale_ms = view.stale_ms;
        Ok(job)
    }

    /// The job as the newest applied state has it.
    pub fn job_now(&self, id: JobId) -> Result<v1::Job, Status> {
        let view = self.published.view();
        let row = view.jobs().get(&id);
        let row = row.ok_or_else(|| Status::not_found(format!("job {id} is gone")))?;
        Ok(views::job(&view, row))
    }

    pub async fn list_jobs(
        &self,
        granted: &Granted,
        request: v1::ListJobsRequest,
    ) -> Result<v1::ListJobsReply, Status> {
        let page = page_size(request.page_size);
        let namespace = match request.namespace.as_str() {
            "" => None,
            text => Some(lookup::namespace(text)?),
        };
        namespace.as_ref().map_or(Ok(()), |namespace| granted.check(namespace))?;
        check_states(&request.states)?;
        let view = self.read(granted, request.consistency).await?;
        let before = if request.before_id == 0 { u64::MAX } else { request.before_id };
        let wanted = |row: &JobRow| {
            granted.sees(row.namespace())
                && namespace.as_ref().is_none_or(|namespace| row.namespace() == namespace)
                && (request.states.is_empty()
                    || request.states.iter().any(|state| state == row.state().name()))
        };
        let mut rows: Vec<&Arc<JobRow>> = view
            .state
            .jobs()
            .range(..JobId(before))
            .rev()
            .map(|(_, row)| row)
            .filter(|row| wanted(row))
            .take(page + 1)
            .collect();
        let more = rows.len() > page;
        rows.truncate(page);
        let next_before_id = if more { rows.last().map_or(0, |row| row.id.0) } else { 0 };
        let jobs = rows.into_iter().map(|row| views::listed_job(&view.state, row)).collect();
        Ok(v1::ListJobsReply { jobs, next_before_id, stale_ms: view.stale_ms })
    }

    /// Live allocations, and those that this scheduler saw end, by id.
    pub async fn list_allocations(
        &self,
        granted: &Granted,
        leader: Option<Arc<Leader>>,
        request: v1::ListAllocationsRequest,
    ) -> Result<v1::ListAllocationsReply, Status> {
        let page = page_size(request.page_size);
        let view = self.read(granted, request.consistency).await?.state;
        let row = lookup::job(granted, &view, request.job.as_ref())?;
        let after = match request.page_token.as_str() {
            "" => None,
            text => {
                Some(text.parse::<AllocationId>().ok().filter(|id| id.job == row.id).ok_or_else(
                    || status::invalid_field("page_token", "not a token of this job's listing"),
                )?)
            }
        };
        let mut shown: Vec<(AllocationId, v1::Allocation)> = self
            .published
            .history
            .of_job(row.id, after, page + 1)
            .into_iter()
            .map(|ended| (ended.row.id, ended_allocation(&view, &row, &ended)))
            .collect();
        let live =
            view.allocations_of(row.id).filter(|live| after.is_none_or(|after| live.id > after));
        let leader = leader.as_deref();
        shown.extend(
            live.take(page + 1).map(|live| (live.id, live_allocation(&view, leader, live))),
        );
        shown.sort_by_key(|(id, _)| *id);
        shown.dedup_by_key(|(id, _)| *id);
        let more = shown.len() > page;
        shown.truncate(page);
        let next_page_token = match shown.last() {
            Some((id, _)) if more => id.to_string(),
            Some(_) | None => String::new(),
        };
        let allocations = shown.into_iter().map(|(_, allocation)| allocation).collect();
        Ok(v1::ListAllocationsReply { allocations, next_page_token })
    }

    pub async fn explain_job(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
        request: v1::ExplainRequest,
    ) -> Result<v1::ExplainReply, Status> {
        let view = self.read(granted, request.consistency).await?.state;
        let row = lookup::job(granted, &view, request.job.as_ref())?;
        let spec = row.spec.clone();
        let (soft, now, id) = (leader.loads(), leader.clock.now(), row.id);
        // It tries on a copy what would help: on a large cluster for some tenths of a second.
        let explaining = tokio::task::spawn_blocking(move || explain(&view, &soft, now, id));
        let explained = explaining.await;
        let explained =
            explained.map_err(|_| Status::internal("the explanation did not finish"))?;
        let explained = explained.ok_or_else(|| Status::not_found(format!("job {id} is gone")))?;
        let mut reply = explain_reply(&explained, now);
        // A daemon is on every node that takes it.
        if spec.kind != JobKind::Daemon {
            reply.policy = spec.policy.name().to_owned();
            reply.policy_origin = policy_origin_to_proto(spec.policy_origin);
        }
        Ok(reply)
    }

    pub async fn job_history(
        &self,
        granted: &Granted,
        request: v1::HistoryRequest,
    ) -> Result<v1::HistoryReply, Status> {
        let view = self.read(granted, 0).await?.state;
        let row = lookup::job(granted, &view, request.job.as_ref())?;
        Ok(v1::HistoryReply { versions: views::versions(&row) })
    }
}

fn page_size(asked: u32) -> usize {
    match asked as usize {
        0 => PAGE_DEFAULT,
        asked => asked.min(PAGE_MAX),
    }
}

fn check_states(states: &[String]) -> Result<(), Status> {
    const KNOWN: [&str; 6] = ["queued", "running", "succeeded", "failed", "cancelled", "timed_out"];
    match states.iter().find(|state| !KNOWN.contains(&state.as_str())) {
        Some(unknown) => {
            let message = format!("no state `{unknown}`; the states are {}", KNOWN.join(", "));
            Err(status::invalid_field("states", message))
        }
        None => Ok(()),
    }
}

/// With what the leader knows of those that share a GPU.
fn live_allocation(
    view: &ClusterState,
    leader: Option<&Leader>,
    row: &AllocationRow,
) -> v1::Allocation {
    let mut shown = views::allocation(view, row);
    let Some(leader) = leader.filter(|_| shown.isolation == views::TIME_SLICED) else {
        return shown;
    };
    let samples = leader.device_samples(row.node);
    let sample = samples
        .iter()
        .find(|sample| row.claim.devices.iter().any(|claim| claim.uuid == sample.uuid));
    if let Some(sample) = sample {
        let (level, watch) = (level_in_words(sample, &shown.id), watch_in_words(sample));
        shown.isolation = format!("{level}, {watch}");
    }
    shown
}

/// What keeps one that shares a device from the others. One that began while MPS was not there, or
/// before it was, is no client of it.
fn level_in_words(sample: &v1::DeviceSample, allocation_id: &str) -> String {
    let Some(mps) = &sample.mps else { return views::TIME_SLICED.to_owned() };
    let own = mps.shares.iter().find(|share| share.allocation_id == allocation_id);
    match (own, mps.missing.as_str()) {
        (Some(own), "") => format!("MPS with {} % of the processors", own.percent),
        (Some(own), gone) => {
            format!("MPS with {} % of the processors when it began ({gone})", own.percent)
        }
        (None, "") => format!("{} (it began without MPS)", views::TIME_SLICED),
        (None, missing) => format!("{} (no MPS: {missing})", views::TIME_SLICED),
    }
}

fn watch_in_words(sample: &v1::DeviceSample) -> String {
    match &sample.unwatched {
        Some(reason) => format!("memory is not watched: {reason}"),
        None => "memory is watched".to_owned(),
    }
}

fn ended_allocation(view: &ClusterState, job: &JobRow, ended: &EndedAllocation) -> v1::Allocation {
    let mut shown = views::allocation(view, &ended.row);
    debug_assert_eq!(shown.job_id, job.id.0);
    shown.state = ended.outcome.name().to_owned();
    shown.reason.clone_from(&ended.reason);
    shown.ready = false;
    shown.phase.clear();
    shown.isolation.clear();
    if let Some(report) = &ended.report {
        shown.exit_code = report.exit_code;
        shown.signal = report.signal;
        shown.started_at_ms = report.started_at.map(|at| at.0);
        shown.finished_at_ms = Some(report.finished_at.0);
    }
    shown
}

fn reasons(explained: &Explanation) -> Vec<v1::Reason> {
    let count = |nodes: u64| u32::try_from(nodes).unwrap_or(u32::MAX);
    let also = |(code, nodes): &(&'static str, u64)| v1::AlsoAgainst {
        code: (*code).to_owned(),
        nodes: count(*nodes),
    };
    let reason = |reason: &berth_placement::Reason| v1::Reason {
        code: reason.code.to_owned(),
        nodes: count(reason.nodes),
        detail: reason.detail.clone(),
        also: reason.also.iter().map(also).collect(),
    };
    explained.reasons.iter().map(reason).collect()
}

/// As wall clocks show it.
fn expected_start_ms(explained: &Explanation, now: StateMs) -> Option<u64> {
    explained.expected_start.map(|at| wall().0.saturating_add(at.since(now).0))
}

fn explain_reply(explained: &Explanation, now: StateMs) -> v1::ExplainReply {
    let placed = explained
        .running
        .iter()
        // Of a gang the first member tells for all.
        .filter(|running| !running.score.policy.is_empty())
        .map(|running| v1::PlacementReason {
            allocation_id: running.allocation.to_string(),
            node: running.node.to_string(),
            policy: running.score.policy.clone(),
            parts: running
                .score
                .parts
                .iter()
                .map(|(name, value)| v1::ScorePart { name: name.clone(), value: *value })
                .collect(),
            view_index: running.score.view_index,
        })
        .collect();
    v1::ExplainReply {
        job_id: explained.job.0,
        summary: explained.summary.clone(),
        position: explained.position,
        expected_start_ms: expected_start_ms(explained, now),
        reasons: reasons(explained),
        nodes_total: u32::try_from(explained.nodes_total).unwrap_or(u32::MAX),
        smallest_change: explained.smallest_change.clone(),
        placed,
        ..v1::ExplainReply::default()
    }
}

/// The dry run's answer: where everything would go, and what would change.
pub fn plan_reply(
    view: &ClusterState,
    preview: &Result<PlanPreview, berth_state::Refusal>,
    now: StateMs,
) -> Result<v1::PlanReply, Status> {
    let preview = preview.as_ref().map_err(status::from_refusal)?;
    let spec = &*preview.spec;
    let placements = preview.placements.iter().map(|placement| planned(view, placement, spec));
    let mut named = BTreeSet::new();
    let kept = preview.reservations.iter().map(|reservation| v1::PlannedPlacement {
        victims: all_who_end(view, reservation, &mut named)
            .map(|id| planned_victim(view, id))
            .collect(),
        ..planned(view, &reservation.placement, spec)
    });
    let old = view.jobs().get(&preview.job);
    Ok(v1::PlanReply {
        placements: placements.collect(),
        kept: kept.collect(),
        waiting: preview.waiting,
        expected_start_ms: preview.why.as_ref().and_then(|why| expected_start_ms(why, now)),
        reasons: preview.why.as_ref().map(reasons).unwrap_or_default(),
        updates_job: old.map(|row| row.id.0),
        diff: old.map(|row| views::spec_diff(&row.spec, spec)).unwrap_or_default(),
        nodes_total: u32::try_from(view.nodes().len()).unwrap_or(u32::MAX),
    })
}

fn planned(
    view: &ClusterState,
    placement: &berth_state::Placement,
    spec: &berth_model::JobSpec,
) -> v1::PlannedPlacement {
    let node = view.nodes().get(&placement.node);
    let index =
        |uuid: &str| node.and_then(|node| node.spec.device(uuid)).map(|device| device.index);
    let task = spec.tasks.get(usize::from(placement.task.0));
    v1::PlannedPlacement {
        task: task.map_or_else(String::new, |task| task.name.to_string()),
        index: placement.instance.0,
        node: node.map_or_else(|| placement.node.to_string(), |node| node.name.to_string()),
        device_indices: placement.devices.iter().filter_map(|claim| index(&claim.uuid)).collect(),
        victims: Vec::new(),
    }
}

/// Those who are awaited, and with a member of a gang the others, wherever they are, where they
/// were not `named` before.
fn all_who_end<'v>(
    view: &'v ClusterState,
    reservation: &'v berth_state::Reservation,
    named: &'v mut BTreeSet<AllocationId>,
) -> impl Iterator<Item = AllocationId> + 'v {
    let awaited = reservation.awaits.iter().copied();
    let gangs = reservation.awaits.iter().filter(|id| view.is_gang(id.job, id.task));
    let others = gangs.flat_map(|id| view.allocations_of_task(id.job, id.task)).map(|row| row.id);
    awaited.chain(others).filter(|id| named.insert(*id))
}

fn planned_victim(view: &ClusterState, id: berth_model::AllocationId) -> v1::PlannedVictim {
    let job = view.jobs().get(&id.job);
    v1::PlannedVictim {
        allocation_id: id.to_string(),
        job_name: job.map_or_else(String::new, |job| job.name().to_string()),
        priority: job.map_or(0, |job| u32::from(job.spec.priority)),
        namespace: job.map_or_else(String::new, |job| job.namespace().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_share_from_others_is_told_as_it_is() {
        let check = |shares: Option<&[(&str, u32)]>, missing: &str, expected: &str| {
            let share = |(id, percent): &(&str, u32)| v1::MpsShare {
                allocation_id: (*id).to_owned(),
                percent: *percent,
            };
            let mps = shares.map(|shares| v1::MpsSample {
                missing: missing.to_owned(),
                shares: shares.iter().map(share).collect(),
            });
            let sample = v1::DeviceSample { mps, ..v1::DeviceSample::default() };
            assert_eq!(level_in_words(&sample, "1.0.0.1"), expected);
        };
        let (own, other) = (("1.0.0.1", 50), ("2.0.0.1", 25));
        check(None, "", "time-sliced");
        check(Some(&[other, own]), "", "MPS with 50 % of the processors");
        check(
            Some(&[own]),
            "control: nobody listens",
            "MPS with 50 % of the processors when it began (control: nobody listens)",
        );
        check(Some(&[other]), "", "time-sliced (it began without MPS)");
        check(
            Some(&[]),
            "control: nobody listens",
            "time-sliced (no MPS: control: nobody listens)",
        );
    }
}
