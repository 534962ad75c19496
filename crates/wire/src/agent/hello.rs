//! The first message of an agent's session.

use berth_model::{Name, NodeSpec, Violation, validate_node};
use berth_proto::v1;
use bytes::Bytes;
use prost::Message as _;

use crate::problem::{Cause, Field, Problems};
use crate::spec::{NODE_SPEC_BYTES_MAX, node_spec_to_proto, read_node};

/// A Linux boot id is a UUID of 36 characters.
const BOOT_ID_BYTES_MAX: usize = 64;

/// What this build's agent speaks, and the latest that its scheduler understands.
pub const PROTOCOL: u32 = 1;
/// The earliest that its scheduler still understands: agents of the two releases
/// before it come in.
pub const PROTOCOL_OLDEST: u32 = 1;

/// An agent and a scheduler that do not understand each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the agent speaks protocol {spoken}, and this scheduler understands {} to {}",
    PROTOCOL_OLDEST,
    PROTOCOL
)]
pub struct OtherProtocol {
    pub spoken: u32,
}

impl OtherProtocol {
    /// Whether the agent is ahead.
    pub fn is_newer(&self) -> bool {
        self.spoken > PROTOCOL
    }
}

/// Whether a hello can be read at all; asked before anything else of it.
///
/// # Errors
/// The agent speaks a protocol of another time.
pub fn check_protocol(hello: &v1::Hello) -> Result<(), OtherProtocol> {
    let spoken = hello.protocol.max(1);
    if (PROTOCOL_OLDEST..=PROTOCOL).contains(&spoken) {
        Ok(())
    } else {
        Err(OtherProtocol { spoken })
    }
}

/// Who the agent is and what it has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    pub name: Name,
    /// Made once per data directory.
    pub instance_key: [u8; 16],
    pub spec: NodeSpec,
    /// The desired state it acts on, if it has ever been given one.
    pub held: Option<Held>,
    pub boot_id: String,
}

/// Which desired state an agent acts on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    pub incarnation: u64,
    pub generation: u64,
    /// As `desired_digest` computes it.
    pub digest: [u8; 32],
}

/// The message for a hello.
pub fn hello_to_proto(hello: &Hello) -> v1::Hello {
    v1::Hello {
        name: hello.name.to_string(),
        instance_key: Bytes::copy_from_slice(&hello.instance_key),
        spec: Some(node_spec_to_proto(&hello.spec)),
        incarnation: hello.held.map_or(0, |held| held.incarnation),
        generation: hello.held.map_or(0, |held| held.generation),
        digest: hello.held.map_or(Bytes::new(), |held| Bytes::copy_from_slice(&held.digest)),
        boot_id: hello.boot_id.clone(),
        protocol: PROTOCOL,
    }
}

/// Reads a hello, with the inventory in it.
///
/// # Errors
/// Everything wrong with it: in its form, else in the inventory's sense.
pub fn hello_from_proto(proto: v1::Hello) -> Result<Hello, Vec<Violation>> {
    let mut problems = Problems::default();
    let at = Field::ROOT;
    let name = problems.name(at.named("name"), &proto.name);
    let instance_key = problems.bytes(at.named("instance_key"), &proto.instance_key);
    let spec = read_inventory(at.named("spec"), proto.spec, &mut problems);
    let boot_id = problems.short(at.named("boot_id"), proto.boot_id, BOOT_ID_BYTES_MAX);
    let held = if proto.digest.is_empty() {
        if (proto.incarnation, proto.generation) != (0, 0) {
            problems.add(at.named("digest"), Cause::Missing);
        }
        None
    } else {
        problems.bytes(at.named("digest"), &proto.digest).map(|digest| Held {
            incarnation: proto.incarnation,
            generation: proto.generation,
            digest,
        })
    };
    let hello = (|| {
        let (name, instance_key) = (name?, instance_key?);
        Some(Hello { name, instance_key, spec: spec?, held, boot_id: boot_id? })
    })();
    let hello = problems.verdict(hello)?;
    let mut violations = validate_node(&hello.spec);
    for violation in &mut violations {
        violation.field.insert_str(0, "spec.");
    }
    if violations.is_empty() { Ok(hello) } else { Err(violations) }
}

fn read_inventory(
    at: Field<'_>,
    proto: Option<v1::NodeSpec>,
    problems: &mut Problems,
) -> Option<NodeSpec> {
    let proto = problems.present(at, proto)?;
    let found = proto.encoded_len();
    if found > NODE_SPEC_BYTES_MAX {
        problems.add(at, Cause::TooLong { bytes_max: NODE_SPEC_BYTES_MAX, found });
        return None;
    }
    read_node(at, proto, problems)
}
