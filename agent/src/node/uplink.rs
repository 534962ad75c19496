//! What is said to the cluster: reports, each until it is acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_model::{AllocationId, DurationMs};
use berth_proto::v1::agent_message::Message as ToScheduler;
use berth_proto::v1::scheduler_message::Message as FromScheduler;
use berth_proto::v1::{AgentMessage, Hello, NeedFull, Observation, Report, Welcome};
use berth_supervise::{Link, Worker};
use berth_wire::agent::{Held, Hello as WireHello, hello_to_proto};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use super::Node;
use crate::session::{Greeting, SessionEvent};
use crate::wanted::digest_of;

/// Observations in one report; an end with its last output takes 5 KiB, and a
/// message 4 MiB.
const OBSERVATIONS_MAX: usize = 256;

/// A report without an acknowledgement is said again after this: longer than
/// a commit takes on any disk, shorter than anybody wants to wait for an end.
const REPEAT_AFTER: Duration = Duration::from_secs(3);

/// The way to the scheduler and what is under way on it.
#[derive(Default)]
pub struct Uplink {
    outbound: Option<mpsc::Sender<AgentMessage>>,
    address: String,
    lease: DurationMs,
    sequence: u64,
    /// Reports without an acknowledgement, by sequence.
    unacknowledged: BTreeMap<u64, Unacknowledged>,
}

/// What a report said, by revision.
struct Unacknowledged {
    sent_at: Instant,
    said: Vec<(AllocationId, u64)>,
}

impl Uplink {
    /// The scheduler that leads, as far as is known.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// When the oldest report is to be said again.
    pub fn repeat_at(&self) -> Option<Instant> {
        self.unacknowledged.values().next().map(|report| report.sent_at + REPEAT_AFTER)
    }
}

