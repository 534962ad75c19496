//! Where a GPU is on its way out of use and back, and what is remembered of it.

use std::collections::BTreeSet;

use berth_model::{JobId, WallMs};

/// How a GPU is mended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Repair {
    Reset,
    /// The host is started again; this was its boot id when the fault was seen.
    Reboot {
        boot_id: String,
    },
}

/// Where a GPU is on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    Healthy,
    /// It takes what needs one GPU only.
    Suspect {
        since: WallMs,
    },
    /// Its work leaves it; it is mended once it is free, unless an earlier try was not long
    /// ago.
    Fenced {
        repair: Repair,
        tried_at: Option<WallMs>,
        /// Nobody has held it since.
        free_since: Option<WallMs>,
        /// The driver has not had it since: somebody else mends it.
        was_gone: bool,
    },
    Mending,
    /// Quiet since then.
    Soaking {
        since: WallMs,
    },
    Testing,
    /// Until somebody exchanges it.
    Retired,
}

impl Standing {
    /// Just so, and nothing was done yet.
    #[must_use]
    pub fn fenced(repair: Repair) -> Standing {
        Standing::Fenced { repair, tried_at: None, free_since: None, was_gone: false }
    }
}

/// A fault that was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub at: WallMs,
    /// As in NVIDIA's catalogue.
    pub xid: u64,
    /// Whose workers held the GPU.
    pub jobs: BTreeSet<JobId>,
}

/// That it was mended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mend {
    pub at: WallMs,
    /// The evidence that it was mended for.
    pub cause: String,
}

/// What is to be done to a GPU now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    Reset,
    /// A test of its memory and of its computing.
    Test,
}

/// How a test ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tested {
    Fine,
    /// What it found.
    Wrong(String),
    /// Why there was none.
    Undone(String),
}
