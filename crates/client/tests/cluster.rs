//! Finding the leader, repeating what may be repeated, and naming what went
//! wrong, against schedulers on the loopback.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod fake;

use std::time::Duration;

use berth_client::{Client, ClientError, Failure, Options};
use berth_proto::v1::{
    ChangeJobRequest, ErrorDetail, Event, EventsRequest, FieldViolation, GetJobRequest, LogChunk,
    LogsRequest, SubmitRequest,
};
use fake::{Asked, Fake, not_leader, outcome_unknown, status, unavailable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::{Code, Status};

fn client(servers: &[&str]) -> Client {
    let servers = servers.iter().map(|server| (*server).to_owned()).collect();
    Client::new(Options::new(servers))
}

/// For cases that end only when the patience does.
fn hasty(servers: &[&str]) -> Client {
    let servers = servers.iter().map(|server| (*server).to_owned()).collect();
    // An attempt must be answered also by a machine that is busy with other things.
    let deadline = Duration::from_millis(1_500);
    let attempt = Duration::from_millis(400);
    Client::new(Options { deadline, attempt, ..Options::new(servers) })
}

/// An address at which nothing listens: the port was free a moment ago.
async fn closed_port() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

/// A server that greets every connection with `greeting` and reads on.
async fn greeter(greeting: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(greeting).await;
                let mut buffer = [0; 1024];
                while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
            });
        }
    });
    address
}

fn failures(error: &ClientError) -> Vec<(String, Failure)> {
    let tried = match error {
        ClientError::Unreachable { tried }
        | ClientError::NoLeader { tried }
        | ClientError::OutcomeUnknown { tried, .. } => tried,
        ClientError::Refused(refusal) => panic!("refused: {refusal:?}"),
    };
    tried.iter().map(|tried| (tried.address.clone(), tried.failure.clone())).collect()
}

#[tokio::test]
async fn a_follower_s_word_leads_to_the_leader() {
    let (follower, leader) = (Fake::start().await, Fake::start().await);
    follower.refuse(not_leader(&leader.address));
    let client = client(&[&follower.address]);
    assert_eq!(client.get_job(GetJobRequest::default()).await.unwrap().id, 7);
    assert_eq!((follower.asked().len(), leader.asked().len()), (1, 1));
    // From then on the leader is asked first.
    client.get_job(GetJobRequest::default()).await.unwrap();
    assert_eq!((follower.asked().len(), leader.asked().len()), (1, 2));
}

#[tokio::test]
async fn the_next_scheduler_is_asked_when_one_is_down() {
    let (closed, up) = (closed_port().await, Fake::start().await);
    let client = client(&[&closed, &up.address]);
    assert_eq!(client.get_job(GetJobRequest::default()).await.unwrap().id, 7);
}

#[tokio::test]
async fn an_election_is_waited_for() {
    let scheduler = Fake::start().await;
    scheduler.refuse(unavailable("no leader")).refuse(unavailable("no leader"));
    let client = client(&[&scheduler.address]);
    assert_eq!(client.get_job(GetJobRequest::default()).await.unwrap().id, 7);
    assert_eq!(scheduler.asked().len(), 3);
}

#[tokio::test]
async fn a_quarrel_about_who_leads_ends_in_no_leader() {
    let (one, two) = (Fake::start().await, Fake::start().await);
    for _ in 0..100 {
        one.refuse(not_leader(&two.address));
        two.refuse(not_leader(&one.address));
    }
    let error = hasty(&[&one.address]).get_job(GetJobRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::NoLeader { .. }), "{error:?}");
    // Few questions, since there are waits between the rounds.
    assert!(one.asked().len() + two.asked().len() < 100);
}

