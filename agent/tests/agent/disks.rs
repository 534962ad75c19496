//! Disks that fail beneath an agent: what runs goes on, and nothing new waits there for long.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use berth_model::{AllocationId, DiskBytes, JobKind};
use berth_proto::v1::EndCause;
use tempfile::TempDir;

use crate::harness::agent::Agent;
use crate::harness::jobs::Job;
use crate::harness::scheduler::Scheduler;
use crate::harness::{cluster, skip};

/// The catalogue's bound until the cluster knows that a node takes nothing new.
const TOLD_MAX: Duration = Duration::from_secs(10);
const IMAGE_BYTES: u64 = 24 << 20;

/// A file system of its own, in a file, below a directory.
struct Disk {
    at: PathBuf,
    _image: TempDir,
}

impl Disk {
    /// `None` where the host does not let it.
    fn below(dir: &Path) -> Option<Disk> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        let at = dir.join("data");
        fs::create_dir(&at).unwrap();
        let made = run("mkfs.ext4", &["-q", "-F", &image.to_string_lossy()])
            && run(
                "mount",
                &["-o", "loop,errors=remount-ro", &image.to_string_lossy(), &at.to_string_lossy()],
            );
        if !made {
            skip("root", "the agent's tests of disks need loop devices, which root has");
        }
        made.then_some(Disk { at, _image: folder })
    }

    /// As after an error that the kernel found on it.
    fn fail(&self) {
        let device =
            Command::new("findmnt").args(["-no", "SOURCE"]).arg(&self.at).output().unwrap();
        let device = String::from_utf8(device.stdout).unwrap();
        let name = Path::new(device.trim()).file_name().unwrap().to_owned();
        let trigger = Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error");
        fs::write(trigger, "a test").unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l", &self.at.to_string_lossy()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// An agent on a disk of its own, with a worker that runs. The disk goes last.
struct Host {
    agent: Agent,
    scheduler: Scheduler,
    running: AllocationId,
    disk: Disk,
}

impl Host {
    async fn start() -> Option<Host> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::below(dir.path())?;
        let mut scheduler = Scheduler::start().await;
        let agent = Agent::start_in(dir, &scheduler.address, &[]);
        scheduler.session().await;
        scheduler.send_full();
        let job = Job::of(1, JobKind::Batch, &["sleep", "600"]);
        scheduler.want(&job, vec![job.row(0)]);
        scheduler.until_ready(job.id(0)).await;
        Some(Host { agent, scheduler, running: job.id(0), disk })
    }

    /// What is to begin now is given back, with a reason, and what runs goes on.
    async fn takes_nothing_new(&mut self, number: u64) {
        let before = self.agent.processes(self.running);
        let job = Job::shell(number, "exit 0");
        let asked = Instant::now();
        self.scheduler.want(&job, vec![job.row(0)]);
        let ended = self.scheduler.until_ended(job.id(0)).await;
        assert!(asked.elapsed() < TOLD_MAX, "{:?}", asked.elapsed());
        assert_eq!(ended.cause, i32::from(EndCause::HostFault), "{ended:?}");
        assert!(!ended.reason.is_empty(), "{ended:?}");
        assert_eq!(self.agent.processes(self.running), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f42_a_full_disk_takes_nothing_new_until_there_is_room() {
    let Some(mut host) = Host::start().await else { return };
    let filler = host.disk.at.join("filler");
    fs::create_dir(&filler).unwrap();
    // To the last block, of which some come free while larger ones are written.
    for bytes in [IMAGE_BYTES, 64 << 10, 1, 1] {
        let mut files = (0_u32..).map(|number| filler.join(format!("{bytes}-{number}")));
        let piece = vec![1; usize::try_from(bytes).unwrap()];
        let refused = files.find_map(|file| fs::write(file, &piece).err()).unwrap();
        assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
        rustix::fs::sync();
    }
    host.takes_nothing_new(2).await;
    fs::remove_dir_all(&filler).unwrap();
    let job = Job::shell(3, "exit 5");
    host.scheduler.want(&job, vec![job.row(0)]);
    assert_eq!(host.scheduler.until_ended(job.id(0)).await.exit_code, Some(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f42_a_disk_that_turns_read_only_takes_nothing_new() {
    let Some(mut host) = Host::start().await else { return };
    host.disk.fail();
    host.takes_nothing_new(2).await;
    host.takes_nothing_new(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f42_a_directory_that_is_deleted_takes_nothing_new() {
    let Some(mut host) = Host::start().await else { return };
    for entry in fs::read_dir(&host.disk.at).unwrap() {
        let path = entry.unwrap().path();
        // Sockets and files alike.
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
    host.takes_nothing_new(2).await;
}

/// Counted every ten seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f41_a_worker_over_its_disk_is_ended_and_its_neighbour_goes_on() {
    let (mut scheduler, agent) = cluster(&[]).await;
    let limited = |number, script: &str| {
        let mut job = Job::shell(number, script);
        job.task().limits.disk = Some(DiskBytes(4 << 20));
        job
    };
    let modest = limited(1, "head -c 1000000 /dev/zero > some; exec sleep 600");
    scheduler.want(&modest, vec![modest.row(0)]);
    scheduler.until_ready(modest.id(0)).await;
    let greedy = limited(2, "mkdir a; head -c 9000000 /dev/zero > a/much; exec sleep 600");
    scheduler.want(&greedy, vec![greedy.row(0)]);
    let ended = scheduler.until_ended(greedy.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::Exited), "{ended:?}");
    assert!(ended.reason.starts_with("over its limit of 4MiB of disk: it has 8."), "{ended:?}");
    assert_eq!(agent.processes(greedy.id(0)), []);
    assert_eq!(agent.processes(modest.id(0)).len(), 1);
}
