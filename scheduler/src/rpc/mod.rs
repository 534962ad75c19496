//! The gRPC services. Each call is decoded through `wire`, answered from the
//! published view or by the leader, and refused in one vocabulary.

mod access;
mod agents;
mod asked;
mod backup;
mod capture;
mod defrag;
mod events;
pub mod exec;
mod files;
mod gateways;
mod instance;
mod jobs;
mod logs;
mod lookup;
mod members;
mod namespaces;
mod node_reservations;
mod nodes;
mod operator;
mod orphans;
mod policies;
mod reads;
mod route;
mod services;
pub mod status;
mod stock;
mod submit;
mod version;

use std::sync::{Arc, Mutex};

use berth_identity::Dialer;
use berth_state::{Command, Reply};
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

use crate::access::Security;
use crate::app::Published;
use crate::leader::{Leader, Node};

pub use access::AccessService;
pub use agents::AgentsService;
pub use gateways::GatewaysService;
pub use jobs::JobsService;
pub use namespaces::NamespacesService;
pub use node_reservations::NodeReservationsService;
pub use nodes::NodesService;
pub use operator::OperatorService;
pub use services::ServicesService;

/// What every service holds.
#[derive(Clone)]
pub struct Shared {
    pub node: Node,
    pub published: Arc<Published>,
    pub leader: watch::Receiver<Option<Arc<Leader>>>,
    pub cluster_id: [u8; 16],
    /// In a cluster that speaks TLS.
    pub security: Option<Arc<Security>>,
    /// How other schedulers are reached.
    pub dialer: Dialer,
    /// The connection over which calls are forwarded, and to whom it goes. The
    /// lock guards looks and replacements.
    pub to_leader: Arc<Mutex<Option<(String, Channel)>>>,
}

/// Proposes a command and waits until it is applied.
///
/// # Errors
/// What the log said, or what apply refused.
async fn settle(leader: &Leader, command: Command) -> Result<Reply, Status> {
    let answer = leader.propose(command).await.map_err(|error| status::from_propose(&error))?;
    answer.map_err(|refusal| status::from_refusal(&refusal))
}

/// The largest request that is decoded. A submit of many jobs is the largest
/// there is.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
