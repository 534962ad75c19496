//! A cluster on this machine, every scheduler and agent a process of its own,
//! for `berth dev`, `berth demo` and tests. Each child watches a pipe that this
//! process holds: however this process ends, they end too.

mod child;
mod gateway;
mod ports;
mod ready;
mod restored;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use berth_client::{Client, Options};
use berth_proto::v1;
use berth_scheduler::Seat;

pub use child::{Child, TRIAL_SETTINGS};
pub use gateway::{GatewayPort, LocalGateway};
pub use ports::free_ports;
use ports::{Ports, WorkerPorts};
pub use ready::write_ready_file;

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `berth` program.
    pub program: PathBuf,
    pub schedulers: u8,
    pub agents: u8,
    pub gpus: Gpus,
    pub workers: Workers,
    pub data_dir: PathBuf,
    /// What the children log.
    pub log_level: String,
}

/// The GPUs of each agent.
#[derive(Clone, Debug)]
pub enum Gpus {
    /// Such as `8xH100-80GB`.
    Simulated(String),
    /// Of one agent only: a GPU belongs to one node.
    OfTheHost,
}

/// What workers may see of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workers {
    /// All but other workers and the cluster's own files, where the host lets it be so.
    Confined,
    /// What their user may.
    Unconfined,
}

/// A running local cluster.
pub struct LocalCluster {
    pub schedulers: Vec<LocalScheduler>,
    pub agents: Vec<LocalAgent>,
    /// None until it is started.
    pub gateway: Option<LocalGateway>,
    plan: Plan,
    /// Of the scheduler started last.
    last_number: u64,
}

pub struct LocalScheduler {
    pub id: u64,
    pub grpc: String,
    pub http: String,
    pub data_dir: PathBuf,
    pub child: Child,
}

pub struct LocalAgent {
    pub name: String,
    /// Where its health and metrics are.
    pub http: String,
    pub data_dir: PathBuf,
    pub child: Child,
    arguments: Vec<String>,
    /// Kept from other clusters of this host while this lives.
    _worker_ports: WorkerPorts,
}

/// Whoever starts a local cluster may read the files of this machine anyway, and runs servers on it.
const ARTIFACTS_ALLOW: &str = "https,http,file,loopback";
/// A local cluster that takes longer is not going to stand.
const READY_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

impl LocalCluster {
    /// Starts everything and waits until work can be submitted.
    pub async fn start(plan: Plan) -> anyhow::Result<LocalCluster> {
        std::fs::create_dir_all(&plan.data_dir)
            .with_context(|| format!("make {}", plan.data_dir.display()))?;
        let mut cluster = LocalCluster {
            schedulers: Vec::new(),
            agents: Vec::new(),
            gateway: None,
            plan: plan.clone(),
            last_number: 0,
        };
        match Ports::read(&plan.data_dir)? {
            Some(ports) => cluster.come_back(&ports).await?,
            None => cluster.form().await?,
        }
        let agent_ports = free_ports(usize::from(plan.agents))?;
        for (number, port) in (1_u16..).zip(agent_ports) {
            let agent = cluster.start_agent(number, port)?;
            cluster.agents.push(agent);
        }
        cluster.wait_for_nodes(usize::from(plan.agents)).await?;
        Ok(cluster)
    }

    /// Forms a new cluster.
    async fn form(&mut self) -> anyhow::Result<()> {
        let ports = free_ports(usize::from(self.plan.schedulers) * 2)?;
        let ports: Vec<Ports> =
            ports.chunks(2).map(|pair| Ports { grpc: pair[0], http: pair[1] }).collect();
        for one in &ports {
            let number = self.join(*one, Seat::Voter)?;
            // One after the other: their ids in Raft are then their numbers.
            self.wait_for_voters(usize::try_from(number)?).await?;
        }
        Ports::write(&self.plan.data_dir, &ports)
    }

    /// Starts the schedulers of an earlier time on their data, where they were: by their
    /// addresses they know each other.
    async fn come_back(&mut self, ports: &[Ports]) -> anyhow::Result<()> {
        if ports.len() != usize::from(self.plan.schedulers) {
            let (dir, count) = (self.plan.data_dir.display(), ports.len());
            bail!("{dir} has a cluster of {count} schedulers; give --schedulers {count}");
        }
        for (number, ports) in (1..).zip(ports) {
            let scheduler = LocalScheduler::of(&self.plan, number, *ports, &[])?;
            self.schedulers.push(scheduler);
            self.last_number = number;
        }
        self.wait_for_voters(ports.len()).await
    }

    /// Every scheduler's gRPC address.
    pub fn servers(&self) -> Vec<String> {
        self.schedulers.iter().map(|scheduler| scheduler.grpc.clone()).collect()
    }

    pub fn client(&self) -> Client {
        Client::new(Options::new(self.servers()))
    }

