//! The name of a machine, as its certificate carries it.

use std::fmt;
use std::str::FromStr;

use berth_model::{Machine, Name};
use thiserror::Error;

/// Which machine of which cluster. Written as a SPIFFE id,
/// `spiffe://<cluster id>/<machine>/<name>`, so that other systems can read
/// it; a scheduler's name is its number, and `/pool/<pool>` follows where an
/// agent was let into one pool alone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MachineId {
    pub cluster_id: [u8; 16],
    pub machine: Machine,
    pub name: String,
    /// The only pool that an agent may be in.
    pub pool: Option<Name>,
}

/// Why a text names no machine.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ParseMachineError {
    #[error("expected spiffe://<cluster id>/<machine>/<name>, found `{0}`")]
    Shape(String),
    #[error("expected a cluster id of 32 hex digits, found `{0}`")]
    Cluster(String),
    #[error("expected server, agent, gateway or client, found `{0}`")]
    Machine(String),
    #[error("`{name}` is no name of such a machine ({machine})")]
    Name { machine: &'static str, name: String },
}

impl MachineId {
    /// The scheduler with this number.
    #[must_use]
    pub fn scheduler(cluster_id: [u8; 16], id: u64) -> MachineId {
        MachineId { cluster_id, machine: Machine::Server, name: id.to_string(), pool: None }
    }

    /// A machine that a person named.
    #[must_use]
    pub fn named(cluster_id: [u8; 16], machine: Machine, name: &Name) -> MachineId {
        MachineId { cluster_id, machine, name: name.as_str().to_owned(), pool: None }
    }

    /// The number of the scheduler that this is; none of another machine.
    #[must_use]
    pub fn scheduler_id(&self) -> Option<u64> {
        match self.machine {
            Machine::Server => self.name.parse().ok(),
            Machine::Agent | Machine::Gateway | Machine::Client => None,
        }
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = hex(&self.cluster_id);
        write!(f, "spiffe://{cluster}/{}/{}", self.machine.as_str(), self.name)?;
        match &self.pool {
            Some(pool) => write!(f, "/pool/{pool}"),
            None => Ok(()),
        }
    }
}

impl FromStr for MachineId {
    type Err = ParseMachineError;

    fn from_str(text: &str) -> Result<MachineId, ParseMachineError> {
        let shape = || ParseMachineError::Shape(text.to_owned());
        let rest = text.strip_prefix("spiffe://").ok_or_else(shape)?;
        let mut parts = rest.split('/');
        let (Some(cluster), Some(machine), Some(name)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(shape());
        };
        let pool = match (parts.next(), parts.next(), parts.next()) {
            (None, _, _) => None,
            (Some("pool"), Some(pool), None) => Some(Name::new(pool).map_err(|_| shape())?),
            (Some(_), _, _) => return Err(shape()),
        };
        let cluster_id =
            from_hex(cluster).ok_or_else(|| ParseMachineError::Cluster(cluster.to_owned()))?;
        let machine = machine
            .parse::<Machine>()
            .map_err(|_| ParseMachineError::Machine(machine.to_owned()))?;
        let known = match machine {
            // Written back the same way, so that one scheduler has one name.
            Machine::Server => name.parse::<u64>().is_ok_and(|id| id.to_string() == name),
            Machine::Agent | Machine::Gateway | Machine::Client => Name::new(name).is_ok(),
        };
        if !known {
            let name = name.to_owned();
            return Err(ParseMachineError::Name { machine: machine.as_str(), name });
        }
        if pool.is_some() && machine != Machine::Agent {
            return Err(shape());
        }
        Ok(MachineId { cluster_id, machine, name: name.to_owned(), pool })
    }
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of exactly as many lower-case hex digits.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_read_as_it_is_written() {
        for text in [
            "spiffe://000102030405060708090a0b0c0d0e0f/server/3",
            "spiffe://000102030405060708090a0b0c0d0e0f/agent/gpu-7.rack2",
            "spiffe://000102030405060708090a0b0c0d0e0f/agent/gpu-7/pool/training",
            "spiffe://ffffffffffffffffffffffffffffffff/client/alice",
            "spiffe://ffffffffffffffffffffffffffffffff/gateway/edge",
        ] {
            assert_eq!(text.parse::<MachineId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_names_no_machine_is_refused() {
        let cases = [
            ("https://example.org/agent/a", "expected spiffe://"),
            ("spiffe://00/agent/a", "32 hex digits"),
            ("spiffe://000102030405060708090A0B0C0D0E0F/agent/a", "32 hex digits"),
            ("spiffe://000102030405060708090a0b0c0d0e0f/root/a", "server, agent"),
            ("spiffe://000102030405060708090a0b0c0d0e0f/server/03", "such a machine (server)"),
            ("spiffe://000102030405060708090a0b0c0d0e0f/server/gpu", "such a machine (server)"),
            ("spiffe://000102030405060708090a0b0c0d0e0f/agent/..", "such a machine (agent)"),
            ("spiffe://000102030405060708090a0b0c0d0e0f/agent/a/b", "expected spiffe://"),
            ("spiffe://000102030405060708090a0b0c0d0e0f/agent/a/pool", "expected spiffe://"),
            ("spiffe://000102030405060708090a0b0c0d0e0f/agent/a/pool/b/c", "expected spiffe://"),
            ("spiffe://000102030405060708090a0b0c0d0e0f/client/a/pool/b", "expected spiffe://"),
            ("spiffe://000102030405060708090a0b0c0d0e0f/agent/", "such a machine (agent)"),
        ];
        for (text, complaint) in cases {
            let error = text.parse::<MachineId>().unwrap_err().to_string();
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }
}