#[tokio::test]
async fn each_address_is_told_with_its_cause() {
    let closed = closed_port().await;
    let web = greeter(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let shell = greeter(b"SSH-2.0-OpenSSH_9.6\r\n").await;
    let unknown = "no-such-host.invalid:7070";
    let servers = [closed.as_str(), &web, &shell, unknown];
    let error = hasty(&servers).get_job(GetJobRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    let mut found = failures(&error);
    found.sort_by_key(|(address, _)| servers.iter().position(|server| server == address));
    let expected = [
        (closed.clone(), Failure::ConnectionRefused),
        (web.clone(), Failure::NotBerth),
        (shell.clone(), Failure::NotBerth),
        (unknown.to_owned(), Failure::UnknownHost),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_grpc_server_of_another_kind_is_no_berth_server() {
    let other = Fake::start().await;
    for _ in 0..100 {
        other.refuse(Status::unimplemented(""));
    }
    let error = hasty(&[&other.address]).get_job(GetJobRequest::default()).await.unwrap_err();
    assert_eq!(failures(&error), [(other.address.clone(), Failure::NotBerth)]);
}

#[tokio::test]
async fn no_quorum_is_told_in_the_schedulers_words() {
    let one = Fake::start().await;
    for _ in 0..100 {
        one.refuse(unavailable("no leader (2 of 3 down since 12:03)"));
    }
    let closed = closed_port().await;
    let error = hasty(&[&one.address, &closed]).submit(SubmitRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::NoLeader { .. }), "{error:?}");
    let words = Failure::Unavailable("no leader (2 of 3 down since 12:03)".into());
    assert!(failures(&error).contains(&(one.address.clone(), words)));
}

#[tokio::test]
async fn no_attempt_begins_that_would_be_cut_off() {
    let scheduler = Fake::start().await;
    let detail = ErrorDetail { retry_after_ms: Some(1_400), ..ErrorDetail::default() };
    scheduler.refuse(status(Code::Unavailable, "no leader", detail));
    let error = hasty(&[&scheduler.address]).submit(SubmitRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::NoLeader { .. }), "{error:?}");
    assert_eq!(scheduler.asked().len(), 1);
}

#[tokio::test]
async fn a_submit_is_repeated_with_the_key_it_was_given() {
    let scheduler = Fake::start().await;
    scheduler.refuse(outcome_unknown()).refuse(outcome_unknown());
    let client = client(&[&scheduler.address]);
    assert_eq!(client.submit(SubmitRequest::default()).await.unwrap().job_id, 7);
    let keys: Vec<String> = scheduler
        .asked()
        .into_iter()
        .map(|asked| {
            let Asked::Submit(request) = asked else { panic!("{asked:?}") };
            request.key
        })
        .collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0] && !key.is_empty()), "{keys:?}");
}

#[tokio::test]
async fn an_unknown_outcome_names_the_key() {
    let scheduler = Fake::start().await;
    for _ in 0..100 {
        scheduler.refuse(outcome_unknown());
    }
    let request = SubmitRequest { key: "K".into(), ..SubmitRequest::default() };
    let error = hasty(&[&scheduler.address]).submit(request).await.unwrap_err();
    let ClientError::OutcomeUnknown { key, .. } = error else { panic!("{error:?}") };
    assert_eq!(key.as_deref(), Some("K"));
}

#[tokio::test]
async fn what_is_not_the_same_twice_is_not_repeated() {
    let scheduler = Fake::start().await;
    scheduler.refuse(outcome_unknown());
    let client = client(&[&scheduler.address]);
    let error = client.restart_job(ChangeJobRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { key: None, .. }), "{error:?}");
    assert_eq!(scheduler.asked().len(), 1);
    // Where it surely did not happen, it is.
    scheduler.refuse(unavailable("no leader"));
    assert_eq!(client.restart_job(ChangeJobRequest::default()).await.unwrap().id, 7);
    assert_eq!(scheduler.asked().len(), 3);
}

#[tokio::test]
async fn a_follower_that_loses_the_leader_leaves_the_outcome_open() {
    let scheduler = Fake::start().await;
    scheduler.refuse(Status::unknown("transport error"));
    let client = client(&[&scheduler.address]);
    assert_eq!(client.submit(SubmitRequest::default()).await.unwrap().job_id, 7);
    scheduler.refuse(Status::unknown("transport error"));
    let error = client.restart_job(ChangeJobRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}");
}

#[tokio::test]
async fn a_frozen_scheduler_holds_up_one_attempt_only() {
    // The system accepts the connection; nobody reads from it.
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let frozen_address = frozen.local_addr().unwrap().to_string();
    let up = Fake::start().await;
    let client = hasty(&[&frozen_address, &up.address]);
    assert_eq!(client.get_job(GetJobRequest::default()).await.unwrap().id, 7);
    let client = hasty(&[&frozen_address, &up.address]);
    let error = client.restart_job(ChangeJobRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}");
    assert_eq!(failures(&error), [(frozen_address, Failure::TimedOut)]);
}

