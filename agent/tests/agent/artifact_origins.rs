//! Files from hosts of https and from the buckets of stores, with the agent's credentials.

use std::fs;

use berth_proto::v1::EndCause;

use crate::artifacts::{job, run, weights, with_checksum};
use crate::harness::agent::Agent;
use crate::harness::origin::{Asked, How, Origin};
use crate::harness::scheduler::Scheduler;

/// The one address of the tests that is reached as everybody's would be, with a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_host_of_https_is_believed_by_its_certificate_alone() {
    let mut scheduler = Scheduler::start().await;
    let (origin, certificate) = Origin::start_tls().await;
    origin.serve("/w", b"weights", &[How::CutAfter(3), How::Well]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authorities.pem");
    fs::write(&file, certificate).unwrap();
    let named = format!("https://{}/", origin.address);
    let environment =
        [("SSL_CERT_FILE", file.to_str().unwrap()), ("ARTIFACT_TOKENS", "127.0.0.1=secret")];
    let more = ["--artifacts-allow", named.as_str()];
    let mut agent = Agent::start_with(&scheduler.address, &more, &environment);
    scheduler.session().await;
    scheduler.send_full();
    let good = with_checksum(job(1, &format!("{named}w"), "w"), b"weights");
    let ended = run(&mut scheduler, &good).await;
    assert_eq!((ended.exit_code, &*agent.stdout(good.id(0))), (Some(0), "weights"), "{ended:?}");
    let asked = origin.asked("/w");
    assert_eq!(asked.iter().map(|asked| asked.status).collect::<Vec<_>>(), [200, 206]);
    assert_eq!(asked[0].headers["authorization"], "Bearer secret");
    // Nobody vouches for the same host any more.
    agent.terminate().await;
    let (_, stranger) = Origin::start_tls().await;
    fs::write(&file, stranger).unwrap();
    agent.start_again();
    scheduler.session().await;
    let bad = job(2, &format!("{named}w"), "w");
    let ended = run(&mut scheduler, &bad).await;
    assert_eq!(ended.cause, i32::from(EndCause::Exited), "{ended:?}");
    assert!(ended.reason.contains("invalid peer certificate"), "{ended:?}");
    assert_eq!(origin.asked("/w").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_an_object_of_a_bucket_is_fetched_with_the_agents_credentials() {
    let mut scheduler = Scheduler::start().await;
    let (origin, body) = (Origin::start().await, weights());
    let endpoint = format!("http://{}", origin.address);
    let environment = [
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "very-secret"),
        ("AWS_REGION", "us-east-1"),
    ];
    let more = ["--artifacts-allow", "s3://models/llama/"];
    let agent = Agent::start_with(&scheduler.address, &more, &environment);
    scheduler.session().await;
    scheduler.send_full();
    origin.serve("/models/llama/w", &body, &[How::CutAfter(100_000), How::Well]);
    let mut first = with_checksum(job(1, "s3://models/llama/w", "w"), &body);
    first.task().command = ["sh", "-c", "cat w; env >&2; exit 3"].map(str::to_owned).into();
    let ended = run(&mut scheduler, &first).await;
    assert_eq!(ended.exit_code, Some(3), "{ended:?}");
    assert_eq!(agent.stdout(first.id(0)).as_bytes(), body);
    assert!(!ended.stderr_tail.contains("very-secret"), "{ended:?}");
    let asked = origin.asked("/models/llama/w");
    assert_eq!(asked.iter().map(|asked| asked.status).collect::<Vec<_>>(), [200, 206]);
    let signed = |asked: &Asked| {
        asked.headers["authorization"].starts_with("AWS4-HMAC-SHA256 Credential=key/")
    };
    assert!(asked.iter().all(signed), "{asked:?}");
    for (number, source, reason) in [
        (2, "s3://models/other", "agent.artifacts.allow does not name it"),
        (3, "s3://models/llama/none", "there is no such object"),
    ] {
        let ended = run(&mut scheduler, &job(number, source, "w")).await;
        assert_eq!(ended.cause, i32::from(EndCause::CannotStart), "{ended:?}");
        assert!(ended.reason.contains(reason), "{ended:?}");
    }
}

/// Google's store and Azure's, as far as a server that knows neither can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_objects_of_other_stores_are_fetched_from_where_the_agent_says() {
    let mut scheduler = Scheduler::start().await;
    let origin = Origin::start().await;
    let endpoint = format!("http://{}", origin.address);
    let environment = [
        ("GOOGLE_BASE_URL", endpoint.as_str()),
        ("GOOGLE_ALLOW_HTTP", "true"),
        ("GOOGLE_SKIP_SIGNATURE", "true"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0"),
        ("AZURE_ENDPOINT", endpoint.as_str()),
        ("AZURE_ALLOW_HTTP", "true"),
        // Without leave to send credentials in plain text.
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let more = ["--artifacts-allow", "gs,az,s3"];
    let agent = Agent::start_with(&scheduler.address, &more, &environment);
    scheduler.session().await;
    scheduler.send_full();
    for (number, scheme, signed) in [(1, "gs", ""), (2, "az", "SharedKey account:")] {
        let path = format!("/{scheme}bucket/w");
        origin.serve(&path, scheme.as_bytes(), &[How::Well]);
        let job = job(number, &format!("{scheme}:/{path}"), "w");
        let ended = run(&mut scheduler, &job).await;
        assert_eq!((ended.exit_code, &*agent.stdout(job.id(0))), (Some(0), scheme), "{ended:?}");
        let asked = origin.asked(&path);
        let authorization = asked[0].headers.get("authorization").cloned().unwrap_or_default();
        assert!(authorization.starts_with(signed), "{asked:?}");
    }
    origin.serve("/b/w", b"w", &[How::Well]);
    let ended = run(&mut scheduler, &job(3, "s3://b/w", "w")).await;
    assert!(ended.reason.contains("plain text"), "{ended:?}");
    assert_eq!(origin.asked("/b/w").len(), 0);
}
