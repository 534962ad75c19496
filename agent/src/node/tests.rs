//! What a new agent makes of a directory that an earlier boot left.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use berth_model::{
    DurationMs, EndCause, JobKind, JobSpec, Name, NodeSpec, Policy, PortRange, TaskSpec,
};
use berth_proto::v1;
use berth_supervise::gpu::FaultTable;
use berth_supervise::{Desired, Worker};
use berth_wire::agent::{DesiredRow, Full, desired_digest, full_to_proto};
use berth_wire::spec::spec_digest;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::allocation_dir::{AllocationDir, AllocationRecord};
use crate::confinement::Wish;
use crate::gpus::Workshop;
use crate::options::Hold;
use crate::wanted::{digest_of, full_of, offer_of_full};

const EARLIER_BOOT: &str = "00000000-0000-4000-8000-000000000000";

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn job() -> JobSpec {
    JobSpec {
        name: name("trial"),
        namespace: name("default"),
        kind: JobKind::Batch,
        priority: 50,
        policy: Policy::BestFit,
        constraints: berth_model::Constraints::default(),
        tasks: vec![TaskSpec::new(name("main"), JobKind::Batch, vec!["true".to_owned()])],
        deadline: None,
        max_disconnect: JobSpec::MAX_DISCONNECT_DEFAULT,
        on_return: Default::default(),
        policy_origin: Default::default(),
        update: Default::default(),
        exclusive: false,
        preemption: berth_model::Preemption::default(),
        route: berth_model::Route::default(),
        autoscale: None,
    }
}

fn id(instance: u32) -> AllocationId {
    format!("1.0.{instance}.1").parse().unwrap()
}

/// Desired state with instances 0 and 1 to run and 2 to stop.
fn full() -> Full {
    let job = job();
    let row = |instance, stop: Option<&str>| DesiredRow {
        allocation: id(instance),
        spec: spec_digest(&job),
        devices: Vec::new(),
        ports: Vec::new(),
        seat: None,
        stop: stop.map(str::to_owned),
    };
    let rows = vec![row(0, None), row(1, None), row(2, Some("not needed"))];
    let digest = desired_digest(&rows);
    let specs = vec![(spec_digest(&job), Arc::new(job))];
    Full { incarnation: 1, generation: 5, rows, specs, digest }
}

fn settings(dir: &std::path::Path, boot_id: &str) -> Arc<Settings> {
    let dir = DataDir::open(dir).unwrap();
    let artifacts = crate::artifacts::Artifacts::default();
    let unconfined = Wish { hold: Hold::Never, ..Wish::default() };
    Arc::new(Settings {
        fetches: Fetches::open(artifacts, &dir, None, boot_id, Vec::new()).unwrap(),
        name: name("node-a"),
        spec: NodeSpec {
            labels: BTreeMap::new(),
            pool: name("default"),
            zone: name("default"),
            cpu: berth_model::CpuMilli(1000),
            memory: berth_model::MemoryBytes(1 << 30),
            devices: Vec::new(),
            ports: PortRange::DEFAULT,
            agent_version: "0".to_owned(),
            docker_version: String::new(),
            tasks_per_device_max: berth_model::TASKS_PER_DEVICE_MAX_DEFAULT,
            address: String::new(),
        },
        claims: None,
        mps_directory: None,
        confinement: Confinement::begin(unconfined, None, dir.path()).unwrap(),
        repairs: Repairs {
            table: FaultTable::default(),
            soak: DurationMs(0),
            stuck_after: DurationMs(60_000),
            workshop: Workshop {
                resets: mpsc::channel(1).0,
                look_now: Arc::default(),
                tester: crate::gpus::Tester::Nothing,
                test_within: crate::gpus::DEADLINE,
            },
        },
        boot_id: boot_id.to_owned(),
        dir,
        user: None,
        dialer: berth_identity::Dialer::PlainText,
        shim: Program::of_this_executable("shim"),
        docker: Docker::default(),
    })
}

/// A node on `dir` during the boot `boot_id`, and what its journal reported.
async fn adopt(dir: &std::path::Path, boot_id: &str) -> Node {
    let (events, mut received) = mpsc::unbounded_channel();
    let (facts, _) = watch::channel(Facts::default());
    let connected = Arc::new(AtomicBool::new(false));
    let settings = settings(dir, boot_id);
    let node = Node::adopt(settings, None, None, events, facts, connected).await.unwrap();
    // Its snapshot is on disk.
    assert!(matches!(received.recv().await, Some(Event::Journal((_, Ok(()))))));
    node
}

fn begin(dir: &std::path::Path, instance: u32, boot_id: &str) {
    let record = AllocationRecord {
        allocation_id: id(instance).to_string(),
        wanted_in: 1,
        boot_id: boot_id.to_owned(),
        unstarted: None,
        ready: false,
        worker: None,
        mps_percent: None,
    };
    AllocationDir::of(&dir.join("allocs"), id(instance)).begin(&record).unwrap();
}

fn cause(node: &Node, instance: u32) -> Option<EndCause> {
    node.workers.get(&id(instance))?.end.as_ref().map(|end| end.cause)
}

