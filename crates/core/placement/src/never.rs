//! Whether a job could run at all on the hosts there are, were they all empty:
//! asked at submit, where it is a warning or, if wished, a refusal.

use berth_model::{JobSpec, Misfit};
use berth_state::NodeRow;

use crate::filters::{Request, is_eligible};
use crate::places::places_ever;

/// Why some task of `spec` can never fit any of `nodes`, in one sentence;
/// `None` when each could. Nodes count whatever their state: one that is down
/// or cordoned may come back. Costs as many looks as there are nodes before one that each task
/// fits, at most O(tasks × nodes).
pub fn never_fits<'a, Nodes: Iterator<Item = &'a NodeRow>>(
    nodes: impl Fn() -> Nodes,
    spec: &JobSpec,
) -> Option<String> {
    let several = spec.tasks.len() > 1;
    spec.tasks.iter().find_map(|task| {
        let request = Request::anywhere(spec, task);
        let reason = task_never_fits(&nodes, request)?;
        let of_task = if several { format!("task `{}`: ", task.name) } else { String::new() };
        Some(format!("{of_task}no host can ever fit: {reason}"))
    })
}

/// The part after the colon, for one task.
pub(crate) fn task_never_fits<'a, Nodes: Iterator<Item = &'a NodeRow>>(
    nodes: impl Fn() -> Nodes,
    request: Request<'_>,
) -> Option<String> {
    let mut nearest: Option<Misfit> = None;
    for row in nodes() {
        match is_eligible(row, request) {
            Ok(()) => return gang_never_fits(nodes(), request),
            // The order of `Misfit` is from far to near, the amount last.
            Err(misfit) => nearest = nearest.max(Some(misfit)),
        }
    }
    Some(nearest.map_or_else(|| "there are no nodes yet".to_owned(), |misfit| superlative(&misfit)))
}

/// Of a gang whose members could each run somewhere.
fn gang_never_fits<'a>(
    nodes: impl Iterator<Item = &'a NodeRow>,
    request: Request<'_>,
) -> Option<String> {
    request.task.gang?;
    let nodes: Vec<&NodeRow> = nodes.collect();
    let (places, members) = (places_ever(&nodes, request), request.task.count);
    (places < u64::from(members))
        .then(|| format!("all together have {places} places, its gang needs {members} at once"))
}

/// A misfit of the nearest node, said of all of them.
fn superlative(misfit: &Misfit) -> String {
    match misfit {
        Misfit::OtherNode { asked } => format!("there is no node `{asked}`"),
        Misfit::OtherPool { asked, .. } => format!("there is no suitable node in pool `{asked}`"),
        Misfit::Label { key, asked } => {
            format!("no suitable node has the label `{key}` at `{asked}`")
        }
        Misfit::NoDocker => "none has a Docker engine".to_owned(),
        Misfit::GpuModel { asked } => format!("none has a GPU of model {asked}"),
        Misfit::GpuMemory { asked } => format!("none has a GPU with at least {asked} of memory"),
        Misfit::GpuCount { asked, found } => {
            format!("largest has {found} suitable GPUs, {asked} are asked for")
        }
        Misfit::CpuCapacity { asked, found } => {
            format!("largest has {found} cores, {asked} are asked for")
        }
        Misfit::MemoryCapacity { asked, found } => {
            format!("largest has {found} of memory, {asked} is asked for")
        }
        Misfit::NotReady
        | Misfit::Cordoned
        | Misfit::Draining
        | Misfit::Resting
        | Misfit::Reserved { .. }
        | Misfit::ReservedSoon { .. }
        | Misfit::CpuPressure { .. }
        | Misfit::MemoryPressure { .. }
        | Misfit::GpuBusy { .. }
        | Misfit::GpuShareBusy { .. }
        | Misfit::CpuBusy { .. }
        | Misfit::MemoryBusy { .. }
        | Misfit::PortsBusy { .. }
        | Misfit::DeviceGone { .. }
        | Misfit::DeviceBusy { .. }
        | Misfit::DeviceCrowded { .. }
        | Misfit::PortTaken { .. }
        | Misfit::ClaimMismatch => misfit.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use berth_model::{Constraints, CpuMilli, GpuRequest, JobSpec, Policy, TaskSpec};

    use super::*;
    use crate::fixture::{gpu_node, gpu_task, job, name, node_row, task};

    #[test]
    fn the_largest_host_is_named() {
        let nodes = [node_row(1, gpu_node(4)), node_row(2, gpu_node(8)), node_row(3, gpu_node(0))];
        let check = |spec: &JobSpec, expected: Option<&str>| {
            assert_eq!(never_fits(|| nodes.iter(), spec).as_deref(), expected);
        };
        let plain = |task| job(Policy::BestFit, task);
        check(&plain(gpu_task(8)), None);
        check(
            &plain(gpu_task(16)),
            Some("no host can ever fit: largest has 8 suitable GPUs, 16 are asked for"),
        );
        let cpu = TaskSpec { cpu: CpuMilli(100_000), ..task() };
        let mut two = plain(cpu);
        two.tasks.insert(0, TaskSpec { name: name("first"), ..task() });
        check(
            &two,
            Some("task `main`: no host can ever fit: largest has 64 cores, 100 are asked for"),
        );
        let a100 = GpuRequest {
            count: 1,
            models: vec!["A100".to_owned()],
            memory_min: None,
            share: berth_model::ShareMilli::WHOLE,
        };
        check(
            &plain(TaskSpec { gpu: Some(a100), ..task() }),
            Some("no host can ever fit: none has a GPU of model A100"),
        );
        let constraints = Constraints { node: Some(name("gpu-9")), ..Constraints::default() };
        let elsewhere = JobSpec { constraints, ..plain(task()) };
        check(&elsewhere, Some("no host can ever fit: there is no node `gpu-9`"));
        let nowhere = never_fits(std::iter::empty, &plain(task()));
        assert_eq!(nowhere.as_deref(), Some("no host can ever fit: there are no nodes yet"));
    }
}
