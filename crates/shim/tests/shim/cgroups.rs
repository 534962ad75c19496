//! Cgroups and processes that cannot die; both need root and a mounted v1 hierarchy.

use std::fs;
use std::path::{Path, PathBuf};

use berth_shim::protocol::Phase;

use crate::rig::{EXE, ID, Rig, await_phase, ended, skip, stop, stop_settings};

/// A cgroup that is removed with the test.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(controller: &str, name: &str) -> Option<Self> {
        let dir = Path::new("/sys/fs/cgroup")
            .join(controller)
            .join(format!("berth-shim-{name}-{}", std::process::id()));
        if fs::create_dir(&dir).is_err() {
            skip(
                "cgroup-v1",
                &format!("no writable cgroup v1 hierarchy of controller {controller}"),
            );
            return None;
        }
        Some(Self(dir))
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
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_worker_is_born_in_its_cgroup_and_the_shim_does_not_stay() {
    let Some(cgroup) = Cgroup::make("freezer", "born") else { return };
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

#[test]
fn f39_a_process_that_cannot_die_is_unkillable_and_not_ended() {
    let Some(cgroup) = Cgroup::make("freezer", "stuck") else { return };
    let mut rig = Rig::new();
    let mut request = rig.worker("hold-deaf", &[]);
    request.cgroup_dirs = vec![cgroup.text()];
    request.stop = Some(stop_settings(1));
    rig.shim.start(request).unwrap();
    rig.shim.attach(ID).unwrap();
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

#[test]
fn a_kill_for_memory_is_told_even_if_the_main_process_exits_well() {
    let Some(cgroup) = Cgroup::make("memory", "oom") else { return };
    cgroup.write("memory.limit_in_bytes", "16777216");
    let mut rig = Rig::new();
    let mut request = rig.request(&["/bin/sh", "-c", &format!("{EXE} hog 100000000; exit 0")]);
    request.cgroup_dirs = vec![cgroup.text()];
    let record = rig.run(request);
    assert_eq!((record.exit_code, record.oom_killed), (Some(0), true));
}
