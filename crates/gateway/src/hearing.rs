//! Hears what replicas say of themselves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use berth_model::AllocationId;

use crate::outgoing::{Outgoing, Upstream};
use crate::service::Service;
use crate::signals::{self, PAGE_BYTES_MAX};

const EVERY: Duration = Duration::from_secs(1);
/// A page that takes longer says what was.
const PAGE_MAX: Duration = Duration::from_millis(200);
/// Most workers have no such page, or nothing on it that is known.
const SELDOM: Duration = Duration::from_secs(60);

/// A replica that may have a page.
pub(crate) struct Heard {
    pub id: AllocationId,
    pub authority: Authority,
    pub path: String,
    pub left: CancellationToken,
}

/// Until it is no longer of the service. One that says nothing of use is asked less and less, down
/// to once a minute.
pub(crate) async fn keep(service: Arc<Service>, heard: Heard, upstream: Upstream) {
    let Heard { id, authority, path, left } = heard;
    let (mut pause, mut has_said) = (EVERY, false);
    loop {
        let page = timeout(PAGE_MAX, page(&upstream, authority.clone(), &path));
        let page = tokio::select! {
            () = left.cancelled() => return,
            page = page => page.ok().flatten(),
        };
        match page.as_deref().and_then(signals::read) {
            Some((signals, names)) => {
                service.heard_of(id, signals, names);
                (pause, has_said) = (EVERY, true);
            }
            None if has_said => {}
            None => pause = (pause * 2).min(SELDOM),
        }
        tokio::select! {
            () = left.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

async fn page(upstream: &Upstream, authority: Authority, path: &str) -> Option<Bytes> {
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build();
    let mut request = Request::new(Outgoing::Whole(Bytes::new()));
    *request.uri_mut() = uri.ok()?;
    let answer = upstream.request(request).await.ok()?;
    if answer.status() != StatusCode::OK {
        return None;
    }
    let body = Limited::new(answer.into_body(), PAGE_BYTES_MAX).collect().await;
    Some(body.ok()?.to_bytes())
}
