//! For tests: values of core types for property tests, everything that they allow,
//! sensible or not. Large ones are boxed: their trees would otherwise lie whole
//! on the stack of a test.

pub(crate) mod access;
pub(crate) mod agent;
pub(crate) mod log;
pub(crate) mod namespace;
pub(crate) mod node_reservation;
pub(crate) mod rows;
pub(crate) mod spec;

use std::collections::BTreeMap;

use berth_model::Name;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// Any name.
pub(crate) fn name() -> impl Strategy<Value = Name> + Clone {
    "[a-z][a-zA-Z0-9._-]{0,12}".prop_map(|text| Name::new(&text).unwrap())
}

/// A short text with anything in it, often empty.
pub(crate) fn text() -> impl Strategy<Value = String> + Clone {
    prop_oneof![Just(String::new()), "[ -~]{1,12}", "\\PC{0,6}"]
}

/// Any number, small ones, zero and the largest more often than chance has it.
pub(crate) fn number() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![Just(0), Just(u64::MAX), 1..300u64, any::<u64>()]
}

pub(crate) fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..4)
}

pub(crate) fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(text(), text(), 0..4)
}

/// The bytes of a frozen file: hex digits, broken into lines.
pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

/// The text of a frozen file.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    let lines = bytes
        .chunks(32)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n");
    lines.collect()
}
