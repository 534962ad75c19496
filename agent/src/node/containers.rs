//! Workers in containers: their runners, and that nothing is left of them before an end is
//! told.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use berth_model::{AllocationId, EndCause, EndReport, Signal};
use berth_shim::protocol::{EnvironmentVariable, StartRequest};
use berth_supervise::Worker;
use tracing::warn;

use super::Node;
use super::bounds::at_its_limit;
use crate::allocation_dir::{AllocationDir, write_private};
use crate::confinement;
use crate::docker::{self, Cleared, MADE_FILE, PLAN_FILE, UP_FILE};
use crate::environment::Environment;
use crate::problem::Problem;
use crate::request::start_request;
use crate::wanted::Wanted;

/// Between two looks whether a container runs.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For a container that was asked for by whoever was just killed.
const LATE_CONTAINER: Duration = Duration::from_secs(1);
/// Between two tries to have a container removed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What becomes of a container.
pub enum ContainerNews {
    /// It runs.
    Up,
    /// Nothing of it is left; this is the end that its runner came to.
    Gone(Box<EndReport>, Cleared),
    /// It is tried again.
    Stuck(String),
}

impl Node {
    /// What a shim is asked for a worker in a container: to start its runner.
    pub(super) fn container_request(
        &self,
        id: AllocationId,
        wanted: &Wanted,
        dir: &AllocationDir,
    ) -> Result<StartRequest, String> {
        let settings = &self.settings;
        let inside = self.environment(wanted, Path::new(docker::TASK_DIR));
        let docker = &self.docker_for(wanted);
        let host = docker::Host {
            task_dir: &dir.task(),
            docker,
            key: &settings.dir.key(),
            user: settings.user,
            mps_directory: self.mps_directory_of(id),
            cores: std::thread::available_parallelism()
                .map_or(u64::MAX, |cores| cores.get() as u64),
        };
        let body = docker::body(wanted, &inside, host);
        let plan = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
        // For the agent and its runners only: variables may be secrets.
        write_private(&dir.path().join(PLAN_FILE), &plan)
            .map_err(|error| format!("write down its container: {error}"))?;
        let lease = self.lease_of(wanted);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut command = vec![text(&docker.runner.exe)];
        command.extend(docker.runner.arguments.iter().map(|word| word.to_string_lossy().into()));
        command.extend([text(&docker.socket), self.container_name(id), text(dir.path())]);
        command.push(wanted.task().stop.grace.0.to_string());
        command.push(docker.look_every.as_millis().to_string());
        let outside = self.environment(wanted, &dir.task());
        let request = start_request(wanted, &Environment::new(), dir, None, lease);
        Ok(StartRequest {
            command,
            working_dir: text(dir.path()),
            // By these it is found; the job's own are the container's.
            env: ["BERTH_ALLOC_ID", "BERTH_TASK_DIR", "PATH"]
                .into_iter()
                .filter_map(|name| {
                    let value = outside.get(name)?.clone();
                    Some(EnvironmentVariable { name: name.to_owned(), value })
                })
                .collect(),
            // The container has its own; as its shim, the runner goes last.
            oom_score_adjust: None,
            limits: Vec::new(),
            ..request
        })
    }

    /// How its container is made: what no driver of NVIDIA's knows, no runtime of NVIDIA's gives.
    fn docker_for(&self, wanted: &Wanted) -> docker::Docker {
        let mut docker = self.settings.docker.clone();
        let uuids = || wanted.row.devices.iter().map(|claim| claim.uuid.as_str());
        docker.nodes.extend(self.gpus.nodes(uuids()).into_iter().map(Into::into));
        if uuids().any(|uuid| self.gpus.is_listed(uuid)) {
            docker.gpus = docker::Gpus::Simulated;
        }
        docker
    }

    /// One agent's containers are told from another's on the same engine.
    pub(super) fn container_name(&self, id: AllocationId) -> String {
        format!("berth-{}-{id}", self.settings.dir.key())
    }

