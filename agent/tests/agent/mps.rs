//! Workers that share a GPU where there is MPS: what they find in their environment, that they
//! reach who listens, and what is told of them. Who listens is a stand-in of the test's, a pipe
//! or socket named `control`: nothing here is NVIDIA's, and no GPU is bounded by it.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use berth_model::{DeviceClaim, JobKind};
use berth_proto::v1::{Device, MpsSample};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use tempfile::TempDir;

use crate::docker::{self, Engine};
use crate::gpus::{cluster, whole};
use crate::harness::agent::Agent;
use crate::harness::jobs::Job;
use crate::harness::scheduler::Scheduler;
use crate::harness::skip;
use crate::sharers::part;

/// Says what it finds of MPS, and goes on.
const SAY: &str = "env | grep ^CUDA_MPS_ | sort; echo said; exec sleep 600";

/// What a client finds, line by line.
fn client(directory: &Path, percent: u32, memory_mib: u64) -> String {
    format!(
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE={percent}\n\
         CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0={memory_mib}M\n\
         CUDA_MPS_PIPE_DIRECTORY={}\n",
        directory.display()
    )
}

/// A pipe named `control`, and who reads it.
fn stand_in(directory: &Path) -> File {
    let control = directory.join("control");
    mknodat(CWD, &control, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let reads = OFlags::RDONLY | OFlags::NONBLOCK;
    File::from(rustix::fs::open(&control, reads, Mode::empty()).unwrap())
}

fn want(scheduler: &mut Scheduler, number: u64, script: &str, claim: DeviceClaim) -> Job {
    let mut job = Job::shell(number, script);
    // Neither what Berth sets nor anything beside it.
    for name in ["CUDA_MPS_CLIENT_PRIORITY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] {
        job.task().env.insert(name.to_owned(), "100".to_owned());
    }
    scheduler.want(&job, vec![job.row_with(0, vec![claim], Vec::new())]);
    job
}

/// What a worker of this claim says of MPS.
async fn said(
    (scheduler, agent): (&mut Scheduler, &Agent),
    number: u64,
    claim: DeviceClaim,
) -> (Job, String) {
    let job = want(scheduler, number, SAY, claim);
    let id = job.id(0);
    scheduler.until_true("its word", |_| agent.stdout(id).ends_with("said\n")).await;
    let output = agent.stdout(id);
    (job, output.strip_suffix("said\n").unwrap().to_owned())
}

/// Waits until what is told of the first device is so.
async fn until_told(scheduler: &mut Scheduler, is: impl Fn(&MpsSample) -> bool) {
    let mps = |scheduler: &Scheduler| scheduler.samples.first().and_then(|one| one.mps.clone());
    scheduler.until_true("to be told", |now| mps(now).is_some_and(|mps| is(&mps))).await;
}

fn shares(mps: &MpsSample) -> Vec<(&str, u32)> {
    mps.shares.iter().map(|share| (share.allocation_id.as_str(), share.percent)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_is_a_clients_while_somebody_listens_and_what_it_began_as_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("control")).unwrap();
    let setting = ["--mps", dir.path().to_str().unwrap()];
    let (mut scheduler, mut agent, devices) = cluster("2xH100-80GB", &setting).await;
    // 80 GB, of which 15 and a half per cent are 11,825.5 MiB.
    let claim = part(&devices[0], 155);
    let (first, found) = said((&mut scheduler, &agent), 1, claim).await;
    assert_eq!(found, client(dir.path(), 15, 11_825));
    let own = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=100\nCUDA_MPS_CLIENT_PRIORITY=100\n";
    let (_, found) = said((&mut scheduler, &agent), 2, whole(&devices[1])).await;
    assert_eq!(found, own, "whose GPU is its own may run what it likes there");
    let id = first.id(0).to_string();
    until_told(&mut scheduler, |mps| mps.missing.is_empty() && shares(mps) == [(&*id, 15)]).await;

    drop(listener);
    let (_, found) = said((&mut scheduler, &agent), 3, part(&devices[0], 500)).await;
    assert_eq!(found, own, "nobody listens, and so it begins as it would without");
    let nobody = |mps: &MpsSample| mps.missing.ends_with("control: nobody listens");
    until_told(&mut scheduler, |mps| nobody(mps) && shares(mps) == [(&*id, 15)]).await;
    agent.kill().await;
    scheduler.samples.clear();
    agent.start_again();
    scheduler.session().await;
    scheduler.send_full();
    until_told(&mut scheduler, |mps| nobody(mps) && shares(mps) == [(&*id, 15)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_setting_nobody_is_a_client() {
    let (mut scheduler, agent, devices) = cluster("1xH100-80GB", &[]).await;
    let (_, found) = said((&mut scheduler, &agent), 1, part(&devices[0], 500)).await;
    assert_eq!(found, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=100\nCUDA_MPS_CLIENT_PRIORITY=100\n");
    scheduler.until_true("a sample", |now| !now.samples.is_empty()).await;
    assert_eq!(scheduler.samples[0].mps, None);
}

/// Confined workers see no `/tmp`, no `/run` and no shared memory of the host's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confined_client_reaches_who_listens_and_a_neighbour_does_not() {
    if !rustix::process::geteuid().is_root() {
        return skip("root", "workers are confined by root alone");
    }
    let memory = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    fs::write(memory.path(), "shared\n").unwrap();
    for parent in ["/tmp", "/run", "/var/lib"] {
        let dir = TempDir::new_in(parent).unwrap();
        let mut reader = stand_in(dir.path());
        let setting = ["--confine", "always", "--mps", dir.path().to_str().unwrap()];
        let (mut scheduler, agent, devices) = cluster("2xH100-80GB", &setting).await;
        let script = format!(
            "{{ echo hello > {dir}/control; }} 2>/dev/null && echo reached; \
             cat {memory} 2>/dev/null; echo said; exec sleep 600",
            dir = dir.path().display(),
            memory = memory.path().display(),
        );
        let job = want(&mut scheduler, 1, &script, part(&devices[0], 500));
        let word = |agent: &Agent, job: &Job| agent.stdout(job.id(0));
        let has_said = |_: &Scheduler| word(&agent, &job).ends_with("said\n");
        scheduler.until_true("its word", has_said).await;
        assert_eq!(word(&agent, &job), "reached\nshared\nsaid\n", "{parent}");
        let mut heard = [0; 16];
        let count = reader.read(&mut heard).unwrap();
        assert_eq!(&heard[..count], b"hello\n", "{parent}");
        if parent != "/var/lib" {
            let other = want(&mut scheduler, 2, &script, whole(&devices[1]));
            let has_said = |_: &Scheduler| word(&agent, &other).ends_with("said\n");
            scheduler.until_true("its word", has_said).await;
            assert_eq!(word(&agent, &other), "said\n", "{parent}: it is no client");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_with_a_share_is_a_client_too() {
    let Some(engine) = Engine::start().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut reader = stand_in(dir.path());
    let setting = ["--mps", dir.path().to_str().unwrap()];
    let (mut scheduler, agent, device): (_, _, Device) =
        docker::cluster_with(&engine, &setting).await;
    let script = "env | while read line; do case $line in CUDA_MPS_*) echo $line;; esac; done; \
                  echo hello > $CUDA_MPS_PIPE_DIRECTORY/control";
    let job = docker::job(1, JobKind::Batch, script);
    scheduler.want(&job, vec![job.row_with(0, vec![part(&device, 250)], Vec::new())]);
    let ended = scheduler.until_ended(job.id(0)).await;
    assert_eq!(ended.exit_code, Some(0), "{ended:?}");
    let output = agent.stdout(job.id(0));
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    let expected = client(dir.path(), 25, 19_073);
    assert_eq!(lines, expected.lines().collect::<Vec<_>>());
    let mut heard = [0; 16];
    let count = reader.read(&mut heard).unwrap();
    assert_eq!(&heard[..count], b"hello\n");
}
