//! What a worker is born with, and what a shim costs.

use std::os::fd::AsFd;

use berth_shim::protocol::{Resource, ResourceLimit, StartRequest, UserIds};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::rig::{EXE, ID, Rig, ended, skip};

fn output(rig: &mut Rig, request: StartRequest) -> String {
    let record = rig.run(request);
    assert_eq!(record.exit_code, Some(0), "{:?}", String::from_utf8_lossy(&record.stderr_tail));
    std::fs::read_to_string(rig.path("stdout")).unwrap()
}

#[test]
fn the_environment_is_exactly_as_given() {
    let mut rig = Rig::new();
    let mut request = rig.request(&["/usr/bin/env"]);
    request.env[1].value = "with = and spaces".to_owned();
    let expected = format!("BERTH_ALLOC_ID={ID}\nBERTH_TASK_DIR=with = and spaces\n");
    assert_eq!(output(&mut rig, request), expected);
    rig.shim.retire(ID).unwrap();
    let mut request = rig.request(&["/usr/bin/env"]);
    request.allocation_id = "7.main.1.1".to_owned();
    request.env.clear();
    request.record_dir.clear();
    request.stdout_path = rig.text("empty");
    assert_eq!(rig.run(request).exit_code, Some(0));
    assert!(!rig.path("empty").exists(), "no variable at all, so nothing was printed");
}

#[test]
fn no_descriptor_leaks_not_even_one_that_the_starter_left_open() {
    let (reader, _writer) = std::io::pipe().unwrap();
    fcntl_setfd(reader.as_fd(), FdFlags::empty()).unwrap();
    let mut rig = Rig::new();
    fcntl_setfd(reader.as_fd(), FdFlags::CLOEXEC).unwrap();
    let leaked =
        std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader)))
            .unwrap();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", rig.shim.hello().pid)).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap_or_default();
        assert_ne!(target, leaked, "the shim does not hold it");
    }
    let request = rig.request(&[EXE, "descriptors"]);
    let listing = output(&mut rig, request);
    let mut open: Vec<&str> = listing.lines().filter(|line| !line.contains("/proc/")).collect();
    open.sort_unstable();
    assert_eq!(open.len(), 3, "{listing}");
    assert_eq!(open[0], "0 /dev/null");
    assert!(open[1].starts_with("1 pipe:") && open[2].starts_with("2 pipe:"), "{listing}");
}

#[test]
fn signals_are_at_their_defaults_and_privileges_cannot_grow() {
    let mut rig = Rig::new();
    let request = rig.request(&["/bin/cat", "/proc/self/status"]);
    let status = output(&mut rig, request);
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    let ignored = u64::from_str_radix(field("SigIgn:"), 16).unwrap();
    // 32 and 33 belong to the C library, whose posix_spawn ignores them in every child.
    let of_the_c_library = (1 << 31) | (1 << 32);
    assert_eq!(ignored & !of_the_c_library, 0, "{ignored:x}");
    assert_eq!(field("SigBlk:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
}

#[test]
fn limits_umask_and_directory_are_as_asked() {
    let mut rig = Rig::new();
    let script = format!(
        "ulimit -Sn; ulimit -Sc; ulimit -Sv; umask; pwd; exec {EXE} hold {}",
        rig.text("reports")
    );
    let mut request = rig.request(&["/bin/sh", "-c", &script]);
    let limit =
        |resource: Resource, soft, hard| ResourceLimit { resource: resource.into(), soft, hard };
    request.limits = vec![
        limit(Resource::OpenFiles, 50, 60),
        limit(Resource::CoreBytes, 0, 0),
        limit(Resource::AddressSpaceBytes, 1 << 32, 1 << 33),
    ];
    request.umask = Some(0o027);
    let own_before = limits_of(rig.shim.hello().pid);
    let main_pid = rig.shim.start(request).unwrap().pid;
    let mut worker = rig.report();
    let limits = limits_of(main_pid);
    let row =
        |name: &str| limits.iter().find(|row| row.starts_with(name)).unwrap().split_whitespace();
    assert_eq!(row("Max open files").skip(3).take(2).collect::<Vec<_>>(), ["50", "60"]);
    assert_eq!(row("Max core file size").skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    assert_eq!(
        row("Max address space").skip(3).take(2).collect::<Vec<_>>(),
        ["4294967296", "8589934592"]
    );
    assert_eq!(limits_of(rig.shim.hello().pid), own_before, "the shim has its own limits back");
    worker.exit(0);
    ended(&mut rig.shim, ID);
    let printed = std::fs::read_to_string(rig.path("stdout")).unwrap();
    assert_eq!(printed, format!("50\n0\n{}\n0027\n{}\n", 1 << 22, rig.text("task")));
}

fn limits_of(pid: u32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_limit_with_soft_above_hard_fails_the_start() {
    let mut rig = Rig::new();
    let mut request = rig.request(&["/bin/true"]);
    request.limits = vec![ResourceLimit { resource: Resource::OpenFiles.into(), soft: 2, hard: 1 }];
    let reason = rig.run(request).start_error.unwrap();
    assert_eq!(reason, "cannot set limit: OpenFiles has a soft limit above its hard limit");
}

#[test]
fn a_worker_of_another_user_has_none_of_roots_groups() {
    if !rustix::process::geteuid().is_root() {
        return skip("root", "starting a worker as another user needs root");
    }
    let mut rig = Rig::new();
    let mut request = rig.request(&["/bin/sh", "-c", "/usr/bin/id -u; /usr/bin/id -G"]);
    request.user = Some(UserIds { uid: 65_534, gid: 65_533 });
    request.working_dir = "/".to_owned();
    assert_eq!(output(&mut rig, request), "65534\n65533\n");
}

#[test]
fn stats_cover_the_tree() {
    let mut rig = Rig::new();
    rig.shim.start(rig.worker("detach", &["hold"])).unwrap();
    let _workers = (rig.report(), rig.report());
    let stats = rig.shim.stats(ID).unwrap();
    assert_eq!((stats.allocation_id.as_str(), stats.process_count), (ID, 2));
    assert!(stats.resident_bytes > 100_000);
    rig.shim.stop(crate::rig::stop(0)).unwrap();
    ended(&mut rig.shim, ID);
    assert_eq!(rig.shim.stats(ID).unwrap().process_count, 0);
}

/// Memory that goes away with the shim: its own pages, and those of its executable that nobody else has mapped.
fn private_kib(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let kib = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    kib("Private_Clean:") + kib("Private_Dirty:")
}

#[test]
fn idle_and_busy_shims_stay_below_four_mib() {
    let mut rig = Rig::new();
    let pid = rig.shim.hello().pid;
    let idle_kib = private_kib(pid);
    let script = format!("{EXE} spew stdout 8000000; {EXE} hold {}", rig.text("reports"));
    rig.shim.start(rig.request(&["/bin/sh", "-c", &script])).unwrap();
    let mut worker = rig.report();
    let busy_kib = private_kib(pid);
    eprintln!("private memory of a shim: idle {idle_kib} KiB, busy {busy_kib} KiB");
    assert!(idle_kib <= 4096 && busy_kib <= 4096, "idle {idle_kib} KiB, busy {busy_kib} KiB");
    worker.exit(0);
    ended(&mut rig.shim, ID);
}
