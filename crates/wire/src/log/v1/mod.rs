//! Version 1 of the log format: protobuf, one encoding per entry.
//!
//! Rules for a change. A field, an enum value or a kind of command may be
//! added; it gets a new number, and whoever proposes it does so only once
//! every voter knows it (the cluster version tells). A change of what is there
//! needs another schema.

mod access;
mod command;
mod encoder;
mod ends;
mod namespace;
mod node_reservation;
mod observation;
pub(crate) mod plan;
mod policy;
mod stock;

use berth_model::{StateMs, WallMs};
use berth_proto::log::v1;
use berth_state::Entry;
use bytes::Bytes;
use prost::Message;

pub use encoder::{COMMANDS_MAX, ENTRY_BYTES_MAX, EntryEncoder, NoRoom, encoded_len};

use crate::frozen::{DecodeError, converted, nothing_passed_over};

/// The schema that this version writes, and the latest that it reads.
pub const SCHEMA: u32 = 1;

/// The bytes of an entry; equal entries have equal bytes.
pub fn encode_entry(entry: &Entry) -> Bytes {
    EntryEncoder::of_whole(entry)
}

/// Reads an entry. Only its form is checked: whether its commands make sense
/// was asked before they were proposed, and apply asks again.
///
/// # Errors
/// A schema, a kind of command, a field or an enum value that this version
/// does not know; bytes that are damaged. Either way the entry must neither be
/// applied nor passed over.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, DecodeError> {
    let proto = v1::Entry::decode(bytes).map_err(|error| newer_or_garbled(bytes, error))?;
    check_schema(proto.schema, &proto.proposer)?;
    if let Some(position) = proto.commands.iter().position(|command| command.command.is_none()) {
        let field = format!("commands[{position}]");
        return Err(DecodeError::UnknownKind { field, writer: proto.proposer });
    }
    nothing_passed_over(&proto, bytes.len(), &proto.proposer)?;
    let commands = converted(&proto.proposer, |at, problems| {
        let mut commands = Vec::with_capacity(proto.commands.len());
        for (position, command) in proto.commands.into_iter().enumerate() {
            let at = at.named("commands");
            commands.push(command::read(at.item(position), command, problems)?);
        }
        Some(commands)
    })?;
    Ok(Entry {
        state_ms: StateMs(proto.state_ms),
        wall_ms: WallMs(proto.wall_ms),
        proposer: proto.proposer,
        commands,
    })
}

/// A later schema may have changed what this version thinks it reads: its
/// number is looked for even where the rest makes no sense.
fn newer_or_garbled(bytes: &[u8], error: prost::DecodeError) -> DecodeError {
    match schema_of(bytes) {
        Some(found) if found > SCHEMA => {
            DecodeError::UnknownSchema { found, known: SCHEMA, writer: String::new() }
        }
        Some(_) | None => DecodeError::Garbled(error),
    }
}

/// The first field, if it is a schema.
fn schema_of(bytes: &[u8]) -> Option<u32> {
    let (&key, mut rest) = bytes.split_first()?;
    if key != 1 << 3 {
        return None;
    }
    prost::decode_length_delimiter(&mut rest).ok().and_then(|schema| u32::try_from(schema).ok())
}

fn check_schema(found: u32, writer: &str) -> Result<(), DecodeError> {
    match found {
        SCHEMA => Ok(()),
        0 => Err(DecodeError::Invalid {
            field: "schema".to_owned(),
            reason: "is missing".to_owned(),
        }),
        _ => Err(DecodeError::UnknownSchema { found, known: SCHEMA, writer: writer.to_owned() }),
    }
}

#[cfg(test)]
mod tests;
