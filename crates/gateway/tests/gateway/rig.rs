//! A gateway in front of workers, and a caller.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_gateway::{Endpoint, Gateway, GatewayOptions, Routes, ServiceRoute, Witness};
use berth_model::{AllocationId, InstanceIndex, Name};
use berth_routing::{Member, Policy};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Rig {
    pub gateway: Gateway,
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub served: tokio::task::JoinHandle<()>,
    pub client: Client<HttpConnector, Full<Bytes>>,
}

pub struct Whole {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Whole {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The code of an error.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }
}

pub fn replica(number: u32, address: &str) -> Endpoint {
    let id = AllocationId { instance: InstanceIndex(number), ..AllocationId::default() };
    let member = Member { id, weight_milli: 1_000, tier: 0, limit: None };
    Endpoint { member, address: address.to_owned() }
}

/// The service `chat`, by turns and looked at by nobody unless a test changes that.
pub fn chat(addresses: &[&str]) -> ServiceRoute {
    let replicas = addresses.iter().zip(0..).map(|(address, number)| replica(number, address));
    ServiceRoute {
        namespace: Name::new("default").unwrap(),
        name: Name::new("chat").unwrap(),
        model: "chat".to_owned(),
        created_s: 1_700_000_000,
        policy: Policy::RoundRobin,
        replicas: replicas.collect(),
        health_path: None,
        metrics_path: None,
        silence_max: PATIENCE,
        wait: std::time::Duration::ZERO,
        waiting_max: 0,
    }
}

impl Rig {
    pub async fn new(services: Vec<ServiceRoute>) -> Rig {
        Rig::with(services, GatewayOptions::default()).await
    }

    pub async fn with(services: Vec<ServiceRoute>, options: GatewayOptions) -> Rig {
        Rig::witnessed(services, options, None).await
    }

    pub async fn witnessed(
        services: Vec<ServiceRoute>,
        options: GatewayOptions,
        witness: Option<Arc<dyn Witness>>,
    ) -> Rig {
        let gateway = Gateway::new(options, witness).unwrap();
        gateway.route(&Routes { services });
        Rig::of(gateway).await
    }

    /// A gateway that nobody has told anything.
    pub async fn untold() -> Rig {
        Rig::of(Gateway::new(GatewayOptions::default(), None).unwrap()).await
    }

    async fn of(gateway: Gateway) -> Rig {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (serving, stopped) = (gateway.clone(), stop.clone());
        let served = tokio::spawn(async move { serving.serve(listener, stopped).await });
        let client = Client::builder(TokioExecutor::new()).build_http();
        Rig { gateway, address, stop, served, client }
    }

    /// The beginning of an answer.
    pub async fn begin(
        &self,
        method: Method,
        path: &str,
        body: &str,
    ) -> (http::response::Parts, Incoming) {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let answer = tokio::time::timeout(PATIENCE, self.client.request(request)).await.unwrap();
        answer.unwrap().into_parts()
    }

    pub async fn ask(&self, method: Method, path: &str, body: &str) -> Whole {
        let (parts, body) = self.begin(method, path, body).await;
        let body = body.collect().await.unwrap().to_bytes();
        Whole { status: parts.status, headers: parts.headers, body }
    }

    pub async fn chat(&self, body: &str) -> Whole {
        self.ask(Method::POST, "/v1/chat/completions", body).await
    }

    /// Sends bytes as they are and reads until the gateway closes, or has answered once.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut found = Vec::new();
        let mut chunk = [0; 4096];
        while !is_whole(&found) {
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut chunk)).await.unwrap();
            match read {
                Ok(0) | Err(_) => break,
                Ok(read) => found.extend_from_slice(&chunk[..read]),
            }
        }
        String::from_utf8_lossy(&found).into_owned()
    }

    /// Waits until no request is counted at any replica.
    pub async fn await_idle(&self) {
        await_idle(&self.gateway).await;
    }
}

pub async fn await_idle(gateway: &Gateway) {
    let idle = async {
        while gateway.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, idle).await.expect("requests are still counted");
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.is_some_and(|length| body.len() >= length.trim().parse().unwrap())
}

/// The next piece of a body; `None` at its end.
pub async fn next(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("nothing came");
    frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
}
