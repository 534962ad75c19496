//! Whether a container can still use its devices, seen from inside. When the host's service
//! manager is reloaded it may write down anew which devices a container may use, and it knows
//! nothing of those that NVIDIA's runtime has allowed. The worker notices at its next context, or
//! never.
//!
//! A process of its own enters the container's group and mounts and opens the nodes there, so
//! that an image needs no program for it. Where that cannot be done nothing is said.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use berth_shim::ProcessIdentity;
use berth_shim::process::boot_id;
use bollard::models::ContainerCreateBody;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::options::Program;

/// The first argument of the process that looks.
pub const LOOK: &str = "look-inside";
/// The nodes of NVIDIA's driver; which of them a container has is its runtime's choice.
const NVIDIA: &str = "/dev/nvidia*";
/// A driver that does not answer says nothing of the container.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// A node is lost when so many looks, one after the other, were refused it.
const REFUSED_LOOKS: u32 = 2;
/// What a look may need of memory, with some to spare: it was begun before it enters the group, and
/// what it then touches for the first time is charged there.
const LOOK_BYTES: u64 = 16 << 20;
/// Of one look: a host has some fifty.
const NODES_MAX: usize = 256;
/// Room for as many paths, each with an error.
const SAID_BYTES_MAX: u64 = 256 * 1024;

/// Whether a node can be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Access {
    Open,
    /// It may not be.
    Refused(String),
    /// The driver's own affair, or that of whoever is root in the container and took it away:
    /// that is no fault of the host's.
    Unclear,
}

/// A node, and whether it can be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Which device it is of: whoever is root in the container may put another in its place.
    number: u64,
    access: Access,
}

/// By path in the container.
pub type Found = BTreeMap<String, Node>;

/// The nodes that a container is to keep; one with a `*` at its end stands for all that begin
/// so.
pub fn nodes_of(body: &ContainerCreateBody) -> Vec<String> {
    let host = body.host_config.as_ref();
    let asks = host.and_then(|host| host.device_requests.as_ref());
    let nvidia = asks.is_some_and(|asks| !asks.is_empty()).then(|| NVIDIA.to_owned());
    let mapped = host.and_then(|host| host.devices.as_ref()).into_iter().flatten();
    nvidia.into_iter().chain(mapped.filter_map(|device| device.path_in_container.clone())).collect()
}

/// What a container could use at first, and whether it still can.
#[derive(Debug)]
pub struct Kept {
    /// By path, with the number of the device.
    nodes: BTreeMap<String, u64>,
    refused_looks: u32,
}

impl Kept {
    /// By a first look.
    pub fn at_first(found: Found) -> Kept {
        let open = found.into_iter().filter(|(_, node)| node.access == Access::Open);
        let nodes = open.map(|(path, node)| (path, node.number)).collect();
        Kept { nodes, refused_looks: 0 }
    }

    pub fn nodes(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// Takes in another look; why the container is of no use any more.
    pub fn look(&mut self, found: &Found) -> Option<String> {
        let refused = self.nodes.iter().find_map(|(path, number)| {
            let node = found.get(path).filter(|node| node.number == *number)?;
            match &node.access {
                Access::Refused(why) => Some((path, why)),
                Access::Open | Access::Unclear => None,
            }
        });
        let Some((node, why)) = refused else {
            self.refused_looks = 0;
            return None;
        };
        self.refused_looks += 1;
        (self.refused_looks >= REFUSED_LOOKS)
            .then(|| format!("its container has lost the use of {node}: {why}"))
    }
}

/// Looks once, from inside of the container whose first process that is. `None` where nobody
/// can say.
pub async fn look(first: &ProcessIdentity, nodes: &[String]) -> Option<Found> {
    let Program { exe, arguments } = Program::of_this_executable("container-runner");
    let mut command = Command::new(exe);
    command.args(arguments).args([LOOK, &first.pid.to_string(), &first.start_ticks.to_string()]);
    command.args(nodes);
    let said = said(command, LOOK_LIMIT).await?;
    Some(said.lines().take(NODES_MAX).filter_map(understood).collect())
}

/// What it says if it succeeds in time. Returns no sooner than the process is gone: one that
/// hangs in a driver cannot be ended, and no second one is started beside it.
async fn said(mut command: Command, limit: Duration) -> Option<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.kill_on_drop(true).spawn().ok()?;
    let mut stdout = child.stdout.take()?.take(SAID_BYTES_MAX);
    let mut said = String::new();
    let ended = async {
        let read = stdout.read_to_string(&mut said).await;
        let status = child.wait().await;
        read.is_ok() && status.is_ok_and(|status| status.success())
    };
    let outcome = tokio::time::timeout(limit, ended).await;
    if outcome.is_err() {
        let _ = child.start_kill();
        let _ = child.wait().await;
    }
    outcome.is_ok_and(|succeeded| succeeded).then_some(said)
}