#[tokio::test]
async fn a_refusal_is_final_and_keeps_its_details() {
    let scheduler = Fake::start().await;
    let violation = FieldViolation {
        field: "tasks.main.gpu.count".into(),
        message: "expected 1 to 64".into(),
        hint: String::new(),
    };
    let detail = ErrorDetail {
        violations: vec![violation.clone()],
        hint: "ask for fewer".into(),
        request_id: "r-1".into(),
        ..ErrorDetail::default()
    };
    scheduler.refuse(status(Code::InvalidArgument, "the job is not valid", detail));
    let error = client(&[&scheduler.address]).submit(SubmitRequest::default()).await.unwrap_err();
    let ClientError::Refused(refusal) = error else { panic!("{error:?}") };
    assert_eq!(
        (refusal.code, refusal.message.as_str()),
        (Code::InvalidArgument, "the job is not valid")
    );
    assert_eq!(refusal.violations, [violation]);
    assert_eq!(refusal.hint.as_deref(), Some("ask for fewer"));
    assert_eq!(refusal.request_id.as_deref(), Some("r-1"));
    assert_eq!(scheduler.asked().len(), 1);
}

fn event(token: &str) -> Result<Event, Status> {
    Ok(Event { token: token.into(), ..Event::default() })
}

#[tokio::test]
async fn events_go_on_behind_the_last_one_after_a_break() {
    let scheduler = Fake::start().await;
    scheduler.stream_events(vec![event("1"), event("2"), Err(unavailable("stopping"))]);
    scheduler.stream_events(vec![event("3")]);
    let mut events = client(&[&scheduler.address]).events(EventsRequest::default());
    let mut tokens = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        tokens.push(event.token);
    }
    assert_eq!(tokens, ["1", "2", "3"]);
    let after: Vec<String> = scheduler
        .asked()
        .into_iter()
        .map(|asked| {
            let Asked::Events(request) = asked else { panic!("{asked:?}") };
            request.after
        })
        .collect();
    assert_eq!(after, ["", "2"]);
}

#[tokio::test]
async fn a_token_that_is_gone_ends_the_stream() {
    let scheduler = Fake::start().await;
    scheduler.refuse(status(Code::OutOfRange, "the token is too old", ErrorDetail::default()));
    let mut events = client(&[&scheduler.address]).events(EventsRequest::default());
    let error = events.next().await.unwrap_err();
    let ClientError::Refused(refusal) = error else { panic!("{error:?}") };
    assert_eq!(refusal.code, Code::OutOfRange);
}

fn chunk(allocation: &str, data: &str) -> Result<LogChunk, Status> {
    Ok(LogChunk {
        allocation_id: allocation.into(),
        data: data.to_owned().into(),
        ..LogChunk::default()
    })
}

async fn all_logs(scheduler: &Fake) -> String {
    let mut logs = client(&[&scheduler.address]).logs(LogsRequest::default());
    let mut text = String::new();
    while let Some(chunk) = logs.next().await.unwrap() {
        text.push_str(std::str::from_utf8(&chunk.data).unwrap());
    }
    text
}

#[tokio::test]
async fn logs_are_given_once_after_a_break() {
    let scheduler = Fake::start().await;
    let lost = || Err(unavailable("the agent is gone"));
    scheduler.stream_logs(vec![chunk("a", "one "), chunk("", "two "), lost()]);
    scheduler.stream_logs(vec![chunk("a", "on"), chunk("", "e two th"), chunk("", "ree"), lost()]);
    scheduler.stream_logs(vec![chunk("a", "one two three four")]);
    assert_eq!(all_logs(&scheduler).await, "one two three four");
}

#[tokio::test]
async fn another_attempt_is_read_from_its_start() {
    let scheduler = Fake::start().await;
    scheduler.stream_logs(vec![chunk("a", "first"), Err(unavailable("the agent is gone"))]);
    scheduler.stream_logs(vec![chunk("b", "again")]);
    assert_eq!(all_logs(&scheduler).await, "firstagain");
}
