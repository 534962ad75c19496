//! A cluster of one scheduler that answers from fixed data. Some names of jobs
//! have fixed refusals.

pub mod data;
mod namespaces;
mod reached;
mod reservations;
mod services;

use std::sync::{Arc, Mutex};

use berth_proto::v1::jobs_server::JobsServer;
use berth_proto::v1::namespaces_server::NamespacesServer;
use berth_proto::v1::node_reservations_server::NodeReservationsServer;
use berth_proto::v1::nodes_server::NodesServer;
use berth_proto::v1::operator_server::OperatorServer;
use berth_proto::v1::services_server::ServicesServer;
use berth_proto::v1::{ErrorDetail, SubmitRequest};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Status};

/// One scheduler.
#[derive(Clone)]
pub struct Fake {
    pub address: String,
    pub behaviour: Behaviour,
    pub submitted: Arc<Mutex<Vec<SubmitRequest>>>,
    /// Told when a job has been asked for, or a submit has arrived that will not
    /// be answered.
    pub arrived: Arc<Notify>,
}

/// How a scheduler takes calls.
#[derive(Clone)]
pub enum Behaviour {
    Answers,
    /// Sends every caller to this address.
    Redirects(String),
    NoLeader,
    /// Takes submits and never answers them.
    Silent,
    /// Loses its leadership during every submit.
    Loses,
}

impl Fake {
    /// Serves on a free port of the loopback until the test's runtime ends.
    pub async fn start(behaviour: Behaviour) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fake = Fake { address, behaviour, submitted: Arc::default(), arrived: Arc::default() };
        let server = tonic::transport::Server::builder()
            .add_service(JobsServer::new(fake.clone()))
            .add_service(NodesServer::new(fake.clone()))
            .add_service(NamespacesServer::new(fake.clone()))
            .add_service(NodeReservationsServer::new(fake.clone()))
            .add_service(ServicesServer::new(fake.clone()))
            .add_service(OperatorServer::new(fake.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        fake
    }

    /// What every call meets first.
    fn enter(&self) -> Result<(), Status> {
        match &self.behaviour {
            Behaviour::Answers | Behaviour::Silent | Behaviour::Loses => Ok(()),
            Behaviour::Redirects(leader) => Err(refused(
                Code::Unavailable,
                "not the leader",
                ErrorDetail { leader_address: leader.clone(), ..ErrorDetail::default() },
            )),
            Behaviour::NoLeader => Err(refused(
                Code::Unavailable,
                "no leader (2 of 3 down since 12:03)",
                ErrorDetail::default(),
            )),
        }
    }
}

/// A status with details, as schedulers send it.
pub fn refused(code: Code, message: &str, detail: ErrorDetail) -> Status {
    Status::with_details(code, message, detail.encode_to_vec().into())
}
