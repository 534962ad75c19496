//! A second witness of the driver's errors (XIDs): the kernel's own messages. Older libraries keep
//! only the last error, and one that hangs tells of none. What both tell of is one error; what
//! only the kernel tells of is passed on as if the library had.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::io::Errno;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::said::Happened;
use super::seen::Seen;

/// Where the kernel's messages are read.
pub const KERNEL_LOG: &str = "/dev/kmsg";

/// The library tells of an error at its next wait for one, which is a second long; after so much
/// longer it does not.
const LIBRARY_PATIENCE: Duration = Duration::from_secs(3);
/// Two reports of one error are no further apart.
const SAME_WITHIN: Duration = Duration::from_secs(10);
/// Reports that wait for the other witness's; a flood of them says no more than its beginning.
const REPORTS_MAX: usize = 256;
/// More than any record of the kernel's, which are read one at a time.
const RECORD_BYTES_MAX: usize = 16 << 10;
/// Of a record's first number the part that says how urgent it is; the rest says who speaks, and
/// the kernel itself is 0. Programs that write there are marked by the kernel as what they are.
const URGENCIES: u32 = 8;

/// Passes on what the library tells of, and what it does not and the kernel does, until nobody
/// listens.
pub async fn listen(
    log: PathBuf,
    mut told: mpsc::Receiver<Happened>,
    seen: watch::Receiver<Seen>,
    listener: mpsc::Sender<Happened>,
) {
    let mut log = match open_at_end(&log) {
        Ok(log) => Some(log),
        Err(error) => {
            let log = log.display();
            info!(%log, %error, "the kernel's messages cannot be read: only NVML tells of errors");
            None
        }
    };
    let mut witnesses = Witnesses::default();
    loop {
        let due = witnesses.next_due();
        let passed_on = tokio::select! {
            happened = told.recv() => match happened {
                Some(happened) => witnesses.library(Instant::now(), happened).into_iter().collect(),
                None => return,
            },
            records = records(&mut log) => {
                for (place, xid) in records.lines().filter_map(xid_in) {
                    match seen.borrow().at(place) {
                        Some(uuid) => witnesses.kernel(Instant::now(), Happened { uuid, xid }),
                        None => debug!(xid, "the kernel tells of an error of a GPU that is not here"),
                    }
                }
                Vec::new()
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                witnesses.due(Instant::now())
            }
        };
        for happened in passed_on {
            if listener.send(happened).await.is_err() {
                return;
            }
        }
    }
}

fn open_at_end(log: &Path) -> io::Result<pipe::Receiver> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let log = open(log, flags, Mode::empty())?;
    // What happened before was seen to, or shows again.
    match seek(&log, SeekFrom::End(0)) {
        Ok(_) | Err(Errno::SPIPE) => {}
        Err(error) => return Err(error.into()),
    }
    // No pipe, but waited for like one.
    pipe::Receiver::from_owned_fd_unchecked(log)
}

/// The next that are there.
async fn records(log: &mut Option<pipe::Receiver>) -> String {
    while let Some(open) = log {
        let mut buffer = vec![0; RECORD_BYTES_MAX];
        let read = match open.readable().await {
            Ok(()) => open.try_read(&mut buffer),
            Err(error) => Err(error),
        };
        match read {
            Ok(length) if length > 0 => {
                return String::from_utf8_lossy(&buffer[..length]).into_owned();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Some were written over before they were read: the next ones follow.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PIPE) => {}
            Ok(_) => {
                warn!("the kernel's messages have ended");
                *log = None;
            }
            Err(error) => {
                warn!(%error, "the kernel's messages cannot be read any more");
                *log = None;
            }
        }
    }
    std::future::pending().await
}

/// Where a GPU is on the PCI bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    domain: u32,
    bus: u8,
    device: u8,
}

impl Place {
    /// From `00000000:3B:00.0`, and from the kernel's `0000:3b:00`.
    pub fn of(text: &str) -> Option<Place> {
        let (domain, rest) = text.split_once(':')?;
        let (bus, device) = rest.split_once(':')?;
        let device = device.split_once('.').map_or(device, |(device, _)| device);
        Some(Place {
            domain: u32::from_str_radix(domain, 16).ok()?,
            bus: u8::from_str_radix(bus, 16).ok()?,
            device: u8::from_str_radix(device, 16).ok()?,
        })
    }
}

