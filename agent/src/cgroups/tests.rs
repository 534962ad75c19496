use std::fs;

use tempfile::TempDir;

use super::*;

/// Files as Linux 6.1 has them in a tree of version 2, recorded by name; their contents are
/// what a test puts there. A kernel makes the files of a new group by itself, so the groups
/// that a test is about are there before.
struct Recorded {
    root: TempDir,
}

const ROOT_FILES: [&str; 2] = ["cgroup.controllers", "cgroup.subtree_control"];
const GROUP_FILES: [&str; 12] = [
    "cgroup.procs",
    "cgroup.controllers",
    "cgroup.subtree_control",
    "cpu.max",
    "cpu.weight",
    "cpuset.cpus",
    "cpuset.cpus.effective",
    "memory.events",
    "memory.max",
    "memory.oom.group",
    "memory.peak",
    "pids.max",
];

impl Recorded {
    fn new(controllers: &str, groups: &[&str]) -> Recorded {
        let recorded = Recorded { root: tempfile::tempdir().unwrap() };
        let root = recorded.root.path();
        let empty = |dir: &Path, files: &[&str]| {
            files.iter().for_each(|file| fs::write(dir.join(file), "").unwrap());
        };
        empty(root, &ROOT_FILES);
        fs::write(root.join("cgroup.controllers"), controllers).unwrap();
        for group in ["berth", "berth/node-a"].iter().chain(groups) {
            fs::create_dir(root.join(group)).unwrap();
            empty(&root.join(group), &GROUP_FILES);
        }
        fs::write(root.join("berth/node-a/cpuset.cpus.effective"), "0-7\n").unwrap();
        recorded
    }

    fn begin(&self) -> Result<Cgroups, String> {
        let root = self.root.path().display();
        let mounts = format!("30 25 0:26 / {root} rw,nosuid shared:9 - cgroup2 cgroup2 rw");
        Cgroups::begin(&mounts, "node-a", CpuMilli(8_000))
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.root.path().join(file)).unwrap()
    }

    fn put(&self, file: &str, text: &str) {
        fs::write(self.root.path().join(file), text).unwrap();
    }
}

fn id(job: u64) -> AllocationId {
    format!("{job}.0.0.1").parse().unwrap()
}

fn bounds(cores_pinned: usize) -> Bounds {
    Bounds {
        cpu: CpuMilli(2_000),
        cpu_max: Some(CpuMilli(2_000)),
        memory_max: Some(MemoryBytes(1 << 30)),
        processes_max: 100,
        cores_pinned,
    }
}

#[test]
fn v2_on_a_recorded_tree_is_told_every_bound() {
    let all = "cpuset cpu io memory hugetlb pids";
    let recorded = Recorded::new(all, &["berth/node-a/1.0.0.1"]);
    let mut cgroups = recorded.begin().unwrap();
    assert_eq!((cgroups.version(), cgroups.missing()), (Version::V2, vec![]));
    // The last of what was written: a kernel adds them up.
    for dir in ["", "berth/", "berth/node-a/"] {
        assert_eq!(recorded.text(&format!("{dir}cgroup.subtree_control")), "+pids", "{dir}");
    }
    assert_eq!(recorded.text("berth/node-a/cpu.weight"), "313");
    let dirs = cgroups.make(id(1), &bounds(0)).unwrap();
    assert_eq!(dirs, [recorded.root.path().join("berth/node-a/1.0.0.1")]);
    for (file, text) in [
        ("cpu.weight", "79"),
        ("cpu.max", "200000 100000"),
        ("cpuset.cpus", "0,1,2,3,4,5,6,7"),
        ("memory.max", "1073741824"),
        ("memory.oom.group", "1"),
        ("pids.max", "100"),
    ] {
        assert_eq!(recorded.text(&format!("berth/node-a/1.0.0.1/{file}")), text, "{file}");
    }
}

#[test]
fn cores_are_pinned_and_given_back_also_by_the_next_agent() {
    let groups = ["berth/node-a/1.0.0.1", "berth/node-a/2.0.0.1.own"];
    let recorded = Recorded::new("cpuset cpu memory pids", &groups);
    // A new one has none of its own yet.
    recorded.put("berth/node-a/2.0.0.1.own/cpuset.cpus", "\n");
    let cpus = |group: &str| recorded.text(&format!("berth/node-a/{group}/cpuset.cpus"));
    let mut cgroups = recorded.begin().unwrap();
    cgroups.make(id(1), &bounds(0)).unwrap();
    cgroups.make(id(2), &bounds(3)).unwrap();
    assert_eq!((cpus("1.0.0.1"), cpus("2.0.0.1.own")), ("3,4,5,6,7".into(), "0,1,2".into()));
    drop(cgroups);
    let mut next = recorded.begin().unwrap();
    assert_eq!(next.cores.as_ref().unwrap().pinned.len(), 1);
    assert_eq!(cpus("1.0.0.1"), "3,4,5,6,7");
    assert_eq!(next.found().keys().copied().collect::<Vec<_>>(), [id(1), id(2)]);
    // Of a recorded tree nothing can be removed, as of one whose last process still ends.
    next.remove(id(2));
    assert_eq!(cpus("1.0.0.1"), "0,1,2,3,4,5,6,7");
    assert_eq!(next.leftover.len(), 1);
    fs::remove_dir_all(recorded.root.path().join("berth/node-a/2.0.0.1.own")).unwrap();
    next.remove(id(3));
    assert_eq!(next.leftover.len(), 0);
}

#[test]
fn what_the_kernel_says_of_memory_is_read() {
    let recorded = Recorded::new("cpu memory pids", &["berth/node-a/1.0.0.1"]);
    let mut cgroups = recorded.begin().unwrap();
    assert_eq!(cgroups.missing(), ["cpuset"]);
    cgroups.make(id(1), &bounds(2)).unwrap();
    let group = "berth/node-a/1.0.0.1";
    recorded.put(&format!("{group}/memory.peak"), "1073741000\n");
    let unharmed = MemoryUse {
        limit: Some(MemoryBytes(1 << 30)),
        peak: Some(MemoryBytes(1_073_741_000)),
        was_at_limit: false,
    };
    assert_eq!((cgroups.memory(id(1)), cgroups.memory_kills(id(1))), (Some(unharmed), 0));
    let events = "low 0\nhigh 0\nmax 41\noom 1\noom_kill 3\noom_group_kill 1\n";
    recorded.put(&format!("{group}/memory.events"), events);
    recorded.put(&format!("{group}/memory.max"), "max\n");
    let killed = MemoryUse { limit: None, was_at_limit: true, ..unharmed };
    assert_eq!((cgroups.memory(id(1)), cgroups.memory_kills(id(1))), (Some(killed), 3));
    assert_eq!(cgroups.memory(id(2)), None);
}

#[test]
fn a_worker_that_cannot_be_bounded_is_not_begun() {
    let recorded = Recorded::new("cpu memory pids", &["berth/node-a/1.0.0.1"]);
    let mut cgroups = recorded.begin().unwrap();
    fs::remove_file(recorded.root.path().join("berth/node-a/1.0.0.1/pids.max")).unwrap();
    let problem = cgroups.make(id(1), &bounds(0)).unwrap_err();
    assert!(problem.starts_with("cannot write `100` to ") && problem.contains("pids.max"));
    let none = Recorded::new("hugetlb", &[]);
    assert_eq!(none.begin().err().unwrap(), "no mounted hierarchy has the memory controller");
}
