//! What each request does. Every refusal of the protocol is decided here.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::allocation::Allocation;
use super::event_loop::{Fate, Shim};
use crate::lane::LaneJournal;
use crate::protocol::{
    AllocationState, AttachRequest, Done, HelloReply, HelloRequest, LeaseRequest, PROTOCOL_VERSION,
    Refusal, RefusalCode, Request, RequestBody, ServerBody, SignalRequest, SignalScope,
    StartRequest, StopRequest, WaitRequest,
};
use crate::record::{self, RecordError};

/// Longest allocation id in bytes; ids are a few numbers and a task's name.
const ALLOCATION_ID_BYTES_MAX: usize = 256;

type Answer = Result<ServerBody, Refusal>;

impl Shim {
    /// The answer to `request`, or `None` if it comes later.
    pub(super) fn answer(&mut self, connection: usize, request: Request) -> Option<ServerBody> {
        let Some(body) = request.body else {
            let message = "this shim does not know the request".to_owned();
            return Some(ServerBody::Refused(self.refusal(RefusalCode::UnknownRequest, message)));
        };
        let answer = match body {
            RequestBody::Hello(hello) => self.hello(&hello),
            RequestBody::Start(start) => self.start(&start),
            RequestBody::Signal(signal) => self.signal(&signal),
            RequestBody::Stop(stop) => self.stop(&stop),
            RequestBody::Stats(stats) => {
                self.expect_held(&stats.allocation_id).map(|held| ServerBody::Stats(held.stats()))
            }
            RequestBody::Attach(attach) => self.attach(connection, attach),
            RequestBody::Wait(wait) => return self.wait_for_end(connection, request.id, wait),
            RequestBody::Retire(retire) => self.retire(&retire.allocation_id),
            RequestBody::Exit(_) => self.exit(),
            RequestBody::Lease(lease) => self.lease(&lease),
        };
        Some(answer.unwrap_or_else(ServerBody::Refused))
    }

    fn hello(&self, request: &HelloRequest) -> Answer {
        if request.protocol != PROTOCOL_VERSION {
            let message =
                format!("this shim speaks shim/{PROTOCOL_VERSION}, not shim/{}", request.protocol);
            return Err(self.refusal(RefusalCode::UnsupportedProtocol, message));
        }
        Ok(ServerBody::Hello(HelloReply {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: self.identity.pid,
            start_ticks: self.identity.start_ticks,
            boot_id: self.identity.boot_id.clone(),
            state: Some(self.state()),
        }))
    }

    fn start(&mut self, request: &StartRequest) -> Answer {
        check_start(request).map_err(|message| self.refusal(RefusalCode::BadRequest, message))?;
        if self.held.as_ref().is_some_and(|held| held.id() == request.allocation_id) {
            return Ok(ServerBody::State(self.state()));
        }
        if self.retired.contains(&request.allocation_id) {
            return Err(self.refusal(
                RefusalCode::AlreadyEnded,
                "the allocation has ended here before".to_owned(),
            ));
        }
        if !request.retire_allocation_id.is_empty() {
            self.retire(&request.retire_allocation_id)?;
        }
        if self.held.is_some() {
            return Err(self.refusal(RefusalCode::Busy, "another allocation is held".to_owned()));
        }
        self.prepare_record(request)?;
        let allocation = Allocation::start(request, &self.identity.boot_id, Instant::now());
        let state = allocation.state();
        let runs = allocation.is_alive();
        self.held = Some(allocation);
        if runs {
            self.announce(&request.allocation_id, &ServerBody::Started(state.clone()));
            return Ok(ServerBody::State(state));
        }
        // The start failed: make that durable before the answer says so.
        self.record_failed_start();
        Ok(ServerBody::State(self.state()))
    }

    fn record_failed_start(&mut self) {
        let Some(held) = &mut self.held else { return };
        held.record(Instant::now(), &mut self.lane);
        if held.is_durable() {
            self.announce_end();
        }
    }

    /// Nothing starts whose end could not be recorded, or whose end is already on disk.
    fn prepare_record(&mut self, request: &StartRequest) -> Result<(), Refusal> {
        if request.record_dir.is_empty() {
            if self.lane.is_none() {
                let opened = LaneJournal::open(&self.base);
                self.lane = Some(opened.map_err(|error| {
                    self.refusal(
                        RefusalCode::RecordUnavailable,
                        format!("cannot make the lane journal: {error}"),
                    )
                })?);
            }
            return Ok(());
        }
        match record::read_exit_record(Path::new(&request.record_dir)) {
            Ok(record) if record.allocation_id == request.allocation_id => Err(self.refusal(
                RefusalCode::AlreadyEnded,
                "its directory holds its exit record".to_owned(),
            )),
            Ok(other) => {
                let message =
                    format!("its directory holds the exit record of {}", other.allocation_id);
                Err(self.refusal(RefusalCode::RecordUnavailable, message))
            }
            Err(RecordError::Missing { .. }) if Path::new(&request.record_dir).is_dir() => Ok(()),
            Err(error) => Err(self.refusal(RefusalCode::RecordUnavailable, error.to_string())),
        }
    }