/// The error that a record tells of, if it is of the driver and of the kernel itself:
/// `4,1203,7788,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=…`.
fn xid_in(record: &str) -> Option<(Place, u64)> {
    let (head, text) = record.split_once(';')?;
    let speaker: u32 = head.split(',').next()?.parse().ok()?;
    if speaker >= URGENCIES {
        return None;
    }
    let (place, rest) = text.strip_prefix("NVRM: Xid (")?.split_once("): ")?;
    let place = Place::of(place.strip_prefix("PCI:").unwrap_or(place))?;
    let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    Some((place, rest[..digits].parse().ok()?))
}

/// What either has told of and the other has not.
#[derive(Default)]
struct Witnesses {
    library: VecDeque<(Instant, Happened)>,
    /// By when it is passed on.
    kernel: VecDeque<(Instant, Happened)>,
    /// Passed on by the kernel's word alone.
    passed_on: VecDeque<(Instant, Happened)>,
}

impl Witnesses {
    /// What the library tells of is passed on, unless it was.
    fn library(&mut self, now: Instant, happened: Happened) -> Option<Happened> {
        self.forget(now);
        if take(&mut self.passed_on, &happened) {
            return None;
        }
        if !take(&mut self.kernel, &happened) {
            keep(&mut self.library, now, happened.clone());
        }
        Some(happened)
    }

    fn kernel(&mut self, now: Instant, happened: Happened) {
        self.forget(now);
        if !take(&mut self.library, &happened) {
            keep(&mut self.kernel, now + LIBRARY_PATIENCE, happened);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.kernel.front().map(|(due, _)| *due)
    }

    /// What the library does not tell of.
    fn due(&mut self, now: Instant) -> Vec<Happened> {
        let mut due = Vec::new();
        while let Some((_, happened)) = self.kernel.pop_front_if(|(due, _)| *due <= now) {
            let Happened { uuid, xid } = &happened;
            warn!(uuid, xid, "the kernel tells of an error of a GPU, and NVML does not");
            keep(&mut self.passed_on, now, happened.clone());
            due.push(happened);
        }
        due
    }

    fn forget(&mut self, now: Instant) {
        for told in [&mut self.library, &mut self.passed_on] {
            while told.pop_front_if(|(at, _)| *at + SAME_WITHIN < now).is_some() {}
        }
    }
}

fn take(told: &mut VecDeque<(Instant, Happened)>, happened: &Happened) -> bool {
    let position = told.iter().position(|(_, one)| one == happened);
    position.and_then(|position| told.remove(position)).is_some()
}

fn keep(told: &mut VecDeque<(Instant, Happened)>, at: Instant, happened: Happened) {
    if told.len() < REPORTS_MAX {
        told.push_back((at, happened));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernel_is_believed_of_what_the_driver_said() {
        let at = |bus| Place { domain: 0, bus, device: 0 };
        let check = |record: &str, expected: Option<(Place, u64)>| {
            assert_eq!(xid_in(record), expected, "{record}");
        };
        let lost = "NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=x, GPU has fallen off the bus.";
        check(&format!("4,1203,77,-;{lost}"), Some((at(0x3b), 79)));
        check("3,1,7,-,caller=T1;NVRM: Xid (0000:03:00): 6", Some((at(3), 6)));
        // As a program that writes there is marked.
        check(&format!("12,1203,77,-;{lost}"), None);
        check("4,1,7,-;NVRM: Xid (PCI:0000:3b:00): ", None);
        check("4,1,7,-;NVRM: Xid (PCI:0000): 79", None);
        check("4,1,7,-;nvidia: NVRM: Xid (PCI:0000:3b:00): 79", None);
        check(" SUBSYSTEM=pci", None);
        check("", None);
        assert_eq!(Place::of("00000000:3B:00.0"), Some(at(0x3b)));
    }

    #[test]
    fn what_both_tell_of_happened_once() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let error = |xid| Happened { uuid: "GPU-a".to_owned(), xid };
        let mut witnesses = Witnesses::default();
        // The library first, then the kernel.
        assert_eq!(witnesses.library(after(0), error(79)), Some(error(79)));
        witnesses.kernel(after(1), error(79));
        assert_eq!(witnesses.next_due(), None);
        // The kernel first; and twice, of which the library tells once.
        witnesses.kernel(after(2), error(31));
        witnesses.kernel(after(2), error(31));
        assert_eq!(witnesses.library(after(3), error(31)), Some(error(31)));
        assert_eq!(witnesses.due(after(4)), []);
        assert_eq!(witnesses.due(after(5)), [error(31)]);
        // The library is late.
        assert_eq!(witnesses.library(after(6), error(31)), None);
        assert_eq!(witnesses.library(after(7), error(31)), Some(error(31)));
        // Long after, it is another one.
        witnesses.kernel(after(30), error(31));
        assert_eq!(witnesses.next_due(), Some(after(33)));
    }
}
