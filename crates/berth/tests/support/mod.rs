//! Local clusters of the program that was just built, for tests that kill and
//! freeze its processes.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod bytes;
pub mod callers;
pub mod dev;
pub mod disk;
pub mod gates;
pub mod load;
pub mod network;
pub mod processes;
pub mod programs;
pub mod raw;
pub mod schedulers;
pub mod secure;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth::local::{Gpus, Plan, Workers};
use berth_client::{Client, ClientError};
use berth_model::{Constraints, JobKind, JobSpec, Name, Policy, TaskSpec};
use berth_proto::v1;

/// Nothing in a test takes longer, on the slowest machine that is used.
pub const LIMIT: Duration = Duration::from_secs(120);

pub fn plan(data_dir: &Path, schedulers: u8, agents: u8) -> Plan {
    Plan {
        program: PathBuf::from(env!("CARGO_BIN_EXE_berth")),
        schedulers,
        agents,
        gpus: Gpus::Simulated("2xH100-80GB".to_owned()),
        // Tests know workers by their process ids, as the host counts them.
        workers: Workers::Unconfined,
        data_dir: data_dir.to_owned(),
        log_level: log_level(),
    }
}

/// What the processes of a cluster log: `BERTH_TEST_LOG`, nothing unless set.
pub fn log_level() -> String {
    std::env::var("BERTH_TEST_LOG").unwrap_or_else(|_| "off".to_owned())
}

/// A batch job of one task.
pub fn batch(name: &str, count: u32, command: Vec<String>) -> JobSpec {
    let task = TaskSpec { count, ..TaskSpec::new(text("main"), JobKind::Batch, command) };
    JobSpec {
        name: text(name),
        namespace: text("default"),
        kind: JobKind::Batch,
        priority: JobSpec::PRIORITY_DEFAULT,
        policy: Policy::LeastLoaded,
        constraints: Constraints::default(),
        tasks: vec![task],
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

pub fn text(name: &str) -> Name {
    Name::new(name).unwrap()
}

pub fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

pub fn request(spec: &JobSpec, key: &str) -> v1::SubmitRequest {
    v1::SubmitRequest {
        spec: Some(berth_wire::spec::job_spec_to_proto(spec)),
        key: key.to_owned(),
        if_version: None,
        strict: false,
    }
}

pub fn reference(job: &str) -> Option<v1::JobRef> {
    Some(v1::JobRef { namespace: "default".to_owned(), job: job.to_owned() })
}

pub async fn job(client: &Client, job: u64) -> Result<v1::Job, ClientError> {
    let job = reference(&job.to_string());
    client.get_job(v1::GetJobRequest { job, consistency: 0, with_spec: false }).await
}

/// Of a job, by its id or its name.
pub async fn allocations(client: &Client, job: impl Display) -> Vec<v1::Allocation> {
    let job = reference(&job.to_string());
    let request = v1::ListAllocationsRequest { job, page_size: 1000, ..Default::default() };
    client.list_allocations(request).await.unwrap().allocations
}

/// All that was told of a job, oldest first.
pub async fn events(client: &Client, job: u64) -> Vec<v1::Event> {
    let job = reference(&job.to_string());
    let mut stream = client.events(v1::EventsRequest { job, ..v1::EventsRequest::default() });
    let mut events = Vec::new();
    while let Some(event) = stream.next().await.unwrap() {
        events.push(event);
    }
    events
}

/// Submits, and again with the same key while the outcome is open.
pub async fn submit(client: &Client, spec: &JobSpec) -> u64 {
    let request = request(spec, &format!("key-of-{}", spec.name));
    let what = format!("the submit of {} to be acknowledged", spec.name);
    until(&what, || async {
        match client.submit(request.clone()).await {
            Ok(reply) => Some(reply.job_id),
            Err(ClientError::Refused(refusal)) => panic!("{}: {refusal:?}", spec.name),
            Err(_) => None,
        }
    })
    .await
}

/// Waits until a job is as `holds` says, and shows it.
pub async fn job_when(
    client: &Client,
    id: u64,
    what: &str,
    holds: impl Fn(&v1::Job) -> bool,
) -> v1::Job {
    until(&format!("job {id}: {what}"), || async { job(client, id).await.ok().filter(&holds) })
        .await
}

/// The state of a node, as its cluster shows it.
pub async fn node_state(client: &Client, name: &str) -> Option<String> {
    let nodes = client.list_nodes(v1::ListNodesRequest { consistency: 0 }).await.ok()?.nodes;
    nodes.into_iter().find(|node| node.name == name).map(|node| node.state)
}

/// Asks again until there is an answer.
pub async fn until<T, Asked: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> Asked,
) -> T {
    let began = Instant::now();
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    loop {
        pause.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < LIMIT, "waited {} s for {what}", LIMIT.as_secs());
    }
}

/// Waits until every scheduler has applied the same and shows the same hash.
pub async fn hashes_agree(servers: &[String]) {
    until("the state hashes to agree", || async {
        let mut hashes = Vec::new();
        for server in servers {
            let client = Client::new(berth_client::Options::new(vec![server.clone()]));
            let reply = client.state_hash(v1::StateHashRequest {}).await.ok()?;
            hashes.push((reply.applied_index, reply.hash));
        }
        hashes.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
    })
    .await;
}

/// Lines of each file in a folder, by file name.
pub fn lines(folder: &Path) -> BTreeMap<String, usize> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap().lines().count())
        })
        .collect()
}

/// A number drawn from a seed: the finaliser of SplitMix64.
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)) % bound
    }
}
