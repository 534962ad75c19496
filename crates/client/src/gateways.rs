//! What gateways are told.

use berth_proto::v1::gateways_client::GatewaysClient;
use berth_proto::v1::{GatewayReport, GatewayReportReply, Routes, WatchRoutesRequest};
use tonic::Streaming;

use crate::cluster::{Client, Repeat};
use crate::error::ClientError;
use crate::stream::without_limit;

impl Client {
    /// The routes, whole, each time they have changed, and the index of each view in which they
    /// have not. It ends when the scheduler that tells them does; whoever asks again is told all
    /// again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch_routes(&self) -> Result<Streaming<Routes>, ClientError> {
        self.call(
            Repeat::Read,
            WatchRoutesRequest { progress: true },
            |channel, request| async move {
                GatewaysClient::new(channel).watch_routes(without_limit(request)).await
            },
        )
        .await
    }

    /// What a gateway has under way.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn report_gateway(
        &self,
        report: GatewayReport,
    ) -> Result<GatewayReportReply, ClientError> {
        self.call(Repeat::Read, report, |channel, request| async move {
            GatewaysClient::new(channel).report(request).await
        })
        .await
    }
}
