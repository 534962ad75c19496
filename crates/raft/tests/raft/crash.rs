//! A writer killed again and again, and a disk that runs full: what was
//! acknowledged is there afterwards.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use berth_raft::FatalCell;
use berth_raft::device::sled::{Directory, SledDevice};
use berth_raft::device::{Device, LogDevice, Position, VoteRecord};

use crate::model::{IDENTITY, open, options, record};
use crate::skip::{may_mount, skipped};

const CHILD: &str = "BERTH_RAFT_TEST_WRITER";
const KILLS: u64 = 10;

/// Appends, votes and purges until it is killed, saying after each sync what
/// is acknowledged: last index, vote's term, purged index.
fn write_until_killed(folder: &Path) -> ! {
    let mut opened = open(folder);
    let found = opened.recovered;
    let mut next = found
        .records
        .last()
        .map_or_else(|| found.purged.map_or(0, |purged| purged.index + 1), |last| last.index + 1);
    let mut vote = found.vote.map_or(1, |vote| vote.term);
    let mut purged = found.purged.map_or(-1, |purged| i128::from(purged.index));
    let log = &mut opened.log;
    let mut out = std::io::stdout().lock();
    for round in 0_u64.. {
        let count = 1 + round % 40;
        let bytes = usize::try_from(round * 37 % 900).unwrap();
        let records: Vec<_> = (next..next + count).map(|index| record(index, 1, bytes)).collect();
        log.append(&records).unwrap();
        next += count;
        if round % 7 == 0 {
            vote += 1;
            log.save_vote(VoteRecord { term: vote, node_id: 1, committed: false }).unwrap();
        }
        if round % 11 == 0 && next > 500 {
            let index = next - 300;
            log.purge_to(Position { term: 1, index }).unwrap();
            purged = i128::from(index);
        }
        log.sync().unwrap();
        writeln!(out, "ack {} {vote} {purged}", next - 1).unwrap();
        out.flush().unwrap();
    }
    unreachable!("the loop has no end")
}

#[test]
fn f12_acknowledged_entries_survive_kills() {
    if let Ok(folder) = std::env::var(CHILD) {
        write_until_killed(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("data");
    let mut acknowledged_at_all = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::f12_acknowledged_entries_survive_kills", "--nocapture"])
            .env(CHILD, &place)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acknowledged = None;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Some acknowledgements, a different number each time, then the kill
        // falls wherever the writer happens to be.
        let wanted = 5 + kill * 13 % 60;
        let mut seen = 0;
        while seen < wanted {
            let line = lines.next().unwrap().unwrap();
            if let Some(ack) = parse(&line) {
                acknowledged = Some(ack);
                seen += 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            acknowledged = parse(&line).or(acknowledged);
        }
        let (last, vote, purged) = acknowledged.unwrap();
        acknowledged_at_all += seen;
        let opened = SledDevice::new(options(&place, Directory::MustExist))
            .open(IDENTITY, &FatalCell::default())
            .unwrap();
        let found = opened.recovered;
        let end = found.last().unwrap().index;
        assert!(end >= last, "kill {kill}: ends at {end}, acknowledged {last}");
        assert!(found.vote.unwrap().term >= vote, "kill {kill}: vote");
        let found_purged = found.purged.map_or(-1, |purged| i128::from(purged.index));
        assert!(found_purged >= purged, "kill {kill}: purge");
        for entry in &found.records {
            let expected = record(entry.index, 1, entry.body.len());
            assert_eq!(*entry, expected, "kill {kill}");
        }
    }
    assert!(acknowledged_at_all > 200);
}

fn parse(line: &str) -> Option<(u64, u64, i128)> {
    // The test harness may have begun the line.
    let (_, rest) = line.split_once("ack ")?;
    let mut words = rest.split(' ');
    let last = words.next()?.parse().ok()?;
    let vote = words.next()?.parse().ok()?;
    Some((last, vote, words.next()?.parse().ok()?))
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

fn mount(arguments: &[&str], at: &Path) -> bool {
    let mounted = Command::new("mount").args(arguments).arg(at).status();
    mounted.is_ok_and(|status| status.success())
}

#[test]
fn f11_a_disk_that_runs_full_loses_nothing_acknowledged() {
    const NAME: &str = "f11_a_disk_that_runs_full_loses_nothing_acknowledged";
    if !may_mount(NAME) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    if !mount(&["-t", "tmpfs", "-o", "size=72m", "tmpfs"], &disk) {
        skipped(NAME, "root", "tmpfs cannot be mounted");
        return;
    }
    let _mounted = Mounted(&disk);
    let place = disk.join("data");
    let mut settings = options(&place, Directory::MayCreate);
    settings.ballast_bytes = 20 << 20;
    let device = SledDevice::new(settings.clone());
    let mut opened = device.open(IDENTITY, &FatalCell::default()).unwrap();
    let mut acknowledged = 0;
    let mut index = 0;
    let error = loop {
        let records: Vec<_> = (index..index + 16).map(|i| record(i, 1, 30_000)).collect();
        index += 16;
        let log = &mut opened.log;
        match log.append(&records).and_then(|()| log.sync()) {
            Ok(()) => acknowledged = index,
            Err(error) => break error,
        }
        assert!(index < 10_000, "the disk never ran full");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    // Nothing is tried again on a handle that failed.
    assert!(opened.log.append(&[record(index, 1, 1)]).is_err());
    drop(opened);
    // The restart gives up its ballast, and recovers.
    settings.directory = Directory::MustExist;
    settings.hard_limit_bytes = 16 << 20;
    let recovered =
        SledDevice::new(settings).open(IDENTITY, &FatalCell::default()).unwrap().recovered;
    assert!(!place.join("ballast").exists());
    let end = recovered.last().map_or(0, |last| last.index + 1);
    assert!(end >= acknowledged, "{end} of {acknowledged}");
    for entry in &recovered.records {
        assert_eq!(*entry, record(entry.index, 1, 30_000));
    }
}