fn understood(line: &str) -> Option<(String, Node)> {
    let (path, what) = line.split_once('\t')?;
    let (number, what) = what.split_once('\t')?;
    let access = match what.split_once(' ') {
        None if what == "open" => Access::Open,
        Some(("refused", why)) => Access::Refused(why.to_owned()),
        _ => Access::Unclear,
    };
    Some((path.to_owned(), Node { number: number.parse().ok()?, access }))
}

/// The process that looks: a pid, when it began, and nodes.
pub fn be_inside(mut given: impl Iterator<Item = String>) -> ExitCode {
    let mut number = || given.next().and_then(|word| word.parse::<u64>().ok());
    let (Some(pid), Some(start_ticks)) = (number(), number()) else { return ExitCode::from(2) };
    let Ok(pid) = u32::try_from(pid) else { return ExitCode::from(2) };
    match enter(pid, start_ticks) {
        Ok(()) => {}
        Err(_) => return ExitCode::FAILURE,
    }
    let mut said = String::new();
    for node in given.flat_map(|node| named(&node)).take(NODES_MAX) {
        let (number, what) = match open(&node) {
            (number, Ok(())) => (number, "open".to_owned()),
            (number, Err(error)) => (number, in_words(error)),
        };
        said += &format!("{node}\t{number}\t{what}\n");
    }
    match io::stdout().write_all(said.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What it means that a node cannot be opened.
fn in_words(error: Errno) -> String {
    let what = if matches!(error, Errno::PERM | Errno::ACCESS) { "refused" } else { "unclear" };
    format!("{what} {}", io::Error::from(error))
}

/// Enters what decides of devices: the group, and the mounts.
fn enter(pid: u32, start_ticks: u64) -> io::Result<()> {
    let first = ProcessIdentity { pid, start_ticks, boot_id: boot_id()? };
    let ended = || io::Error::from(io::ErrorKind::NotFound);
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    // Read before it is known whose they are: then they are its own.
    let handle = first.open()?.ok_or_else(ended)?;
    let group = PathBuf::from(group(&groups).ok_or_else(ended)?);
    if !has_room(&group) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // 0 is whoever writes.
    fs::write(group.join("cgroup.procs"), "0")?;
    Ok(move_into_thread_name_spaces(handle.as_fd(), ThreadNameSpaceType::MOUNT)?)
}

/// Whether a process more does not drive a group beyond its limit of memory, which would end the
/// worker: in version 2 the group that decides of devices is the one that counts memory, too. A
/// file that is not there says that nothing is limited.
fn has_room(group: &Path) -> bool {
    let bytes = |file| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    let most = [bytes("memory.max"), bytes("memory.high")].into_iter().flatten().min();
    most.zip(bytes("memory.current"))
        .is_none_or(|(most, used)| used.saturating_add(LOOK_BYTES) <= most)
}

/// The group that decides of devices: of version 1 where there is one for them, else of
/// version 2.
fn group(groups: &str) -> Option<String> {
    let mut lines = groups.lines().filter_map(|line| line.split_once(':'));
    let of_devices = |rest: &&str| {
        let controllers = rest.split_once(':').map_or("", |(controllers, _)| controllers);
        controllers.split(',').any(|controller| controller == "devices")
    };
    let rests: Vec<&str> = lines.by_ref().map(|(_, rest)| rest).collect();
    let (root, rest) = match rests.iter().find(|rest| of_devices(rest)) {
        Some(rest) => ("/sys/fs/cgroup/devices", rest),
        None => ("/sys/fs/cgroup", rests.iter().find(|rest| rest.starts_with(':'))?),
    };
    let (_, path) = rest.split_once(':')?;
    // Outside of what this process sees of them.
    (!path.contains("/..")).then(|| format!("{root}{path}"))
}

/// The nodes that are meant.
fn named(node: &str) -> Vec<String> {
    let Some((dir, begin)) = node.strip_suffix('*').and_then(|all| all.rsplit_once('/')) else {
        return vec![node.to_owned()];
    };
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(begin)).map(|name| format!("{dir}/{name}")).collect()
}

/// As a process of the container would. What lies there was put there by whoever is root in the
/// container: no link is followed, nothing is waited for, and what is no character device is
/// nobody's node. Its number is 0 where there is none.
fn open(node: &str) -> (u64, Result<(), Errno>) {
    let flags =
        OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::lstat(node) {
        Err(error) => (0, Err(error)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice => {
            (0, Err(Errno::NODEV))
        }
        Ok(stat) => (stat.st_rdev, rustix::fs::open(node, flags, Mode::empty()).map(drop)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_that_decides_of_devices_is_found() {
        for (groups, expected) in [
            (
                "12:pids:/docker/a\n3:devices:/docker/a\n0::/system.slice/docker.service\n",
                Some("/sys/fs/cgroup/devices/docker/a"),
            ),
            ("4:cpu,devices:/x\n", Some("/sys/fs/cgroup/devices/x")),
            (
                "0::/system.slice/docker-a.scope\n",
                Some("/sys/fs/cgroup/system.slice/docker-a.scope"),
            ),
            ("0::/../docker-a.scope\n", None),
            ("1:name=systemd:/x\n", None),
            ("", None),
        ] {
            assert_eq!(group(groups).as_deref(), expected, "{groups}");
        }
    }

    #[test]
    fn a_group_near_its_limit_of_memory_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let group = folder.path();
        assert!(has_room(group), "it does not count memory");
        let current = 1 << 30;
        for (most, high, expected) in [
            (String::from("max"), "max".to_owned(), true),
            ((current + LOOK_BYTES).to_string(), "max".to_owned(), true),
            ((current + LOOK_BYTES - 1).to_string(), "max".to_owned(), false),
            ("max".to_owned(), current.to_string(), false),
            ("1".to_owned(), "max".to_owned(), false),
        ] {
            fs::write(group.join("memory.current"), format!("{current}\n")).unwrap();
            fs::write(group.join("memory.max"), format!("{most}\n")).unwrap();
            fs::write(group.join("memory.high"), format!("{high}\n")).unwrap();
            assert_eq!(has_room(group), expected, "{most} {high}");
        }
    }

    #[test]
    fn what_was_open_at_first_is_lost_when_it_was_refused_twice() {
        let found = |text: &str| -> Found { text.lines().filter_map(understood).collect() };
        let first = "/dev/a\t1\topen\n/dev/b\t2\trefused no\n/dev/c\t3\tunclear no\n/dev/d\t4\topen\n\
                     garbled\n/dev/e\topen\n";
        let mut kept = Kept::at_first(found(first));
        assert_eq!(kept.nodes(), ["/dev/a", "/dev/d"]);
        let words = "refused Operation not permitted (os error 1)";
        let refused = found(&format!("/dev/a\t1\topen\n/dev/d\t4\t{words}\n"));
        // What somebody has put in its place.
        let other = found(&format!("/dev/a\t1\topen\n/dev/d\t9\t{words}\n"));
        assert_eq!((kept.look(&other), kept.look(&other)), (None, None));
        assert_eq!(kept.look(&refused), None);
        assert_eq!(kept.look(&found("/dev/a\t1\tunclear busy\n/dev/b\t2\trefused no\n")), None);
        assert_eq!(kept.look(&refused), None, "not one after the other");
        let why = "its container has lost the use of /dev/d: Operation not permitted (os error 1)";
        assert_eq!(kept.look(&refused).as_deref(), Some(why));
    }

    #[test]
    fn only_who_may_not_open_a_node_was_refused_it() {
        let access =
            |error| understood(&format!("/dev/a\t1\t{}", in_words(error))).unwrap().1.access;
        assert!(matches!(access(Errno::PERM), Access::Refused(_)));
        assert!(matches!(access(Errno::ACCESS), Access::Refused(_)));
        for error in [Errno::NOENT, Errno::NODEV, Errno::IO, Errno::BUSY] {
            assert_eq!(access(error), Access::Unclear, "{error}");
        }
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_gone_before_there_is_another() {
        let shell = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            command
        };
        let long = Duration::from_secs(30);
        assert_eq!(said(shell("echo a"), long).await.as_deref(), Some("a\n"));
        assert_eq!(said(shell("echo a; exit 1"), long).await, None);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("echo $$ > {}; exec sleep 600", file.display());
        assert_eq!(said(shell(&script), Duration::from_millis(500)).await, None);
        let pid = fs::read_to_string(file).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it is not even a zombie");
    }

    #[test]
    fn nodes_are_opened_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        fs::write(path("nvidia-file"), "").unwrap();
        std::os::unix::fs::symlink("/dev/null", path("nvidia-link")).unwrap();
        assert_eq!(open("/dev/null"), (rustix::fs::makedev(1, 3), Ok(())));
        assert_eq!(open(&path("none")), (0, Err(Errno::NOENT)));
        assert_eq!(open(&path("nvidia-file")), (0, Err(Errno::NODEV)));
        assert_eq!(open(&path("nvidia-link")), (0, Err(Errno::NODEV)));
        let mut all = named(&path("nvidia*"));
        all.sort();
        assert_eq!(all, [path("nvidia-file"), path("nvidia-link")]);
        assert_eq!(named("/dev/null"), ["/dev/null"]);
    }
}
