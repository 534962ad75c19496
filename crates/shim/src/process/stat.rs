//! `/proc/<pid>/stat`, parsed after the last `)` because a process may put spaces and parentheses into its name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};

/// The fields of one process that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: u32,
    pub(crate) parent_pid: u32,
    /// The kernel's letter: `R`, `S`, `D`, `Z` and others.
    pub(crate) state: char,
    /// User and system time in clock ticks, without children.
    pub(crate) cpu_ticks: u64,
    /// User and system time in clock ticks of the children waited for.
    pub(crate) children_cpu_ticks: u64,
    pub(crate) start_ticks: u64,
    pub(crate) resident_pages: u64,
    pub(crate) thread_count: u64,
}

impl Stat {
    /// # Errors
    /// `NotFound` if there is no such process, `InvalidData` if the kernel's line is not understood.
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        let mut buffer = [0; LINE_BYTES_MAX];
        Self::parse(pid, read_line(pid, &mut buffer)?)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    fn parse(pid: u32, line: &[u8]) -> Option<Self> {
        let fields = fields(line)?;
        let number = |field| number(&fields, field);
        Some(Self {
            pid,
            parent_pid: u32::try_from(number(4)?).ok()?,
            state: fields.first()?.chars().next()?,
            cpu_ticks: number(14)? + number(15)?,
            children_cpu_ticks: number(16)? + number(17)?,
            start_ticks: number(22)?,
            resident_pages: number(24)?,
            thread_count: number(20)?,
        })
    }

    /// Ended and only waiting for its parent to take its status. A process whose first thread has ended before the
    /// others also shows `Z`, but lives.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') && self.thread_count <= 1
    }
}

/// Where a process keeps the environment that it was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Environment {
    /// At this address.
    At(u64),
    /// It has none, or no memory at all: it has ended, or is a thread of the kernel.
    Nothing,
    /// Its memory is not laid out yet: it is in the middle of an exec.
    NotYet,
}

impl Environment {
    /// # Errors
    /// As [`Stat::read`].
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let mut buffer = [0; LINE_BYTES_MAX];
        Self::parse(read_line(pid, &mut buffer)?)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let fields = fields(line)?;
        let [memory_bytes, code, start, end] = [23, 26, 50, 51].map(|field| number(&fields, field));
        // The kernel (create_elf_tables) first has the environment end where it starts, and a process may be kept from
        // running right then; where its code starts it says only when all is laid out.
        Some(match (memory_bytes?, code?, start?, end?) {
            (0, ..) => Self::Nothing,
            (_, 0, ..) | (_, _, _, 0) => Self::NotYet,
            (_, _, start, end) if start == end => Self::Nothing,
            (_, _, start, _) => Self::At(start),
        })
    }
}

/// The kernel's line is at most about 400 bytes long.
const LINE_BYTES_MAX: usize = 1024;

/// One read into a buffer on the stack: a lane does this once per start.
fn read_line(pid: u32, buffer: &mut [u8; LINE_BYTES_MAX]) -> io::Result<&[u8]> {
    let length = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(buffer))?;
    Ok(&buffer[..length])
}

/// The fields behind the name, the first of which is field 3 of proc_pid_stat(5), the state.
fn fields(line: &[u8]) -> Option<Vec<&str>> {
    let name_end = line.iter().rposition(|byte| *byte == b')')?;
    Some(std::str::from_utf8(&line[name_end + 1..]).ok()?.split_ascii_whitespace().collect())
}

/// A field by its number in proc_pid_stat(5).
fn number(fields: &[&str], field: usize) -> Option<u64> {
    fields.get(field - 3)?.parse().ok()
}

/// Every process at about one moment.
#[derive(Debug, Default)]
pub(crate) struct ProcessTable {
    by_pid: BTreeMap<u32, Stat>,
}

