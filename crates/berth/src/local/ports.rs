//! Ports for the daemons of local clusters.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
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

/// The first that workers of local clusters are given; each agent has a thousand of its own.
const WORKERS_FIRST: u16 = 20_000;
const WORKERS_EACH: u16 = 1_000;
/// So many ranges end below the ports that the kernel gives to connections.
const WORKER_RANGES: u16 = 12;

/// The ports of one agent's workers.
#[derive(Debug)]
pub struct WorkerPorts {
    pub first: u16,
    pub last: u16,
    /// The port before them: who listens there has the range, so that clusters side by side on a
    /// host do not take each other's ports.
    _claim: Option<TcpListener>,
}

impl WorkerPorts {
    /// The range of its number, else the next that no other cluster has; where all are taken it
    /// is shared.
    pub fn of_agent(number: u16) -> WorkerPorts {
        let own = number.saturating_sub(1);
        let begin_of = |range: u16| WORKERS_FIRST + range * WORKERS_EACH;
        let of = |begin: u16, claim| WorkerPorts {
            first: begin + 1,
            last: begin + WORKERS_EACH - 1,
            _claim: claim,
        };
        let mut begins = (0..WORKER_RANGES).map(|step| begin_of((own + step) % WORKER_RANGES));
        let claimed = begins.find_map(|begin| {
            let claim = TcpListener::bind((Ipv4Addr::LOCALHOST, begin)).ok()?;
            Some(of(begin, Some(claim)))
        });
        claimed.unwrap_or_else(|| of(begin_of(own % WORKER_RANGES), None))
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

    #[test]
    fn no_two_agents_have_a_worker_port_in_common() {
        let all = [1, 1, 2].map(WorkerPorts::of_agent);
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert!(one.last < other.first || other.last < one.first, "{one:?}, {other:?}");
            }
        }
        assert!(all.iter().all(|one| one.last < 32_768));
    }
}
