//! The story: a gang, an array, a service, many jobs, and the death of the leader in
//! the middle of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use berth_client::Client;
use berth_model::{
    CpuMilli, DurationMs, GpuRequest, HealthCheck, HealthProbe, JobKind, JobSpec, Name, Policy,
    TaskSpec,
};
use berth_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::checks::Checks;
use super::serving::Callers;
use super::{gang, traces};
use crate::local::LocalCluster;

const ARRAY: u32 = 40;
const JOBS: usize = 60;
/// Jobs acknowledged before the leader is killed.
const JOBS_BEFORE_KILL: usize = 30;
pub const REPLICAS: u32 = 2;
/// The service, and the model that its workers know themselves by.
pub const SERVICE: &str = "models";
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);

pub async fn tell(
    cluster: &mut LocalCluster,
    checks: &mut Checks,
    sabotage: Sabotage,
) -> anyhow::Result<()> {
    let folder = cluster.data_dir().join("traces");
    std::fs::create_dir_all(&folder).context("make the folder of traces")?;
    let client = cluster.client();
    introduce(cluster, &client, checks).await?;

    let service = submit(&client, &service_spec("1")?, "demo-service").await?;
    checks.say(&format!(
        "service `{SERVICE}` is job {service}: {REPLICAS} replicas of a stand-in model server"
    ));
    let gang = gang::tell(&client, &folder, checks).await?;
    let array = submit(&client, &array_spec(&folder)?, "demo-array").await?;
    checks.say(&format!("array `array` is job {array}: {ARRAY} instances, one simulated GPU each"));
    wait_for(&client, service, |job| {
        job.tasks.iter().map(|task| task.ready).sum::<u64>() == u64::from(REPLICAS)
    })
    .await
    .context("wait for the service's replicas")?;
    let before = replicas(&client, service).await?;
    answer(&before, checks).await?;
    let callers = Callers::start(cluster, checks).await?;

    let mut acknowledged = BTreeMap::new();
    submit_some(&client, &folder, 0..JOBS_BEFORE_KILL, &mut acknowledged).await?;
    let killed = cluster.leader().await?;
    let scheduler = cluster.schedulers.iter_mut().find(|one| one.id == killed);
    scheduler.context("the leader is one of ours")?.child.kill().await?;
    let since = Instant::now();
    checks.say(&format!("killed the leader, scheduler {killed}, with SIGKILL"));
    submit_some(&client, &folder, JOBS_BEFORE_KILL..JOBS_BEFORE_KILL + 1, &mut acknowledged)
        .await?;
    checks
        .say(&format!("the next submit was acknowledged {} ms later", since.elapsed().as_millis()));
    submit_some(&client, &folder, JOBS_BEFORE_KILL + 1..JOBS, &mut acknowledged).await?;
    let leader = cluster.leader().await?;
    checks.equal(&format!("another scheduler leads: {leader}"), &(leader != killed), &true);

    read_back(&client, &acknowledged, checks).await?;
    let jobs: Vec<u64> = acknowledged.values().copied().chain([array, gang]).collect();
    for job in &jobs {
        wait_for(&client, *job, |job| job.finished_at_ms.is_some())
            .await
            .with_context(|| format!("wait for job {job}"))?;
    }
    let mut states = BTreeMap::new();
    for job in &jobs {
        *states.entry(get_job(&client, *job).await?.state).or_insert(0) += 1;
    }
    let wanted = BTreeMap::from([("succeeded".to_owned(), jobs.len())]);
    checks.equal(&format!("all {} batch jobs succeeded", jobs.len()), &states, &wanted);

    if sabotage == Sabotage::LoseATrace {
        let lost = traces::lose_one(&folder)?;
        checks.say(&format!("removed the trace {}", lost.display()));
    }
    let counts = traces::count(&folder)?;
    checks.equal(
        "every instance left a trace",
        &counts.len(),
        &((ARRAY + gang::MEMBERS) as usize + JOBS),
    );
    let twice: Vec<&String> =
        counts.iter().filter(|(_, lines)| **lines != 1).map(|(name, _)| name).collect();
    checks.equal("every instance ran exactly once", &twice, &Vec::new());
    let after = replicas(&client, service).await?;
    checks.equal("the service's replicas were not touched", &after, &before);
    callers.end(&client, service, checks).await
}

async fn answer(replicas: &BTreeMap<String, u16>, checks: &mut Checks) -> anyhow::Result<()> {
    for (allocation, port) in replicas {
        let answer = get(*port, "/v1/models").await?;
        let is_it = answer.contains(&format!("\"id\":\"{SERVICE}\""));
        checks.equal(&format!("replica {allocation} answers on port {port}"), &is_it, &true);
    }
    Ok(())
}

/// Whether the demo is to be shown failing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    None,
    LoseATrace,
}

async fn introduce(cluster: &LocalCluster, client: &Client, checks: &Checks) -> anyhow::Result<()> {
    let status = client.status(v1::StatusRequest { consistency: 0 }).await?;
    let leader = status.leader_id.context("no leader")?;
    let addresses: Vec<&str> =
        status.members.iter().map(|member| member.address.as_str()).collect();
    checks.say(&format!(
        "{} schedulers at {}; scheduler {leader} leads in term {}",
        status.members.len(),
        addresses.join(", "),
        status.term
    ));
    let nodes = client.list_nodes(v1::ListNodesRequest { consistency: 0 }).await?.nodes;
    let gpus: usize =
        nodes.iter().filter_map(|node| node.spec.as_ref()).map(|spec| spec.devices.len()).sum();
    checks.say(&format!("{} agents report {gpus} simulated GPUs", nodes.len()));
    debug_assert_eq!(nodes.len(), cluster.agents.len());
    Ok(())
}