    /// Whether it has, or may have, a container.
    pub(super) fn has_container(&self, id: AllocationId) -> bool {
        let dir = self.dir_of(id);
        let worker = self.workers.get(&id);
        let contained = worker.and_then(|worker| worker.wanted.as_ref());
        let contained = contained.is_some_and(|wanted| wanted.task().driver.image().is_some());
        // What was begun and has no directory any more says nothing.
        let unknown = contained
            && worker.is_some_and(|worker| worker.started_at.is_some())
            && !docker::is_there(dir.path(), PLAN_FILE);
        docker::is_there(dir.path(), MADE_FILE) || unknown
    }

    /// Whether its runner is still on the way to a container; if so, it is told when that
    /// runs.
    pub(super) fn awaits_container(&self, id: AllocationId) -> bool {
        let dir = self.dir_of(id);
        let there = |file| docker::is_there(dir.path(), file);
        if !there(PLAN_FILE) || there(UP_FILE) {
            return false;
        }
        let events = self.events.clone();
        tokio::spawn(async move {
            // It is there, or the allocation has ended and its directory is gone.
            while docker::is_there(dir.path(), PLAN_FILE) && !docker::is_there(dir.path(), UP_FILE)
            {
                if Problem::left_in(dir.path()).is_some() || events.is_closed() {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            // The agent may be ending.
            let _ = events.send(super::Event::Container(id, ContainerNews::Up));
        });
        true
    }

    /// Removes what an agent before this one has left of containers that nobody knows of.
    pub(super) fn clear_strangers(&self) {
        let known: BTreeSet<AllocationId> = self.workers.keys().copied().collect();
        let (socket, key) = (self.settings.docker.socket.clone(), self.settings.dir.key());
        if self.settings.spec.docker_version.is_empty() {
            return;
        }
        // Not those that this agent has made by the time the engine answers.
        let run = self.settings.docker.run.clone();
        tokio::spawn(async move {
            let found = match docker::containers_of(&socket, &key, &run).await {
                Ok(found) => found,
                Err(problem) => return warn!(problem, "containers of earlier work may be left"),
            };
            for (id, name) in found.into_iter().filter(|(id, _)| !known.contains(id)) {
                warn!(%id, name, "a container that nobody watches is removed");
                if let Err(problem) = docker::clear(&socket, &name).await {
                    warn!(%id, problem, "a container is left");
                }
            }
        });
    }

    /// Its runner has ended: the rest follows before anybody is told.
    pub(super) fn clear_container(&mut self, id: AllocationId, end: EndReport) {
        let name = self.container_name(id);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if std::mem::replace(&mut worker.clearing, true) {
            return;
        }
        self.checks.remove(&id);
        // Killed while it may have been asking for a container: the engine may yet make one.
        let again = end.signal == Some(Signal::Kill.number());
        self.set_worker(id, Worker::Stopping);
        let (socket, events) = (self.settings.docker.socket.clone(), self.events.clone());
        tokio::spawn(async move {
            // The agent may be ending.
            let tell = |news| events.send(super::Event::Container(id, news)).is_ok();
            let (mut told, mut looked) = (String::new(), false);
            loop {
                match docker::clear(&socket, &name).await {
                    Ok(cleared) if again && cleared == Cleared::default() && !looked => {
                        looked = true;
                        tokio::time::sleep(LATE_CONTAINER).await;
                    }
                    Ok(cleared) => {
                        tell(ContainerNews::Gone(Box::new(end), cleared));
                        return;
                    }
                    Err(problem) => {
                        if problem != told {
                            told.clone_from(&problem);
                            if !tell(ContainerNews::Stuck(problem)) {
                                return;
                            }
                        }
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                }
            }
        });
    }

    pub(super) fn container_news(&mut self, id: AllocationId, news: ContainerNews) {
        match news {
            ContainerNews::Up => self.container_is_up(id),
            ContainerNews::Gone(end, cleared) => {
                let dir = self.dir_of(id);
                let end = with_container(*end, cleared, Problem::left_in(dir.path()));
                self.ended_wholly(id, end);
            }
            ContainerNews::Stuck(problem) => {
                warn!(%id, problem, "a container is left");
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.detail = problem;
                }
                self.set_worker(id, Worker::Unkillable);
            }
        }
    }

    /// Why there was never a worker.
    pub(super) fn with_problem(&self, id: AllocationId, end: EndReport) -> EndReport {
        let dir = self.dir_of(id);
        let problem = Problem::left_in(dir.path());
        // Not the job's program was not to be executed, but the one that would have.
        let is_ours = end.cause == EndCause::CannotStart
            && problem.is_none()
            && confinement::is_of(dir.path());
        let cause = if is_ours { EndCause::HostFault } else { end.cause };
        with_container(EndReport { cause, ..end }, Cleared::default(), problem)
    }

    fn container_is_up(&mut self, id: AllocationId) {
        let now = self.observed.allocations.get(&id).map(|allocation| allocation.worker);
        if now == Some(Worker::Launching) {
            self.set_worker(id, Worker::Running);
            self.begin_check(id);
        }
    }

    /// Whether containers are still to be removed.
    pub(super) fn is_clearing(&self) -> bool {
        self.workers_here().any(|(_, worker)| worker.clearing)
    }
}

/// What the container itself adds to the end of its runner.
fn with_container(end: EndReport, cleared: Cleared, problem: Option<Problem>) -> EndReport {
    match problem {
        Some(problem) => problem.into_end(end),
        None if cleared.out_of_memory => {
            let reason = at_its_limit(cleared.memory_limit, None);
            EndReport { cause: EndCause::OutOfMemory, reason, ..end }
        }
        None => match not_executed(&end) {
            Some(reason) => EndReport { cause: EndCause::CannotStart, reason, ..end },
            None => end,
        },
    }
}

/// What the engine's own first process in the container says when it cannot execute the
/// command.
fn not_executed(end: &EndReport) -> Option<String> {
    let could_not = matches!(end.exit_code, Some(126 | 127));
    let (_, reason) = end.stderr_tail.strip_prefix("[FATAL tini (")?.split_once("] ")?;
    could_not.then(|| reason.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use berth_model::{MemoryBytes, WallMs};

    use super::*;

    #[test]
    fn the_container_says_more_than_its_runner() {
        let end = EndReport {
            cause: EndCause::Exited,
            exit_code: Some(0),
            signal: None,
            reason: String::new(),
            stderr_tail: String::new(),
            started_at: None,
            finished_at: WallMs(1),
        };
        let with = |cleared, problem| {
            let end = with_container(end.clone(), cleared, problem);
            (end.cause, end.reason)
        };
        let limit = Some(MemoryBytes(64 << 20));
        let killed = Cleared { out_of_memory: true, memory_limit: limit };
        assert_eq!(with(Cleared::default(), None), (EndCause::Exited, String::new()));
        let (cause, reason) = with(killed, None);
        assert_eq!(
            (cause, &*reason),
            (EndCause::OutOfMemory, "out of memory at its limit of 64MiB")
        );
        let words = "[FATAL tini (8)] exec /bin/x failed: No such file or directory\n";
        let said = EndReport { exit_code: Some(127), stderr_tail: words.to_owned(), ..end.clone() };
        let mistyped = with_container(said.clone(), Cleared::default(), None);
        assert_eq!(mistyped.cause, EndCause::CannotStart);
        assert_eq!(mistyped.reason, "exec /bin/x failed: No such file or directory");
        let other = EndReport { exit_code: Some(1), ..said };
        assert_eq!(with_container(other, Cleared::default(), None).cause, EndCause::Exited);
        let host = Problem::Host("no engine".to_owned());
        assert_eq!(with(killed, Some(host)), (EndCause::HostFault, "no engine".to_owned()));
        let start = Problem::Start("no image".to_owned());
        assert_eq!(with(killed, Some(start)), (EndCause::CannotStart, "no image".to_owned()));
    }
}
