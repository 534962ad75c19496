//! What one look at a GPU shows, as far as it says whether something is wrong.

/// What the driver says that a GPU needs (its recovery action).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovery {
    Nothing,
    Reset,
    Reboot,
    /// No work across it and others.
    DrainPeers,
    DrainAndReset,
    /// What this version does not know, by its number.
    Other(u32),
}

/// Whether rows of its memory are to be exchanged for spare ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remap {
    Done,
    /// At the next reset.
    Pending,
    /// There are no spare ones: it cannot be mended.
    Failed,
}

/// Whether the driver has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    Answers,
    /// It does not answer, or nobody can ask.
    Unknown,
    Gone,
}

/// What one look shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signs {
    pub presence: Presence,
    /// What it does not tell is `None`.
    pub recovery: Option<Recovery>,
    pub remap: Option<Remap>,
    /// Why it runs slower than it could; absent where it does not, or does not tell.
    pub slowdown: Option<Slowdown>,
    /// Errors of its memory that were not corrected, since its driver was loaded or it was reset.
    pub uncorrected: Option<u64>,
    pub held: Held,
    /// Those that it is linked with, which a reset of it disturbs: any of them.
    pub peers: Held,
    pub consent: Consent,
    pub cut: Cut,
}

impl Signs {
    /// Whether a reset disturbs nobody.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.held == Held::Free && self.peers == Held::Free
    }
}

/// Why the hardware keeps its clocks low. What a driver does to stay within a power limit is
/// none: every GPU at work does that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slowdown {
    Heat,
    /// Its power supply asks for it.
    Power,
}

/// Whether anything uses it: a worker of this node, or any process that the driver sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    Free,
    Held,
}

/// Whether it is cut up (MIG) into parts, which somebody has made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    Whole,
    /// They do not outlive a reset, and nobody here would make them again.
    InParts,
}

/// Whether the cluster has heard that the GPU is fenced, and goes by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consent {
    Given,
    /// It may give the GPU to somebody at any moment.
    Open,
}
