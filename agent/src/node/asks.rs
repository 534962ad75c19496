//! What people ask of this node's workers, by way of the cluster: their output, their files, and
//! commands beside them.

use berth_model::AllocationId;
use berth_proto::v1::{ExecRequest, FileRequest, LogRequest};
use berth_supervise::Worker;
use tokio::sync::watch;

use super::Node;
use crate::confinement::{self, Guest};
use crate::environment::Environment;
use crate::exec::{Place, Wanted as WantedCommand};
use crate::logs::{Below, Follow, Wanted, What};
use crate::request::{open_files_max, out_of_memory_score, working_dir};
use crate::wanted::Wanted as WantedWorker;

impl Node {
    pub(super) fn log_requested(&mut self, request: LogRequest) {
        let what = self.kept(&request.allocation_id).map(|id| {
            let dir = self.dir_of(id);
            let worker = self.workers.get(&id);
            What::Output {
                path: if request.stderr { dir.stderr() } else { dir.stdout() },
                follow: if request.follow { Follow::UntilTheEnd } else { Follow::NotAtAll },
                ended: worker
                    .map_or_else(|| watch::channel(true).1, |worker| worker.ended.subscribe()),
            }
        });
        let wanted = Wanted { request_id: request.request_id, what };
        self.logs.serve(self.uplink.address(), wanted);
    }

    pub(super) fn file_requested(&mut self, request: FileRequest) {
        let what = self.kept(&request.allocation_id);
        let (path, reader) = (request.path, self.settings.user);
        let what = what.map(|id| What::Below(Below { root: self.dir_of(id).task(), path, reader }));
        let wanted = Wanted { request_id: request.request_id, what };
        self.logs.serve(self.uplink.address(), wanted);
    }

    pub(super) fn exec_requested(&mut self, request: ExecRequest) {
        let ExecRequest { request_id, allocation_id, command, terminal } = request;
        let place = self.place_beside(&allocation_id, terminal.as_ref().map(|it| &*it.kind));
        let wanted = place.map(|place| WantedCommand { command, terminal, place });
        self.execs.serve(self.uplink.address(), request_id, wanted);
    }

    /// Of whom there is something on this node.
    fn kept(&self, allocation_id: &str) -> Result<AllocationId, String> {
        let id = named(allocation_id)?;
        if self.workers.contains_key(&id) || self.dir_of(id).path().is_dir() {
            return Ok(id);
        }
        Err(format!("nothing of allocation {id} is kept on this node"))
    }

    /// Where a command runs that is to run beside a worker, at such a terminal if at one.
    fn place_beside(&self, allocation_id: &str, terminal: Option<&str>) -> Result<Place, String> {
        let id = named(allocation_id)?;
        let runs =
            self.observed.allocations.get(&id).is_some_and(|here| here.worker == Worker::Running);
        let worker = self.workers.get(&id).filter(|_| runs);
        let worker = worker.ok_or_else(|| format!("allocation {id} does not run on this node"))?;
        let wanted = worker.wanted.as_ref().ok_or_else(|| {
            format!("allocation {id} is an orphan: nobody knows any more how it was begun")
        })?;
        if self.has_container(id) {
            let socket = self.settings.docker.socket.clone();
            return Ok(Place::Container { socket, name: self.container_name(id) });
        }
        let dir = self.dir_of(id);
        let mut variables = self.environment(wanted, &dir.task());
        if let Some(kind) = terminal.filter(|kind| !kind.is_empty()) {
            variables.insert("TERM".to_owned(), kind.to_owned());
        }
        let guest = Box::new(self.guest_beside(id, wanted, &variables)?);
        Ok(Place::Process { guest, dir: dir.path().to_owned() })
    }

    /// What holds a program that is run beside a worker: what holds that; or why nobody can tell.
    pub(super) fn guest_beside(
        &self,
        id: AllocationId,
        wanted: &WantedWorker,
        variables: &Environment,
    ) -> Result<Guest, String> {
        let (dir, task) = (self.dir_of(id), wanted.task());
        let mut guest = confinement::guest(&dir, variables, self.settings.user)?;
        let groups = self.mark_of(id).cgroup_dirs;
        guest.enclosure.working_dir = working_dir(task, variables, &dir);
        guest.enclosure.cgroup_dirs =
            groups.iter().map(|dir| dir.to_string_lossy().into_owned()).collect();
        guest.open_files = Some(open_files_max(task));
        guest.enclosure.out_of_memory_score = Some(out_of_memory_score(task.quality()));
        Ok(guest)
    }
}

fn named(allocation_id: &str) -> Result<AllocationId, String> {
    allocation_id.parse().map_err(|_| format!("`{allocation_id}` is no allocation"))
}
