//! Parsers for the quantities that people write in files, flags and variables.
//!
//! They return plain integers whose unit is in the function's name. They never
//! guess: a bare number, a misspelt unit, a sign or a value out of range is
//! refused with what was seen and what is allowed.

mod address;
mod cpu;
mod duration;
mod gpu;
mod label;
mod number;
mod ports;
mod size;
#[cfg(test)]
mod tests;

pub use address::{Address, address, listen_address};
pub use cpu::{CPU_MILLI_MAX, cpu_milli, format_cpu};
pub use duration::{DURATION_MS_MAX, duration_ms, duration_ms_between, format_duration};
pub use gpu::{
    CPU_MILLI_PER_GPU, MEMORY_BYTES_PER_GPU, SIMULATED_GPU_COUNT_MAX, SimulatedGpus, simulated_gpus,
};
pub use label::{Label, label};
pub use ports::{PortRange, port_range};
pub use size::{SIZE_BYTES_MAX, format_size, size_bytes};

/// The most characters of a value that a message repeats.
const SEEN_CHARS_MAX: usize = 48;

/// A text that is not the quantity it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{seen}` {problem}; expected {allowed}")]
pub struct UnitError {
    /// The text as given, shortened and with control characters escaped.
    pub seen: String,
    /// What is wrong with it, worded to follow the text.
    pub problem: String,
    /// What would be accepted.
    pub allowed: String,
}

impl UnitError {
    /// Builds the error for `text`.
    pub fn new(text: &str, problem: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { seen: shorten(text), problem: problem.into(), allowed: allowed.into() }
    }
}

/// `text` fit for a message: control characters escaped, at most 48 characters.
pub(crate) fn shorten(text: &str) -> String {
    let mut shown = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == SEEN_CHARS_MAX {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}
