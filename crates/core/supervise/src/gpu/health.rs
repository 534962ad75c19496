//! What is said of a GPU, from where it is on its way.

use berth_model::DeviceHealth;

use super::{Gpu, IN_PARTS, Repair, Standing, slow};

impl Gpu {
    /// What it may be used for, and why no more than that. Steps that change neither
    /// share their words: each change of them is told to the cluster.
    #[must_use]
    pub fn health(&self) -> (DeviceHealth, String) {
        match &self.standing {
            Standing::Healthy => slow::health(self.slow.as_ref()),
            Standing::Suspect { .. } => (DeviceHealth::Suspect, self.evidence.clone()),
            Standing::Fenced { repair: Repair::Reboot { .. }, .. } => {
                let why = format!("{}: the host must be started again", self.evidence);
                (DeviceHealth::Fenced, why)
            }
            Standing::Fenced { repair: Repair::Reset, .. } | Standing::Mending => {
                let why = match &self.problem {
                    None => format!("{}: it is to be reset", self.evidence),
                    Some(problem) if problem == IN_PARTS => {
                        format!("{}: {IN_PARTS}", self.evidence)
                    }
                    Some(problem) => format!("{}; a reset failed: {problem}", self.evidence),
                };
                (DeviceHealth::Fenced, why)
            }
            Standing::Soaking { .. } | Standing::Testing => {
                let why = "mended; it has to be quiet for a while, and is tested";
                let undone = self.problem.as_ref();
                let undone = undone.map(|problem| format!("; no test: {problem}"));
                (DeviceHealth::Cordoned, format!("{why}{}", undone.unwrap_or_default()))
            }
            Standing::Retired => {
                (DeviceHealth::Fenced, format!("{}: it is to be exchanged", self.evidence))
            }
        }
    }

    /// As [`Gpu::health`], of a part of a GPU (MIG): a reset is one of the whole, and no part
    /// waits for it.
    #[must_use]
    pub fn health_of_part(&self) -> (DeviceHealth, String) {
        let (health, reason) = self.health();
        let waits = || format!("{}: it is used again once that is free", self.evidence);
        (health, if self.is_stuck() { waits() } else { reason })
    }
}
