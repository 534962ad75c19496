//! Cgroups and processes that cannot die; both need root and a mounted hierarchy, of either version
//! unless a test says otherwise.

use std::fs;
use std::path::{Path, PathBuf};

use berth_shim::protocol::Phase;

use crate::rig::{EXE, ID, Rig, await_phase, ended, skip, stop, stop_settings};

/// A cgroup that is removed with the test.
struct Cgroup(PathBuf);

const TREES: &str = "/sys/fs/cgroup";

impl Cgroup {
    /// In the hierarchy of a controller, or in the one that has all of them.
    fn make(controller: &str, name: &str) -> Option<Self> {
        let split = Path::new(TREES).join(controller);
        let open = fs::read_to_string(Path::new(TREES).join("cgroup.subtree_control"));
        let is_open = open.is_ok_and(|open| open.split_whitespace().any(|one| one == controller));
        let found = Self::below(&split, name)
            .or_else(|| Self::below(Path::new(TREES), name).filter(|_| is_open));
        if found.is_none() {
            skip("cgroup-tree", &format!("no writable hierarchy of cgroups has {controller}"));
        }
        found
    }

    /// In the one hierarchy of version 2, whatever controllers are in use there.
    fn make_v2(name: &str) -> Option<Self> {
        let is_v2 = Path::new(TREES).join("cgroup.controllers").exists();
        let found = Self::below(Path::new(TREES), name).filter(|_| is_v2);
        if found.is_none() {
            skip("cgroup-v2", "no writable hierarchy of version 2");
        }
        found
    }

    /// In the hierarchy of version 1 that freezes processes so that they cannot die.
    fn make_freezer(name: &str) -> Option<Self> {
        let found = Self::below(&Path::new(TREES).join("freezer"), name);
        if found.is_none() {
            skip("cgroup-v1", "no writable hierarchy of version 1 with the freezer");
        }
        found
    }

    fn below(tree: &Path, name: &str) -> Option<Self> {
        let dir = tree.join(format!("berth-shim-{name}-{}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        Some(Self(dir))
    }

    fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    fn write(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap();
    }

    fn text(&self) -> String {
        self.0.to_str().unwrap().to_owned()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for (file, thawed) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            if self.has(file) {
                let _ = fs::write(self.0.join(file), thawed);
            }
        }
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_worker_is_born_in_its_cgroup_and_the_shim_does_not_stay() {
    check_born(Cgroup::make("pids", "born"));
}

#[test]
fn a_worker_is_born_in_a_group_without_controllers() {
    check_born(Cgroup::make_v2("bare"));
}

fn check_born(cgroup: Option<Cgroup>) {
    let Some(cgroup) = cgroup else { return };
    let mut rig = Rig::new();
    let before = fs::read_to_string(format!("/proc/{}/cgroup", rig.shim.hello().pid)).unwrap();
    let mut request = rig.worker("hold", &[]);
    request.cgroup_dirs = vec![cgroup.text()];
    rig.shim.start(request).unwrap();
    let mut worker = rig.report();
    assert_eq!(
        fs::read_to_string(cgroup.0.join("cgroup.procs")).unwrap(),
        format!("{}\n", worker.pid)
    );
    assert_eq!(
        fs::read_to_string(format!("/proc/{}/cgroup", rig.shim.hello().pid)).unwrap(),
        before
    );
    worker.exit(0);
    assert_eq!(ended(&mut rig.shim, ID).exit_code, Some(0));
}

#[test]
fn a_cgroup_that_does_not_exist_fails_the_start() {
    let mut rig = Rig::new();
    let mut request = rig.request(&["/bin/true"]);
    request.cgroup_dirs = vec!["/no/such/cgroup".to_owned()];
    let reason = rig.run(request).start_error.unwrap();
    assert_eq!(reason, "cannot enter cgroup `/no/such/cgroup`: it is in no mounted hierarchy");
}

/// A worker in a group that hears no signal but the kernel's.
fn with_deaf_worker(cgroup: &Cgroup) -> Rig {
    let mut rig = Rig::new();
    let mut request = rig.worker("hold-deaf", &[]);
    request.cgroup_dirs = vec![cgroup.text()];
    request.stop = Some(stop_settings(1));
    rig.shim.start(request).unwrap();
    rig.shim.attach(ID).unwrap();
    rig
}

#[test]
fn f39_a_process_that_cannot_die_is_unkillable_and_not_ended() {
    let Some(cgroup) = Cgroup::make_freezer("stuck") else { return };
    let mut rig = with_deaf_worker(&cgroup);
    let worker = rig.report();
    cgroup.write("freezer.state", "FROZEN");
    while fs::read_to_string(cgroup.0.join("freezer.state")).unwrap() != "FROZEN\n" {
        std::thread::yield_now();
    }
    rig.shim.stop(stop(0)).unwrap();
    let state = await_phase(&mut rig.shim, Phase::Unkillable);
    let surviving: Vec<_> =
        state.surviving.iter().map(|process| (process.pid, process.state.as_str())).collect();
    assert_eq!(surviving, [(worker.pid, "D")]);
    assert_eq!(state.record, None, "there is no exit to tell");
    assert!(!rig.path("record/exit").exists());
    cgroup.write("freezer.state", "THAWED");
    assert_eq!(ended(&mut rig.shim, ID).signal, Some(9));
}

/// Version 2 freezes so that a kill goes through; `cgroup.kill` is the kernel's own.
#[test]
fn a_frozen_worker_ends_when_it_is_killed() {
    let Some(cgroup) = Cgroup::make_v2("frozen") else { return };
    let mut rig = with_deaf_worker(&cgroup);
    let _worker = rig.report();
    cgroup.write("cgroup.freeze", "1");
    while !fs::read_to_string(cgroup.0.join("cgroup.events")).unwrap().contains("frozen 1") {
        std::thread::yield_now();
    }
    rig.shim.stop(stop(0)).unwrap();
    assert_eq!(ended(&mut rig.shim, ID).signal, Some(9));
    assert_eq!(fs::read_to_string(cgroup.0.join("cgroup.procs")).unwrap(), "");
}

#[test]
fn a_kill_for_memory_is_told_even_if_the_main_process_exits_well() {
    let Some(cgroup) = Cgroup::make("memory", "oom") else { return };
    let limit = if cgroup.has("memory.max") { "memory.max" } else { "memory.limit_in_bytes" };
    cgroup.write(limit, "16777216");
    let mut rig = Rig::new();
    let mut request = rig.request(&["/bin/sh", "-c", &format!("{EXE} hog 100000000; exit 0")]);
    request.cgroup_dirs = vec![cgroup.text()];
    let record = rig.run(request);
    assert_eq!((record.exit_code, record.oom_killed), (Some(0), true));
}
