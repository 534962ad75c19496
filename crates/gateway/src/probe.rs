//! Looks at replicas: one that is stopped, or whose host is gone, breaks no connection, and only
//! silence tells.

use std::sync::Arc;
use std::time::Duration;

use berth_model::AllocationId;
use bytes::Bytes;
use http::uri::Authority;
use http::{Request, Uri};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::outgoing::{Outgoing, Upstream};
use crate::service::{Found, Service};

const EVERY: Duration = Duration::from_secs(1);
/// An answer that takes longer is none.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// So many misses in a row, and it is gone; the first answer brings it back.
const MISSES: u32 = 3;

/// A replica that tells whether it is well.
pub(crate) struct Looked {
    pub id: AllocationId,
    pub authority: Authority,
    pub path: String,
    pub left: CancellationToken,
}

/// Until it is no longer of the service.
pub(crate) async fn look(service: Arc<Service>, looked: Looked, upstream: Upstream) {
    let Looked { id, authority, path, left } = looked;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missed = 0;
    loop {
        tokio::select! {
            () = left.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let answers = tokio::select! {
            () = left.cancelled() => return,
            answers = answers(&upstream, authority.clone(), &path) => answers,
        };
        missed = if answers { 0 } else { missed + 1 };
        match missed {
            0 => service.found(id, Found::There),
            MISSES.. => service.found(id, Found::Gone),
            _ => {}
        }
    }
}

/// How often one that refuses connections is tried, and how long a try may take.
const RETRY: Duration = Duration::from_millis(200);

/// Until a replica that refused a connection takes one, or is no longer of the service.
pub(crate) async fn until_it_takes(
    service: Arc<Service>,
    id: AllocationId,
    authority: Authority,
    left: CancellationToken,
) {
    loop {
        tokio::select! {
            () = left.cancelled() => return,
            () = sleep(RETRY) => {}
        }
        let connected = timeout(ANSWER_MAX, TcpStream::connect(authority.as_str())).await;
        if matches!(connected, Ok(Ok(_))) {
            return service.takes(id);
        }
    }
}

/// Any answer is one: what it says is for its agent to judge, and it alone decides who is ready.
async fn answers(upstream: &Upstream, authority: Authority, path: &str) -> bool {
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build();
    let Ok(uri) = uri else { return true };
    let mut request = Request::new(Outgoing::Whole(Bytes::new()));
    *request.uri_mut() = uri;
    matches!(timeout(ANSWER_MAX, upstream.request(request)).await, Ok(Ok(_)))
}
