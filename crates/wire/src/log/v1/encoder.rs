//! Fills an entry command by command, so that each is encoded once and the
//! entry never outgrows the log.

use berth_model::{StateMs, WallMs};
use berth_proto::log::v1;
use berth_state::{Command, Entry};
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use thiserror::Error;

use super::{SCHEMA, command};

/// The longest entry, in bytes. Beyond 128 KiB the storage engine keeps values
/// in files that it never syncs; half of that leaves room for its own framing.
pub const ENTRY_BYTES_MAX: usize = 64 << 10;
/// The most commands of an entry: bounds what one apply may take.
pub const COMMANDS_MAX: usize = 256;

/// `repeated Command commands = 5`, length-delimited.
const COMMAND_KEY: u8 = 5 << 3 | 2;

/// An entry being filled. Its bytes are those of `encode_entry`.
#[derive(Debug)]
pub struct EntryEncoder {
    buffer: BytesMut,
    commands: usize,
}

/// The entry is full; the command belongs into the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NoRoom {
    #[error("the entry has {COMMANDS_MAX} commands already")]
    Commands,
    #[error("the entry would have {found} bytes, at most {ENTRY_BYTES_MAX} are allowed")]
    Bytes { found: usize },
}

impl EntryEncoder {
    /// An entry without commands.
    pub fn new(state_ms: StateMs, wall_ms: WallMs, proposer: &str) -> EntryEncoder {
        let head = v1::Entry {
            schema: SCHEMA,
            state_ms: state_ms.0,
            wall_ms: wall_ms.0,
            proposer: proposer.to_owned(),
            commands: Vec::new(),
        };
        let mut buffer = BytesMut::with_capacity(head.encoded_len());
        buffer.extend_from_slice(&head.encode_to_vec());
        EntryEncoder { buffer, commands: 0 }
    }

    /// Adds a command, if the entry keeps within its limits.
    ///
    /// # Errors
    /// `NoRoom`; the entry is as before. A command that does not fit an empty
    /// entry fits none.
    pub fn push(&mut self, command: &Command) -> Result<(), NoRoom> {
        if self.commands == COMMANDS_MAX {
            return Err(NoRoom::Commands);
        }
        let proto = command::to_proto(command);
        let found = self.buffer.len() + delimited_len(&proto);
        if found > ENTRY_BYTES_MAX {
            return Err(NoRoom::Bytes { found });
        }
        self.append(&proto);
        Ok(())
    }

    /// How many commands it has.
    pub fn commands(&self) -> usize {
        self.commands
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    pub fn finish(self) -> Bytes {
        self.buffer.freeze()
    }

    /// Every command of `entry`, whatever the limits.
    pub(super) fn of_whole(entry: &Entry) -> Bytes {
        let mut encoder = EntryEncoder::new(entry.state_ms, entry.wall_ms, &entry.proposer);
        for command in &entry.commands {
            encoder.append(&command::to_proto(command));
        }
        encoder.finish()
    }

    fn append(&mut self, proto: &v1::Command) {
        let length = proto.encoded_len();
        self.buffer.reserve(1 + prost::length_delimiter_len(length) + length);
        self.buffer.put_u8(COMMAND_KEY);
        proto
            .encode_length_delimited(&mut self.buffer)
            .expect("room was reserved for exactly this message");
        self.commands += 1;
    }
}

/// How many bytes a command adds to an entry. Costs about as much as encoding
/// it: whoever fills entries uses `EntryEncoder::push`, which measures and
/// encodes at once.
pub fn encoded_len(command: &Command) -> usize {
    delimited_len(&command::to_proto(command))
}

fn delimited_len(proto: &v1::Command) -> usize {
    let length = proto.encoded_len();
    1 + prost::length_delimiter_len(length) + length
}
