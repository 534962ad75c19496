//! A worker's output, whole and in order, within its bounds.

use berth_shim::protocol::LogLimits;

use crate::rig::{EXE, Rig};

fn numbered(lines: std::ops::Range<usize>) -> String {
    lines.map(|line| format!("{line:015}\n")).collect()
}

#[test]
fn both_streams_arrive_whole_before_the_end_is_told() {
    let mut rig = Rig::new();
    let record = rig.run(rig.request(&["/bin/sh", "-c", "echo out; echo err >&2; exit 1"]));
    assert_eq!(std::fs::read_to_string(rig.path("stdout")).unwrap(), "out\n");
    assert_eq!(std::fs::read_to_string(rig.path("stderr")).unwrap(), "err\n");
    assert_eq!(record.stderr_tail, b"err\n");
    assert_eq!(record.log_bytes_dropped, 0);
}

#[test]
fn a_silent_worker_makes_no_files() {
    let mut rig = Rig::new();
    rig.run(rig.request(&["/bin/true"]));
    assert!(!rig.path("stdout").exists() && !rig.path("stderr").exists());
}

#[test]
fn files_rotate_and_keep_the_newest() {
    let mut rig = Rig::new();
    let mut request = rig.request(&[EXE, "spew", "stdout", "1048576"]);
    request.logs = Some(LogLimits { file_bytes_max: 160_000, file_count: 3, bytes_per_second: 0 });
    let record = rig.run(request);
    assert_eq!((record.exit_code, record.log_bytes_dropped), (Some(0), 0));
    let kept: String = ["stdout.2", "stdout.1", "stdout"]
        .map(|name| std::fs::read_to_string(rig.path(name)).unwrap())
        .concat();
    assert_eq!(kept, numbered(40_000..65_536));
    assert!(!rig.path("stdout.3").exists());
}

#[test]
fn the_record_keeps_the_last_four_kib_of_stderr() {
    let mut rig = Rig::new();
    let record = rig.run(rig.request(&[EXE, "spew", "stderr", "300000"]));
    assert_eq!(String::from_utf8(record.stderr_tail).unwrap(), numbered(18_750 - 256..18_750));
    assert_eq!(std::fs::read_to_string(rig.path("stderr")).unwrap(), numbered(0..18_750));
}

#[test]
fn an_unwritable_log_never_blocks_a_worker() {
    let mut rig = Rig::new();
    let mut request = rig.request(&[EXE, "spew", "stderr", "300000"]);
    request.stderr_path = "/dev/full".to_owned();
    let record = rig.run(request);
    assert_eq!((record.exit_code, record.log_bytes_dropped), (Some(0), 300_000));
    assert_eq!(record.stderr_tail.len(), 4096);
}

#[test]
fn a_stream_without_a_file_is_drained_and_not_counted() {
    let mut rig = Rig::new();
    let mut request = rig.request(&[EXE, "spew", "stdout", "300000"]);
    request.stdout_path.clear();
    let record = rig.run(request);
    assert_eq!((record.exit_code, record.log_bytes_dropped), (Some(0), 0));
}

#[test]
fn a_slow_rate_slows_the_worker_and_loses_nothing() {
    let mut rig = Rig::new();
    let mut request = rig.request(&[EXE, "spew", "stdout", "320000"]);
    request.logs = Some(LogLimits { file_bytes_max: 0, file_count: 0, bytes_per_second: 1 << 20 });
    let record = rig.run(request);
    assert_eq!((record.exit_code, record.log_bytes_dropped), (Some(0), 0));
    assert_eq!(std::fs::read_to_string(rig.path("stdout")).unwrap(), numbered(0..20_000));
    assert!(
        record.finished_at_unix_ms - record.started_at_unix_ms >= 100,
        "a tenth of a second at least"
    );
}
