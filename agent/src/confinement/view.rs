//! What a worker sees of its host. Carried out by the first process of its namespaces, before
//! anything of the job's own runs; what cannot be made so ends the start.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind,
    mount_change, move_mount, open_tree,
};

use super::enclosure::View;
use crate::sys::{self, Depth, make_read_only};

/// Nodes that every program may need.
const COMMON_NODES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];
/// What the kernel says of itself there helps an attacker only (as Docker's engine masks it).
const MASKED: [&str; 9] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/acpi",
    "/sys/firmware",
    "/sys/kernel/debug",
];
/// What would change the host for all (as Docker's engine protects it).
const SETTINGS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A part of the host's tree, held while its place is covered.
struct Tree {
    mount: OwnedFd,
    /// Where it is to be seen.
    target: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
}

/// Gives this process mounts of its own, which are what the view says.
///
/// # Errors
/// What could not be done, in words.
pub fn take(view: &View) -> Result<(), String> {
    sys::enter(sys::Own::MountsAndMemory).map_err(|error| cannot("make namespaces", error))?;
    // What the host mounts later is seen here; nothing that is done here is seen there.
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", downstream).map_err(|error| cannot("part with the host's mounts", error))?;
    let host = Host::hold(view)?;
    if !view.leaves_all() {
        make_read_only(Path::new("/"), Depth::AllBelow)
            .map_err(|error| cannot("make the host's files read-only", error))?;
    }
    for tree in host.own.iter().chain(&host.writable) {
        tree.attach()?;
    }
    hide(&view.hidden, &host.task)?;
    devices(&host.devices)?;
    processes()
}

/// What of the host stays to be seen.
struct Host {
    own: Vec<Tree>,
    writable: Vec<Tree>,
    task: Tree,
    devices: Vec<Tree>,
}

impl Host {
    fn hold(view: &View) -> Result<Host, String> {
        let own = view.own.iter().filter(|_| !view.leaves_all());
        let own: Result<_, String> =
            own.map(|shown| Tree::hold(&shown.source, &shown.target)).collect();
        let writable = view.writable.iter().filter(|_| !view.leaves_all());
        let writable: Result<_, String> = writable.map(|path| Tree::hold(path, path)).collect();
        let nodes = COMMON_NODES.into_iter().chain(view.devices.iter().map(String::as_str));
        let devices: Result<_, String> = nodes.map(|path| Tree::hold(path, path)).collect();
        let task = Tree::hold(&view.task_dir, &view.task_dir)?;
        Ok(Host { own: own?, writable: writable?, task, devices: devices? })
    }
}

impl Tree {
    fn hold(source: &str, target: &str) -> Result<Tree, String> {
        let whole = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let mount = open_tree(CWD, source, whole)
            .map_err(|error| cannot(&format!("take {source}"), error))?;
        let kind =
            fs::metadata(source).map_err(|error| cannot(&format!("look at {source}"), error))?;
        let kind = if kind.is_dir() { Kind::Directory } else { Kind::File };
        Ok(Tree { mount, target: target.to_owned(), kind })
    }

    /// Makes it seen, on a place that is there.
    fn attach(&self) -> Result<(), String> {
        let what = || format!("show {}", self.target);
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
        move_mount(self.mount.as_fd(), "", CWD, self.target.as_str(), flags)
            .map_err(|error| cannot(&what(), error))
    }

    /// Makes a place for it where what was there is covered.
    fn make_place(&self) -> Result<(), String> {
        let target = Path::new(&self.target);
        let dir = match self.kind {
            Kind::Directory => target,
            Kind::File => target.parent().unwrap_or(target),
        };
        let made = fs::create_dir_all(dir).and_then(|()| match self.kind {
            Kind::Directory => Ok(()),
            Kind::File => fs::File::create_new(target).map(drop),
        });
        made.map_err(|error| cannot(&format!("make a place for {}", self.target), error))
    }
}

/// Covers what is not for workers, and shows the one part of it that is this one's.
fn hide(hidden: &[String], task: &Tree) -> Result<(), String> {
    let mut covered = Vec::new();
    for path in hidden {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => {
                empty(path, c"mode=0755,size=64k,nr_inodes=64")?;
                covered.push(path);
            }
            Ok(_) => mask_file(path)?,
            // Covered with what it is in, or never there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot(&format!("hide {path}"), error)),
        }
    }
    if !Path::new(&task.target).exists() {
        task.make_place()?;
    }
    task.attach()?;
    for path in covered {
        seal(path)?;
    }
    Ok(())
}

/// A `/dev` with nothing in it but what is this worker's.
fn devices(nodes: &[Tree]) -> Result<(), String> {
    let options = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("berth", "/dev", "tmpfs", options, c"mode=0755,size=64k,nr_inodes=1024")
        .map_err(|error| cannot("make its /dev", error))?;
    for node in nodes {
        if !Path::new(&node.target).exists() {
            node.make_place()?;
        }
        node.attach()?;
    }
    for (to, link) in LINKS {
        symlink(to, link).map_err(|error| cannot(&format!("make {link}"), error))?;
    }
    for dir in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        fs::create_dir(dir).map_err(|error| cannot(&format!("make {dir}"), error))?;
    }
    seal("/dev")?;
    let quiet = options | MountFlags::NODEV;
    mount("devpts", "/dev/pts", "devpts", options, c"newinstance,ptmxmode=0666,mode=0620")
        .map_err(|error| cannot("make its /dev/pts", error))?;
    mount("shm", "/dev/shm", "tmpfs", quiet, c"mode=1777")
        .map_err(|error| cannot("make its /dev/shm", error))?;
    match mount("mqueue", "/dev/mqueue", "mqueue", quiet, None) {
        // Kernels may be built without.
        Ok(()) | Err(rustix::io::Errno::NODEV) => Ok(()),
        Err(error) => Err(cannot("make its /dev/mqueue", error)),
    }
}

/// The processes of its own namespace, and no switch of the kernel's.
fn processes() -> Result<(), String> {
    let options = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount("proc", "/proc", "proc", options, None)
        .map_err(|error| cannot("make its /proc", error))?;
    for path in SETTINGS.into_iter().filter(|path| Path::new(path).exists()) {
        mount_bind(path, path).map_err(|error| cannot(&format!("protect {path}"), error))?;
        seal(path)?;
    }
    for path in MASKED {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => {
                empty(path, c"mode=0555,size=4k,nr_inodes=1")?;
                seal(path)?;
            }
            Ok(_) => mask_file(path)?,
            Err(_) => {}
        }
    }
    Ok(())
}

/// Puts nothing in the place of a directory.
fn empty(path: &str, data: &std::ffi::CStr) -> Result<(), String> {
    let options = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("berth", path, "tmpfs", options, data)
        .map_err(|error| cannot(&format!("hide {path}"), error))
}

/// Puts nothing in the place of a file.
fn mask_file(path: &str) -> Result<(), String> {
    mount_bind("/dev/null", path).map_err(|error| cannot(&format!("hide {path}"), error))
}

fn seal(path: &str) -> Result<(), String> {
    make_read_only(Path::new(path), Depth::OneMount)
        .map_err(|error| cannot(&format!("make {path} read-only"), error))
}

fn cannot(what: &str, error: impl Into<io::Error>) -> String {
    format!("cannot {what}: {}", error.into())
}
