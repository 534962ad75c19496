//! What a process between shim and worker leaves for the agent when there was never a worker to
//! speak of: the runner of a container, the keeper of a confined one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use berth_model::{EndCause, EndReport};

/// The file of an allocation that says so.
const FILE: &str = "problem";

/// Why there is no worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// No other job would fare better on this host.
    Host(String),
    /// It cannot be run as it is asked to: so on any host.
    Start(String),
    /// Perhaps not the next time: it counts as an attempt that failed.
    Passing(String),
    /// A stranger holds a port of it.
    Port(String),
}

impl Problem {
    /// In words.
    pub fn reason(&self) -> &str {
        match self {
            Problem::Host(reason)
            | Problem::Start(reason)
            | Problem::Passing(reason)
            | Problem::Port(reason) => reason,
        }
    }

    /// What was left in the directory of an allocation, if anything was.
    pub fn left_in(dir: &Path) -> Option<Problem> {
        let text = fs::read_to_string(dir.join(FILE)).ok()?;
        let (kind, reason) = text.split_once('\n')?;
        let reason = reason.to_owned();
        Some(match kind {
            "host" => Problem::Host(reason),
            "start" => Problem::Start(reason),
            "port" => Problem::Port(reason),
            _ => Problem::Passing(reason),
        })
    }

    /// Leaves it for the agent.
    pub fn leave_in(&self, dir: &Path) {
        self.leave(File::create(dir.join(FILE)));
    }

    /// A place to leave it for whoever will have no right to make one by then. As long as
    /// nothing is left there, there was no problem.
    ///
    /// # Errors
    /// The system's.
    pub fn place_in(dir: &Path) -> io::Result<File> {
        File::create(dir.join(FILE))
    }

    /// Leaves it in such a place.
    pub fn leave_at(&self, place: File) {
        self.leave(Ok(place));
    }

    fn leave(&self, place: io::Result<File>) {
        let (kind, reason) = match self {
            Problem::Host(reason) => ("host", reason),
            Problem::Start(reason) => ("start", reason),
            Problem::Passing(reason) => ("passing", reason),
            Problem::Port(reason) => ("port", reason),
        };
        // Whoever reads its output learns it too, should there be no room for the file.
        let _ = writeln!(std::io::stderr(), "{reason}");
        let _ = place.and_then(|mut file| write!(file, "{kind}\n{reason}"));
    }

    /// The end of an allocation that had this problem.
    pub fn into_end(self, end: EndReport) -> EndReport {
        match self {
            Problem::Host(reason) => EndReport { cause: EndCause::HostFault, reason, ..end },
            Problem::Start(reason) => EndReport { cause: EndCause::CannotStart, reason, ..end },
            Problem::Port(reason) => EndReport { cause: EndCause::PortTaken, reason, ..end },
            Problem::Passing(reason) => EndReport { reason, ..end },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_read_as_they_are_left() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Problem::left_in(dir.path()), None);
        for one in [
            Problem::Host("no engine".to_owned()),
            Problem::Start("no image\nat all".to_owned()),
            Problem::Passing("stalled".to_owned()),
            Problem::Port("taken".to_owned()),
        ] {
            one.leave_in(dir.path());
            assert_eq!(Problem::left_in(dir.path()), Some(one));
        }
    }
}
