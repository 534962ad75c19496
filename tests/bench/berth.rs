//! A cluster of three schedulers and four agents, each a process, with their
//! ordinary settings but for the cores that agents say they have.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use berth_client::{Client, Options};
use berth_proto::v1;
use tokio::process::{Child, Command};

use crate::{disk, ports};

const SCHEDULERS: usize = 3;
pub const AGENTS: u32 = 4;
/// Slots of an agent; with four agents the 64 that a HyperQueue worker is given.
pub const CORES_OF_AGENT: u32 = 16;
const READY_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub struct Cluster {
    pub schedulers: Vec<Scheduler>,
    agents: Vec<Child>,
    program: PathBuf,
    folder: PathBuf,
    shape: Shape,
}

/// What is there beside the schedulers, and how it is set.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Agents that are processes.
    pub agents: u32,
    /// Settings that differ from those as shipped, as variables.
    pub settings: Vec<(&'static str, &'static str)>,
    /// Where they run, if not on all processors.
    pub processors: Option<String>,
}

impl Shape {
    /// Four agents, settings as shipped.
    pub const ORDINARY: Shape = Shape { agents: AGENTS, settings: Vec::new(), processors: None };
}

pub struct Scheduler {
    /// Its number among the members, from 1.
    pub id: u64,
    pub address: String,
    http: String,
    pub data_dir: PathBuf,
    process: Child,
}

/// What a scheduler takes, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footprint {
    pub memory_bytes: u64,
    pub snapshot_bytes: u64,
    pub disk_bytes: u64,
}

impl Cluster {
    /// Starts a cluster in an empty `folder` and waits until its nodes are ready.
    pub async fn start(program: &Path, folder: &Path, shape: Shape) -> anyhow::Result<Cluster> {
        if folder.exists() {
            std::fs::remove_dir_all(folder).context("remove the last cluster's data")?;
        }
        std::fs::create_dir_all(folder).context("make the cluster's folder")?;
        let agents = shape.agents as usize;
        let mut cluster = Cluster {
            schedulers: Vec::new(),
            agents: Vec::new(),
            program: program.to_owned(),
            folder: folder.to_owned(),
            shape,
        };
        let ports = ports::free(SCHEDULERS * 2 + agents)?;
        let (scheduler_ports, agent_ports) = ports.split_at(SCHEDULERS * 2);
        for pair in scheduler_ports.chunks(2) {
            cluster.add_scheduler(pair[0], pair[1]).await?;
        }
        for (number, port) in (1..).zip(agent_ports) {
            cluster.add_agent(number, *port)?;
        }
        let client = cluster.client();
        until("the agents to come in", || async {
            let reply = client.list_nodes(v1::ListNodesRequest { consistency: 0 }).await.ok()?;
            let ready = reply.nodes.iter().filter(|node| node.state == "ready").count();
            (ready == agents).then_some(())
        })
        .await?;
        Ok(cluster)
    }

    async fn add_scheduler(&mut self, grpc: u16, http: u16) -> anyhow::Result<()> {
        let id = self.schedulers.len() as u64 + 1;
        let address = format!("127.0.0.1:{grpc}");
        let http = format!("127.0.0.1:{http}");
        let data_dir = self.folder.join(format!("scheduler-{id}"));
        let formation = match self.schedulers.first() {
            None => vec!["--bootstrap".to_owned()],
            Some(first) => vec!["--join".to_owned(), first.address.clone()],
        };
        let process = self.spawn_scheduler(id, &address, &http, &formation)?;
        self.schedulers.push(Scheduler { id, address, http, data_dir, process });
        self.settled().await
    }

    fn spawn_scheduler(
        &self,
        id: u64,
        address: &str,
        http: &str,
        formation: &[String],
    ) -> anyhow::Result<Child> {
        let data_dir = self.folder.join(format!("scheduler-{id}")).display().to_string();
        let words = ["scheduler", "--data-dir", &data_dir, "--listen", address, "--http", http];
        let words = words.iter().map(|word| (*word).to_owned()).chain(formation.iter().cloned());
        self.spawn(&format!("scheduler-{id}"), &words.collect::<Vec<_>>())
    }

    fn add_agent(&mut self, number: u16, http: u16) -> anyhow::Result<()> {
        let name = format!("node-{number}");
        let first_port = 20_000 + (number - 1) * 1_000;
        let words = [
            "agent",
            "--servers",
            &self.servers().join(","),
            "--data-dir",
            &self.folder.join(&name).display().to_string(),
            "--name",
            &name,
            "--http",
            &format!("127.0.0.1:{http}"),
            "--ports",
            &format!("{first_port}-{}", first_port + 999),
            "--cpus",
            &CORES_OF_AGENT.to_string(),
            "--memory",
            "64GiB",
            "--simulate",
            "1xH100-80GB",
        ];
        let agent = self.spawn(&name, &words.map(str::to_owned))?;
        self.agents.push(agent);
        Ok(())
    }