impl ProcessTable {
    /// # Errors
    /// Only if `/proc` itself cannot be listed; processes that end meanwhile are left out.
    pub(crate) fn read() -> io::Result<Self> {
        let by_pid =
            pids()?.filter_map(|pid| Stat::read(pid).ok()).map(|stat| (stat.pid, stat)).collect();
        Ok(Self { by_pid })
    }

    /// All processes that have `ancestor` among their parents, itself excluded.
    pub(crate) fn descendants(&self, ancestor: u32) -> Vec<Stat> {
        self.by_pid.values().filter(|stat| self.descends(stat, ancestor)).copied().collect()
    }

    fn descends(&self, stat: &Stat, ancestor: u32) -> bool {
        let mut parent_pid = stat.parent_pid;
        // The table is not one moment's picture, so a cycle of reused pids is thinkable: bounded by its size.
        for _ in 0..=self.by_pid.len() {
            if parent_pid == ancestor {
                return true;
            }
            match self.by_pid.get(&parent_pid) {
                Some(parent) if parent_pid != 0 => parent_pid = parent.parent_pid,
                Some(_) | None => return false,
            }
        }
        false
    }
}

/// The pids now in `/proc`.
pub(crate) fn pids() -> io::Result<impl Iterator<Item = u32>> {
    Ok(fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line =
            b"42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9999 1000000 321 0";
        let stat = Stat::parse(42, line).unwrap();
        let expected = Stat {
            pid: 42,
            parent_pid: 7,
            state: 'S',
            cpu_ticks: 11,
            children_cpu_ticks: 15,
            start_ticks: 9999,
            resident_pages: 321,
            thread_count: 1,
        };
        assert_eq!(stat, expected);
        assert!(!stat.is_dead());
        assert!(Stat { state: 'Z', ..stat }.is_dead());
        assert!(!Stat { state: 'Z', thread_count: 2, ..stat }.is_dead(), "other threads live");
    }

    #[test]
    fn lines_that_are_cut_short_are_refused() {
        for line in [
            &b""[..],
            b"42 (a",
            b"42 (a)",
            b"42 (a) S 7 42",
            b"42 (a) S x 42 42 0 -1 1 1 2 3 4 5 6 7 8 20",
        ] {
            assert_eq!(Stat::parse(42, line), None);
        }
    }

    #[test]
    fn an_environment_that_is_not_laid_out_yet_is_none_that_is_empty() {
        let line = |memory: u64, code: u64, start: u64, end: u64| {
            let mut fields = vec!["1".to_owned(); 50];
            fields[0] = "(a)".to_owned();
            fields[1] = "R".to_owned();
            for (field, value) in [(23, memory), (26, code), (50, start), (51, end)] {
                fields[field - 2] = value.to_string();
            }
            Environment::parse(format!("42 {}", fields.join(" ")).as_bytes())
        };
        assert_eq!(line(4096, 40, 70, 80), Some(Environment::At(70)));
        assert_eq!(line(4096, 40, 70, 70), Some(Environment::Nothing));
        assert_eq!(line(4096, 0, 0, 0), Some(Environment::NotYet));
        assert_eq!(line(4096, 0, 70, 70), Some(Environment::NotYet), "its end is not known yet");
        assert_eq!(line(0, 0, 0, 0), Some(Environment::Nothing), "a thread of the kernel");
        assert_eq!(Environment::parse(b"42 (a) R 1 2"), None);
    }

    #[test]
    fn descendants_follow_parents_and_survive_a_cycle() {
        let stat = |pid, parent_pid| Stat {
            pid,
            parent_pid,
            state: 'S',
            cpu_ticks: 0,
            children_cpu_ticks: 0,
            start_ticks: 0,
            resident_pages: 0,
            thread_count: 1,
        };
        let rows = [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (30, 31), (31, 30)];
        let table =
            ProcessTable { by_pid: rows.map(|(pid, parent)| (pid, stat(pid, parent))).into() };
        let found: Vec<u32> = table.descendants(10).iter().map(|stat| stat.pid).collect();
        assert_eq!(found, [11, 12]);
    }
}
