//! Bytes into captures.

use std::io::{BufReader, Read};

use berth_model::{StateMs, WallMs};
use berth_proto::log::v1;
use berth_proto::log::v1::capture_record::Record;
use berth_state::{CLUSTER_VERSION_MAX, ClusterState, Stored};

use super::frames::{FrameReader, Place};
use super::{
    Capture, CaptureError, CaptureHeader, Captured, DECISIONS_MAX, INSTANCES_MAX, ROWS_MAX, convert,
};
use crate::frozen::converted;
use crate::snapshot::v1::rows;

/// Bytes that are read ahead.
const READ_BYTES: usize = 128 << 10;

/// Reads a capture whole: every record, and that each view's rows belong together. Nothing of a
/// file that fails is given out. `source` must end where the capture ends.
///
/// # Errors
/// See [`CaptureError`].
pub fn read_capture(source: impl Read) -> Result<Capture, CaptureError> {
    let mut frames = FrameReader::open(BufReader::with_capacity(READ_BYTES, source))?;
    let header = match frames.next("")? {
        (Record::Header(header), place) => read_header(header, place)?,
        (Record::Row(_) | Record::Decision(_) | Record::End(_), place) => {
            return Err(place.misplaced());
        }
    };
    let mut stored = Vec::new();
    let mut instances = 0;
    let mut decisions = Vec::new();
    loop {
        let (record, place) = frames.next(&header.writer)?;
        match record {
            Record::Row(row) if decisions.is_empty() => {
                if stored.len() >= ROWS_MAX {
                    return Err(CaptureError::TooMany { what: "rows", most: ROWS_MAX });
                }
                let row = read_row(row, place, &header.writer)?;
                count_instances(&row, &mut instances)?;
                stored.push(row);
            }
            Record::Decision(decision) => {
                if decisions.len() >= DECISIONS_MAX {
                    return Err(CaptureError::TooMany { what: "decisions", most: DECISIONS_MAX });
                }
                let number = decisions.len() + 1;
                decisions.push(read_decision(decision, (place, number), &stored, &header.writer)?);
            }
            Record::End(v1::CaptureEnd { rows, decisions: told }) => {
                if (rows, told as usize) != (stored.len() as u64, decisions.len()) {
                    return Err(place.misplaced());
                }
                break;
            }
            Record::Header(_) | Record::Row(_) => return Err(place.misplaced()),
        }
    }
    frames.finish()?;
    Ok(Capture { header, decisions })
}

fn read_header(header: v1::CaptureHeader, place: Place) -> Result<CaptureHeader, CaptureError> {
    let writer = header.writer;
    let (found, known) = (header.cluster_version, CLUSTER_VERSION_MAX);
    if found > known {
        return Err(CaptureError::ClusterVersion { found, known, writer });
    }
    let id = <[u8; 16]>::try_from(header.cluster_id.as_ref()).ok();
    let is_sound =
        id.is_some() != header.redacted && (id.is_some() || header.cluster_id.is_empty());
    if !is_sound {
        return Err(place.misplaced());
    }
    Ok(CaptureHeader {
        writer,
        cluster_version: found,
        captured_at: WallMs(header.captured_wall_ms),
        captured_ms: StateMs(header.captured_state_ms),
        applied_index: header.applied_index,
        cluster_id: id,
    })
}

fn read_row(row: v1::SnapshotRecord, place: Place, writer: &str) -> Result<Stored, CaptureError> {
    let record = row.record.ok_or_else(|| place.misplaced())?;
    converted(writer, |at, problems| rows::read(at, record, problems))
        .map_err(|source| place.undecoded(source))
}

/// A few bytes of a range, or of a count, may stand for very many.
fn count_instances(row: &Stored, instances: &mut u64) -> Result<(), CaptureError> {
    let more = match row {
        Stored::Task(_, _, row) => row.pending.len().saturating_add(row.ended()),
        Stored::Job(row) => row.spec.tasks.iter().map(|task| u64::from(task.count)).sum(),
        Stored::Cluster(_)
        | Stored::Allocation(_)
        | Stored::Node(_)
        | Stored::Key(..)
        | Stored::Token(_)
        | Stored::Revocation(_)
        | Stored::Namespace(_)
        | Stored::Average(..)
        | Stored::NodeReservation(_) => 0,
    };
    *instances = instances.saturating_add(more);
    if *instances > INSTANCES_MAX as u64 {
        return Err(CaptureError::TooMany { what: "instances", most: INSTANCES_MAX });
    }
    Ok(())
}

fn read_decision(
    mut proto: v1::CapturedDecision,
    (place, number): (Place, usize),
    stored: &[Stored],
    writer: &str,
) -> Result<Captured, CaptureError> {
    let (index, gaps) = (proto.view_index, std::mem::take(&mut proto.rows));
    let (origin, mut decision) =
        converted(writer, |at, problems| convert::read(at, proto, problems))
            .map_err(|source| place.undecoded(source))?;
    let rows = rows_of(&gaps, stored).ok_or_else(|| place.misplaced())?;
    decision.inputs.view = ClusterState::from_rows(index, rows)
        .map_err(|source| CaptureError::State { number, source })?;
    Ok(Captured { origin, decision })
}

/// The rows of a view; `None` if there are none such, or more than there are in all.
fn rows_of(gaps: &[u64], stored: &[Stored]) -> Option<Vec<Stored>> {
    let mut rows = Vec::new();
    let mut end: u64 = 0;
    for pair in gaps.chunks(2) {
        let [gap, count] = *pair else { return None };
        let first = end.wrapping_add(gap);
        end = first.checked_add(count)?;
        let range = usize::try_from(first).ok()?..usize::try_from(end).ok()?;
        let some = stored.get(range)?;
        if rows.len() + some.len() > stored.len() {
            return None;
        }
        rows.extend_from_slice(some);
    }
    Some(rows)
}