pub fn spec(name: &str, kind: JobKind, task: TaskSpec) -> anyhow::Result<JobSpec> {
    Ok(JobSpec {
        policy: Policy::LeastLoaded,
        update: Default::default(),
        ..JobSpec::new(Name::new(name)?, Name::new("default")?, kind, vec![task])
    })
}

fn array_spec(folder: &Path) -> anyhow::Result<JobSpec> {
    let command = traces::command(folder, "array", "sleep 0.5");
    let task = TaskSpec {
        count: ARRAY,
        gpu: Some(GpuRequest { models: vec!["H100".to_owned()], ..GpuRequest::whole(1) }),
        ..TaskSpec::new(Name::new("main")?, JobKind::Batch, command)
    };
    spec("array", JobKind::Batch, task)
}

/// The version is told to its workers, so that another one is another specification.
pub fn service_spec(version: &str) -> anyhow::Result<JobSpec> {
    let program = std::env::current_exe().context("find this program")?;
    let command =
        [&program.display().to_string(), "mock-worker", "--model", SERVICE, "--port", "${PORT}"];
    let http = Name::new("http")?;
    let task = TaskSpec {
        count: REPLICAS,
        cpu: CpuMilli(500),
        ports: vec![http.clone()],
        env: BTreeMap::from([("VERSION".to_owned(), version.to_owned())]),
        health: Some(HealthCheck {
            probe: HealthProbe::Http { path: "/health".to_owned(), port: http },
            interval: DurationMs(200),
            timeout: DurationMs(200),
            failures: 10,
            start_period: DurationMs::from_secs(10),
        }),
        ..TaskSpec::new(Name::new("main")?, JobKind::Service, command.map(str::to_owned).to_vec())
    };
    spec(SERVICE, JobKind::Service, task)
}

pub async fn submit(client: &Client, spec: &JobSpec, key: &str) -> anyhow::Result<u64> {
    let request = v1::SubmitRequest {
        spec: Some(berth_wire::spec::job_spec_to_proto(spec)),
        key: key.to_owned(),
        if_version: None,
        strict: true,
    };
    let reply = client.submit(request).await.with_context(|| format!("submit `{}`", spec.name))?;
    Ok(reply.job_id)
}

/// Submits jobs one by one, and again with the same key until acknowledged.
async fn submit_some(
    client: &Client,
    folder: &Path,
    numbers: std::ops::Range<usize>,
    acknowledged: &mut BTreeMap<String, u64>,
) -> anyhow::Result<()> {
    for number in numbers {
        let name = format!("job-{number}");
        let command = traces::command(folder, &name, "true");
        let task = TaskSpec::new(Name::new("main")?, JobKind::Batch, command);
        let spec = spec(&name, JobKind::Batch, task)?;
        let key = format!("demo-{number}");
        let began = Instant::now();
        let job = loop {
            match submit(client, &spec, &key).await {
                Ok(job) => break job,
                Err(error) if began.elapsed() > LIMIT => return Err(error),
                Err(_) => {}
            }
        };
        acknowledged.insert(key, job);
    }
    Ok(())
}

/// Every acknowledged job is there, under the id that was acknowledged.
async fn read_back(
    client: &Client,
    acknowledged: &BTreeMap<String, u64>,
    checks: &mut Checks,
) -> anyhow::Result<()> {
    let mut found = BTreeMap::new();
    for job in acknowledged.values() {
        let shown = get_job(client, *job).await?;
        found.insert(shown.key, shown.id);
    }
    let what = format!("all {} acknowledged jobs are read back", acknowledged.len());
    checks.equal(&what, &found, acknowledged);
    Ok(())
}

async fn get_job(client: &Client, job: u64) -> anyhow::Result<v1::Job> {
    let reference = v1::JobRef { namespace: "default".to_owned(), job: job.to_string() };
    let request = v1::GetJobRequest { job: Some(reference), consistency: 0, with_spec: false };
    client.get_job(request).await.with_context(|| format!("read job {job}"))
}

pub async fn wait_for(
    client: &Client,
    job: u64,
    holds: impl Fn(&v1::Job) -> bool,
) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let shown = get_job(client, job).await?;
        if holds(&shown) {
            return Ok(());
        }
        if began.elapsed() > LIMIT {
            bail!("job {job} is `{}` after {} s: {:?}", shown.state, LIMIT.as_secs(), shown.tasks);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The allocations of a service that run.
pub async fn running(client: &Client, job: u64) -> anyhow::Result<Vec<v1::Allocation>> {
    let reference = v1::JobRef { namespace: "default".to_owned(), job: job.to_string() };
    let request = v1::ListAllocationsRequest { job: Some(reference), ..Default::default() };
    let mut all = client.list_allocations(request).await?.allocations;
    all.retain(|allocation| allocation.state == "running");
    Ok(all)
}

/// Their ports.
async fn replicas(client: &Client, job: u64) -> anyhow::Result<BTreeMap<String, u16>> {
    let mut replicas = BTreeMap::new();
    for allocation in running(client, job).await? {
        let port = allocation.ports.first().context("a replica has a port")?.port;
        replicas.insert(allocation.id, u16::try_from(port)?);
    }
    Ok(replicas)
}

/// A small GET: the answer, head and body.
async fn get(port: u16, path: &str) -> anyhow::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    exchange(&format!("127.0.0.1:{port}"), &request).await
}

/// Sends a request as it is, after which the other side is to close, and reads the answer.
pub async fn exchange(address: &str, request: &str) -> anyhow::Result<String> {
    let mut stream =
        TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(64 << 10).read_to_string(&mut answer).await?;
    Ok(answer)
}