impl Node {
    pub(super) fn handle_session(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Greeting(answer) => {
                self.say_fences();
                // The session that asked may be gone.
                let _ = answer.send(Greeting { hello: self.hello(), inventory: self.inventory });
            }
            SessionEvent::StockAsked { incarnation, expected, answer } => {
                self.observed.told_incarnation = incarnation;
                self.tell_stock(&expected, answer);
            }
            SessionEvent::Up { address, welcome, outbound } => {
                self.session_up(address, &welcome, outbound);
            }
            SessionEvent::Message(message) => self.handle_message(message),
            SessionEvent::Acknowledged { sent_at } => {
                self.observed.lease.renew(sent_at, self.uplink.lease);
                self.keep_lease();
                self.pass_lease_on();
            }
            SessionEvent::Down => self.session_down(),
        }
    }

    fn hello(&self) -> Hello {
        let version = self.wishes.version;
        let held = (version.incarnation > 0).then(|| Held {
            incarnation: version.incarnation,
            generation: version.generation,
            digest: digest_of(version, &self.wishes.rows),
        });
        hello_to_proto(&WireHello {
            name: self.settings.name.clone(),
            instance_key: self.settings.dir.instance_key,
            spec: self.spec(),
            held,
            boot_id: self.settings.boot_id.clone(),
        })
    }

    fn session_up(
        &mut self,
        address: String,
        welcome: &Welcome,
        outbound: mpsc::Sender<AgentMessage>,
    ) {
        self.uplink.outbound = Some(outbound);
        self.uplink.address = address;
        self.uplink.lease = DurationMs(welcome.lease_ms);
        self.uplink.unacknowledged.clear();
        self.full_requested = false;
        self.observed.link_up();
        self.connected.store(true, Ordering::Relaxed);
        self.report_everything();
        self.fences_heard(&welcome.fences_held_back);
    }

    fn session_down(&mut self) {
        self.uplink.outbound = None;
        self.uplink.unacknowledged.clear();
        self.observed.link = Link::Down;
        self.connected.store(false, Ordering::Relaxed);
    }

    fn handle_message(&mut self, message: FromScheduler) {
        match message {
            FromScheduler::Full(full) => self.take_full(full),
            FromScheduler::Delta(delta) => self.take_delta(delta),
            FromScheduler::ReportAck(ack) => self.report_acknowledged(ack.sequence),
            FromScheduler::LogRequest(request) => self.log_requested(request),
            FromScheduler::LogCancel(cancel) => self.logs.cancel(&cancel.request_id),
            FromScheduler::FileRequest(request) => self.file_requested(request),
            FromScheduler::ExecRequest(request) => self.exec_requested(request),
            FromScheduler::EndOrphans(orphans) => {
                let ids = orphans.allocations.iter().filter_map(|id| id.parse().ok());
                self.observed.orphans_to_end = ids.collect();
            }
            // Understood where the session is kept.
            FromScheduler::Welcome(_)
            | FromScheduler::StockRequest(_)
            | FromScheduler::HeartbeatAck(_)
            | FromScheduler::Redirect(_) => {}
        }
    }

    /// Everything that is here, in as many messages as it takes; the last one
    /// says that this was all.
    fn report_everything(&mut self) {
        let all: Vec<AllocationId> = self.observed.allocations.keys().copied().collect();
        let mut chunks: Vec<&[AllocationId]> = all.chunks(OBSERVATIONS_MAX).collect();
        let last = chunks.pop().unwrap_or_default();
        for chunk in chunks {
            self.send_report(chunk, Completeness::Part);
        }
        self.send_report(last, Completeness::EverythingElseIsNotHere);
    }

    pub(super) fn send_reports(&mut self, ids: BTreeSet<AllocationId>) {
        let ids: Vec<AllocationId> = ids.into_iter().collect();
        for chunk in ids.chunks(OBSERVATIONS_MAX) {
            self.send_report(chunk, Completeness::Part);
        }
    }

    fn send_report(&mut self, ids: &[AllocationId], completeness: Completeness) {
        let mut said = Vec::with_capacity(ids.len());
        let mut observations: Vec<Observation> = Vec::with_capacity(ids.len());
        for id in ids {
            if let (Some(allocation), Some(worker)) =
                (self.observed.allocations.get_mut(id), self.workers.get(id))
            {
                allocation.sent = Some(allocation.revision);
                said.push((*id, allocation.revision));
                observations.push(worker.observation(*id, allocation.worker));
            }
        }
        self.uplink.sequence += 1;
        let sequence = self.uplink.sequence;
        let complete = completeness == Completeness::EverythingElseIsNotHere;
        let report = Unacknowledged { sent_at: Instant::now(), said };
        self.uplink.unacknowledged.insert(sequence, report);
        self.say(ToScheduler::Report(Report { sequence, observations, complete }));
    }

    /// Whether the message is on its way. One that is not is said again: a
    /// report because it stays without acknowledgement, the rest by the next
    /// session, if this one does not recover.
    fn say(&mut self, message: ToScheduler) -> Said {
        let Some(outbound) = &self.uplink.outbound else { return Said::No };
        if outbound.try_send(AgentMessage { message: Some(message) }).is_err() {
            warn!("scheduler does not read");
            return Said::No;
        }
        Said::Yes
    }

    pub(super) fn ask_for_full(&mut self) {
        if !self.full_requested {
            self.full_requested = self.say(ToScheduler::NeedFull(NeedFull {})) == Said::Yes;
        }
    }

    /// A scheduler that could not record a report does not acknowledge it.
    pub(super) fn repeat_reports(&mut self) {
        while self.uplink.repeat_at().is_some_and(|at| at <= Instant::now()) {
            let Some((_, report)) = self.uplink.unacknowledged.pop_first() else { return };
            for (id, revision) in report.said {
                if let Some(allocation) = self.observed.allocations.get_mut(&id)
                    && allocation.sent == Some(revision)
                    && allocation.acknowledged != Some(revision)
                {
                    allocation.sent = None;
                }
            }
        }
    }

    fn report_acknowledged(&mut self, sequence: u64) {
        let Some(report) = self.uplink.unacknowledged.remove(&sequence) else { return };
        for (id, revision) in report.said {
            let Some(allocation) = self.observed.allocations.get_mut(&id) else { continue };
            allocation.acknowledged = allocation.acknowledged.max(Some(revision));
            if allocation.worker == Worker::Ended && allocation.is_acknowledged() {
                self.release_shim_of(id);
            }
        }
    }
}

/// Whether a report is all there is to say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Completeness {
    Part,
    EverythingElseIsNotHere,
}

/// Whether something was handed to the session.
#[derive(PartialEq, Eq)]
enum Said {
    Yes,
    No,
}
