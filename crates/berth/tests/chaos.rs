//! Submits with keys while schedulers are killed, frozen and started again at
//! random: every acknowledged job exists once and finishes, every instance
//! runs exactly once, the clients' history is linearizable, and the replicas
//! end with one state.
//!
//! `BERTH_CHAOS_SECONDS` sets how long the faults go on (20 unless set),
//! `BERTH_CHAOS_JOBS` how many jobs are submitted meanwhile (200 unless set),
//! `BERTH_CHAOS_SEED` what is drawn.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use berth::local::LocalCluster;
use berth_client::{Client, ClientError, Options};
use berth_proto::v1;
use berth_tests::linearizability::{
    Budget, Recorder, SubmitAction, SubmitAnswer, Submits, check, shared_ids,
};
use rustix::process::{Pid, Signal, kill_process};

use support::Draw;

type History = Recorder<SubmitAction, SubmitAnswer>;

const CLIENTS: u32 = 6;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_f08_acknowledged_jobs_survive_dying_and_freezing_schedulers() {
    let seconds = setting("BERTH_CHAOS_SECONDS", 20);
    let jobs = setting("BERTH_CHAOS_JOBS", 200);
    let seed = setting("BERTH_CHAOS_SEED", u64::from(std::process::id()));
    eprintln!("BERTH_CHAOS_SEED={seed} BERTH_CHAOS_SECONDS={seconds} BERTH_CHAOS_JOBS={jobs}");
    let folder = tempfile::tempdir().unwrap();
    let traces = folder.path().join("traces");
    std::fs::create_dir(&traces).unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 3)).await.unwrap();
    let history = Arc::new(History::default());
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);

    let next = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = Client::new(Options::new(rotated(&cluster.servers(), number as usize)));
            let work = Work {
                client,
                number,
                history: history.clone(),
                begun,
                next: next.clone(),
                jobs,
                // Submits are spread over the whole time of the faults.
                pace: Duration::from_secs(seconds).mul_f64(0.9 * f64::from(CLIENTS))
                    / u32::try_from(jobs).unwrap(),
                traces: traces.display().to_string(),
            };
            tokio::spawn(work.run())
        })
        .collect();

    let faults = torment(&mut cluster, &mut Draw(seed), end).await;
    eprintln!("faults: {faults:?}");
    assert!(faults.killed > 0 && faults.frozen > 0, "nothing was done to the schedulers");
    for client in clients {
        client.await.unwrap();
    }

    let client = cluster.client();
    for number in 0..jobs {
        let name = format!("job-{number}");
        let job = support::reference(&name);
        let request = v1::GetJobRequest { job, consistency: 0, with_spec: false };
        support::until(&format!("{name} to succeed"), || async {
            let job = client.get_job(request.clone()).await.ok()?;
            assert!(job.state != "failed", "{name} failed: {}", job.reason);
            (job.state == "succeeded").then_some(())
        })
        .await;
    }
    let counts = support::lines(&traces);
    assert_eq!(counts.len() as u64, jobs, "every instance ran");
    let twice: Vec<_> = counts.iter().filter(|(_, lines)| **lines != 1).collect();
    assert!(twice.is_empty(), "ran more than once: {twice:?}");
    support::hashes_agree(&cluster.servers()).await;
    cluster.stop().await;

    let history = Arc::into_inner(history).unwrap().into_history();
    eprintln!("history: {} calls", history.len());
    assert!(shared_ids(&history).is_empty(), "{:?}", shared_ids(&history));
    check(&Submits, &history, Budget { steps_max: 1_000_000 }).assert_linearizable();
}

fn rotated(servers: &[String], by: usize) -> Vec<String> {
    let mut servers = servers.to_vec();
    let by = by % servers.len();
    servers.rotate_left(by);
    servers
}

/// One client's share of the work.
struct Work {
    client: Client,
    number: u32,
    history: Arc<History>,
    begun: Instant,
    next: Arc<AtomicU64>,
    jobs: u64,
    pace: Duration,
    traces: String,
}

impl Work {
    async fn run(self) {
        let mut pace = tokio::time::interval(self.pace);
        loop {
            pace.tick().await;
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.jobs {
                return;
            }
            self.submit_until_acknowledged(number).await;
            // A job that somebody else may just be submitting, or that exists.
            let other = if number.is_multiple_of(2) { number } else { number / 2 };
            self.read(other).await;
        }
    }

    async fn submit_until_acknowledged(&self, number: u64) {
        let name = format!("job-{number}");
        let script = format!("echo $BERTH_ALLOC_ID >> {}/{name}", self.traces);
        let spec = support::batch(&name, 1, support::shell(&script));
        let began = Instant::now();
        loop {
            let action = SubmitAction::Submit { key: name.clone(), digest: number };
            let call = self.history.begin(self.number, self.tick(), action);
            let answer = self.client.submit(support::request(&spec, &name)).await;
            match answer {
                Ok(reply) => {
                    let outcome = SubmitAnswer::Accepted { job_id: reply.job_id };
                    self.history.answer(call, self.tick(), outcome);
                    return;
                }
                Err(ClientError::Refused(refusal)) => panic!("{name}: {refusal:?}"),
                Err(error) => {
                    assert!(began.elapsed() < support::LIMIT, "{name}: {error:?}");
                }
            }
        }
    }

    async fn read(&self, number: u64) {
        let key = format!("job-{number}");
        let call =
            self.history.begin(self.number, self.tick(), SubmitAction::Read { key: key.clone() });
        let job = support::reference(&key);
        let request = v1::GetJobRequest { job, consistency: 0, with_spec: false };
        let found = match self.client.get_job(request).await {
            Ok(job) => Some(job.id),
            Err(ClientError::Refused(refusal)) if refusal.code == tonic::Code::NotFound => None,
            // A read without an answer says nothing.
            Err(_) => return,
        };
        self.history.answer(call, self.tick(), SubmitAnswer::Found(found));
    }

    fn tick(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap()
    }
}

#[derive(Debug, Default)]
struct Faults {
    killed: u32,
    frozen: u32,
}

/// Does something to a scheduler drawn at random, again and again.
async fn torment(cluster: &mut LocalCluster, draw: &mut Draw, end: Instant) -> Faults {
    let mut faults = Faults::default();
    let mut pause = Pause::new();
    while Instant::now() < end {
        pause.wait(200 + draw.below(1200)).await;
        let position = usize::try_from(draw.below(cluster.schedulers.len() as u64)).unwrap();
        let scheduler = &mut cluster.schedulers[position];
        let id = scheduler.id;
        if draw.below(2) == 0 {
            scheduler.child.kill().await.unwrap();
            faults.killed += 1;
            pause.wait(draw.below(1500)).await;
            cluster.restart_scheduler(id).unwrap();
        } else {
            let pid = Pid::from_raw(i32::try_from(scheduler.child.pid).unwrap()).unwrap();
            kill_process(pid, Signal::STOP).unwrap();
            faults.frozen += 1;
            pause.wait(300 + draw.below(2500)).await;
            kill_process(pid, Signal::CONT).unwrap();
        }
    }
    faults
}

/// The rhythm of the faults: time is what this test is about.
struct Pause(tokio::time::Interval);

impl Pause {
    fn new() -> Pause {
        Pause(tokio::time::interval(Duration::from_millis(1)))
    }

    async fn wait(&mut self, ms: u64) {
        let until = Instant::now() + Duration::from_millis(ms);
        while Instant::now() < until {
            self.0.tick().await;
        }
    }
}
