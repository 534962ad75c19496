//! Simulated GPUs such as `8xH100-80GB`.

use std::fmt;

use super::{UnitError, format_size, size_bytes};

/// The most GPUs that one host may simulate.
pub const SIMULATED_GPU_COUNT_MAX: u32 = 64;

/// What a simulated GPU brings along unless told otherwise: the cores and the memory of a common
/// eight-GPU host, by GPU.
pub const CPU_MILLI_PER_GPU: u64 = 16_000;
pub const MEMORY_BYTES_PER_GPU: u64 = 128 << 30;

const ALLOWED: &str =
    "COUNTxMODEL-MEMORY such as 8xH100-80GB, with a count from 1 to 64 and memory from 1MiB";

/// A host's worth of equal simulated GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedGpus {
    /// How many, from 1 to [`SIMULATED_GPU_COUNT_MAX`].
    pub count: u32,
    /// The model's name, letters, digits, `-`, `_` and `.`.
    pub model: String,
    /// The memory of each one.
    pub memory_bytes: u64,
}

impl fmt::Display for SimulatedGpus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = format_size(self.memory_bytes);
        write!(formatter, "{}x{}-{memory}", self.count, self.model)
    }
}

/// Parses `COUNTxMODEL-MEMORY`. The memory is what follows the last `-`, so a
/// model such as `A100-SXM4` is possible.
///
/// # Errors
/// A part is missing, the count is out of range, or the memory is no size.
pub fn simulated_gpus(text: &str) -> Result<SimulatedGpus, UnitError> {
    let refuse = |problem: String| UnitError::new(text, problem, ALLOWED);
    let count_and_rest = text
        .split_once('x')
        .filter(|(count, _)| count.bytes().all(|byte| byte.is_ascii_digit()) && !count.is_empty());
    let Some((count, rest)) = count_and_rest else {
        return Err(refuse("does not start with a count and an `x`".to_owned()));
    };
    let count = count
        .parse::<u32>()
        .ok()
        .filter(|count| (1..=SIMULATED_GPU_COUNT_MAX).contains(count))
        .ok_or_else(|| refuse("has a count out of range".to_owned()))?;
    let Some((model, memory)) = rest.rsplit_once('-') else {
        return Err(refuse("has no memory after a `-`".to_owned()));
    };
    let model_fits = (1..=63).contains(&model.len())
        && model.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !model_fits {
        return Err(refuse("has no usable model name".to_owned()));
    }
    let memory_bytes =
        size_bytes(memory).map_err(|error| refuse(format!("has memory that {}", error.problem)))?;
    if memory_bytes < 1 << 20 {
        return Err(refuse("has less memory than 1MiB".to_owned()));
    }
    Ok(SimulatedGpus { count, model: model.to_owned(), memory_bytes })
}
