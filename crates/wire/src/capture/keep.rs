//! What of each row a capture keeps: what a decision looks at, and what makes the rows belong
//! together. Every field of a row that may hold text is named here, so that a new one does not
//! compile before somebody has decided on it.

use std::sync::Arc;

use berth_model::{
    Device, Driver, GangSeat, JobId, JobSpec, NamespaceSpec, NodeSpec, SpecDigest, TaskSpec, WallMs,
};
use berth_state::{
    AllocationRow, AwayRow, ClusterRow, JobRow, JobVersionRow, NamespaceRow, NodeRow, OrphanRow,
    RestoreRow, Stored, TaskRow,
};

/// Stands for any image, and any version of Docker: a decision asks whether there is one.
const SOME: &str = "some";

/// The row as it is written; `None` where no decision needs it. `is_over` says of which jobs
/// nothing lives or waits.
pub(super) fn kept(stored: &Stored, is_over: &dyn Fn(JobId) -> bool) -> Option<Stored> {
    match stored {
        Stored::Cluster(row) => Some(Stored::Cluster(cluster(row.clone()))),
        // What has ended holds nothing and waits for nothing; what it had asked for is in the mix.
        Stored::Job(row) => (!row.is_ended()).then(|| Stored::Job(changed(row, job))),
        Stored::Task(id, task, row) => {
            (!is_over(*id)).then(|| Stored::Task(*id, *task, changed(row, task_row)))
        }
        Stored::Allocation(row) => Some(Stored::Allocation(changed(row, allocation))),
        Stored::Node(row) => Some(Stored::Node(changed(row, node))),
        Stored::Namespace(row) => Some(Stored::Namespace(changed(row, namespace))),
        // Numbers, and whose they are.
        Stored::Average(..) => Some(stored.clone()),
        // Names and times.
        Stored::NodeReservation(_) => Some(stored.clone()),
        Stored::Key(..) | Stored::Token(_) | Stored::Revocation(_) => None,
    }
}

fn changed<T: Clone>(row: &Arc<T>, change: fn(&mut T)) -> Arc<T> {
    let mut row = T::clone(row);
    change(&mut row);
    Arc::new(row)
}

fn cluster(mut row: ClusterRow) -> ClusterRow {
    let ClusterRow {
        id,
        incarnation: _,
        cluster_version: _,
        job_counter: _,
        node_counter: _,
        state_ms: _,
        // Nodes are reserved by it.
        wall_ms: _,
        schedulers,
        restore,
        authority,
        fences,
        policies,
    } = &mut row;
    *id = Default::default();
    schedulers.clear();
    *authority = None;
    fences.clear();
    // What is known has its policy.
    *policies = Default::default();
    if let Some(RestoreRow { id, .. }) = restore {
        *id = Default::default();
    }
    row
}

fn job(row: &mut JobRow) {
    let JobRow {
        id: _,
        spec,
        digest,
        version: _,
        versions,
        key,
        phase: _,
        held: _,
        submitted_at,
        submitted_ms: _,
        started_at,
        finished_at,
        reason,
        live: _,
        rollout: _,
        proven: _,
    } = row;
    job_spec(Arc::make_mut(spec));
    *digest = SpecDigest::default();
    for JobVersionRow { version: _, spec, digest, submitted_at } in versions {
        job_spec(Arc::make_mut(spec));
        *digest = SpecDigest::default();
        *submitted_at = WallMs(0);
    }
    *key = None;
    *submitted_at = WallMs(0);
    (*started_at, *finished_at) = (None, None);
    reason.clear();
}

fn job_spec(spec: &mut JobSpec) {
    let JobSpec {
        name: _,
        namespace: _,
        kind: _,
        priority: _,
        policy: _,
        policy_origin: _,
        constraints: _,
        tasks,
        deadline: _,
        max_disconnect: _,
        on_return: _,
        update: _,
        exclusive: _,
        preemption: _,
        route,
        autoscale: _,
    } = spec;
    // What callers say is nothing that a decision goes by.
    route.model = None;
    tasks.iter_mut().for_each(task_spec);
}

fn task_spec(spec: &mut TaskSpec) {
    let TaskSpec {
        name: _,
        driver,
        command,
        env,
        workdir,
        artifacts,
        count: _,
        array: _,
        gang: _,
        cpu: _,
        memory: _,
        left_out: _,
        limits: _,
        gpu: _,
        ports: _,
        stop: _,
        restart: _,
        health,
        time_limit: _,
    } = spec;
    match driver {
        Driver::Exec => {}
        Driver::Docker { image } => *image = SOME.to_owned(),
    }
    command.clear();
    env.clear();
    *workdir = None;
    artifacts.clear();
    *health = None;
}

fn task_row(row: &mut TaskRow) {
    let TaskRow {
        pending: _,
        succeeded: _,
        failed: _,
        cancelled: _,
        timed_out: _,
        lost: _,
        retries: _,
        failures,
        live: _,
    } = row;
    failures.clear();
}

fn allocation(row: &mut AllocationRow) {
    let AllocationRow {
        id: _,
        node: _,
        job_version: _,
        spec_digest,
        claim: _,
        state: _,
        reason,
        planned_at: _,
        running_since: _,
        started_at,
        score: _,
        seat,
        draining: _,
    } = row;
    *spec_digest = SpecDigest::default();
    reason.clear();
    *started_at = None;
    if let Some(GangSeat { master_address, .. }) = seat {
        master_address.clear();
    }
}

fn node(row: &mut NodeRow) {
    let NodeRow {
        id: _,
        name: _,
        instance_key,
        spec,
        state: _,
        purpose: _,
        session: _,
        generation: _,
        used: _,
        live: _,
        since: _,
        blocked_ports: _,
        rests_until: _,
        stock_incarnation: _,
        orphans,
        away,
        reservations: _,
        cordoned_devices: _,
        guards: _,
    } = row;
    *instance_key = Default::default();
    node_spec(Arc::make_mut(spec));
    orphans.values_mut().for_each(orphan);
    for AwayRow { row, stop } in away.values_mut() {
        allocation(Arc::make_mut(row));
        stop.iter_mut().for_each(String::clear);
    }
}

fn orphan(row: &mut OrphanRow) {
    let OrphanRow { claim: _, spec_digest, namespace, job_name, found_at, why, stop } = row;
    *spec_digest = None;
    namespace.clear();
    job_name.clear();
    *found_at = WallMs(0);
    why.clear();
    stop.iter_mut().for_each(String::clear);
}

fn node_spec(spec: &mut NodeSpec) {
    let NodeSpec {
        labels: _,
        pool: _,
        zone: _,
        cpu: _,
        memory: _,
        devices,
        ports: _,
        agent_version,
        docker_version,
        tasks_per_device_max: _,
        address,
    } = spec;
    for one in devices {
        let Device {
            uuid: _,
            index: _,
            model: _,
            memory: _,
            health: _,
            reason,
            numa_node: _,
            ways: _,
            slice: _,
        } = one;
        reason.clear();
    }
    agent_version.clear();
    address.clear();
    if !docker_version.is_empty() {
        *docker_version = SOME.to_owned();
    }
}

fn namespace(row: &mut NamespaceRow) {
    let NamespaceRow { spec, version: _, changed_at } = row;
    *changed_at = WallMs(0);
    let NamespaceSpec { name: _, description, quota: _, range: _, weight: _ } = spec;
    description.clear();
}
