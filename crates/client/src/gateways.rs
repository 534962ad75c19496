//! What gateways are told.

use berth_proto::v1::gateways_client::GatewaysClient;
use berth_proto::v1::{Routes, WatchRoutesRequest};
use tonic::Streaming;

use crate::cluster::{Client, Repeat};
use crate::error::ClientError;
use crate::stream::without_limit;

impl Client {
    /// The routes, whole, each time they have changed. It ends when the scheduler that tells them
    /// does; whoever asks again is told all again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch_routes(&self) -> Result<Streaming<Routes>, ClientError> {
        self.call(Repeat::Read, WatchRoutesRequest {}, |channel, request| async move {
            GatewaysClient::new(channel).watch_routes(without_limit(request)).await
        })
        .await
    }
}
