//! The application of these tests: a list of numbers and a hash over it.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use berth_raft::{App, EntryError, Proposal, SnapshotError};
use bytes::Bytes;

/// The state after some entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub values: Arc<Vec<u64>>,
    pub hash: u64,
}

impl State {
    fn push(&mut self, value: u64) {
        Arc::make_mut(&mut self.values).push(value);
        let mixed = self.hash ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = mixed.rotate_left(17).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
}

/// What the application shows: shared with the test.
pub type Shown = Arc<Mutex<State>>;

#[derive(Default)]
pub struct Register {
    state: State,
    shown: Shown,
}

impl Register {
    pub fn new() -> (Self, Shown) {
        let register = Self::default();
        let shown = register.shown.clone();
        (register, shown)
    }
}

pub fn show(shown: &Shown) -> State {
    shown.lock().unwrap().clone()
}

/// A proposal that adds a number, padded to some size.
pub fn add_padded(value: u64, padding: usize) -> Proposal<Register> {
    let mut bytes = vec![1];
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes.resize(9 + padding, 0xa5);
    Proposal::new(Bytes::from(bytes), Arc::new(value))
}

pub fn add(value: u64) -> Proposal<Register> {
    add_padded(value, 0)
}

/// A proposal that followers of this build cannot decode.
pub fn add_of_newer_schema(value: u64) -> Proposal<Register> {
    let mut bytes = vec![2];
    bytes.extend_from_slice(&value.to_le_bytes());
    Proposal::new(Bytes::from(bytes), Arc::new(value))
}

impl App for Register {
    type Entry = u64;
    type Reply = u64;
    type View = State;

    fn decode(bytes: &[u8]) -> Result<u64, EntryError> {
        if bytes.first() != Some(&1) {
            return Err(EntryError::UnknownSchema { found: u32::from(bytes[0]), known: 1 });
        }
        let value = bytes.get(1..9).and_then(|value| value.try_into().ok());
        value.map(u64::from_le_bytes).ok_or_else(|| EntryError::Garbled("too short".to_owned()))
    }

    fn apply(&mut self, _: u64, entry: &u64) -> u64 {
        self.state.push(*entry);
        self.state.hash
    }

    fn publish(&mut self, _: u64) {
        *self.shown.lock().unwrap() = self.state.clone();
    }

    fn view(&self) -> State {
        self.state.clone()
    }

    fn write_snapshot(view: &State, sink: &mut dyn Write) -> std::io::Result<()> {
        sink.write_all(&view.hash.to_le_bytes())?;
        for value in view.values.iter() {
            sink.write_all(&value.to_le_bytes())?;
        }
        Ok(())
    }

    fn restore(&mut self, source: &mut dyn Read) -> Result<(), SnapshotError> {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes)?;
        let mut words = bytes.chunks_exact(8).map(|word| {
            let mut held = [0; 8];
            held.copy_from_slice(word);
            u64::from_le_bytes(held)
        });
        let hash = words.next().ok_or_else(|| SnapshotError::Garbled("empty".to_owned()))?;
        self.state = State { hash, values: Arc::new(words.collect()) };
        Ok(())
    }
}
