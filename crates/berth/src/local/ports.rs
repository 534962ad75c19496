//! Ports for the daemons of local clusters.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, bail};

/// Below those that the kernel gives to connections, which could take one
/// between the look and its use, and below those of workers.
const FIRST: u32 = 10_240;
const COUNT: u32 = 9_000;

/// In a local cluster's directory: a line for each scheduler, its ports of gRPC and HTTP.
const FILE: &str = "ports";

/// Where a scheduler listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    pub grpc: u16,
    pub http: u16,
}

impl Ports {
    /// Those of the cluster that an earlier time has left there.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub fn read(data_dir: &Path) -> anyhow::Result<Option<Vec<Ports>>> {
        let file = data_dir.join(FILE);
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("read {}", file.display()))?,
        };
        let line = |line: &str| {
            let (grpc, http) = line.split_once(' ')?;
            Some(Ports { grpc: grpc.parse().ok()?, http: http.parse().ok()? })
        };
        let ports: Option<Vec<Ports>> = text.lines().map(line).collect();
        let ports = ports.filter(|ports| !ports.is_empty());
        let what = "is damaged: expected a line with two ports for each scheduler";
        ports.with_context(|| format!("{} {what}", file.display())).map(Some)
    }

    /// Remembers them for the next time.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(data_dir: &Path, ports: &[Ports]) -> anyhow::Result<()> {
        let file = data_dir.join(FILE);
        let lines = ports.iter().map(|ports| format!("{} {}\n", ports.grpc, ports.http));
        fs::write(&file, lines.collect::<String>())
            .with_context(|| format!("write {}", file.display()))
    }
}

/// Ports that nobody listens on. None is given out twice by this process, and
/// other processes begin elsewhere.
///
/// # Errors
/// There are not so many.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(257) % COUNT;
    let mut found = Vec::with_capacity(count);
    for _ in 0..COUNT {
        if found.len() == count {
            return Ok(found);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(begin) % COUNT;
        let Ok(port) = u16::try_from(FIRST + number) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            found.push(port);
        }
    }
    bail!("only {} of {count} ports are free", found.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_remembered_and_never_guessed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Ports::read(dir.path()).unwrap(), None);
        let ports = [Ports { grpc: 1, http: 2 }, Ports { grpc: 3, http: 4 }];
        Ports::write(dir.path(), &ports).unwrap();
        assert_eq!(Ports::read(dir.path()).unwrap().unwrap(), ports);
        for damaged in ["", "1 2\n3", "1 70000"] {
            fs::write(dir.path().join(FILE), damaged).unwrap();
            let problem = Ports::read(dir.path()).unwrap_err().to_string();
            assert!(problem.contains("is damaged"), "{problem}");
        }
    }

    #[test]
    fn no_port_is_given_out_twice_or_while_somebody_listens() {
        let held = free_ports(1).unwrap();
        let _listener = TcpListener::bind(("127.0.0.1", held[0])).unwrap();
        let more: BTreeSet<u16> = free_ports(200).unwrap().into_iter().collect();
        assert!(more.len() == 200 && !more.contains(&held[0]));
    }
}
