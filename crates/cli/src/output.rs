//! One answer, four formats.

mod allocation;
mod cluster;
mod event;
mod explain;
mod files;
mod job;
mod namespace;
mod node;
mod plan;
mod plot;
mod reservation;
mod service;
mod spec;
mod table;
mod time;
mod ways;

pub(crate) use allocation::{
    allocation_json, allocation_table, claims_json, gang_lines, isolation_line,
};
pub(crate) use cluster::status_answer;
pub(crate) use event::{event_json, event_line};
pub(crate) use explain::explain_answer;
pub(crate) use files::entries_answer;
pub(crate) use job::{job_json, job_table, jobs_answer};
pub(crate) use namespace::{namespace_answer, namespaces_answer, quota_answer};
pub(crate) use node::{gpu_answer, node_answer, nodes_answer, one_gpu_answer};
pub(crate) use plan::plan_answer;
pub(crate) use plot::{Bars, Curve, Curves, Series, bars, curves};
pub(crate) use reservation::{reservation_answer, reservations_answer};
pub(crate) use service::{service_answer, services_answer};
pub(crate) use spec::spec_json;
pub(crate) use table::Table;
pub(crate) use time::{ago, rfc3339, rfc3339_or_null};

use serde_json::Value;

use crate::console::Console;
use crate::error::CliError;
use crate::globals::Format;

/// What a command found, in every form it may be printed in.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) json: Value,
    /// For people: pieces one below the other.
    pub(crate) pieces: Vec<Piece>,
    /// For `--quiet`.
    pub(crate) ids: Vec<String>,
}

/// A part of an answer for people.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Text(String),
    Table(Table),
}

pub(crate) fn print(
    console: &mut Console<'_>,
    format: Format,
    answer: &Answer,
) -> Result<(), CliError> {
    match format {
        Format::Json => {
            let text = serde_json::to_string_pretty(&answer.json).unwrap_or_default();
            console.line(&text)
        }
        Format::Yaml => {
            let text = serde_saphyr::to_string(&answer.json)
                .map_err(|error| CliError::Output(std::io::Error::other(error.to_string())))?;
            console.data(text.as_bytes())
        }
        Format::Table | Format::Wide => {
            for piece in &answer.pieces {
                match piece {
                    Piece::Text(text) => console.line(text)?,
                    Piece::Table(table) => {
                        let text = table.render(format, console.width, console.cut_mark());
                        console.data(text.as_bytes())?;
                    }
                }
            }
            Ok(())
        }
    }
}
