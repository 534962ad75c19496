//! Agents without hosts: each has the session that every agent has, on a
//! connection of its own, and does at once what it is told, so that what a
//! scheduler pays for many of them can be measured on one machine.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use berth_agent::ClusterFile;
use berth_agent::host_use::Source;
use berth_agent::session::{Facts, Greeting, SessionEvent, SessionSettings, keep};
use berth_identity::Dialer;
use berth_model::{CpuMilli, MemoryBytes, Name, NodeSpec, PortRange};
use berth_proto::v1;
use berth_proto::v1::agent_message::Message as ToScheduler;
use berth_proto::v1::observation::State;
use berth_proto::v1::scheduler_message::Message as FromScheduler;
use berth_wire::agent::{Hello, hello_to_proto};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// As an agent's are.
const EVENTS_MAX: usize = 64;
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Cores that each says it has: what it runs ends at once.
const CORES: u64 = 64;

/// Agents that run until this is dropped.
pub struct Fleet {
    agents: Vec<JoinHandle<()>>,
    up: Arc<watch::Sender<usize>>,
}

impl Fleet {
    /// Starts so many agents, which dial these servers.
    pub fn start(count: usize, servers: &[String], folder: &Path) -> anyhow::Result<Fleet> {
        // The last fleet was of another cluster.
        if folder.exists() {
            std::fs::remove_dir_all(folder).context("remove the last fleet's folder")?;
        }
        std::fs::create_dir_all(folder).context("make the fleet's folder")?;
        let up = Arc::new(watch::Sender::new(0));
        let agents = (0..count).map(|number| {
            let settings = SessionSettings {
                servers: servers.to_vec(),
                dialer: Dialer::PlainText,
                retry_min: RETRY_MIN,
                retry_max: RETRY_MAX,
                // They are of one cluster: one file will do for all.
                cluster: ClusterFile::below(folder),
                // Nobody pretends anything.
                host: Source::pretended(folder),
            };
            let (agent, mut first) = (Agent::new(number, up.clone())?, up.subscribe());
            Ok(tokio::spawn(async move {
                // The first one writes the file. All at once would, each with its syncs, and
                // take minutes of a slow disk.
                if number == 0 || first.wait_for(|count| *count > 0).await.is_ok() {
                    agent.run(settings).await;
                }
            }))
        });
        let agents = agents.collect::<anyhow::Result<_>>()?;
        Ok(Fleet { agents, up })
    }

    /// How many have a session now.
    pub fn up(&self) -> usize {
        *self.up.borrow()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.agents.iter().for_each(JoinHandle::abort);
    }
}

/// One of them.
struct Agent {
    hello: v1::Hello,
    up: Arc<watch::Sender<usize>>,
    outbound: Option<mpsc::Sender<v1::AgentMessage>>,
    /// Ends that were not acknowledged yet, by the report that told them.
    untold: Vec<(u64, Vec<v1::Observation>)>,
    sequence: u64,
}

impl Agent {
    fn new(number: usize, up: Arc<watch::Sender<usize>>) -> anyhow::Result<Agent> {
        let name = Name::new(&format!("fleet-{number}")).context("name an agent")?;
        let mut instance_key = [0; 16];
        instance_key[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let spec = NodeSpec {
            labels: [("fleet".to_owned(), "yes".to_owned())].into(),
            pool: Name::new("default").context("name a pool")?,
            zone: Name::new("default").context("name a zone")?,
            cpu: CpuMilli(CORES * 1000),
            memory: MemoryBytes(256 << 30),
            devices: Vec::new(),
            ports: PortRange::DEFAULT,
            agent_version: "fleet".to_owned(),
            docker_version: String::new(),
            tasks_per_device_max: berth_model::TASKS_PER_DEVICE_MAX_DEFAULT,
            address: String::new(),
        };
        let boot_id = "fleet".to_owned();
        let hello = hello_to_proto(&Hello { name, instance_key, spec, held: None, boot_id });
        Ok(Agent { hello, up, outbound: None, untold: Vec::new(), sequence: 0 })
    }

    async fn run(mut self, settings: SessionSettings) {
        let (events, mut inbox) = mpsc::channel(EVENTS_MAX);
        let (facts, told) = watch::channel(Facts::default());
        // Both end together: the session when nobody listens any more.
        let session = keep(settings, events, told);
        let listening = async {
            while let Some(event) = inbox.recv().await {
                self.hear(event, &facts);
            }
        };
        tokio::join!(session, listening);
    }

    fn hear(&mut self, event: SessionEvent, facts: &watch::Sender<Facts>) {
        match event {
            SessionEvent::Greeting(answer) => {
                let greeting = Greeting { hello: self.hello.clone(), inventory: 0 };
                drop(answer.send(greeting));
            }
            SessionEvent::Up { outbound, .. } => {
                self.up.send_modify(|count| *count += 1);
                self.outbound = Some(outbound);
                for (sequence, observations) in self.untold.clone() {
                    self.report(sequence, observations);
                }
            }
            SessionEvent::Down => {
                self.up.send_modify(|count| *count -= 1);
                self.outbound = None;
            }
            SessionEvent::Message(FromScheduler::Full(full)) => {
                facts.send_modify(|facts| facts.generation = full.generation);
                self.end_all(&full.rows);
            }
            SessionEvent::Message(FromScheduler::Delta(delta)) => {
                facts.send_modify(|facts| facts.generation = delta.to);
                self.end_all(&delta.upserts);
            }
            SessionEvent::Message(FromScheduler::ReportAck(ack)) => {
                self.untold.retain(|(sequence, _)| *sequence != ack.sequence);
            }
            SessionEvent::Message(_)
            | SessionEvent::Acknowledged { .. }
            | SessionEvent::StockAsked { .. } => {}
        }
    }

    /// What is to run here has run.
    fn end_all(&mut self, rows: &[v1::DesiredAllocation]) {
        if rows.is_empty() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let finished_at_ms = u64::try_from(now).unwrap_or(u64::MAX);
        let observations = rows.iter().map(|row| v1::Observation {
            allocation_id: row.allocation_id.clone(),
            state: Some(State::Ended(v1::Ended {
                cause: v1::EndCause::Exited.into(),
                exit_code: Some(0),
                started_at_ms: Some(finished_at_ms),
                finished_at_ms,
                ..v1::Ended::default()
            })),
        });
        let observations: Vec<_> = observations.collect();
        self.sequence += 1;
        self.untold.push((self.sequence, observations.clone()));
        self.report(self.sequence, observations);
    }

    fn report(&self, sequence: u64, observations: Vec<v1::Observation>) {
        let report = v1::Report { sequence, observations, complete: false };
        let message = v1::AgentMessage { message: Some(ToScheduler::Report(report)) };
        if let Some(outbound) = &self.outbound {
            // A full queue means that the session is about to end; it is told again.
            let _ = outbound.try_send(message);
        }
    }
}
