//! Captures into bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use berth_proto::log::v1;
use berth_proto::log::v1::capture_record::Record;
use berth_state::decision::Decision;
use berth_state::{ClusterState, Stored};
use bytes::Bytes;

use super::frames::FrameWriter;
use super::keep::kept;
use super::names::{Gathered, Others, in_decision, in_row};
use super::{Capture, CaptureHeader, Captured, DECISIONS_MAX, ROWS_MAX, convert};
use crate::snapshot::v1::rows;

/// Whether names stay as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privacy {
    Named,
    /// Names of jobs, tasks, namespaces, nodes, pools, zones, ports, labels and GPUs are replaced.
    Redacted,
}

/// Writes a capture. A row that several views share is written once.
///
/// # Errors
/// Those of the sink; `InvalidData` for what no reader would take.
pub fn write_capture(capture: &Capture, privacy: Privacy, sink: &mut dyn Write) -> io::Result<()> {
    let Capture { header, decisions } = capture;
    if decisions.len() > DECISIONS_MAX {
        return Err(too_many("decisions", DECISIONS_MAX));
    }
    let mut others = match privacy {
        Privacy::Named => None,
        Privacy::Redacted => Some(others_of(decisions)),
    };
    let mut writer = FrameWriter::begin(sink)?;
    writer.put(Record::Header(header_to_proto(header, privacy)))?;
    let mut numbers = Numbers::default();
    let mut views = Vec::with_capacity(decisions.len());
    for Captured { decision, .. } in decisions {
        let view = &decision.inputs.view;
        let mut ranges = Ranges::default();
        for stored in view.rows() {
            let Some(row) = kept_row(&stored, view, &numbers) else { continue };
            let number = match row {
                Found::Written(number) => number,
                Found::New(mut row) => {
                    others.iter_mut().for_each(|others| in_row(&mut row, others));
                    let record = v1::SnapshotRecord { record: Some(rows::to_proto(&row)) };
                    writer.put(Record::Row(record))?;
                    numbers.add(&stored)?
                }
            };
            ranges.push(number);
        }
        views.push(ranges);
    }
    for (Captured { origin, decision }, ranges) in decisions.iter().zip(views) {
        let mut decision = decision.clone();
        others.iter_mut().for_each(|others| in_decision(&mut decision, others));
        writer.put(Record::Decision(convert::to_proto(*origin, &decision, ranges.gaps())))?;
    }
    let decisions = u32::try_from(decisions.len()).unwrap_or(u32::MAX);
    writer.put(Record::End(v1::CaptureEnd { rows: numbers.next, decisions }))?;
    sink.flush()
}

fn header_to_proto(header: &CaptureHeader, privacy: Privacy) -> v1::CaptureHeader {
    let redacted = privacy == Privacy::Redacted;
    let id = header.cluster_id.filter(|_| !redacted);
    v1::CaptureHeader {
        writer: header.writer.clone(),
        cluster_version: header.cluster_version,
        captured_wall_ms: header.captured_at.0,
        captured_state_ms: header.captured_ms.0,
        applied_index: header.applied_index,
        cluster_id: id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id)),
        redacted,
    }
}

fn others_of(decisions: &[Captured]) -> Others {
    let mut gathered = Gathered::default();
    let mut numbers = Numbers::default();
    for Captured { decision, .. } in decisions {
        let view = &decision.inputs.view;
        for stored in view.rows() {
            if let Some(Found::New(mut row)) = kept_row(&stored, view, &numbers) {
                in_row(&mut row, &mut gathered);
                // The writer is who says that there are too many.
                let _ = numbers.add(&stored);
            }
        }
        in_decision(&mut Decision::clone(decision), &mut gathered);
    }
    gathered.others()
}

enum Found {
    Written(u64),
    New(Box<Stored>),
}

fn kept_row(stored: &Stored, view: &ClusterState, numbers: &Numbers) -> Option<Found> {
    let is_over = |job| view.jobs().get(&job).is_none_or(|row| row.is_ended());
    match numbers.of(stored) {
        // It was kept then; of a task it is asked anew, since that is for its job to say.
        Some(number) if !matches!(stored, Stored::Task(..)) => Some(Found::Written(number)),
        Some(number) => kept(stored, &is_over).map(|_| Found::Written(number)),
        None => kept(stored, &is_over).map(Box::new).map(Found::New),
    }
}

/// Rows that are written already, by what they are and where they lie: views share rows that have
/// not changed between them, and all views live until the last is written.
#[derive(Default)]
struct Numbers {
    written: BTreeMap<Place, u64>,
    next: u64,
}

/// Table, key as far as it is needed, and address.
type Place = (u8, u64, u64, usize);

fn place_of(stored: &Stored) -> Option<Place> {
    let address = |row: *const ()| row as usize;
    match stored {
        // Each view has its own; and averages and reservations are few.
        Stored::Cluster(_) | Stored::Average(..) | Stored::NodeReservation(_) => None,
        Stored::Job(row) => Some((1, row.id.0, 0, address(Arc::as_ptr(row).cast()))),
        Stored::Task(job, task, row) => {
            Some((2, job.0, u64::from(task.0), address(Arc::as_ptr(row).cast())))
        }
        Stored::Allocation(row) => {
            let id = row.id;
            let instance = u64::from(id.instance.0) << 16 | u64::from(id.task.0);
            Some((3, id.job.0, instance, address(Arc::as_ptr(row).cast())))
        }
        Stored::Node(row) => Some((4, row.id.0, 0, address(Arc::as_ptr(row).cast()))),
        Stored::Namespace(row) => Some((5, 0, 0, address(Arc::as_ptr(row).cast()))),
        Stored::Key(..) | Stored::Token(_) | Stored::Revocation(_) => None,
    }
}

impl Numbers {
    fn of(&self, stored: &Stored) -> Option<u64> {
        self.written.get(&place_of(stored)?).copied()
    }

    fn add(&mut self, stored: &Stored) -> io::Result<u64> {
        let number = self.next;
        if number >= ROWS_MAX as u64 {
            return Err(too_many("rows", ROWS_MAX));
        }
        self.next += 1;
        self.written.extend(place_of(stored).map(|place| (place, number)));
        Ok(number)
    }
}

fn too_many(what: &str, most: usize) -> io::Error {
    let message = format!("a capture has at most {most} {what}");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Numbers of rows, as ranges of those that follow each other.
#[derive(Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn push(&mut self, number: u64) {
        match self.0.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            Some(_) | None => self.0.push((number, 1)),
        }
    }

    fn gaps(self) -> Vec<u64> {
        let mut end: u64 = 0;
        let gap = |(first, count): (u64, u64)| {
            let gap = first.wrapping_sub(end);
            end = first + count;
            [gap, count]
        };
        self.0.into_iter().flat_map(gap).collect()
    }
}
