//! Where a call is answered: here if this node leads, else at the leader, to
//! which it is forwarded once.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{Shared, status};
use crate::leader::Leader;

/// Marks a call that has been forwarded, so that two schedulers that each take
/// the other for the leader do not play ball.
const FORWARDED: &str = "berth-forwarded";
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Who answers a call.
pub enum Route {
    Here(Arc<Leader>),
    There(Channel),
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
        self.channel_to(address).map(Route::There)
    }

    /// The connection to the leader; one for all calls, made anew when another
    /// leads.
    fn channel_to(&self, address: String) -> Result<Channel, Status> {
        let mut kept = self.to_leader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, channel)) = kept.as_ref().filter(|(known, _)| *known == address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| status::not_leader(Some(&address)))?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(FORWARD_TIMEOUT)
            .tcp_nodelay(true)
            .connect_lazy();
        *kept = Some((address, channel.clone()));
        Ok(channel)
    }

    /// Where the leader is, as far as this node knows, if it is another.
    pub fn leader_address(&self) -> Option<String> {
        let raft = self.node.status();
        raft.leader.filter(|(id, _)| *id != raft.node_id).map(|(_, address)| address)
    }
}

/// The request as it goes on to the leader.
pub fn forwarded<T>(request: Request<T>) -> Request<T> {
    let mut forwarded = Request::new(request.into_inner());
    forwarded.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
    forwarded
}

/// Answers here with `$here(leader, message)`, or forwards to the leader's
/// service of the same name.
macro_rules! at_leader {
    ($shared:expr, $request:expr, $client:ident :: $method:ident, |$leader:ident, $message:ident| $here:expr) => {{
        let request = $request;
        match $shared.route(&request)? {
            $crate::rpc::route::Route::Here($leader) => {
                let $message = request.into_inner();
                $here.await.map(tonic::Response::new)
            }
            $crate::rpc::route::Route::There(channel) => {
                let mut client = $client::new(channel);
                let answer = client.$method($crate::rpc::route::forwarded(request)).await;
                answer.map_err($crate::rpc::status::from_forward)
            }
        }
    }};
}

pub(crate) use at_leader;
