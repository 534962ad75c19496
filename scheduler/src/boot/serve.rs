//! The gRPC server with every service.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use berth_identity::tls::Listener;
use berth_proto::{DESCRIPTORS, v1};
use berth_raft::transport::PeerHandler;
use berth_raft::transport::service::PeerService;
use futures::stream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::access::{GateLayer, may_speak};
use crate::rpc::{
    AccessService, AgentsService, GatewaysService, JobsService, NamespacesService,
    NodeReservationsService, NodesService, OperatorService, REQUEST_BYTES_MAX, ServicesService,
    Shared,
};

/// After this a connection takes no new calls and another is made: the callers'
/// certificates are looked at anew, well before they end. Streams go on.
const CONNECTION_AGE: Duration = Duration::from_secs(6 * 60 * 60);
/// Streams of one connection: an agent needs a few, a client a handful.
const STREAMS_MAX: u32 = 1024;
/// Streams of one connection that are refused or reset for what the caller did wrong, before the
/// connection ends. tonic 0.14.9 sets none unless asked, over hyper's own 1,024: 200,000 streams
/// beyond the limit were answered each, and up to 160 MiB of answers waited to be written.
const STREAMS_REFUSED_MAX: usize = 1024;

pub(super) async fn serve_grpc(
    mut listener: Listener,
    gate: GateLayer,
    shared: Shared,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    use v1::access_server::AccessServer;
    use v1::agents_server::AgentsServer;
    use v1::gateways_server::GatewaysServer;
    use v1::jobs_server::JobsServer;
    use v1::namespaces_server::NamespacesServer;
    use v1::node_reservations_server::NodeReservationsServer;
    use v1::nodes_server::NodesServer;
    use v1::operator_server::OperatorServer;
    use v1::services_server::ServicesServer;

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<JobsServer<JobsService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()
        .context("describe the services")?;
    let handler: Arc<dyn PeerHandler> = Arc::new(shared.node.clone());
    let jobs =
        JobsServer::new(JobsService(shared.clone())).max_decoding_message_size(REQUEST_BYTES_MAX);
    let agents = AgentsServer::new(AgentsService(shared.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let access = AccessServer::new(AccessService(shared.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let incoming = stream::poll_fn(move |context| {
        listener.poll_accept(context).map(|link| link.map(Ok::<_, std::io::Error>))
    });
    let routes = Routes::new(jobs)
        .add_service(NodesServer::new(NodesService(shared.clone())))
        .add_service(NamespacesServer::new(NamespacesService(shared.clone())))
        .add_service(GatewaysServer::new(GatewaysService(shared.clone())))
        .add_service(NodeReservationsServer::new(NodeReservationsService(shared.clone())))
        .add_service(ServicesServer::new(ServicesService(shared.clone())))
        .add_service(OperatorServer::new(OperatorService { shared: shared.clone() }))
        .add_service(access)
        .add_service(agents)
        .add_service(PeerService::checked_server(handler, Arc::new(may_speak)))
        .add_service(health_service)
        .add_service(reflection);
    Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_local_error_reset_streams(Some(STREAMS_REFUSED_MAX))
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .max_connection_age(CONNECTION_AGE)
        .layer(gate)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.cancelled())
        .await
        .context("serve gRPC")
}
