//! The routes, told to gateways as they change, and what gateways tell.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use berth_model::AllocationId;
use berth_proto::v1;
use berth_proto::v1::gateways_client::GatewaysClient;
use berth_reconcile::TooManyGateways;
use berth_wire::views;
use futures::Stream;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::route::at_leader;
use super::{Shared, status};
use crate::access::Granted;
use crate::leader::Leader;

/// Where nothing changes for so long, it is asked whether this scheduler still hears of changes.
const CONFIRM: Duration = Duration::from_secs(5);
/// What changes within that is told together.
const PAUSE: Duration = Duration::from_millis(20);
/// A gateway that takes nothing for so long is cut off; it comes back and is told all.
const SLOW_LIMIT: Duration = Duration::from_secs(30);
const WATCHERS_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 64;
/// Replicas that a gateway still has something under way at, which are to end.
const BUSY_MAX: usize = 1 << 16;

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
        let progress = match request.get_ref().progress {
            true => Progress::Told,
            false => Progress::Untold,
        };
        // A scheduler that has just started may know nothing yet, or an old state: whoever went by
        // that would send everybody away.
        self.0.read(&granted, 0).await?;
        let Ok(place) = WATCHERS.try_acquire() else { return Err(status::too_many_watchers()) };
        let (out, stream) = mpsc::channel(1);
        let shared = self.0.clone();
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = shared.feed_routes(&granted, progress, &out).await {
                // Whoever reads nothing is not told why its stream ends.
                let _ = out.send_timeout(Err(error), SLOW_LIMIT).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn report(
        &self,
        request: Request<v1::GatewayReport>,
    ) -> Result<Response<v1::GatewayReportReply>, Status> {
        at_leader!(self.0, request, GatewaysClient::report, |leader, _granted, asked| async move {
            hear(&leader, asked)
        })
    }
}

fn hear(leader: &Leader, report: v1::GatewayReport) -> Result<v1::GatewayReportReply, Status> {
    let busy = check(&report)?;
    let v1::GatewayReport { gateway, index, busy: _, uses } = report;
    let count = leader.hear_gateway(&gateway, index, busy, uses);
    let count = count.map_err(|TooManyGateways| status::too_many_gateways())?;
    Ok(v1::GatewayReportReply { gateways: u32::try_from(count).unwrap_or(u32::MAX) })
}

/// The allocations that still answer the gateway, of a report that makes sense.
fn check(report: &v1::GatewayReport) -> Result<BTreeSet<AllocationId>, Status> {
    let v1::GatewayReport { gateway, index: _, busy, uses: _ } = report;
    let is_known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if gateway.is_empty() || gateway.len() > NAME_BYTES_MAX || !gateway.bytes().all(is_known) {
        return Err(status::invalid_field("gateway", "expected 1 to 64 of a-z, 0-9 and -"));
    }
    if busy.len() > BUSY_MAX {
        return Err(status::invalid_field("busy", "expected at most 65536 allocations"));
    }
    let read = busy.iter().map(|id| id.parse()).collect::<Result<_, _>>();
    read.map_err(|_| status::invalid_field("busy", "expected ids of allocations, such as 1.0.0.1"))
}

/// Whether a gateway hears of views in which no route has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Told,
    Untold,
}

impl Shared {
    async fn feed_routes(
        &self,
        granted: &Granted,
        progress: Progress,
        out: &mpsc::Sender<Result<v1::Routes, Status>>,
    ) -> Result<(), Status> {
        let mut newest = self.published.events.newest();
        let mut told: Option<v1::Routes> = None;
        loop {
            newest.borrow_and_update();
            let view = self.published.view();
            // A certificate that was revoked ends what was begun with it.
            granted.still(&view, self.published.now())?;
            let routes = views::routes(&view);
            if let Some(news) = news(told.as_ref(), &routes, progress) {
                told = Some(routes);
                match out.send_timeout(Ok(news), SLOW_LIMIT).await {
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

/// What a gateway that was `told` something hears of the routes that there are now.
fn news(told: Option<&v1::Routes>, now: &v1::Routes, progress: Progress) -> Option<v1::Routes> {
    let Some(told) = told else { return Some(now.clone()) };
    if told.services != now.services {
        return Some(now.clone());
    }
    let has_moved = told.index < now.index && progress == Progress::Told;
    let index = now.index;
    has_moved.then(|| v1::Routes { index, services: Vec::new(), unchanged: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_changed_is_left_out_for_whoever_wants_to_know_how_far_it_is() {
        let routes = |index, names: &[&str]| {
            let service =
                |name: &&str| v1::ServiceRoute { name: (*name).into(), ..Default::default() };
            v1::Routes { index, services: names.iter().map(service).collect(), unchanged: false }
        };
        let before = routes(5, &["a"]);
        let check =
            |told: Option<&v1::Routes>, now: v1::Routes, expected: [Option<v1::Routes>; 2]| {
                let found = [Progress::Told, Progress::Untold].map(|want| news(told, &now, want));
                assert_eq!(found, expected, "{now:?}");
            };
        let all = routes(5, &[]);
        check(None, all.clone(), [Some(all.clone()), Some(all)]);
        let other = routes(6, &["a", "b"]);
        check(Some(&before), other.clone(), [Some(other.clone()), Some(other)]);
        check(Some(&before), before.clone(), [None, None]);
        let further = v1::Routes { index: 6, services: Vec::new(), unchanged: true };
        check(Some(&before), routes(6, &["a"]), [Some(further), None]);
    }

    #[test]
    fn a_report_that_makes_no_sense_is_refused_by_its_field() {
        let report = |gateway: &str, busy: &[&str]| {
            let busy = busy.iter().map(|id| (*id).to_owned()).collect();
            let report = v1::GatewayReport { gateway: gateway.into(), busy, ..Default::default() };
            check(&report).map(|busy| busy.len()).map_err(|status| status.message().to_owned())
        };
        assert_eq!(report("0a-9z", &["4.0.1.2", "4.0.1.2", "5.0.0.1"]), Ok(2));
        for gateway in ["", "A", "a b", &"a".repeat(65)] {
            assert!(report(gateway, &[]).unwrap_err().contains("gateway"), "{gateway}");
        }
        assert!(report("a", &["4.0.1.2", "x"]).unwrap_err().contains("busy"));
    }
}
