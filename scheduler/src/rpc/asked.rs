//! A request that an agent answers with pushes on a stream of its own, for as long as it is held.

use berth_proto::v1;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use tokio::sync::mpsc;

use super::Shared;
use crate::sessions::Session;

/// Pieces between an agent's stream and a reader's: a slow reader holds up its own stream and
/// nothing else.
pub const PUSHES_MAX: usize = 16;

/// What an agent was asked for. Dropped, it is asked no more.
pub struct Asked {
    shared: Shared,
    session: Session,
    request_id: String,
    pub pushes: mpsc::Receiver<v1::LogPush>,
}

impl Asked {
    /// Asks with the order that `order` makes of the request's id; `None` if the agent has gone.
    pub async fn of(
        shared: &Shared,
        session: &Session,
        order: impl FnOnce(String) -> ToAgent,
    ) -> Option<Asked> {
        let (pusher, pushes) = mpsc::channel(PUSHES_MAX);
        let request_id = shared.published.sessions.logs.open(session.node, pusher);
        let order = v1::SchedulerMessage { message: Some(order(request_id.clone())) };
        let (shared, session) = (shared.clone(), session.clone());
        let asked = Asked { shared, session, request_id, pushes };
        asked.session.orders.send(order).await.ok()?;
        Some(asked)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.shared.published.sessions.logs.close(&self.request_id);
        let request_id = std::mem::take(&mut self.request_id);
        let cancel = ToAgent::LogCancel(v1::LogCancel { request_id });
        // Where there is no room, the agent hears that nobody reads.
        let _ = self.session.orders.try_send(v1::SchedulerMessage { message: Some(cancel) });
    }
}