    fn signal(&mut self, request: &SignalRequest) -> Answer {
        let signal = named_signal(request.signal)
            .map_err(|message| self.refusal(RefusalCode::BadRequest, message))?;
        let scope = SignalScope::try_from(request.scope).map_err(|_| {
            self.refusal(RefusalCode::BadRequest, "the scope is unknown".to_owned())
        })?;
        let held = self.expect_held(&request.allocation_id)?;
        let outcome = match scope {
            SignalScope::Main => held.signal_main(signal),
            SignalScope::Tree => held.signal_tree(signal),
        };
        match outcome {
            Ok(true) => Ok(ServerBody::Done(Done {})),
            Ok(false) => {
                Err(self.refusal(RefusalCode::NotRunning, "no such process is left".to_owned()))
            }
            Err(error) => Err(self.refusal(
                RefusalCode::BadRequest,
                format!("cannot signal: {}", super::describe(&error)),
            )),
        }
    }

    fn stop(&mut self, request: &StopRequest) -> Answer {
        let signal = request.signal.map(named_signal).transpose();
        let signal = signal.map_err(|message| self.refusal(RefusalCode::BadRequest, message))?;
        let grace = request.grace_ms.map(Duration::from_millis);
        let held = self.expect_held(&request.allocation_id)?;
        held.stop(signal, grace, Instant::now());
        Ok(ServerBody::State(held.state()))
    }

    fn lease(&mut self, request: &LeaseRequest) -> Answer {
        let held = self.expect_held(&request.allocation_id)?;
        held.renew_lease(request.ends_at_boot_ms);
        Ok(ServerBody::Done(Done {}))
    }

    fn attach(&mut self, connection: usize, request: AttachRequest) -> Answer {
        if !request.allocation_id.is_empty() {
            self.expect_held(&request.allocation_id)?;
        }
        self.connection(connection).attach(request.allocation_id);
        Ok(ServerBody::State(self.state()))
    }

    fn wait_for_end(
        &mut self,
        connection: usize,
        id: u64,
        request: WaitRequest,
    ) -> Option<ServerBody> {
        match self.expect_held(&request.allocation_id) {
            Err(refusal) => return Some(ServerBody::Refused(refusal)),
            Ok(held) if held.is_durable() => return Some(ServerBody::State(held.state())),
            Ok(_) => {}
        }
        if self.connection(connection).add_wait(id, request.allocation_id) {
            return None;
        }
        let message = "too many waits on one connection".to_owned();
        Some(ServerBody::Refused(self.refusal(RefusalCode::BadRequest, message)))
    }

    fn retire(&mut self, allocation_id: &str) -> Answer {
        let is_held = self.held.as_ref().is_some_and(|held| held.id() == allocation_id);
        if !is_held && self.retired.iter().any(|retired| retired == allocation_id) {
            return Ok(ServerBody::Done(Done {}));
        }
        if !self.expect_held(allocation_id)?.is_durable() {
            return Err(self.refusal(
                RefusalCode::NotEnded,
                "the allocation has not ended durably".to_owned(),
            ));
        }
        self.retire_held();
        Ok(ServerBody::Done(Done {}))
    }

    fn exit(&mut self) -> Answer {
        if self.held.is_some() {
            return Err(self.refusal(RefusalCode::Busy, "an allocation is held".to_owned()));
        }
        self.fate = Fate::Quitting;
        Ok(ServerBody::Done(Done {}))
    }

    fn expect_held(&mut self, allocation_id: &str) -> Result<&mut Allocation, Refusal> {
        if self.held.as_ref().is_none_or(|held| held.id() != allocation_id) {
            return Err(self.refusal(
                RefusalCode::WrongAllocation,
                format!("allocation {allocation_id:?} is not held"),
            ));
        }
        Ok(self.held.as_mut().expect("its id was just compared"))
    }

    fn state(&self) -> AllocationState {
        self.held.as_ref().map(Allocation::state).unwrap_or_default()
    }
}

pub(super) fn named_signal(number: i32) -> Result<Signal, String> {
    Signal::from_named_raw(number).ok_or_else(|| format!("{number} is not a signal"))
}

fn check_start(request: &StartRequest) -> Result<(), String> {
    let id_bytes = request.allocation_id.len();
    if id_bytes == 0 || id_bytes > ALLOCATION_ID_BYTES_MAX {
        return Err(format!(
            "an allocation id has 1 to {ALLOCATION_ID_BYTES_MAX} bytes, not {id_bytes}"
        ));
    }
    if request.command.first().is_none_or(String::is_empty) {
        return Err("the command is empty".to_owned());
    }
    let log_paths = [&request.stdout_path, &request.stderr_path, &request.record_dir];
    let optional = log_paths.into_iter().filter(|path| !path.is_empty());
    for path in optional.chain(&request.cgroup_dirs).chain([&request.working_dir]) {
        if !path.starts_with('/') {
            return Err(format!("path {path:?} is not absolute"));
        }
    }
    for variable in &request.env {
        if variable.name.is_empty()
            || variable.name.contains(['=', '\0'])
            || variable.value.contains('\0')
        {
            return Err(format!("{:?} cannot be an environment variable", variable.name));
        }
    }
    if let Some(signal) = request.stop.and_then(|stop| stop.signal) {
        named_signal(signal)?;
    }
    Ok(())
}
