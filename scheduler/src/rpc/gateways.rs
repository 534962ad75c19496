//! The routes, told to gateways as they change.

use std::pin::Pin;
use std::time::Duration;

use berth_proto::v1;
use berth_wire::views;
use futures::Stream;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Shared, status};
use crate::access::Granted;

/// Where nothing changes for so long, it is asked whether this scheduler still hears of changes.
const CONFIRM: Duration = Duration::from_secs(5);
/// What changes within that is told together.
const PAUSE: Duration = Duration::from_millis(20);
/// A gateway that takes nothing for so long is cut off; it comes back and is told all.
const SLOW_LIMIT: Duration = Duration::from_secs(30);
const WATCHERS_MAX: usize = 256;

pub struct GatewaysService(pub Shared);

type RouteStream = Pin<Box<dyn Stream<Item = Result<v1::Routes, Status>> + Send>>;

#[tonic::async_trait]
impl v1::gateways_server::Gateways for GatewaysService {
    type WatchRoutesStream = RouteStream;

    async fn watch_routes(
        &self,
        request: Request<v1::WatchRoutesRequest>,
    ) -> Result<Response<RouteStream>, Status> {
        static WATCHERS: Semaphore = Semaphore::const_new(WATCHERS_MAX);
        let granted = Granted::of(&request)?;
        // A scheduler that has just started may know nothing yet, or an old state: whoever went by
        // that would send everybody away.
        self.0.read(&granted, 0).await?;
        let Ok(place) = WATCHERS.try_acquire() else { return Err(status::too_many_watchers()) };
        let (out, stream) = mpsc::channel(1);
        let shared = self.0.clone();
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = shared.feed_routes(&granted, &out).await {
                // Whoever reads nothing is not told why its stream ends.
                let _ = out.send_timeout(Err(error), SLOW_LIMIT).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl Shared {
    async fn feed_routes(
        &self,
        granted: &Granted,
        out: &mpsc::Sender<Result<v1::Routes, Status>>,
    ) -> Result<(), Status> {
        let mut newest = self.published.events.newest();
        let mut told: Option<Vec<v1::ServiceRoute>> = None;
        loop {
            newest.borrow_and_update();
            let view = self.published.view();
            // A certificate that was revoked ends what was begun with it.
            granted.still(&view, self.published.now())?;
            let routes = views::routes(&view);
            if told.as_ref() != Some(&routes.services) {
                told = Some(routes.services.clone());
                match out.send_timeout(Ok(routes), SLOW_LIMIT).await {
                    Ok(()) => {}
                    Err(SendTimeoutError::Closed(_)) => return Ok(()),
                    Err(SendTimeoutError::Timeout(_)) => return Err(status::too_slow()),
                }
            }
            tokio::select! {
                changed = newest.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                () = out.closed() => return Ok(()),
                () = tokio::time::sleep(CONFIRM) => drop(self.read(granted, 0).await?),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
