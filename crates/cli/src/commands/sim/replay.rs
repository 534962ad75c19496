//! `berth sim replay`: the decisions of a capture made anew by this build, on this machine, and
//! compared with those of the leader that made them.

use std::path::{Path, PathBuf};

use berth_sim::replay::{Replayed, node_name, places, replay};
use berth_wire::capture::{Capture, Captured};
use clap::Args;
use serde_json::{Map, Value, json};

use super::decisions;
use crate::captures;
use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, Table, ago, rfc3339};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// A capture of a leader, or a record of a gateway
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only this decision, and all of it: 1 is the oldest, the last the one made for the capture
    #[arg(long, value_name = "N")]
    pub decision: Option<usize>,
}

/// A decision with its number, then and now.
struct Compared<'a> {
    number: usize,
    captured: &'a Captured,
    replayed: Replayed,
}

pub(crate) fn run(args: &ReplayArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    if decisions::is_record(&args.file) {
        if args.decision.is_some() {
            return Err(CliError::bad_input(
                "--decision is for captures; each line of a gateway's record is a decision, to be \
                 read as it is",
            ));
        }
        return decisions::run(&args.file, session);
    }
    let capture = captures::read(&args.file)?;
    let count = capture.decisions.len();
    if let Some(number) = args.decision.filter(|number| !(1..=count).contains(number)) {
        let message = format!("expected a decision from 1 to {count}, found {number}");
        return Err(CliError::bad_input(message));
    }
    let chosen = |number: &usize| args.decision.is_none_or(|only| only == *number);
    let compared: Vec<Compared<'_>> = (1..)
        .zip(&capture.decisions)
        .filter(|(number, _)| chosen(number))
        .map(|(number, captured)| Compared {
            number,
            captured,
            replayed: replay(&captured.decision),
        })
        .collect();
    let mut answer = answer(&args.file, &capture, &compared);
    if let ([one], Some(_)) = (compared.as_slice(), args.decision) {
        answer.pieces.extend(whole(one));
    }
    session.print(&answer)?;
    let is_same = compared.iter().all(|one| one.replayed.differences.is_empty());
    Ok(if is_same { Exit::Done } else { Exit::Different })
}

