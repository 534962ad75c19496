//! What a worker sees of its host. Carried out by the first process of its namespaces, before
//! anything of the job's own runs; what cannot be made so ends the start.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, fstat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind,
    mount_change, move_mount, open_tree,
};

use super::enclosure::View;
use crate::sys::{self, Depth, Restriction, restrict};

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

/// Where shared memory has names.
const MEMORY: &str = "/dev/shm";

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
    // Nothing that is done here is seen by the host.
    propagate("/", MountPropagationFlags::DOWNSTREAM)?;
    let host = Host::hold(view)?;
    // What the host mounts from now on is seen where it may be written to, and nowhere else:
    // there it would be for the host's own rights to say what is done with it.
    propagate("/", MountPropagationFlags::PRIVATE)?;
    // What lies below `/sys` is no file of anybody's: whoever is root there leaves its limits by
    // writing to a group.
    let sealed = if view.leaves_all() { "/sys" } else { "/" };
    match restrict(Path::new(sealed), Restriction::ReadOnly, Depth::AllBelow) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(cannot("make the host's files read-only", error));
        }
        Ok(()) | Err(_) => {}
    }
    host.attach_files()?;
    hide(&view.hidden, &host)?;
    devices(&host.devices, host.memory.as_ref())?;
    processes()
}

fn propagate(path: &str, how: MountPropagationFlags) -> Result<(), String> {
    mount_change(path, how | MountPropagationFlags::REC)
        .map_err(|error| cannot("part with the host's mounts", error))
}

/// What of the host stays to be seen.
struct Host {
    own: Vec<Tree>,
    writable: Vec<Tree>,
    shown: Vec<Tree>,
    task: Tree,
    devices: Vec<Tree>,
    /// Where shared memory has names.
    memory: Option<Tree>,
}

impl Host {
    fn hold(view: &View) -> Result<Host, String> {
        let own = view.own.iter().map(|shown| Tree::hold(&shown.source, &shown.target));
        let writable = view.writable.iter().filter(|_| !view.leaves_all());
        let nodes = COMMON_NODES.into_iter();
        let nodes = nodes.chain(view.devices_if_there.iter().map(String::as_str));
        let mut devices = those_there(nodes)?;
        for node in &view.devices {
            devices.push(Tree::hold(node, node)?);
        }
        Ok(Host {
            own: own.collect::<Result<_, _>>()?,
            writable: those_there(writable.map(String::as_str))?,
            shown: those_there(view.shown.iter().map(String::as_str))?,
            task: Tree::hold(&view.task_dir, &view.task_dir)?,
            devices,
            memory: view.hosts_memory.then(|| Tree::hold(MEMORY, MEMORY)).transpose()?,
        })
    }

    /// What may be written to, each in its place, also where one is within another.
    fn attach_files(&self) -> Result<(), String> {
        let is_below_own = |tree: &&Tree| {
            self.own.iter().any(|own| Path::new(&tree.target).starts_with(&own.target))
        };
        for tree in self.writable.iter().filter(|tree| !is_below_own(tree)) {
            tree.attach_without_devices()?;
        }
        for tree in &self.own {
            tree.attach_without_devices()?;
        }
        for tree in self.writable.iter().filter(is_below_own) {
            tree.make_place()?;
            tree.attach_without_devices()?;
        }
        Ok(())
    }
}

/// Parts of the host that stay where they are, as far as they are there.
fn those_there<'a>(paths: impl Iterator<Item = &'a str>) -> Result<Vec<Tree>, String> {
    let mut trees = Vec::new();
    for path in paths {
        match clone_of(path) {
            Ok(mount) => trees.push(Tree::of(mount, path, path)?),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(cannot(&format!("take {path}"), error)),
        }
    }
    Ok(trees)
}

fn clone_of(path: &str) -> Result<OwnedFd, Errno> {
    let whole = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, whole)
}

impl Tree {
    fn hold(source: &str, target: &str) -> Result<Tree, String> {
        let mount = clone_of(source).map_err(|error| cannot(&format!("take {source}"), error))?;
        Tree::of(mount, source, target)
    }

