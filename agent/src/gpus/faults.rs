//! What became of the host's GPUs, on disk: a fence outlives the agent that saw its
//! reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use berth_model::{JobId, WallMs};
use berth_supervise::AgentMs;
use berth_supervise::gpu::{Fault, Gpu, Mend, Release, Repair, Standing, Uncorrected};

use super::kept;
use crate::frame;

/// GPUs by uuid.
pub type Gpus = BTreeMap<String, Gpu>;
/// Their memory, by uuid.
pub type Releases = BTreeMap<String, Release>;

/// Baselines are kept in steps of this, so that the file is not written at each look.
const BASELINE_STEP_BYTES: u64 = 64 << 20;

#[derive(Clone, PartialEq, prost::Message)]
struct FileOfFaults {
    #[prost(message, repeated, tag = "1")]
    gpus: Vec<GpuRow>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GpuRow {
    #[prost(string, tag = "1")]
    uuid: String,
    #[prost(enumeration = "Kind", tag = "2")]
    kind: i32,
    #[prost(uint64, tag = "3")]
    suspect_since_ms: u64,
    #[prost(string, tag = "4")]
    evidence: String,
    #[prost(bool, tag = "5")]
    reset_when_free: bool,
    #[prost(message, repeated, tag = "6")]
    faults: Vec<FaultRow>,
    #[prost(message, repeated, tag = "7")]
    mends: Vec<MendRow>,
    /// Of one that waits for another boot.
    #[prost(string, optional, tag = "8")]
    boot_id: Option<String>,
    #[prost(uint64, optional, tag = "9")]
    tried_at_ms: Option<u64>,
    #[prost(bool, tag = "10")]
    was_gone: bool,
    #[prost(string, optional, tag = "11")]
    problem: Option<String>,
    /// Of its memory, what was used when nobody held it.
    #[prost(uint64, optional, tag = "12")]
    baseline_bytes: Option<u64>,
    /// Its last worker has left, and it was not seen free since.
    #[prost(bool, tag = "13")]
    left: bool,
    /// Errors of its memory that were not corrected, as it last counted them.
    #[prost(uint64, optional, tag = "14")]
    uncorrected: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Healthy = 0,
    Suspect = 1,
    Fenced = 2,
    Mending = 3,
    Soaking = 4,
    Testing = 5,
    Retired = 6,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FaultRow {
    #[prost(uint64, tag = "1")]
    at_ms: u64,
    #[prost(uint64, tag = "2")]
    xid: u64,
    #[prost(uint64, repeated, tag = "3")]
    jobs: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MendRow {
    #[prost(uint64, tag = "1")]
    at_ms: u64,
    #[prost(string, tag = "2")]
    cause: String,
}

/// What the file holds. One that is damaged says nothing: what is wrong with a GPU shows
/// again, and the driver says what it needs.
pub fn read(file: &Path, now: Now) -> (Gpus, Releases) {
    let rows = kept::read::<FileOfFaults>(file).unwrap_or_default().gpus;
    let releases = rows.iter().map(|row| (row.uuid.clone(), release_of(row, now))).collect();
    (rows.into_iter().map(|row| from_row(row, now.wall)).collect(), releases)
}

/// When the file is read, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall: WallMs,
    pub agent: AgentMs,
}

/// The content of the file.
pub fn to_bytes(gpus: &Gpus, releases: &Releases) -> Vec<u8> {
    let uuids: BTreeSet<&String> = gpus.keys().chain(releases.keys()).collect();
    let row = |uuid: &String| {
        let mut row = to_row(uuid, gpus.get(uuid).unwrap_or(&Gpu::default()));
        if let Some(release) = releases.get(uuid) {
            let steps = |bytes: u64| {
                bytes.div_ceil(BASELINE_STEP_BYTES).saturating_mul(BASELINE_STEP_BYTES)
            };
            row.baseline_bytes = release.baseline_bytes().map(steps);
            row.left = !release.is_free();
        }
        row
    };
    frame::encode(&FileOfFaults { gpus: uuids.into_iter().map(row).collect() })
}

fn release_of(row: &GpuRow, now: Now) -> Release {
    let mut release = Release::remembered(row.baseline_bytes);
    let is_fenced_for_it = || from_row(row.clone(), now.wall).1.is_stuck();
    if row.left || is_fenced_for_it() {
        release.left(now.agent);
    }
    release
}

fn to_row(uuid: &str, gpu: &Gpu) -> GpuRow {
    let kind = match &gpu.standing {
        Standing::Healthy => Kind::Healthy,
        Standing::Suspect { .. } => Kind::Suspect,
        Standing::Fenced { .. } => Kind::Fenced,
        Standing::Mending => Kind::Mending,
        // It begins anew with whatever disturbs it, and is not written down each time.
        Standing::Soaking { .. } => Kind::Soaking,
        Standing::Testing => Kind::Testing,
        Standing::Retired => Kind::Retired,
    };
    let mut row = GpuRow {
        uuid: uuid.to_owned(),
        kind: kind.into(),
        evidence: gpu.evidence.clone(),
        problem: gpu.problem.clone(),
        reset_when_free: gpu.reset_when_free,
        uncorrected: gpu.uncorrected.map(|known| known.decided_count()),
        faults: gpu.faults.iter().map(fault_row).collect(),
        mends: gpu
            .mends
            .iter()
            .map(|mend| MendRow { at_ms: mend.at.0, cause: mend.cause.clone() })
            .collect(),
        ..GpuRow::default()
    };
    if let Standing::Suspect { since } = &gpu.standing {
        row.suspect_since_ms = since.0;
    }
    if let Standing::Fenced { repair, tried_at, was_gone, .. } = &gpu.standing {
        row.tried_at_ms = tried_at.map(|at| at.0);
        row.was_gone = *was_gone;
        if let Repair::Reboot { boot_id } = repair {
            row.boot_id = Some(boot_id.clone());
        }
    }
    row
}

fn fault_row(fault: &Fault) -> FaultRow {
    let jobs = fault.jobs.iter().map(|job| job.0).collect();
    FaultRow { at_ms: fault.at.0, xid: fault.xid, jobs }
}

/// What was under way is begun again: nobody knows how far it went, and the cluster is asked
/// anew.
fn from_row(row: GpuRow, now: WallMs) -> (String, Gpu) {
    let standing = match row.kind() {
        Kind::Healthy => Standing::Healthy,
        Kind::Suspect => Standing::Suspect { since: WallMs(row.suspect_since_ms) },
        Kind::Fenced => Standing::Fenced {
            repair: row.boot_id.clone().map_or(Repair::Reset, |boot_id| Repair::Reboot { boot_id }),
            tried_at: row.tried_at_ms.map(WallMs),
            // Seen anew.
            free_since: None,
            was_gone: row.was_gone,
        },
        Kind::Mending => Standing::fenced(Repair::Reset),
        Kind::Soaking | Kind::Testing => Standing::Soaking { since: now },
        Kind::Retired => Standing::Retired,
    };
    let fault = |row: FaultRow| Fault {
        at: WallMs(row.at_ms),
        xid: row.xid,
        jobs: row.jobs.into_iter().map(JobId).collect(),
    };
    let mend = |row: MendRow| Mend { at: WallMs(row.at_ms), cause: row.cause };
    let gpu = Gpu {
        standing,
        evidence: row.evidence,
        problem: row.problem,
        reset_when_free: row.reset_when_free,
        // Seen anew.
        alone_since: None,
        faults: row.faults.into_iter().map(fault).collect(),
        mends: row.mends.into_iter().map(mend).collect(),
        // It shows again.
        slow: None,
        uncorrected: row.uncorrected.map(|count| Uncorrected { count, risen: None }),
    };
    (row.uuid, gpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_gpus_reads_as_it_was_written() {
        let at = WallMs(7);
        let now = Now { wall: WallMs(99), agent: AgentMs(5) };
        let boot = || Repair::Reboot { boot_id: "one".to_owned() };
        let fenced = |repair, tried_at, was_gone| Standing::Fenced {
            repair,
            tried_at,
            free_since: None,
            was_gone,
        };
        let standings = [
            Standing::Suspect { since: at },
            fenced(Repair::Reset, None, false),
            fenced(boot(), Some(WallMs(9)), true),
            Standing::Retired,
        ];
        let gpus: Gpus = standings
            .into_iter()
            .enumerate()
            .map(|(index, standing)| {
                let gpu = Gpu {
                    standing,
                    evidence: "XID 48".to_owned(),
                    problem: Some("busy".to_owned()),
                    reset_when_free: index == 0,
                    alone_since: None,
                    faults: [Fault { at, xid: 48, jobs: [JobId(3)].into() }].into(),
                    mends: [Mend { at, cause: "XID 48".to_owned() }].into(),
                    slow: None,
                    uncorrected: Some(Uncorrected { count: 7, risen: None }),
                };
                (format!("GPU-{index}"), gpu)
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("faults");
        assert_eq!(read(&file, now), Default::default());
        let mut left = Release::remembered(Some(1));
        left.left(AgentMs(7));
        let releases: Releases =
            [("GPU-0".to_owned(), left), ("GPU-9".to_owned(), Release::default())].into();
        std::fs::write(&file, to_bytes(&gpus, &releases)).unwrap();
        let (known, remembered) = read(&file, now);
        assert_eq!((known.len(), known["GPU-9"].clone()), (gpus.len() + 1, Gpu::default()));
        assert!(gpus.iter().all(|(uuid, gpu)| known[uuid] == *gpu), "{known:?}");
        let of = |uuid: &str| (remembered[uuid].baseline_bytes(), remembered[uuid].is_free());
        assert_eq!(of("GPU-0"), (Some(BASELINE_STEP_BYTES), false));
        assert_eq!(of("GPU-9"), (None, true));
        let after = |standing: Standing| {
            let gpu = Gpu { standing, ..Gpu::default() };
            let gpus = [("GPU-a".to_owned(), gpu)].into();
            std::fs::write(&file, to_bytes(&gpus, &Releases::new())).unwrap();
            read(&file, now).0.remove("GPU-a").unwrap().standing
        };
        assert_eq!(after(Standing::Mending), fenced(Repair::Reset, None, false));
        let again = Standing::Soaking { since: WallMs(99) };
        assert_eq!(after(Standing::Soaking { since: at }), again);
        assert_eq!(after(Standing::Testing), again);
        let mut bytes = to_bytes(&gpus, &releases);
        bytes[20] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(read(&file, now), Default::default());
    }
}
