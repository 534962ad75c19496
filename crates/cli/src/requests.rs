//! Traces of requests for a model: CSV with a line for each, or a line of JSON for each where
//! prompts have blocks in common.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use berth_sim::serve::{ARRIVALS_MAX, ServeArrival, chained};
use serde::Deserialize;

use crate::error::{CliError, Fault};
use crate::lists;

/// Tokens in a block of a prompt (Mooncake's traces).
const BLOCK_TOKENS: u32 = 512;
/// The longest line: a prompt of half a million blocks.
const LINE_BYTES_MAX: usize = 4 << 20;

/// A line of a trace in JSON.
#[derive(Deserialize)]
struct Line {
    /// Milliseconds since the first.
    timestamp: u64,
    input_length: u32,
    output_length: u32,
    /// A number for each block of the prompt.
    hash_ids: Vec<u64>,
}

/// The requests of a trace, each with the line that it stands in.
pub(crate) fn read(path: &Path) -> Result<Vec<(u64, ServeArrival)>, CliError> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension {
        Some("gz") => {
            let message = format!("{} is compressed", path.display());
            let fault = Fault::new(message).hint("expand it first: gunzip --keep");
            Err(CliError::BadInput(vec![fault]))
        }
        Some("jsonl") => read_lines(path),
        Some(_) | None => lists::read_requests(path),
    }
}

fn read_lines(path: &Path) -> Result<Vec<(u64, ServeArrival)>, CliError> {
    let at =
        |line: u64, what: String| CliError::bad_input(format!("{}:{line}: {what}", path.display()));
    let cannot = |error: std::io::Error| {
        CliError::bad_input(format!("cannot read {}: {error}", path.display()))
    };
    let mut reader = BufReader::new(File::open(path).map_err(cannot)?);
    let (mut rows, mut bytes, mut number) = (Vec::new(), Vec::new(), 0);
    loop {
        bytes.clear();
        number += 1;
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let read = std::io::Read::take(&mut reader, limit).read_until(b'\n', &mut bytes);
        if read.map_err(cannot)? == 0 {
            break;
        }
        if bytes.len() == LINE_BYTES_MAX {
            return Err(at(number, format!("a line of more than {LINE_BYTES_MAX} bytes")));
        }
        if rows.len() == ARRIVALS_MAX {
            return Err(at(number, format!("more than {ARRIVALS_MAX} requests")));
        }
        let line: Line = serde_json::from_slice(&bytes).map_err(|error| {
            let keys = "timestamp, input_length, output_length and hash_ids";
            at(number, format!("expected an object with {keys}: {error}"))
        })?;
        let arrival = ServeArrival {
            at: berth_sim::serve::GatewayUs(line.timestamp.saturating_mul(1_000)),
            prompt_tokens: line.input_length,
            output_tokens: line.output_length,
            prefix: chained(line.hash_ids, BLOCK_TOKENS),
        };
        rows.push((number, arrival));
    }
    if rows.is_empty() {
        return Err(CliError::bad_input(format!("{}: the list has no rows", path.display())));
    }
    Ok(rows)
}
