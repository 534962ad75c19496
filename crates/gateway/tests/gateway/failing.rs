//! Replicas that fail, before the first byte of an answer and after it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::net::TcpListener;

use crate::rig::{Rig, chat, next};
use crate::worker::{Step, Worker, answer, chunk, end, json, say, stream, worker};

const ASK: &str = r#"{"model": "chat", "messages": []}"#;

/// An address at which nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    listener.local_addr().unwrap().to_string()
}

fn count(worker: &Worker) -> usize {
    worker.count.load(Ordering::SeqCst)
}

/// Everybody gets the answer of the one that is well, whatever the other does instead.
async fn check_moved(failing: &str, well: &Worker) {
    let rig = Rig::new(vec![chat(&[failing, &well.address])]).await;
    for _ in 0..4 {
        let answer = rig.chat(ASK).await;
        assert_eq!((answer.status, answer.body.as_ref()), (StatusCode::OK, &b"{}"[..]));
    }
    rig.await_idle().await;
}

#[tokio::test]
async fn f70_before_the_first_byte_another_replica_is_asked() {
    let well = worker(json("{}")).await;
    check_moved(&nobody().await, &well).await;
    for steps in [
        vec![Step::Close],
        vec![stream(), Step::Close],
        vec![say("HTTP/1.1 2"), Step::Close],
        vec![say("garbage\r\n\r\n"), Step::Close],
        vec![say(format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(1 << 20))), Step::Close],
        vec![answer("502 Bad Gateway", "text/plain", "")],
        vec![answer("429 Too Many Requests", "text/plain", "")],
        vec![say("HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n")],
    ] {
        let failing = worker(steps.clone()).await;
        check_moved(&failing.address, &well).await;
        assert!(count(&failing) >= 1, "{steps:?}: it was never asked");
    }
}