fn answer(file: &Path, capture: &Capture, compared: &[Compared<'_>]) -> Answer {
    let header = &capture.header;
    let mut table = Table::new(
        &["DECISION", "MADE", "BEFORE", "INDEX", "PLACED", "KEPT", "WAIT", "REPLAYED"],
        &["JOBS", "NODES"],
    );
    for one in compared {
        table.row(row(capture, one));
    }
    let mut pieces = vec![Piece::Table(table)];
    for one in compared {
        let differences = &one.replayed.differences;
        let number = one.number;
        let shown = differences.shown.iter();
        pieces.extend(shown.map(|text| Piece::Text(format!("decision {number}: {text}"))));
        if differences.left_off > 0 {
            let more = differences.left_off;
            pieces.push(Piece::Text(format!("decision {number}: and {more} more differences")));
        }
    }
    let decisions: Vec<Value> = compared.iter().map(|one| decision_json(capture, one)).collect();
    let json = json!({
        "file": file.to_string_lossy(),
        "version": header.writer,
        "cluster_version": header.cluster_version,
        "captured_at": rfc3339(header.captured_at.0),
        "index": header.applied_index,
        "redacted": header.is_redacted(),
        "same": compared.iter().all(|one| one.replayed.differences.is_empty()),
        "decisions": decisions,
    });
    let ids = compared.iter().map(|one| one.number.to_string()).collect();
    Answer { json, pieces, ids }
}

fn row(capture: &Capture, one: &Compared<'_>) -> Vec<String> {
    let (inputs, made) = (&one.captured.decision.inputs, &one.replayed.made);
    let same = if one.replayed.differences.is_empty() { "the same" } else { "different" };
    let waiting = made.waiting.len() as u64 + made.waiting_left_off;
    vec![
        one.number.to_string(),
        one.captured.origin.name().to_owned(),
        ago(capture.header.captured_ms.0, inputs.now.0),
        inputs.view.applied_index().to_string(),
        made.placements.len().to_string(),
        made.reservations.len().to_string(),
        waiting.to_string(),
        same.to_owned(),
        inputs.view.jobs().len().to_string(),
        inputs.view.nodes().len().to_string(),
    ]
}

/// Each place and each task that waits.
fn whole(one: &Compared<'_>) -> Vec<Piece> {
    let (view, made) = (&one.captured.decision.inputs.view, &one.replayed.made);
    let job_name =
        |job| view.jobs().get(job).map_or_else(String::new, |row| row.name().to_string());
    let mut table =
        Table::new(&["ALLOCATION", "JOB", "NODE", "GPUS", "PORTS", "KEPT", "AFTER"], &[]);
    for (place, awaits) in places(made) {
        let devices = place.devices.iter().map(|device| device.uuid.clone());
        let ports = place.ports.iter().map(|port| format!("{}={}", port.name, port.port));
        table.row(vec![
            place.allocation().to_string(),
            job_name(&place.job),
            node_name(view, place.node),
            joined(devices),
            joined(ports),
            if awaits.is_some() { "yes" } else { "-" }.to_owned(),
            joined(awaits.into_iter().flatten().map(ToString::to_string)),
        ]);
    }
    let mut pieces = vec![Piece::Table(table)];
    for waits in &made.waiting {
        let (job, task, left, why) = (waits.job, waits.task.0, waits.left, &waits.why);
        let name = job_name(&waits.job);
        pieces.push(Piece::Text(format!(
            "waits: task {task} of job {job} ({name}): {left} for {why}"
        )));
    }
    if made.waiting_left_off > 0 {
        pieces.push(Piece::Text(format!("waits: {} more tasks", made.waiting_left_off)));
    }
    pieces
}

fn joined(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

fn places_json(one: &Compared<'_>) -> Vec<Value> {
    let (view, made) = (&one.captured.decision.inputs.view, &one.replayed.made);
    let mut all = Vec::new();
    for (place, awaits) in places(made) {
        let mut devices = Vec::new();
        for device in &place.devices {
            devices.push(json!({
                "uuid": device.uuid,
                "share_milli": device.share.0,
                "memory_bytes": device.memory.0,
            }));
        }
        let ports: Map<String, Value> =
            place.ports.iter().map(|port| (port.name.to_string(), json!(port.port))).collect();
        all.push(json!({
            "allocation_id": place.allocation().to_string(),
            "node": node_name(view, place.node),
            "devices": devices,
            "ports": ports,
            "kept": awaits.is_some(),
            "after": awaits.into_iter().flatten().map(ToString::to_string).collect::<Vec<String>>(),
        }));
    }
    all
}

fn decision_json(capture: &Capture, one: &Compared<'_>) -> Value {
    let (inputs, made) = (&one.captured.decision.inputs, &one.replayed.made);
    let view = &inputs.view;
    let waiting: Vec<Value> = made
        .waiting
        .iter()
        .map(|waits| {
            json!({
                "job_id": waits.job.0,
                "task": waits.task.0,
                "placed": waits.placed,
                "left": waits.left,
                "why": waits.why,
            })
        })
        .collect();
    json!({
        "decision": one.number,
        "made": one.captured.origin.name(),
        "before_ms": capture.header.captured_ms.0.saturating_sub(inputs.now.0),
        "index": view.applied_index(),
        "places": places_json(one),
        "waiting": waiting,
        "waiting_left_off": made.waiting_left_off,
        "same": one.replayed.differences.is_empty(),
        "differences": one.replayed.differences.shown,
        "differences_left_off": one.replayed.differences.left_off,
    })
}