    pub fn data_dir(&self) -> &Path {
        &self.plan.data_dir
    }

    /// The scheduler that leads, as the cluster says.
    pub async fn leader(&self) -> anyhow::Result<u64> {
        let status = self.client().status(v1::StatusRequest { consistency: 0 }).await;
        status.context("ask for the leader")?.leader_id.context("no leader")
    }

    /// Starts another scheduler, which joins; its id in Raft is the one after
    /// the last that was given, if the last has been given its own.
    pub fn add_scheduler(&mut self, seat: Seat) -> anyhow::Result<u64> {
        let ports = free_ports(2)?;
        self.join(Ports { grpc: ports[0], http: ports[1] }, seat)
    }

    /// Starts a new scheduler where another one was, which is dead and has lost
    /// its data. Its id is as of `add_scheduler`.
    pub fn replace_scheduler(&mut self, id: u64) -> anyhow::Result<u64> {
        let position = self.schedulers.iter().position(|scheduler| scheduler.id == id);
        let gone = self.schedulers.remove(position.with_context(|| format!("no scheduler {id}"))?);
        std::fs::remove_dir_all(&gone.data_dir).context("remove the dead one's data")?;
        self.join(Ports { grpc: port_of(&gone.grpc)?, http: port_of(&gone.http)? }, Seat::Voter)
    }

    /// The first one founds the cluster.
    fn join(&mut self, ports: Ports, seat: Seat) -> anyhow::Result<u64> {
        let number = self.last_number + 1;
        let others = self.servers();
        let scheduler = start_scheduler(&self.plan, number, ports, &others, seat)?;
        self.schedulers.push(scheduler);
        self.last_number = number;
        Ok(number)
    }

    /// Whatever is started from now on runs another program.
    pub fn run_with(&mut self, program: PathBuf) {
        self.plan.program = program;
    }

    /// Starts a scheduler again on its own data.
    pub fn restart_scheduler(&mut self, id: u64) -> anyhow::Result<()> {
        let plan = self.plan.clone();
        let scheduler = self
            .schedulers
            .iter_mut()
            .find(|scheduler| scheduler.id == id)
            .with_context(|| format!("no scheduler {id}"))?;
        let arguments = scheduler_arguments(&plan, scheduler.id, &scheduler.grpc, &scheduler.http);
        scheduler.child = Child::spawn(&plan.program, &format!("scheduler {id}"), &arguments)?;
        Ok(())
    }

    /// Starts an agent again on its own data, as it was started before.
    pub fn restart_agent(&mut self, name: &str) -> anyhow::Result<()> {
        let agent = self.agents.iter_mut().find(|agent| agent.name == name);
        let agent = agent.with_context(|| format!("no agent {name}"))?;
        agent.child = spawn_agent(&self.plan, name, &agent.arguments)?;
        Ok(())
    }

    /// Ends everything: who asks first, then agents with their workers, then schedulers.
    pub async fn stop(mut self) {
        if let Some(gateway) = &mut self.gateway {
            gateway.child.close();
            gateway.child.ended_or_killed().await;
        }
        for agent in &mut self.agents {
            agent.child.close();
        }
        for agent in &mut self.agents {
            agent.child.ended_or_killed().await;
        }
        for scheduler in &mut self.schedulers {
            scheduler.child.close();
        }
        for scheduler in &mut self.schedulers {
            scheduler.child.ended_or_killed().await;
        }
    }

