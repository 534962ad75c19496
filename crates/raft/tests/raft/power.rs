//! A power cut without cutting power: the store lies on a file system inside
//! an image file, and the image is copied at the moment of the
//! acknowledgement. What the copy lacks was still in memory.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use berth_raft::FatalCell;
use berth_raft::device::sled::{Directory, SledDevice};
use berth_raft::device::{Device, LogDevice, Position, VoteRecord};

use crate::model::{IDENTITY, options, record};
use crate::skip::{may_mount, skipped};

fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).status();
    status.is_ok_and(|status| status.success())
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let path = self.0.to_string_lossy().into_owned();
        let unmounted = run("umount", &[&path]) || run("umount", &["-l", &path]);
        assert!(unmounted || std::thread::panicking());
    }
}

fn mount(image: &Path, at: &Path) -> Option<Mounted> {
    fs::create_dir_all(at).unwrap();
    let (image, path) = (image.to_string_lossy(), at.to_string_lossy());
    // Ordered data and a long commit interval, so that nothing reaches the
    // image by itself within a trial.
    let mounted = run("mount", &["-o", "loop,commit=300", &image, &path]);
    mounted.then(|| Mounted(at.to_owned()))
}

/// Copies the image while nothing is written to it: of what was written during the copy, such as by
/// the guard, which looks after the store once a second, the copy would hold one part and not the
/// other, as no disk ever does.
fn copy_of_one_moment(image: &Path, copy: &Path, mounted_at: &Path) {
    let device = fs::metadata(mounted_at).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let counts = format!("/sys/dev/block/{major}:{minor}/stat");
    // The fifth number counts the writes that have ended, the ninth what has not.
    let writes = || {
        let counts = fs::read_to_string(&counts).unwrap();
        let count = |place| counts.split_whitespace().nth(place).unwrap().parse::<u64>().unwrap();
        (count(4), count(8))
    };
    loop {
        let before = writes();
        fs::copy(image, copy).unwrap();
        if before.1 == 0 && writes() == before {
            return;
        }
    }
}

fn trial(number: u64, folder: &Path) -> Option<()> {
    let image = folder.join(format!("disk-{number}.img"));
    let copy = folder.join(format!("copy-{number}.img"));
    fs::File::create(&image).unwrap().set_len(192 << 20).unwrap();
    let path = image.to_string_lossy().into_owned();
    if !run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0", &path]) {
        return None;
    }
    let at = folder.join(format!("mount-{number}"));
    let mounted = mount(&image, &at)?;
    let place = at.join("data");
    let device = SledDevice::new(options(&place, Directory::MayCreate));
    let mut opened = device.open(IDENTITY, &FatalCell::default()).unwrap();
    let log = &mut opened.log;
    let bytes = [200, 3000, 60_000][usize::try_from(number % 3).unwrap()];
    let batches = 20 + number * 7 % 40;
    let mut index = 0;
    for batch in 0..batches {
        let count = 1 + batch % 16;
        let records: Vec<_> = (index..index + count).map(|index| record(index, 2, bytes)).collect();
        log.append(&records).unwrap();
        index += count;
        if batch == batches / 2 {
            log.purge_to(Position { term: 2, index: index / 2 }).unwrap();
        }
        log.sync().unwrap();
    }
    let vote = VoteRecord { term: 3, node_id: 1, committed: false };
    if number.is_multiple_of(2) {
        log.save_vote(vote).unwrap();
        log.sync().unwrap();
    }
    // The acknowledgement has been given: this is the moment.
    copy_of_one_moment(&image, &copy, &at);
    drop(opened);
    drop(mounted);
    fs::remove_file(&image).unwrap();
    let at = folder.join(format!("after-{number}"));
    let mounted = mount(&copy, &at).expect("a journalling file system survives the cut");
    let device = SledDevice::new(options(&at.join("data"), Directory::MustExist));
    let opened = device.open(IDENTITY, &FatalCell::default()).unwrap();
    let found = &opened.recovered;
    assert_eq!(found.last().unwrap().index + 1, index, "trial {number}");
    for entry in &found.records {
        assert_eq!(*entry, record(entry.index, 2, bytes), "trial {number}");
    }
    if number.is_multiple_of(2) {
        assert_eq!(found.vote, Some(vote), "trial {number}");
    }
    drop(opened);
    drop(mounted);
    fs::remove_file(&copy).unwrap();
    Some(())
}

#[test]
fn f12_what_was_acknowledged_survives_a_power_cut() {
    const NAME: &str = "f12_what_was_acknowledged_survives_a_power_cut";
    if !may_mount(NAME) {
        return;
    }
    let trials = std::env::var("BERTH_POWER_CUTS").map_or(5, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    for number in 0..trials {
        if trial(number, folder.path()).is_none() {
            skipped(NAME, "root", "no ext4 image can be made and mounted");
            return;
        }
    }
}
