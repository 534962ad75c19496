//! The event stream: from a token onwards, without gap or repetition, at the
//! watcher's own speed.

use std::pin::Pin;
use std::time::Duration;

use berth_model::JobId;
use berth_proto::v1;
use berth_state::{ClusterState, Event, EventKind};
use futures::Stream;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Shared, lookup, status};
use crate::access::Granted;
use crate::events::Token;

/// Events read from the ring at once, and waiting for a watcher.
const BATCH: usize = 256;

/// A watcher that takes nothing for so long is cut off. It has the token of the
/// last event that it read, and goes on from there when it comes back.
const SLOW_LIMIT: Duration = Duration::from_secs(30);

/// Each holds at most a batch of events in memory, beside what its connection
/// holds.
const WATCHERS_MAX: usize = 4096;

pub type EventStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

impl Shared {
    pub async fn watch(
        &self,
        granted: Granted,
        request: v1::EventsRequest,
    ) -> Result<EventStream, Status> {
        let view = self.read(&granted, 0).await?.state;
        let job = match &request.job {
            Some(reference) => Some(lookup::job(&granted, &view, Some(reference))?.id),
            None => None,
        };
        let after = match request.after.as_str() {
            "" => None,
            text => Some(text.parse::<Token>().map_err(|()| {
                status::invalid_field("after", "expected the token of an event, such as 42-0")
            })?),
        };
        if after.is_some_and(|after| after.index > view.applied_index()) {
            return Err(status::no_such_event_yet(view.applied_index()));
        }
        // Asked first, so that a token that is gone is refused by the call.
        self.published.events.after(after, 1).map_err(status::events_gone)?;
        static WATCHERS: Semaphore = Semaphore::const_new(WATCHERS_MAX);
        let Ok(place) = WATCHERS.try_acquire() else { return Err(status::too_many_watchers()) };
        let (out, stream) = mpsc::channel(BATCH);
        let shared = self.clone();
        let watch = Watch { granted, job, after, follow: request.follow };
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = shared.feed(watch, &out).await {
                // Whoever reads nothing is not told why its stream ends.
                let _ = out.send_timeout(Err(error), SLOW_LIMIT).await;
            }
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }

    async fn feed(
        &self,
        watch: Watch,
        out: &mpsc::Sender<Result<v1::Event, Status>>,
    ) -> Result<(), Status> {
        let Watch { granted, job, mut after, follow } = watch;
        let mut newest = self.published.events.newest();
        loop {
            newest.borrow_and_update();
            loop {
                let recorded =
                    self.published.events.after(after, BATCH).map_err(status::events_gone)?;
                let Some(last) = recorded.last() else { break };
                after = Some(last.token);
                let view = self.published.view();
                // A token that was revoked ends what was begun with it.
                granted.still(&view, self.published.now())?;
                for one in recorded {
                    if job.is_some_and(|job| one.event.job != Some(job)) {
                        continue;
                    }
                    if !visible(&granted, &view, &one.event) {
                        continue;
                    }
                    let token = one.token.to_string();
                    let event = berth_wire::views::event(&view, &one.event, &token, one.at);
                    match out.send_timeout(Ok(event), SLOW_LIMIT).await {
                        Ok(()) => {}
                        Err(SendTimeoutError::Closed(_)) => return Ok(()),
                        Err(SendTimeoutError::Timeout(_)) => {
                            metrics::counter!("berth_watchers_cut_total").increment(1);
                            return Err(status::too_slow());
                        }
                    }
                }
            }
            if !follow {
                return Ok(());
            }
            tokio::select! {
                changed = newest.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                () = out.closed() => return Ok(()),
            }
        }
    }
}

/// Whether a caller may see an event: those of jobs where it may see the
/// namespace, as those of namespaces; those of nodes and the cluster always,
/// those of tokens as administrator. A job that is gone has no namespace any more, and is shown to
/// those who see all.
fn visible(granted: &Granted, view: &ClusterState, event: &Event) -> bool {
    if let EventKind::TokenCreated { .. } | EventKind::TokenRevoked { .. } = &event.kind {
        return granted.is_admin();
    }
    if let EventKind::NamespaceChanged { name, .. } | EventKind::NamespaceDeleted { name } =
        &event.kind
    {
        return granted.sees(name);
    }
    match event.job.map(|job| view.jobs().get(&job)) {
        None => true,
        Some(Some(row)) => granted.sees(row.namespace()),
        Some(None) => granted.sees_all(),
    }
}

/// What a watcher wants.
struct Watch {
    granted: Granted,
    job: Option<JobId>,
    after: Option<Token>,
    follow: bool,
}
