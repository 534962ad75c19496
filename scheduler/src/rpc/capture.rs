//! Captures: the leader's last decisions and the one of now, as a file. Planned and written beside
//! the leader's loop, on views, so that nothing waits for a slow reader but the reader.

use std::pin::Pin;

use berth_placement::Planner;
use berth_proto::v1;
use berth_state::decision::Scope;
use berth_wire::capture::{Capture, CaptureHeader, Origin, Privacy, write_capture};
use futures::Stream;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Shared;
use super::backup::{PIECES_MAX, Pieces};
use crate::access::Granted;
use crate::leader::clock::wall;
use crate::leader::decisions::Asked;
use crate::leader::{BUDGET, Leader};

/// Each reader holds a thread and the views of the time when it began.
const READERS_MAX: usize = 2;

pub type CaptureStream = Pin<Box<dyn Stream<Item = Result<v1::CapturePiece, Status>> + Send>>;

impl Shared {
    /// What was decided in this term, as far as it is kept, and what would be now.
    pub async fn capture(
        &self,
        granted: &Granted,
        asked: v1::CaptureRequest,
    ) -> Result<CaptureStream, Status> {
        static READERS: Semaphore = Semaphore::const_new(READERS_MAX);
        let leader = self.leading_or_redirect()?;
        let privacy = if asked.redact { Privacy::Redacted } else { Privacy::Named };
        granted.about(match privacy {
            Privacy::Named => "decisions with all names",
            Privacy::Redacted => "decisions without names",
        });
        let Ok(place) = READERS.try_acquire() else {
            let message = format!("{READERS_MAX} captures are being read from this scheduler");
            return Err(Status::resource_exhausted(message));
        };
        let now = asked_now(self, granted, &leader).await?;
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let capture = captured(&leader, &now);
            let piece = |data| v1::CapturePiece { data };
            let mut sink = Pieces { sender, runtime, piece, held: Vec::new() };
            let written = write_capture(&capture, privacy, &mut sink);
            sink.finish(written, "capture");
        });
        Ok(Box::pin(ReceiverStream::new(pieces)))
    }
}

/// What the planner would be asked now.
async fn asked_now(shared: &Shared, granted: &Granted, leader: &Leader) -> Result<Asked, Status> {
    let view = shared.read(granted, 0).await?.state;
    Ok(Asked {
        origin: Origin::Capture,
        view,
        soft: leader.loads(),
        now: leader.clock.now(),
        scope: Scope::Everything,
        budget: BUDGET,
        gave_up: leader.decisions.gave_up(),
    })
}

fn captured(leader: &Leader, now: &Asked) -> Capture {
    let mut decisions = leader.decisions.captured();
    // As the leader's planner would: what it knows beside this follows from the view.
    let outcome = now.plan(&mut Planner::that_gave_up(&now.gave_up));
    decisions.push(now.captured(&outcome));
    let cluster = now.view.cluster();
    let header = CaptureHeader {
        writer: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_version: cluster.cluster_version,
        captured_at: wall(),
        captured_ms: now.now,
        applied_index: now.view.applied_index(),
        cluster_id: Some(cluster.id),
    };
    Capture { header, decisions }
}