#[tokio::test]
async fn what_does_harm_twice_is_not_sent_twice() {
    let (failing, well) = (worker(vec![Step::Close]).await, worker(json("{}")).await);
    let rig = Rig::new(vec![chat(&[&failing.address, &well.address])]).await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(rig.ask(Method::POST, "/invoke/chat/pay", "1").await.status.as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
    assert_eq!((count(&failing), count(&well)), (1, 1));
    // Nothing of it has reached the one at which nobody listens.
    let refused = Rig::new(vec![chat(&[&nobody().await, &well.address])]).await;
    for _ in 0..2 {
        let paid = refused.ask(Method::POST, "/invoke/chat/pay", "1").await;
        assert_eq!(paid.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn what_a_replica_declines_is_declined_and_what_all_refuse_is_told_as_it_came() {
    let declining = worker(vec![answer("422 Odd", "application/json", r#"{"error": 1}"#)]).await;
    let well = worker(json("{}")).await;
    let rig = Rig::new(vec![chat(&[&declining.address, &well.address])]).await;
    let mut found = Vec::new();
    for _ in 0..2 {
        let answer = rig.chat(ASK).await;
        found.push((answer.status.as_u16(), answer.body));
    }
    found.sort();
    assert_eq!(found, [(200, "{}".into()), (422, r#"{"error": 1}"#.into())]);
    let busy = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nbusy";
    let (one, two) = (worker(vec![say(busy)]).await, worker(vec![say(busy)]).await);
    let rig = Rig::new(vec![chat(&[&one.address, &two.address])]).await;
    let answer = rig.chat(ASK).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (503, &b"busy"[..]));
    assert_eq!(answer.headers["retry-after"], "7");
    assert!(count(&one) > 0 && count(&two) > 0);
}

#[tokio::test]
async fn who_has_too_much_to_do_is_spared_for_as_long_as_it_says() {
    let busy = "HTTP/1.1 503 Busy\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n";
    let (busy, well) = (worker(vec![say(busy)]).await, worker(json("{}")).await);
    let mut route = chat(&[&busy.address, &well.address]);
    route.policy = berth_routing::Policy::LeastOutstanding;
    let rig = Rig::new(vec![route]).await;
    for _ in 0..20 {
        assert_eq!(rig.chat(ASK).await.status, StatusCode::OK);
    }
    assert!(count(&busy) <= 1, "it was asked {} times", count(&busy));
}

/// A replica that is busy may keep whoever looks at it waiting, and writes on all the while.
#[tokio::test]
async fn who_writes_on_is_not_gone() {
    let events = (0..6).flat_map(|_| [Step::Hold, chunk("data: 1\n\n")]);
    let last = [chunk("data: [DONE]\n\n"), end()];
    let steps = [Step::HangIfGet, stream()].into_iter().chain(events).chain(last);
    let mut writing = worker(steps.collect()).await;
    let mut route = chat(&[&writing.address]);
    route.health_path = Some("/health".to_owned());
    let rig = Rig::new(vec![route]).await;
    writing.go_on.add_permits(1);
    let (_, mut body) = rig.begin(Method::POST, "/v1/chat/completions", ASK).await;
    let mut text = String::new();
    // Each time it was looked at in vain it has written something since.
    for _ in 0..5 {
        while !writing.requests.recv().await.unwrap().starts_with("GET /health ") {}
        writing.go_on.add_permits(1);
        text += std::str::from_utf8(&next(&mut body).await.unwrap().unwrap()).unwrap();
    }
    text += &rest(&mut body).await;
    assert_eq!(text, format!("{}data: [DONE]\n\n", "data: 1\n\n".repeat(6)));
}

#[tokio::test]
async fn with_nobody_to_ask_it_is_said_at_once_and_how() {
    let rig = Rig::new(vec![chat(&[])]).await;
    let none = rig.chat(ASK).await;
    assert_eq!((none.status.as_u16(), none.code().as_str()), (503, "no_replica"));
    assert_eq!(none.headers["retry-after"], "1");
    let rig = Rig::new(vec![chat(&[&nobody().await])]).await;
    let none = rig.chat(ASK).await;
    assert_eq!((none.status.as_u16(), none.code().as_str()), (503, "no_healthy_replica"));
    let mut full = chat(&[&worker(vec![Step::Hang]).await.address]);
    full.replicas[0].member.limit = Some(0);
    let rig = Rig::new(vec![full]).await;
    let full = rig.chat(ASK).await;
    assert_eq!((full.status.as_u16(), full.code().as_str()), (503, "queue_full"));
    let untold = Rig::untold().await;
    for answer in [untold.chat(ASK).await, untold.ask(Method::GET, "/readyz", "").await] {
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "no_routes"));
    }
    assert_eq!(rig.ask(Method::GET, "/readyz", "").await.status, StatusCode::OK);
}

/// The rest of a stream, as text.
async fn rest(body: &mut hyper::body::Incoming) -> String {
    let mut text = String::new();
    while let Some(piece) = next(body).await {
        text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn f71_a_stream_that_breaks_off_is_said_to_be_broken() {
    let whole = "data: {\"n\":1}\n\n";
    let broken = |last: Vec<Step>| [vec![stream(), chunk(whole)], last].concat();
    for steps in [
        broken(vec![Step::Close]),
        broken(vec![chunk("data: {\"ha"), Step::Close]),
        broken(vec![say("zz\r\n"), Step::Close]),
        // It ended, and never said that it was done.
        broken(vec![end()]),
    ] {
        let worker = worker(steps.clone()).await;
        let rig = Rig::new(vec![chat(&[&worker.address])]).await;
        let (head, mut body) = rig.begin(Method::POST, "/v1/chat/completions", ASK).await;
        assert_eq!(head.status, StatusCode::OK);
        let text = rest(&mut body).await;
        let error = text.strip_prefix(whole).unwrap_or_else(|| panic!("{steps:?}: {text}"));
        let error = error.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
        let error: serde_json::Value = serde_json::from_str(error).unwrap();
        assert_eq!(error["error"]["code"], "answer_broke_off", "{steps:?}");
        rig.await_idle().await;
    }
}

#[tokio::test]
async fn f71_an_answer_that_breaks_off_is_cut_where_no_event_can_say_so() {
    let long =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{\"a\"";
    let worker = worker(vec![say(long), Step::Close]).await;
    let rig = Rig::new(vec![chat(&[&worker.address])]).await;
    let (_, mut body) = rig.begin(Method::POST, "/v1/chat/completions", ASK).await;
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "{\"a\"");
    assert!(next(&mut body).await.unwrap().is_err());
    rig.await_idle().await;
}

#[tokio::test]
async fn who_says_nothing_is_left_after_a_while() {
    let (silent, well) = (worker(vec![Step::Hang]).await, worker(json("{}")).await);
    let mut route = chat(&[&silent.address, &well.address]);
    route.silence_max = Duration::from_millis(50);
    let rig = Rig::new(vec![route.clone()]).await;
    for _ in 0..2 {
        assert_eq!(rig.chat(ASK).await.status, StatusCode::OK);
    }
    route.replicas.truncate(1);
    let alone = Rig::new(vec![route]).await;
    let answer = alone.chat(ASK).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (504, "upstream_silent"));
}

/// A process that is stopped keeps its connections, and its kernel takes new ones.
#[tokio::test]
async fn a_replica_that_hangs_is_found_by_looking_and_what_it_had_is_told() {
    let steps = vec![stream(), chunk("data: 1\n\n"), Step::Hang];
    let (hung, well) = (worker(steps).await, worker(json("{}")).await);
    // Each look at it is answered by the beginning of a stream, until it is stopped.
    let stopped = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut route = chat(&[&hung.address, &stopped.local_addr().unwrap().to_string()]);
    route.health_path = Some("/health".to_owned());
    let rig = Rig::new(vec![route.clone()]).await;
    // Round robin: one of the first two goes to the one that is stopped, and waits there.
    let (one, two) = tokio::join!(
        rig.begin(Method::POST, "/v1/chat/completions", ASK),
        rig.begin(Method::POST, "/v1/chat/completions", ASK),
    );
    for (head, _) in [&one, &two] {
        assert_eq!(head.status, StatusCode::OK, "the other one answered both");
    }
    assert!(count(&hung) >= 2);
    drop((one, two));
    route.replicas[0].address.clone_from(&well.address);
    rig.gateway.route(&berth_gateway::Routes { services: vec![route] });
    for _ in 0..4 {
        assert_eq!(rig.chat(ASK).await.status, StatusCode::OK);
    }
    rig.await_idle().await;
}