#[tokio::test]
async fn f34_after_a_reboot_everything_wanted_has_ended_and_stays_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = adopt(dir.path(), EARLIER_BOOT).await;
    let mut specs = Specs::default();
    let offer = offer_of_full(full(), &mut specs).unwrap();
    node.wishes.take(offer, digest_of).unwrap();
    node.journal.replace(&full_of(&node.wishes), EARLIER_BOOT);
    // Instance 0 was begun and its directory survived the power cut;
    // instance 1 was begun and nothing of it is on disk.
    begin(dir.path(), 0, EARLIER_BOOT);
    drop(node);
    until_readable(dir.path()).await;
    for _ in 0..2 {
        let node = adopt(dir.path(), "another boot").await;
        assert_eq!(cause(&node, 0), Some(EndCause::HostRebooted));
        assert_eq!(cause(&node, 1), Some(EndCause::HostRebooted));
        assert_eq!(cause(&node, 2), None, "what must stop was never begun: nothing to tell");
        let starts = step(&node.wishes, &node.observed, clock::now())
            .into_iter()
            .filter(|action| matches!(action, berth_supervise::WorkerAction::Start(_)));
        assert_eq!(starts.count(), 0);
    }
}

#[tokio::test]
async fn in_the_same_boot_only_what_was_never_begun_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = adopt(dir.path(), EARLIER_BOOT).await;
    let mut specs = Specs::default();
    node.wishes.take(offer_of_full(full(), &mut specs).unwrap(), digest_of).unwrap();
    node.journal.replace(&full_of(&node.wishes), EARLIER_BOOT);
    begin(dir.path(), 0, EARLIER_BOOT);
    drop(node);
    until_readable(dir.path()).await;
    let node = adopt(dir.path(), EARLIER_BOOT).await;
    assert_eq!(cause(&node, 0), Some(EndCause::Unseen));
    assert_eq!(cause(&node, 1), None);
    let ended = node.observed.allocations.get(&id(0)).map(|allocation| allocation.worker);
    assert_eq!(ended, Some(Worker::Ended));
    let starts: Vec<_> = step(&node.wishes, &node.observed, clock::now())
        .into_iter()
        .filter(|action| matches!(action, berth_supervise::WorkerAction::Start(_)))
        .collect();
    assert_eq!(starts, [berth_supervise::WorkerAction::Start(id(1))]);
}

/// Desired state with instance `instance` to run.
fn one(generation: u64, instances: &[u32], specs: &mut Specs) -> v1::Full {
    let job = job();
    let row = |instance: &u32| DesiredRow {
        allocation: id(*instance),
        spec: spec_digest(&job),
        devices: Vec::new(),
        ports: Vec::new(),
        seat: None,
        stop: None,
    };
    let rows: Vec<_> = instances.iter().map(row).collect();
    let digest = desired_digest(&rows);
    let known = vec![(spec_digest(&job), Arc::new(job))];
    let full = Full { incarnation: 1, generation, rows, specs: known, digest };
    drop(offer_of_full(full.clone(), specs));
    full_to_proto(&full)
}

#[tokio::test]
async fn what_a_full_disk_keeps_from_being_begun_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let (events, mut received) = mpsc::unbounded_channel();
    let (facts, _) = watch::channel(Facts::default());
    let settings = settings(dir.path(), EARLIER_BOOT);
    let connected = Arc::new(AtomicBool::new(false));
    let mut node = Node::adopt(settings, None, None, events, facts, connected).await.unwrap();
    let mut outcome = async || loop {
        if let Event::Journal(outcome) = received.recv().await.unwrap() {
            return outcome;
        }
    };
    assert!(outcome().await.1.is_ok());
    let mut specs = Specs::default();
    node.take_full(one(1, &[0], &mut specs));
    node.journal_reported(outcome().await);
    assert!(node.pending.is_empty());

    // Neither the journal nor a record can be written any more.
    std::fs::create_dir(dir.path().join("desired.new")).unwrap();
    std::fs::remove_dir(dir.path().join("allocs")).unwrap();
    node.take_full(one(2, &[0, 1], &mut specs));
    let failed = outcome().await;
    assert!(failed.1.is_err());
    node.journal_reported(failed.clone());
    assert_eq!(cause(&node, 1), None, "it may pass");
    let begun = node.journal_failing_since.as_mut().unwrap();
    *begun = begun.checked_sub(wishes::JOURNAL_PATIENCE).unwrap();
    node.journal_reported(failed);
    assert_eq!(cause(&node, 1), Some(EndCause::HostFault));
    assert_eq!(cause(&node, 0), None, "an older form of it may be on the disk");

    std::fs::remove_dir(dir.path().join("desired.new")).unwrap();
    std::fs::create_dir(dir.path().join("allocs")).unwrap();
    node.journal_retry_at = Some(Instant::now());
    node.retry_journal();
    node.journal_reported(outcome().await);
    assert!(node.pending.is_empty() && node.journal_failing_since.is_none());
    let starts: Vec<_> = step(&node.wishes, &node.observed, clock::now())
        .into_iter()
        .filter(|action| matches!(action, berth_supervise::WorkerAction::Start(_)))
        .collect();
    assert_eq!(starts, [berth_supervise::WorkerAction::Start(id(0))]);
}

/// Waits for the journal's thread, which writes what was sent before it ends.
async fn until_readable(dir: &std::path::Path) {
    let path = dir.join("desired");
    let written = async {
        loop {
            let found = crate::journal::read(&path).unwrap();
            let wishes: Option<Desired<_>> = wishes::replay(&found).ok().map(|(wishes, _)| wishes);
            if wishes.is_some_and(|wishes| wishes.version.generation == 5) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), written).await.unwrap();
}
