//! The rows, one after the other, each against a cluster of its own.

mod agents;
mod array;
mod bulk;
mod failover;
mod long;
mod noop;
mod overload;
mod reads;
mod start;
mod submits;

use std::path::PathBuf;

use anyhow::Context as _;

use crate::arguments::{Options, RowName};
use crate::berth::{AGENTS, CORES_OF_AGENT, Cluster, Shape};
use crate::disk;
use crate::etcd::Etcd;
use crate::guard::Verdict;
use crate::hyperqueue::HyperQueue;
use crate::limits::Limits;
use crate::report::{Report, Row};

/// What every row has at hand.
pub struct Bench {
    pub options: Options,
    pub report: Report,
}

impl Bench {
    pub async fn cluster(&self) -> anyhow::Result<Cluster> {
        Cluster::start(&self.options.berth, &self.folder("berth"), Shape::ORDINARY).await
    }

    /// Without agents, for a fleet of them, which beat every second.
    pub async fn bare_cluster(&self) -> anyhow::Result<Cluster> {
        self.bare_cluster_on(None).await
    }

    /// The same, on these processors alone.
    pub async fn bare_cluster_on(&self, processors: Option<String>) -> anyhow::Result<Cluster> {
        let settings = vec![("BERTH_SCHEDULER__LEASE__HEARTBEAT", "1s")];
        let shape = Shape { agents: 0, settings, processors };
        Cluster::start(&self.options.berth, &self.folder("berth"), shape).await
    }

    /// etcd, if it is here.
    pub async fn etcd(&self) -> anyhow::Result<Option<Etcd>> {
        match &self.options.etcd {
            Some(program) => Etcd::start(program, &self.folder("etcd")).await.map(Some),
            None => Ok(None),
        }
    }

    /// HyperQueue with as many slots as the cluster, if it is here.
    pub async fn hyperqueue(&self) -> anyhow::Result<Option<HyperQueue>> {
        let (python, script) = (&self.options.hyperqueue_python, &self.options.hyperqueue_script);
        let (Some(python), Some(script)) = (python, script) else { return Ok(None) };
        let cores = AGENTS * CORES_OF_AGENT;
        HyperQueue::start(python, script, &self.folder("hyperqueue"), cores).await.map(Some)
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        self.options.data_dir.join(name)
    }

    /// Where workers write their clocks; nothing is left there of a run before.
    pub fn stamps(&self) -> anyhow::Result<PathBuf> {
        let folder = self.folder("stamps");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).context("remove the last run's clocks")?;
        }
        std::fs::create_dir_all(&folder).context("make a folder for the workers")?;
        Ok(folder)
    }

    pub fn add(&mut self, row: Row) {
        self.report.add(row);
    }

    /// Records what a guard saw; a loss voids the row.
    pub fn judge(&mut self, row: &str, verdict: &Verdict) {
        let Verdict { acknowledged, lost } = verdict;
        self.report.note(format!(
            "- guard of {row}: leader killed under this load, {acknowledged} acknowledged, {} lost",
            lost.len()
        ));
        if !lost.is_empty() {
            let some: Vec<_> = lost.iter().take(5).collect();
            self.report.void.push(format!("{row}: acknowledged and lost, such as {some:?}"));
        }
    }
}

/// Measures what is asked for, and prints it.
///
/// # Errors
/// When a row is void or could not be measured; what was measured is printed.
pub async fn run(mut options: Options) -> anyhow::Result<()> {
    // Peers run in directories of their own.
    options.data_dir = std::path::absolute(&options.data_dir).context("find the data directory")?;
    std::fs::create_dir_all(&options.data_dir).context("make the data directory")?;
    let file_system = disk::require_disk(&options.data_dir)?;
    let mut bench = Bench { options, report: Report::default() };
    bench.head(&file_system);
    let ended = measure(&mut bench).await;
    let load = load_average();
    bench.report.head.push(format!("load average at the end: {load}"));
    bench.report.print();
    ended?;
    anyhow::ensure!(bench.report.void.is_empty(), "acknowledged work was lost");
    Ok(())
}

impl Bench {
    fn head(&mut self, file_system: &str) {
        let options = &self.options;
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let has =
            |there: bool| if there { "measured beside it" } else { "MISSING: rows without ratio" };
        self.report.head = vec![
            format!("commit {}, {} interleaved runs", options.commit, options.runs()),
            format!("{cores} cores shared by clients, servers and every replica; {file_system}"),
            format!(
                "three schedulers, {AGENTS} agents of {CORES_OF_AGENT} cores declared, settings as shipped"
            ),
            format!("etcd: {}", has(options.etcd.is_some())),
            format!("HyperQueue: {}", has(options.hyperqueue_python.is_some())),
            format!("load average at the start: {}", load_average()),
        ];
    }
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

async fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let mut limits = Limits::new();
    for _ in 0..bench.options.runs() {
        limits.measure(&bench.options.data_dir, bench.options.amount(1_000, 200)).await?;
    }
    bench.report.limits = limits.rows();
    let wants = |bench: &Bench, row| bench.options.wants(row);
    if wants(bench, RowName::SubmitOne) {
        submits::one(bench).await.context("row submit-one")?;
    }
    if wants(bench, RowName::SubmitMany) {
        submits::many(bench).await.context("row submit-many")?;
    }
    if wants(bench, RowName::Bulk) {
        bulk::run(bench).await.context("row bulk")?;
    }
    if wants(bench, RowName::Array) {
        array::run(bench).await.context("row array")?;
    }
    if wants(bench, RowName::Start) {
        start::run(bench).await.context("row start")?;
    }
    if wants(bench, RowName::Noop) {
        noop::run(bench).await.context("row noop")?;
    }
    if wants(bench, RowName::Failover) {
        failover::run(bench).await.context("row failover")?;
    }
    if wants(bench, RowName::Reads) {
        reads::run(bench).await.context("row reads")?;
    }
    if wants(bench, RowName::Agents) {
        agents::run(bench).await.context("row agents")?;
    }
    if wants(bench, RowName::Memory) {
        agents::memory(bench).await.context("row memory")?;
    }
    if wants(bench, RowName::Overload) {
        overload::run(bench).await.context("row overload")?;
    }
    if wants(bench, RowName::Long) {
        long::run(bench).await.context("row long")?;
    }
    Ok(())
}