    fn of(mount: OwnedFd, source: &str, target: &str) -> Result<Tree, String> {
        let found = fstat(&mount).map_err(|error| cannot(&format!("look at {source}"), error))?;
        let is_dir = FileType::from_raw_mode(found.st_mode).is_dir();
        let kind = if is_dir { Kind::Directory } else { Kind::File };
        Ok(Tree { mount, target: target.to_owned(), kind })
    }

    /// Makes it seen, on a place that is there.
    fn attach(&self) -> Result<(), String> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
        move_mount(self.mount.as_fd(), "", CWD, self.target.as_str(), flags)
            .map_err(|error| cannot(&format!("show {}", self.target), error))
    }

    fn attach_without_devices(&self) -> Result<(), String> {
        self.attach()?;
        restrict(Path::new(&self.target), Restriction::NoDevices, Depth::AllBelow)
            .map_err(|error| cannot(&format!("keep devices out of {}", self.target), error))
    }

    /// Makes a place for it where what was there is covered.
    fn make_place(&self) -> Result<(), String> {
        let target = Path::new(&self.target);
        if fs::symlink_metadata(target).is_ok() {
            return Ok(());
        }
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

/// Covers what is not for workers, and shows what of it is for this one.
fn hide(hidden: &[String], host: &Host) -> Result<(), String> {
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
    for tree in &host.shown {
        tree.make_place()?;
        tree.attach()?;
        seal(&tree.target, Depth::AllBelow)?;
    }
    host.task.make_place()?;
    host.task.attach_without_devices()?;
    covered.into_iter().try_for_each(|path| seal(path, Depth::OneMount))
}

/// A `/dev` with nothing in it but what is this worker's.
fn devices(nodes: &[Tree], memory: Option<&Tree>) -> Result<(), String> {
    let options = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("berth", "/dev", "tmpfs", options, c"mode=0755,size=64k,nr_inodes=1024")
        .map_err(|error| cannot("make its /dev", error))?;
    for node in nodes {
        node.make_place()?;
        node.attach()?;
        // It is the host's own: whose it is and who may use it is not the worker's to change.
        restrict(Path::new(&node.target), Restriction::ReadOnlyNodes, Depth::AllBelow)
            .map_err(|error| cannot(&format!("protect {}", node.target), error))?;
    }
    for (to, link) in LINKS {
        symlink(to, link).map_err(|error| cannot(&format!("make {link}"), error))?;
    }
    for dir in ["/dev/pts", MEMORY, "/dev/mqueue"] {
        fs::create_dir(dir).map_err(|error| cannot(&format!("make {dir}"), error))?;
    }
    seal("/dev", Depth::OneMount)?;
    let quiet = options | MountFlags::NODEV;
    mount("devpts", "/dev/pts", "devpts", options, c"newinstance,ptmxmode=0666,mode=0620")
        .map_err(|error| cannot("make its /dev/pts", error))?;
    match memory {
        Some(hosts) => hosts.attach_without_devices()?,
        None => mount("shm", MEMORY, "tmpfs", quiet, c"mode=1777")
            .map_err(|error| cannot("make its /dev/shm", error))?,
    }
    match mount("mqueue", "/dev/mqueue", "mqueue", quiet, None) {
        // Kernels may be built without.
        Ok(()) | Err(Errno::NODEV) => Ok(()),
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
        seal(path, Depth::OneMount)?;
    }
    for path in MASKED {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => {
                empty(path, c"mode=0555,size=4k,nr_inodes=1")?;
                seal(path, Depth::OneMount)?;
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

/// Nothing of it changes any more.
fn seal(path: &str, depth: Depth) -> Result<(), String> {
    let restriction = match depth {
        // `/dev` itself holds the nodes, on mounts of their own.
        Depth::OneMount => Restriction::ReadOnlyNodes,
        Depth::AllBelow => Restriction::ReadOnly,
    };
    restrict(Path::new(path), restriction, depth)
        .map_err(|error| cannot(&format!("make {path} read-only"), error))
}

fn cannot(what: &str, error: impl Into<io::Error>) -> String {
    format!("cannot {what}: {}", error.into())
}
