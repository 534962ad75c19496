//! Everything that stands between a request and a node, not only the first thing: each is put
//! aside once it is named, and the filters are asked again.

use berth_model::{CpuMilli, Driver, MemoryBytes, Misfit, NodeState, StateMs};
use berth_state::{NodeRow, Purpose};

use crate::change::Relaxed;
use crate::filters::{Request, has_room, is_eligible, pressures};

/// In the order of [`crate::filters::admits`], whose answer is the first; of the GPUs at most one
/// thing. Empty where the request fits. Costs O(devices) for each.
pub(crate) fn hindrances(row: &NodeRow, now: StateMs, request: Request<'_>) -> Vec<Misfit> {
    let mut found = Vec::new();
    let mut relaxed = Relaxed::of(request);
    name_all(&mut relaxed, &mut found, |request| is_eligible(row, request));
    found.extend(states(row, now));
    found.extend(request.pass.check(row, now).err());
    found.extend(pressures(row, request.kind));
    name_all(&mut relaxed, &mut found, |request| has_room(row, &row.used, now, request.task));
    found
}

fn name_all(
    relaxed: &mut Relaxed<'_>,
    found: &mut Vec<Misfit>,
    ask: impl Fn(Request<'_>) -> Result<(), Misfit>,
) {
    while let Err(misfit) = ask(relaxed.request()) {
        let goes_on = put_aside(relaxed, &misfit);
        found.push(misfit);
        if !goes_on {
            return;
        }
    }
}

fn states(row: &NodeRow, now: StateMs) -> impl Iterator<Item = Misfit> {
    let state = match row.state {
        NodeState::Disconnected | NodeState::Down => Some(Misfit::NotReady),
        NodeState::Ready => None,
    };
    let purpose = match row.purpose {
        Purpose::Cordoned => Some(Misfit::Cordoned),
        Purpose::Draining(_) => Some(Misfit::Draining),
        Purpose::Work => None,
    };
    let rest = row.rests(now).then_some(Misfit::Resting);
    [state, purpose, rest].into_iter().flatten()
}

/// Asks no longer for what a node does not have; whether that can be done.
fn put_aside(relaxed: &mut Relaxed<'_>, misfit: &Misfit) -> bool {
    let Relaxed { task, constraints, kind: _, pass: _ } = relaxed;
    match misfit {
        Misfit::OtherNode { .. } => constraints.node = None,
        Misfit::OtherPool { .. } => constraints.pool = None,
        Misfit::Label { key, .. } => return constraints.labels.remove(key).is_some(),
        Misfit::NoDocker => task.driver = Driver::Exec,
        Misfit::GpuModel { .. }
        | Misfit::GpuMemory { .. }
        | Misfit::GpuCount { .. }
        | Misfit::GpuBusy { .. }
        | Misfit::GpuShareBusy { .. } => task.gpu = None,
        Misfit::CpuCapacity { .. } | Misfit::CpuBusy { .. } => task.cpu = CpuMilli::ZERO,
        Misfit::MemoryCapacity { .. } | Misfit::MemoryBusy { .. } => {
            task.memory = MemoryBytes::ZERO;
        }
        Misfit::PortsBusy { .. } => task.ports.clear(),
        // These are said of a state, or of a claim, and none has been made yet.
        Misfit::NotReady
        | Misfit::Cordoned
        | Misfit::Draining
        | Misfit::Resting
        | Misfit::Reserved { .. }
        | Misfit::ReservedSoon { .. }
        | Misfit::CpuPressure { .. }
        | Misfit::MemoryPressure { .. }
        | Misfit::DeviceGone { .. }
        | Misfit::DeviceBusy { .. }
        | Misfit::DeviceCrowded { .. }
        | Misfit::PortTaken { .. }
        | Misfit::ClaimMismatch => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use berth_model::{
        Constraints, Drain, GpuRequest, Guards, JobId, JobKind, JobSpec, Name, Policy, Shut,
        TaskSpec,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::explain::explain;
    use crate::filters::{Pass, admits};
    use crate::fixture::{Cluster, gpu_node, job, name, node_row, task};
    use crate::reasons::misfit_code;
    use crate::soft::SoftView;

    /// What one thing alone is asked of a node: everything else is small and anything will do.
    fn blocks(
        node: &NodeRow,
        constraints: Constraints,
        (task, kind): (&TaskSpec, JobKind),
    ) -> Option<&'static str> {
        let pass = Pass::default();
        let request = Request { task, constraints: &constraints, kind, pass };
        let refused = admits(node, &node.used, StateMs(0), request);
        refused.err().map(|misfit| misfit_code(&misfit))
    }

    /// Codes of all that stands against a node, each thing tried by itself on a copy of the node
    /// that has nothing else against anything.
    fn by_themselves(node: &NodeRow, asked: &JobSpec) -> BTreeSet<&'static str> {
        let least =
            TaskSpec { cpu: CpuMilli::ZERO, memory: MemoryBytes::ZERO, gpu: None, ..task() };
        let (any, of) = (Constraints::default, &asked.tasks[0]);
        let (least, guards) = ((&least, asked.kind), Guards::default());
        let open =
            NodeRow { state: NodeState::Ready, purpose: Purpose::Work, guards, ..node.clone() };
        let idle = NodeRow { used: Default::default(), ..open.clone() };
        let mut found = BTreeSet::new();
        for row in [
            NodeRow { purpose: Purpose::Work, guards, ..node.clone() },
            NodeRow { state: NodeState::Ready, guards, ..node.clone() },
            NodeRow { guards: Guards { memory: None, ..node.guards }, ..open.clone() },
            NodeRow { guards: Guards { cpu: None, ..node.guards }, ..open.clone() },
        ] {
            found.extend(blocks(&row, any(), least));
        }
        let Constraints { node: at, pool, labels, .. } = asked.constraints.clone();
        found.extend(blocks(&idle, Constraints { node: at, ..any() }, least));
        found.extend(blocks(&idle, Constraints { pool, ..any() }, least));
        found.extend(blocks(&idle, Constraints { labels, ..any() }, least));
        for task in [
            TaskSpec { gpu: of.gpu.clone(), ..least.0.clone() },
            TaskSpec { cpu: of.cpu, ..least.0.clone() },
            TaskSpec { memory: of.memory, ..least.0.clone() },
        ] {
            found.extend(blocks(&open, any(), (&task, asked.kind)));
        }
        found
    }

    #[derive(Clone, Debug)]
    struct Case {
        gpus: u32,
        busy: u32,
        cpu_used: u64,
        memory_used: u64,
        state: u8,
        purpose: u8,
        is_gold: bool,
        is_labelled: bool,
        guards: Guards,
    }

    fn some_guards() -> impl Strategy<Value = Guards> {
        let shut = || {
            let used = prop::option::of(80..101_u8);
            used.prop_map(|used| {
                used.map(|used_percent| Shut { used_percent, opens_below_percent: 80 })
            })
        };
        (shut(), shut()).prop_map(|(cpu, memory)| Guards { cpu, memory })
    }

    fn a_node() -> impl Strategy<Value = Case> {
        let used = (0..5_u32, 0..5_u32, 0..70_u64, 0..300_u64);
        let labels = (any::<bool>(), any::<bool>());
        (used, 0..4_u8, 0..4_u8, labels, some_guards()).prop_map(
            |((gpus, busy, cpu_used, memory_used), state, purpose, labels, guards)| Case {
                gpus,
                busy,
                cpu_used,
                memory_used,
                state,
                purpose,
                is_gold: labels.0,
                is_labelled: labels.1,
                guards,
            },
        )
    }

    fn node_of(id: u64, case: &Case) -> NodeRow {
        let mut spec = gpu_node(case.gpus);
        spec.pool = name(if case.is_gold { "gold" } else { "default" });
        if case.is_labelled {
            spec.labels.insert("disk".to_owned(), "fast".to_owned());
        }
        let mut row = node_row(id, spec);
        for device in row.spec.devices.clone().iter().take(case.busy as usize) {
            row.used.devices.insert(device.uuid.clone(), Default::default());
        }
        row.used.cpu = CpuMilli(case.cpu_used * 1000);
        row.used.memory = MemoryBytes(case.memory_used << 30);
        row.guards = case.guards;
        row.state = [NodeState::Ready, NodeState::Ready, NodeState::Disconnected, NodeState::Down]
            [usize::from(case.state)];
        let draining = Purpose::Draining(Drain { deadline: None });
        row.purpose =
            [Purpose::Work, Purpose::Work, Purpose::Cordoned, draining][usize::from(case.purpose)];
        row
    }

    fn asked() -> impl Strategy<Value = JobSpec> {
        let kind = prop::sample::select(vec![JobKind::Batch, JobKind::Daemon]);
        let wishes = (prop::bool::ANY, prop::bool::ANY, prop::bool::ANY, kind);
        (0..6_u32, 0..80_u64, 0..300_u64, wishes).prop_map(|(gpus, cpu, memory, wishes)| {
            let gpu = (gpus > 0).then(|| GpuRequest::whole(gpus));
            let memory = MemoryBytes(memory << 30);
            let task = TaskSpec { gpu, cpu: CpuMilli(1 + cpu * 1000), memory, ..task() };
            let (named, pooled, labelled, kind) = wishes;
            let mut constraints = Constraints {
                node: named.then(|| name("node-1")),
                pool: pooled.then(|| name("gold")),
                ..Constraints::default()
            };
            if labelled {
                constraints.labels.insert("disk".to_owned(), "fast".to_owned());
            }
            JobSpec { constraints, kind, ..job(Policy::BestFit, task) }
        })
    }

    proptest! {
        /// Of each node all that stands against it, and each node in one bucket.
        #[test]
        fn every_node_says_everything_against_it(
            cases in prop::collection::vec(a_node(), 0..6),
            spec in asked(),
        ) {
            let rows: Vec<NodeRow> =
                (1..).zip(&cases).map(|(id, case)| node_of(id, case)).collect();
            let request = Request::anywhere(&spec, &spec.tasks[0]);
            let mut buckets: BTreeMap<&str, (u64, BTreeMap<&str, u64>)> = BTreeMap::new();
            for row in &rows {
                let found = hindrances(row, StateMs(0), request);
                let first = admits(row, &row.used, StateMs(0), request).err();
                prop_assert_eq!(first.as_ref(), found.first());
                let codes: BTreeSet<&str> = found.iter().map(misfit_code).collect();
                prop_assert_eq!(codes.len(), found.len(), "each once");
                let expected = by_themselves(row, &spec);
                prop_assert_eq!(&codes, &expected, "{:?}", row);
                let bucket = found.first().map_or("fits", misfit_code);
                let bucket = buckets.entry(bucket).or_default();
                bucket.0 += 1;
                for code in found.iter().skip(1).map(misfit_code) {
                    *bucket.1.entry(code).or_default() += 1;
                }
            }
            let nodes: Vec<&NodeRow> = rows.iter().collect();
            let said = crate::reasons::node_reasons(&nodes, &nodes, StateMs(0), request);
            let total: u64 = said.iter().map(|reason| reason.nodes).sum();
            prop_assert_eq!(total, rows.len() as u64);
            prop_assert_eq!(said.len(), buckets.len(), "{:?}", said);
            for reason in &said {
                let (nodes, also) = &buckets[reason.code];
                let found: BTreeMap<&str, u64> = reason.also.iter().copied().collect();
                prop_assert_eq!((&reason.nodes, &found), (nodes, also));
            }
        }
    }

    #[test]
    fn what_else_stands_against_the_nodes_of_a_bucket_is_counted() {
        let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(2), gpu_node(2)]);
        cluster.set_purpose(1, Purpose::Cordoned);
        cluster.set_purpose(2, Purpose::Cordoned);
        let pool: Option<Name> = Some(name("gold"));
        let constraints = Constraints { pool, ..Constraints::default() };
        let id: JobId = cluster.submit(JobSpec { constraints, ..job(Policy::BestFit, task()) });
        let said = explain(&cluster.state, &SoftView::default(), cluster.now, id).unwrap();
        let reason = &said.reasons[0];
        assert_eq!((reason.code, reason.nodes), ("other-pool", 3));
        assert_eq!(reason.also, [("cordoned", 2)]);
    }
}
