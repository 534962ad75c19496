//! Servers and callers on processors of their own: what callers compute is theirs, and must
//! neither be taken from what servers can do nor keep the callers from calling.

use std::process::Command;

use anyhow::{Context as _, ensure};

/// Lists of processors, as `taskset` takes them.
#[derive(Clone, Debug)]
pub struct Halves {
    pub servers: String,
    pub callers: String,
    all: String,
}

impl Halves {
    /// The processors of this process in two halves; `None` if there is one only.
    pub fn of_this_process() -> anyhow::Result<Option<Halves>> {
        let status = std::fs::read_to_string("/proc/self/status").context("read own status")?;
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let all = allowed.context("no list of processors in the status")?.trim().to_owned();
        let processors = expand(&all)?;
        let (servers, callers) = processors.split_at(processors.len() / 2);
        let list = |half: &[u32]| half.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let halves = Halves { servers: list(servers), callers: list(callers), all };
        Ok((!servers.is_empty()).then_some(halves))
    }

    /// Moves this process, with all of its threads, to the callers' half.
    pub fn move_to_callers(&self) -> anyhow::Result<()> {
        move_here(&self.callers)
    }

    /// And back to all.
    pub fn move_back(&self) -> anyhow::Result<()> {
        move_here(&self.all)
    }
}

fn move_here(list: &str) -> anyhow::Result<()> {
    let own = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-a", "-c", "-p", list, &own]).output();
    let output = moved.context("run taskset (util-linux)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "taskset to {list}: {}", said.trim());
    Ok(())
}

/// `0-2,5` in numbers.
fn expand(list: &str) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u32>().with_context(|| format!("read `{list}`"));
        found.extend(number(first)?..=number(last)?);
    }
    Ok(found)
}