    /// Starts a process that ends when this one does: it watches its standard
    /// input.
    fn spawn(&self, name: &str, words: &[String]) -> anyhow::Result<Child> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{name}.log")))
            .context("open a log")?;
        let mut command = match &self.shape.processors {
            // It becomes the program.
            Some(list) => {
                let mut command = Command::new("taskset");
                command.args(["-c", list]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command
            .args(words)
            .args(["--log-level", "warn", "--stop-on-fd-close", "0"])
            .env_clear()
            .envs(std::env::vars_os().filter(|(key, _)| key == "PATH" || key == "HOME"))
            .envs(self.shape.settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}"))
    }

    pub fn servers(&self) -> Vec<String> {
        self.schedulers.iter().map(|scheduler| scheduler.address.clone()).collect()
    }

    /// A client as programs have it, only more patient.
    pub fn client(&self) -> Client {
        let options = Options::new(self.servers());
        Client::new(Options { deadline: Duration::from_secs(30), ..options })
    }

    /// Position of the leader among the schedulers.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let status = self.client().status(v1::StatusRequest { consistency: 0 }).await;
        let leader = status.context("ask who leads")?.leader_id.context("nobody leads")?;
        let found = self.schedulers.iter().position(|scheduler| scheduler.id == leader);
        found.context("the leader is not one of ours")
    }

    pub async fn leader_address(&self) -> anyhow::Result<String> {
        Ok(self.schedulers[self.leader().await?].address.clone())
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&mut self, position: usize) -> anyhow::Result<()> {
        self.schedulers[position].process.kill().await.context("kill a scheduler")
    }

    /// Starts a killed scheduler on its own data.
    pub fn restart(&mut self, position: usize) -> anyhow::Result<()> {
        let killed = &self.schedulers[position];
        let process = self.spawn_scheduler(killed.id, &killed.address, &killed.http, &[])?;
        self.schedulers[position].process = process;
        Ok(())
    }

    /// Waits until every scheduler is a voter in touch with the leader and has
    /// applied what the leader has.
    pub async fn settled(&self) -> anyhow::Result<()> {
        let client = self.client();
        let count = self.schedulers.len();
        until("the schedulers to agree", || async {
            let status = client.status(v1::StatusRequest { consistency: 0 }).await.ok()?;
            let well = |member: &&v1::Member| {
                let behind =
                    status.applied_index.saturating_sub(member.last_log_index.unwrap_or(0));
                member.role != "learner" && member.healthy && behind < 10
            };
            (status.members.iter().filter(well).count() == count).then_some(())
        })
        .await
    }

    /// Makes each scheduler take a snapshot.
    pub async fn snapshot(&self) -> anyhow::Result<()> {
        for scheduler in &self.schedulers {
            let options = Options::new(vec![scheduler.address.clone()]);
            let patient = Options { deadline: READY_LIMIT, attempt: READY_LIMIT, ..options };
            let taken = Client::new(patient).snapshot(v1::SnapshotRequest {}).await;
            taken.with_context(|| format!("take a snapshot of scheduler {}", scheduler.id))?;
        }
        Ok(())
    }

    /// Processor time that a scheduler has taken since it started.
    pub fn processor_time(&self, position: usize) -> anyhow::Result<Duration> {
        let pid = self.schedulers[position].process.id().context("the scheduler has ended")?;
        let stat =
            std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read its times")?;
        // The name before them may hold anything in brackets.
        let (_, rest) = stat.rsplit_once(") ").context("find its times")?;
        let ticks = rest.split(' ').skip(11).take(2).map(str::parse::<u64>);
        let ticks: u64 = ticks.sum::<Result<u64, _>>().context("read its times")?;
        // The kernel counts hundredths of a second for programs, whatever its own
        // tick is.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// What each scheduler takes now.
    pub fn footprints(&self) -> Vec<Footprint> {
        let of = |scheduler: &Scheduler| Footprint {
            memory_bytes: scheduler.process.id().map_or(0, resident_bytes),
            snapshot_bytes: disk::bytes_under(&scheduler.data_dir.join("raft/snapshots")),
            disk_bytes: disk::bytes_under(&scheduler.data_dir),
        };
        self.schedulers.iter().map(of).collect()
    }

    /// Ends everything: agents with their workers in order, then schedulers.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let schedulers = self.schedulers.iter_mut().map(|scheduler| &mut scheduler.process);
        for process in self.agents.iter_mut().chain(schedulers) {
            drop(process.stdin.take());
            if tokio::time::timeout(Duration::from_secs(5), process.wait()).await.is_err() {
                process.kill().await.context("kill what did not end")?;
            }
        }
        std::fs::remove_dir_all(&self.folder).context("remove the cluster's data")
    }
}

/// Resident bytes of a process; 0 when it is gone.
fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Asks until there is an answer; an error when it takes too long.
pub async fn until<T, Asked: Future<Output = Option<T>>>(
    what: &str,
    ask: impl Fn() -> Asked,
) -> anyhow::Result<T> {
    let began = Instant::now();
    let mut pause = tokio::time::interval(POLL);
    loop {
        pause.tick().await;
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if began.elapsed() > READY_LIMIT {
            bail!("waited {} s for {what}", READY_LIMIT.as_secs());
        }
    }
}
