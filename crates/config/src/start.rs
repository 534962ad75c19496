//! What must be set before a part can start; `berth config check` and the client
//! commands do without.

use crate::environment::variable_of;
use crate::problem::Problem;
use crate::sections::{Agent, Scheduler};

impl Scheduler {
    /// What a scheduler cannot start without and has not been given.
    #[must_use]
    pub fn missing_to_start(&self) -> Vec<Problem> {
        match self.data_dir {
            Some(_) => Vec::new(),
            None => vec![missing("scheduler.data_dir", "--data-dir")],
        }
    }
}

impl Agent {
    /// What an agent cannot start without and has not been given.
    #[must_use]
    pub fn missing_to_start(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.servers.value.is_empty() {
            problems.push(missing("agent.servers", "--servers"));
        }
        if self.data_dir.is_none() {
            problems.push(missing("agent.data_dir", "--data-dir"));
        }
        problems
    }
}

fn missing(key: &str, flag: &str) -> Problem {
    let hint = format!("give {flag}, {} or {key} in a file", variable_of(key));
    Problem::new(key, "is not set").hint(hint)
}
