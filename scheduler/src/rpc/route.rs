//! Where a call is answered: here if this node leads, else at the leader, to
//! which it is forwarded once.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use berth_identity::Dialer;
use berth_raft::{ProposeError, RaftStatus};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Extensions, Request, Status};

use super::{Shared, status};
use crate::access::mark;
use crate::leader::Leader;

/// Marks a call that has been forwarded, so that two schedulers that each take
/// the other for the leader do not play ball.
const FORWARDED: &str = "berth-forwarded";
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);

/// A leader that falls silent in the middle of a call is noticed within the sum
/// of these two, sooner than a client gives up its attempt; a short stall of a
/// busy one is borne.
const SILENCE_BEFORE_PING: Duration = Duration::from_millis(400);
const PING_LIMIT: Duration = Duration::from_millis(700);
/// For the answer of a leader that has been replaced meanwhile. One that handed
/// over in order still answers; one that was cut off never will.
const REPLACED_GRACE: Duration = Duration::from_millis(200);

/// Who answers a call.
pub enum Route {
    Here(Arc<Leader>),
    There(Forward),
}

/// The way to the leader.
pub struct Forward {
    address: String,
    pub channel: Channel,
}

impl Shared {
    /// The leader, if this node is it.
    pub fn leading(&self) -> Option<Arc<Leader>> {
        self.leader.borrow().clone()
    }

    /// The leader, or a status that says where it is.
    pub fn leading_or_redirect(&self) -> Result<Arc<Leader>, Status> {
        self.leading().ok_or_else(|| status::not_leader(self.leader_address().as_deref()))
    }

    /// Decides who answers a call.
    pub fn route<T>(&self, request: &Request<T>) -> Result<Route, Status> {
        if let Some(leader) = self.leading() {
            return Ok(Route::Here(leader));
        }
        let address = self.leader_address();
        let Some(address) = address.filter(|_| request.metadata().get(FORWARDED).is_none()) else {
            return Err(status::not_leader(self.leader_address().as_deref()));
        };
        let channel = self.channel_to(address.clone())?;
        Ok(Route::There(Forward { address, channel }))
    }

    /// What comes of a call that was forwarded.
    pub async fn forwarded<T>(
        &self,
        forward: Forward,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let mut changes = self.node.status_changes();
        let replaced = async {
            let leads = |raft: &RaftStatus| {
                raft.leader.as_ref().is_some_and(|(_, address)| *address == forward.address)
            };
            changes.wait_for(|raft| !leads(raft)).await;
            tokio::time::sleep(REPLACED_GRACE).await;
        };
        tokio::select! {
            answer = call => answer.map_err(status::from_forward),
            () = replaced => Err(status::from_propose(&ProposeError::OutcomeUnknown)),
        }
    }

    /// The connection to the leader; one for all calls, made anew when another
    /// leads.
    fn channel_to(&self, address: String) -> Result<Channel, Status> {
        let mut kept = self.to_leader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, channel)) = kept.as_ref().filter(|(known, _)| *known == address) {
            return Ok(channel.clone());
        }
        let endpoint =
            Dialer::endpoint(&address).map_err(|_| status::not_leader(Some(&address)))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FORWARD_TIMEOUT)
            .http2_keep_alive_interval(SILENCE_BEFORE_PING)
            .keep_alive_timeout(PING_LIMIT)
            .tcp_nodelay(true);
        let channel = self.dialer.channel(&endpoint);
        *kept = Some((address, channel.clone()));
        Ok(channel)
    }

    /// Where the leader is, as far as this node knows, if it is another.
    pub fn leader_address(&self) -> Option<String> {
        let raft = self.node.status();
        raft.leader.filter(|(id, _)| *id != raft.node_id).map(|(_, address)| address)
    }
}

/// The request as it goes on to the leader, with whom it comes from.
pub fn marked<T>(request: Request<T>) -> Request<T> {
    let mut metadata = MetadataMap::new();
    metadata.insert(FORWARDED, MetadataValue::from_static("1"));
    mark(&request, &mut metadata);
    Request::from_parts(metadata, Extensions::default(), request.into_inner())
}

/// Answers here with `$here(leader, granted, message)`, or forwards to the
/// leader's service of the same name.
macro_rules! at_leader {
    ($shared:expr, $request:expr, $client:ident :: $method:ident, |$leader:ident, $granted:ident, $message:ident| $here:expr) => {{
        let request = $request;
        match $shared.route(&request)? {
            $crate::rpc::route::Route::Here($leader) => {
                let $granted = &$crate::access::Granted::of(&request)?;
                let $message = request.into_inner();
                $here.await.map(tonic::Response::new)
            }
            $crate::rpc::route::Route::There(forward) => {
                let mut client = $client::new(forward.channel.clone());
                let call = client.$method($crate::rpc::route::marked(request));
                $shared.forwarded(forward, call).await
            }
        }
    }};
}

/// Answers a call at the leader, which knows more, unless another consistency was asked for:
/// `$leader` is `None` then.
macro_rules! where_asked {
    ($shared:expr, $request:expr, $client:ident :: $method:ident, |$leader:ident, $granted:ident, $message:ident| $here:expr) => {{
        let request = $request;
        if request.get_ref().consistency != 0 {
            let $granted = &$crate::access::Granted::of(&request)?;
            let $leader = None;
            let $message = request.into_inner();
            return $here.await.map(tonic::Response::new);
        }
        $crate::rpc::route::at_leader!(
            $shared,
            request,
            $client::$method,
            |leader, $granted, $message| {
                let $leader = Some(leader);
                $here
            }
        )
    }};
}

pub(crate) use {at_leader, where_asked};
