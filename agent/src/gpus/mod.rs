//! The GPUs of the host: a child process of its own asks the driver's library, and
//! the agent reads what it says. A call into a driver may never return; then it is
//! the child that hangs, and the agent says that it does not know.
//!
//! ```text
//! driver <─ NVML ─ prober ── frames ──> watch ── Seen ──> node
//! ```
//!
//! Simulated GPUs go the same way: their prober loads a library that has NVML's
//! interface and answers from a script (`berth-nvml-sim`). Nothing behind the loading
//! of the library knows the difference.

mod faults;
mod gauges;
pub mod kept;
mod kernel_log;
mod known;
mod listed;
mod nvml;
mod prober;
mod said;
mod seen;
mod self_test;
mod simulated;
mod slices;
mod table;
mod topology;
mod watch;
mod ways;
mod workshop;

pub use faults::{Gpus, Now, Releases, read as read_faults, to_bytes as faults_to_bytes};
pub use gauges::page as gauges_page;
pub use kernel_log::{KERNEL_LOG, listen};
pub use known::{keep_known, known};
pub use listed::{Lister, devices_listed};
pub use prober::probe;
pub use said::Happened;
pub use seen::{MemoryLook, PART, Probing, Seen};
pub use self_test::{CudaLibrary, self_test};
pub use simulated::{
    BadPretence, Claims, FOLDER as SIMULATED_FOLDER, Pretence, faults_file, host_cpu, host_memory,
    keep_claims, pretend, uuids, write_host,
};
pub use table::table;
pub use watch::{Prober, Watch, watch};
pub use workshop::{DEADLINE, Resetting, Tester, Workshop};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::options::Program;

/// Which library the prober loads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Library {
    /// The driver's, where the loader finds it.
    Usual,
    /// The one in this file.
    At(PathBuf),
    /// The simulated one, with these scripts.
    Simulated(Vec<PathBuf>),
    /// None: this command lists the devices.
    Listed(Lister),
}

/// What the driver of a host says when it is asked once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GpuDriver {
    Works {
        version: String,
        /// Of the device nodes of its GPUs, where they tell.
        minors: Vec<Option<u32>>,
        /// How many are in MIG mode and have no slice to offer.
        bare: usize,
    },
    /// It does not answer.
    Silent,
    Unavailable {
        reason: String,
    },
}

/// Asks the driver of this host, through its library where the loader finds it or through
/// the one named.
pub async fn look_at_gpus(
    prober: Program,
    library: Option<&Path>,
    patience: Duration,
) -> GpuDriver {
    let library = library.map_or(Library::Usual, |path| Library::At(path.to_owned()));
    let seen = first_look(prober, library, patience).await;
    match seen.probing.clone() {
        Probing::Live => GpuDriver::Works {
            version: seen.driver.clone(),
            minors: seen.minors(),
            bare: seen.bare().count(),
        },
        Probing::Unavailable { reason } => GpuDriver::Unavailable { reason },
        Probing::Starting | Probing::Paused | Probing::Silent => GpuDriver::Silent,
    }
}

/// The models of the GPUs that this host really has, as the driver names them. None if
/// it does not say so within `patience`.
pub async fn host_gpus(prober: Program, patience: Duration) -> Vec<String> {
    let seen = first_look(prober, Library::Usual, patience).await;
    seen.devices().into_iter().map(|device| device.model).collect()
}

/// What is seen at first; nothing yet if that takes longer than `patience`.
async fn first_look(prober: Program, library: Library, patience: Duration) -> Seen {
    let pace = Pace { silent_after: patience, ..Pace::default() };
    let prober = Prober { program: prober, library, pace, resetting: Resetting::Usual };
    let (seen, mut looks) = tokio::sync::watch::channel(Seen::default());
    // Nobody is told of errors, and nobody asks for a reset.
    let (happened, resets) = (mpsc::channel(1).0, mpsc::channel(1).1);
    let looking = async {
        let begun = looks.wait_for(|seen| seen.probing != Probing::Starting).await;
        begun.map(|seen| seen.clone()).unwrap_or_default()
    };
    tokio::select! {
        seen = tokio::time::timeout(patience, looking) => seen.unwrap_or_default(),
        () = watch(prober, Watch { seen, happened, resets, look_now: Arc::default() }) => {
            Seen::default()
        }
    }
}

/// How often GPUs are looked at, and when the agent stops waiting for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    pub every: Duration,
    /// Without a word of the prober for this long, nothing is known of the GPUs.
    pub silent_after: Duration,
    /// Between two tries to begin, where there is no driver.
    pub retry: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            every: Duration::from_secs(1),
            silent_after: Duration::from_secs(10),
            retry: Duration::from_secs(10),
        }
    }
}
