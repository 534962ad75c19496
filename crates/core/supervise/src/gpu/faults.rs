//! What the errors that a driver reports ask for: the numbers of NVIDIA's catalogue
//! (XIDs) as a table, so that another opinion is another table.

use std::collections::BTreeMap;

/// What an error asks for, the least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Remedy {
    /// Nothing: it is told and counted.
    Note,
    /// The application was at fault, or ends by itself. Several different ones within
    /// [`super::APPLICATIONS_WINDOW`] make the GPU a suspect.
    Application,
    /// Nobody knows: the GPU is a suspect.
    Suspect,
    /// A suspect; the second within [`super::REPEAT_WINDOW`] asks for a reset.
    ResetIfRepeated,
    /// The way to other GPUs is broken: a suspect, and a reset once nobody uses it.
    Link,
    /// What the driver itself says that it needs.
    Ask,
    /// The GPU's work leaves it, and it is reset.
    Reset,
    /// The GPU's work leaves it, and the host is to be started again.
    Reboot,
}

impl Remedy {
    const ALL: [Remedy; 8] = [
        Remedy::Note,
        Remedy::Application,
        Remedy::Suspect,
        Remedy::ResetIfRepeated,
        Remedy::Link,
        Remedy::Ask,
        Remedy::Reset,
        Remedy::Reboot,
    ];

    /// As tables name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Remedy::Note => "note",
            Remedy::Application => "application",
            Remedy::Suspect => "suspect",
            Remedy::ResetIfRepeated => "reset-if-repeated",
            Remedy::Link => "link",
            Remedy::Ask => "ask",
            Remedy::Reset => "reset",
            Remedy::Reboot => "reboot",
        }
    }

    #[must_use]
    pub fn named(name: &str) -> Option<Remedy> {
        Remedy::ALL.into_iter().find(|remedy| remedy.name() == name)
    }

    /// Every name, for whoever wrote another one.
    #[must_use]
    pub fn names() -> String {
        Remedy::ALL.map(Remedy::name).join(", ")
    }
}

/// What each error asks for, by its number; one that is not in it makes a suspect.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FaultTable(pub BTreeMap<u64, Remedy>);

impl FaultTable {
    #[must_use]
    pub fn remedy(&self, xid: u64) -> Remedy {
        self.0.get(&xid).copied().unwrap_or(Remedy::Suspect)
    }
}
