//! One call to one scheduler, as a client in any language would make it: no
//! other scheduler is asked and nothing is repeated.

use std::time::{Duration, Instant};

use berth_model::JobSpec;
use berth_proto::v1;
use berth_proto::v1::jobs_client::JobsClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

/// A scheduler that cannot serve says so within this.
pub const REFUSAL_LIMIT: Duration = Duration::from_millis(1_500);

async fn jobs(server: &str) -> JobsClient<tonic::transport::Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{server}")).unwrap();
    JobsClient::new(endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy())
}

pub async fn submit(server: &str, spec: &JobSpec, key: &str) -> Result<v1::SubmitReply, Status> {
    let request = super::request(spec, key);
    jobs(server).await.submit(request).await.map(tonic::Response::into_inner)
}

/// How fresh a read is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Read {
    Linearizable,
    Stale,
}

pub async fn get(server: &str, job: &str, read: Read) -> Result<v1::Job, Status> {
    let consistency = match read {
        Read::Linearizable => v1::Consistency::Unspecified,
        Read::Stale => v1::Consistency::Stale,
    };
    let consistency = consistency as i32;
    let request = v1::GetJobRequest { job: super::reference(job), consistency, with_spec: false };
    jobs(server).await.get(request).await.map(tonic::Response::into_inner)
}

/// A page of a daemon that speaks plain text.
pub async fn page(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let asked = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// What a scheduler without a majority has to answer, and how soon.
///
/// # Panics
/// If the call succeeds, takes too long, or fails in other words.
pub async fn is_refused<T>(what: &str, call: impl Future<Output = Result<T, Status>>) {
    let began = Instant::now();
    let answer = call.await;
    let took = began.elapsed();
    let Err(status) = answer else { panic!("{what}: was answered without a majority") };
    assert!(took <= REFUSAL_LIMIT, "{what}: refused after {took:?}: {status}");
    assert_eq!(status.code(), Code::Unavailable, "{what}: {status}");
    let message = status.message();
    let says_why =
        ["no quorum", "no leader", "the leader is at", "outcome is unknown", "behind the leader"]
            .iter()
            .any(|reason| message.contains(reason));
    assert!(says_why, "{what}: {message}");
}
