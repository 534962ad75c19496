use berth_model::{JobKind, Policy, PolicyOrigin, TaskSpec};

use super::*;
use crate::fixture::{Cluster, gpu_node, gpu_task, job, task};

fn preview(cluster: &Cluster, spec: JobSpec) -> Result<PlanPreview, Refusal> {
    let before = cluster.state.hash();
    let soft = SoftView::default();
    let preview = what_would_happen(&cluster.state, &soft, cluster.now, &Arc::new(spec));
    assert_eq!(cluster.state.hash(), before);
    preview
}

#[test]
fn a_dry_run_places_what_fits_and_explains_the_rest() {
    let mut cluster = Cluster::with_nodes([gpu_node(4)]);
    let spec = job(Policy::BestFit, TaskSpec { count: 6, ..gpu_task(1) });
    let found = preview(&cluster, spec.clone()).unwrap();
    assert_eq!((found.placements.len(), found.waiting, found.version), (4, 2, 1));
    assert!(!found.exhausted);
    assert_eq!(found.why.unwrap().reasons[0].code, "gpu-busy");
    assert_eq!(found.never_fits, None);
    assert_eq!(found.job, cluster.submit(spec));
}

#[test]
fn a_dry_run_warns_of_what_can_never_fit() {
    let cluster = Cluster::with_nodes([gpu_node(8)]);
    let found = preview(&cluster, job(Policy::BestFit, gpu_task(16))).unwrap();
    assert_eq!((found.placements.len(), found.waiting), (0, 1));
    assert_eq!(
        found.never_fits.unwrap(),
        "no host can ever fit: largest has 8 suitable GPUs, 16 are asked for"
    );
}

#[test]
fn a_dry_run_is_refused_as_the_submit_would_be() {
    let cluster = Cluster::with_nodes([gpu_node(0)]);
    let no_command = TaskSpec { command: Vec::new(), ..task() };
    let found = preview(&cluster, job(Policy::BestFit, no_command));
    assert!(matches!(found, Err(Refusal::Invalid(_))), "{found:?}");
}

#[test]
fn a_dry_run_of_an_update_keeps_the_job() {
    let mut cluster = Cluster::with_nodes([gpu_node(0)]);
    let service = |count| JobSpec {
        kind: JobKind::Service,
        ..job(Policy::Spread, TaskSpec { count, ..task() })
    };
    let existing = cluster.submit(service(1));
    let found = preview(&cluster, service(3)).unwrap();
    assert_eq!((found.job, found.version, found.placements.len()), (existing, 2, 3));
    assert_eq!(found.why, None);
}

#[test]
fn a_dry_run_of_very_much_stops_and_says_so() {
    let cluster = Cluster::with_nodes((0..100).map(|_| gpu_node(0)));
    let many = TaskSpec { count: 10_001, ..task() };
    let found = preview(&cluster, job(Policy::LeastLoaded, many)).unwrap();
    assert_eq!((found.placements.len(), found.waiting, found.exhausted), (10_000, 1, true));
}

#[test]
fn a_dry_run_says_what_the_defaults_would_make_of_it() {
    let mut cluster = Cluster::with_nodes([gpu_node(4)]);
    let silent = JobSpec { policy_origin: PolicyOrigin::LeftOut, ..job(Policy::Berth, task()) };
    let told = |cluster: &Cluster| {
        let spec = preview(cluster, silent.clone()).unwrap().spec;
        (spec.policy, spec.policy_origin)
    };
    assert_eq!(told(&cluster), (Policy::Berth, PolicyOrigin::Berth));
    let policy = Some(Policy::Fgd);
    cluster.apply(Command::SetPolicyDefault { pool: None, policy }).unwrap();
    assert_eq!(told(&cluster), (Policy::Fgd, PolicyOrigin::Cluster));
}