    /// Waits until a child ends that was not asked to, and names it.
    pub async fn first_end(&mut self) -> String {
        loop {
            let children = self
                .schedulers
                .iter_mut()
                .map(|scheduler| &mut scheduler.child)
                .chain(self.agents.iter_mut().map(|agent| &mut agent.child))
                .chain(self.gateway.as_mut().map(|gateway| &mut gateway.child));
            for child in children {
                if let Some(how) = child.has_ended() {
                    return format!("{} ended: {how}", child.name);
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn start_agent(&self, number: u16, http_port: u16) -> anyhow::Result<LocalAgent> {
        let name = format!("node-{number}");
        let data_dir = self.plan.data_dir.join(&name);
        let worker_ports = WorkerPorts::of_agent(number);
        let ports = format!("{}-{}", worker_ports.first, worker_ports.last);
        let http = format!("127.0.0.1:{http_port}");
        let arguments = [
            "agent",
            "--servers",
            &self.servers().join(","),
            "--data-dir",
            &data_dir.display().to_string(),
            "--name",
            &name,
            "--http",
            &http,
            "--ports",
            &ports,
            "--artifacts-allow",
            ARTIFACTS_ALLOW,
            "--stop-on-fd-close",
            "0",
            "--log-level",
            &self.plan.log_level,
        ]
        .map(str::to_owned);
        let simulated = match &self.plan.gpus {
            Gpus::Simulated(gpus) => vec!["--simulate".to_owned(), gpus.clone()],
            Gpus::OfTheHost => Vec::new(),
        };
        let arguments = [arguments.to_vec(), simulated].concat();
        let child = spawn_agent(&self.plan, &name, &arguments)?;
        Ok(LocalAgent { name, http, data_dir, child, arguments, _worker_ports: worker_ports })
    }

    async fn wait_for_voters(&mut self, count: usize) -> anyhow::Result<()> {
        let client = self.client();
        self.wait_until("the schedulers to form a cluster", || async {
            let status = client.status(v1::StatusRequest { consistency: 0 }).await.ok()?;
            let voters = status.members.iter().filter(|member| member.role != "learner").count();
            (voters == count).then_some(())
        })
        .await
    }

    async fn wait_for_nodes(&mut self, count: usize) -> anyhow::Result<()> {
        let client = self.client();
        self.wait_until("the agents to come in", || async {
            let reply = client.list_nodes(v1::ListNodesRequest { consistency: 0 }).await.ok()?;
            let ready = reply.nodes.iter().filter(|node| node.state == "ready").count();
            (ready == count).then_some(())
        })
        .await
    }

    /// Asks until there is an answer, a child has ended, or it takes too long.
    async fn wait_until<F, Asked>(&mut self, what: &str, ask: F) -> anyhow::Result<()>
    where
        F: Fn() -> Asked,
        Asked: Future<Output = Option<()>>,
    {
        let began = Instant::now();
        while ask().await.is_none() {
            if began.elapsed() > READY_LIMIT {
                bail!("waited {} s for {what}", READY_LIMIT.as_secs());
            }
            let first_end = tokio::time::timeout(POLL, self.first_end()).await;
            if let Ok(ended) = first_end {
                bail!("{ended}, while waiting for {what}");
            }
        }
        Ok(())
    }
}

/// Its workers are to see nothing of schedulers' and other agents' files, whose user they may
/// be.
fn spawn_agent(plan: &Plan, name: &str, arguments: &[String]) -> anyhow::Result<Child> {
    let data_dir = plan.data_dir.canonicalize().context("find the data directory")?;
    let schedulers = (1..=plan.schedulers).map(|number| format!("scheduler-{number}"));
    let agents = (1..=plan.agents).map(|number| format!("node-{number}"));
    let others = schedulers.chain(agents.filter(|other| other != name));
    let hidden: Vec<String> =
        others.map(|folder| data_dir.join(folder).display().to_string()).collect();
    let settings = match plan.workers {
        Workers::Confined => ("BERTH_AGENT__CONFINEMENT__HIDDEN", hidden.join(",")),
        Workers::Unconfined => ("BERTH_AGENT__CONFINEMENT__MODE", "off".to_owned()),
    };
    // Several agents of one machine must not each take all of its load for theirs.
    let load = ("BERTH_AGENT__MEASURE_HOST", "false".to_owned());
    Child::spawn_with(&plan.program, &format!("agent {name}"), arguments, &[settings, load])
}

fn scheduler_arguments(plan: &Plan, number: u64, grpc: &str, http: &str) -> Vec<String> {
    let data_dir = plan.data_dir.join(format!("scheduler-{number}"));
    [
        "scheduler",
        "--data-dir",
        &data_dir.display().to_string(),
        "--listen",
        grpc,
        "--http",
        http,
        "--stop-on-fd-close",
        "0",
        "--log-level",
        &plan.log_level,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn start_scheduler(
    plan: &Plan,
    number: u64,
    ports: Ports,
    others: &[String],
    seat: Seat,
) -> anyhow::Result<LocalScheduler> {
    let mut more = Vec::new();
    if others.is_empty() {
        more.push("--bootstrap".to_owned());
    } else {
        more.extend(["--join".to_owned(), others.join(",")]);
        if seat == Seat::Learner {
            more.push("--learner".to_owned());
        }
    }
    LocalScheduler::of(plan, number, ports, &more)
}

impl LocalScheduler {
    fn of(plan: &Plan, number: u64, ports: Ports, more: &[String]) -> anyhow::Result<Self> {
        let grpc = format!("127.0.0.1:{}", ports.grpc);
        let http = format!("127.0.0.1:{}", ports.http);
        let mut arguments = scheduler_arguments(plan, number, &grpc, &http);
        arguments.extend_from_slice(more);
        let child = Child::spawn(&plan.program, &format!("scheduler {number}"), &arguments)?;
        let data_dir = plan.data_dir.join(format!("scheduler-{number}"));
        Ok(LocalScheduler { id: number, grpc, http, data_dir, child })
    }
}

fn port_of(address: &str) -> anyhow::Result<u16> {
    let (_, port) = address.rsplit_once(':').context("an address without a port")?;
    port.parse().context("read a port")
}
