//! What comes through, and how.

use berth_gateway::ServiceRoute;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;

use crate::rig::{PATIENCE, Rig, await_idle, chat, next, replica};
use crate::worker::{Step, Worker, answer, chunk, end, json, stream, worker};

const ASK: &str = r#"{"model": "chat", "messages": [{"role": "user", "content": "hi"}]}"#;

#[tokio::test]
async fn an_answer_comes_through_as_it_is_with_the_callers_id() {
    let mut worker = worker(json(r#"{"ok":  1}"#)).await;
    let rig = Rig::new(vec![chat(&[&worker.address])]).await;
    let body = ASK.replace(':', " :  ");
    let bytes = format!(
        "POST /v1/chat/completions?a=%20b HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine-1\r\n\
         Authorization: Bearer k\r\nX-Forwarded-For: 10.9.9.9\r\nConnection: X-Odd\r\nX-Odd: 1\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = rig.raw(bytes.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("x-request-id: mine-1\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n{\"ok\":  1}"), "{answer}");
    let seen = worker.requests.recv().await.unwrap();
    assert!(seen.starts_with("POST /v1/chat/completions?a=%20b HTTP/1.1\r\n"), "{seen}");
    assert!(seen.ends_with(&body), "{seen}");
    let lower = seen.to_ascii_lowercase();
    for expected in [
        "x-request-id: mine-1\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
        "authorization: bearer k\r\n",
        &format!("host: {}\r\n", worker.address),
    ] {
        assert!(lower.contains(expected), "{expected}: {seen}");
    }
    assert!(!lower.contains("x-odd") && !lower.contains("10.9.9.9"), "{seen}");
    rig.await_idle().await;
}

#[tokio::test]
async fn each_event_is_passed_on_before_the_next_one_comes() {
    let parts = ["data: {\"n\":1}\n\n", "data: {\"n\":2}\n\n", "data: [DONE]\n\n"];
    let held = parts.iter().flat_map(|part| [Step::Hold, chunk(part)]);
    let steps = [stream()].into_iter().chain(held).chain([end()]).collect();
    let worker = worker(steps).await;
    let rig = Rig::new(vec![chat(&[&worker.address])]).await;
    worker.go_on.add_permits(1);
    let (head, mut body) = rig.begin(Method::POST, "/v1/chat/completions", ASK).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.headers["content-type"], "text/event-stream");
    assert!(head.headers.contains_key("x-request-id"));
    for (index, part) in parts.iter().enumerate() {
        assert_eq!(next(&mut body).await.unwrap().unwrap(), part.as_bytes());
        if index < 2 {
            assert_eq!(rig.gateway.in_flight(), 1, "it is counted until its end");
            worker.go_on.add_permits(1);
        }
    }
    assert!(next(&mut body).await.is_none());
    rig.await_idle().await;
}

#[tokio::test]
async fn models_are_those_of_the_routes() {
    let mut other = chat(&[]);
    other.namespace = "research".parse_name();
    let mut third = chat(&[]);
    third.name = "embed".parse_name();
    third.model = "e5/large".to_owned();
    let rig = Rig::new(vec![chat(&[]), other, third]).await;
    let list = rig.ask(Method::GET, "/v1/models", "").await.json();
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    // Two have the same name, so that it alone names neither.
    assert_eq!(ids, ["default/chat", "e5/large", "research/chat"]);
    let one = rig.ask(Method::GET, "/v1/models/e5%2Flarge", "").await.json();
    assert_eq!(one["object"], "model");
    assert_eq!(one["created"], 1_700_000_000);
    let none = rig.ask(Method::GET, "/v1/models/chat", "").await;
    assert_eq!((none.status, none.code().as_str()), (StatusCode::NOT_FOUND, "model_not_found"));
}

/// Nobody takes a model's name from who has it, and where a namespace is named it is never in doubt.
#[tokio::test]
async fn of_two_services_of_one_model_the_older_has_it() {
    let (old, new) = (worker(json("{\"old\": 1}")).await, worker(json("{\"new\": 1}")).await);
    let mut other = chat(&[&new.address]);
    other.name = "a-newer-one".parse_name();
    other.created_s += 1;
    let rig = Rig::new(vec![other, chat(&[&old.address])]).await;
    let list = rig.ask(Method::GET, "/v1/models", "").await.json();
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    for model in ["chat", "default/chat"] {
        let answer = rig.chat(&format!("{{\"model\": \"{model}\"}}")).await;
        assert_eq!(answer.json()["old"], 1, "{model}");
    }
    let named = rig.ask(Method::POST, "/invoke/default%2Fa-newer-one/x", "{}").await;
    assert_eq!(named.json()["new"], 1);
}

trait ParseName {
    fn parse_name(&self) -> berth_model::Name;
}

impl ParseName for str {
    fn parse_name(&self) -> berth_model::Name {
        berth_model::Name::new(self).unwrap()
    }
}

#[tokio::test]
async fn other_workers_are_reached_by_the_name_of_their_service() {
    let mut worker = worker(vec![answer("201 Created", "text/plain", "made")]).await;
    let rig = Rig::new(vec![chat(&[&worker.address])]).await;
    let made = rig.ask(Method::PUT, "/invoke/chat/things/1?x=2", "body").await;
    assert_eq!((made.status, made.body.as_ref()), (StatusCode::CREATED, &b"made"[..]));
    let seen = worker.requests.recv().await.unwrap();
    assert!(seen.starts_with("PUT /things/1?x=2 HTTP/1.1\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\nbody"), "{seen}");
    let none = rig.ask(Method::GET, "/invoke/other/", "").await;
    assert_eq!((none.status, none.code().as_str()), (StatusCode::NOT_FOUND, "service_not_found"));
}

#[tokio::test]
async fn f72_who_goes_away_takes_the_request_along() {
    let silent = worker(vec![Step::Hang]).await;
    let begun = worker(vec![stream(), chunk("data: 1\n\n"), Step::Hang]).await;
    for mut worker in [silent, begun] {
        let rig = Rig::new(vec![chat(&[&worker.address])]).await;
        let asked = rig.begin(Method::POST, "/v1/chat/completions", ASK);
        tokio::select! {
            begun = asked => drop(begun),
            _ = worker.requests.recv() => {}
        }
        // The caller's connections are closed with the client.
        drop(rig.client);
        let closed = tokio::time::timeout(crate::rig::PATIENCE, worker.closed.recv()).await;
        assert!(closed.unwrap().is_some());
        await_idle(&rig.gateway).await;
    }
}

#[tokio::test]
async fn what_is_being_answered_ends_when_its_replica_leaves_or_the_gateway_stops() {
    let steps =
        || vec![stream(), chunk("data: 1\n\n"), Step::Hold, chunk("data: [DONE]\n\n"), end()];
    let (old, new) = (worker(steps()).await, worker(steps()).await);
    let rig = Rig::new(vec![chat(&[&old.address])]).await;
    let (_, mut first) = rig.begin(Method::POST, "/v1/chat/completions", ASK).await;
    assert_eq!(next(&mut first).await.unwrap().unwrap(), "data: 1\n\n");
    let mut next_route = chat(&[]);
    next_route.replicas = vec![replica(1, &new.address)];
    rig.gateway.route(&berth_gateway::Routes { services: vec![next_route] });
    let (_, mut second) = rig.begin(Method::POST, "/v1/chat/completions", ASK).await;
    assert_eq!(next(&mut second).await.unwrap().unwrap(), "data: 1\n\n");
    assert_eq!(new.count.load(std::sync::atomic::Ordering::SeqCst), 1);
    // One that leaves is busy until that has ended; of one that stays nobody waits for that.
    assert_eq!(rig.gateway.busy(), [replica(0, "").member.id]);
    let [service] = rig.gateway.services().try_into().unwrap();
    let seen = service.replicas.iter().map(|one| (one.id, one.state, one.in_flight));
    let (left, asked) = (berth_gateway::ReplicaState::Left, berth_gateway::ReplicaState::Asked);
    let ids = [0, 1].map(|number| replica(number, "").member.id);
    assert_eq!(seen.collect::<Vec<_>>(), [(ids[1], asked, 1), (ids[0], left, 1)]);
    rig.stop.cancel();
    old.go_on.add_permits(1);
    new.go_on.add_permits(1);
    for body in [first, second] {
        assert_eq!(body.collect().await.unwrap().to_bytes(), "data: [DONE]\n\n");
    }
    rig.served.await.unwrap();
    assert_eq!(rig.gateway.busy(), []);
    assert!(tokio::net::TcpStream::connect(rig.address).await.is_err());
}

/// What it says of itself counts beside what the gateway has sent it, for as long as it says so.
#[tokio::test]
async fn what_replicas_say_of_themselves_is_heard() {
    let page = "vllm:num_requests_running{model_name=\"m\"} 3.0\n\
                vllm:num_requests_waiting{model_name=\"m\"} 2.0\n";
    let says = worker(vec![answer("200 OK", "text/plain", page)]).await;
    let silent = worker(vec![answer("404 Not Found", "text/plain", "")]).await;
    let mut route = chat(&[&says.address, &silent.address]);
    route.metrics_path = Some("/metrics".to_owned());
    let rig = Rig::new(vec![route]).await;
    let heard = loop {
        let [service] = rig.gateway.services().try_into().unwrap();
        if service.replicas[0].signals.is_some() {
            break service;
        }
        tokio::task::yield_now().await;
    };
    let (signals, names) = heard.replicas[0].signals.clone().unwrap();
    assert_eq!((signals.running, signals.waiting, signals.kv_milli), (Some(3), Some(2), None));
    assert_eq!(names, ["vllm:num_requests_running", "vllm:num_requests_waiting"]);
    assert_eq!(heard.replicas[1].signals, None, "what says nothing is not taken for idle");
    assert_eq!((heard.requests, heard.replicas[0].in_flight), (0, 0), "nobody asked anything");
}

/// Each replica of a service that is gone is busy for as long as it answers itself.
#[tokio::test]
async fn who_still_answers_for_a_service_that_is_gone_is_known() {
    let steps =
        || vec![stream(), chunk("data: 1\n\n"), Step::Hold, chunk("data: [DONE]\n\n"), end()];
    let workers = [worker(steps()).await, worker(steps()).await, worker(steps()).await];
    let addresses = workers.each_ref().map(|worker| worker.address.as_str());
    let rig = Rig::new(vec![chat(&addresses)]).await;
    let ids = [0, 1, 2].map(|number| replica(number, "").member.id);
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let (_, mut body) = rig.begin(Method::POST, "/v1/chat/completions", ASK).await;
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "data: 1\n\n");
        bodies.push(body);
    }
    assert_eq!(rig.gateway.busy(), [], "they are asked still");
    rig.gateway.route(&berth_gateway::Routes::default());
    let (none, _) = rig.begin(Method::POST, "/v1/chat/completions", ASK).await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
    assert_eq!(rig.gateway.busy(), ids[..2]);
    for (worker, left) in workers.iter().zip([&ids[1..2], &ids[..0]]) {
        worker.go_on.add_permits(1);
        let body = bodies.remove(0);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "data: [DONE]\n\n");
        assert_eq!(rig.gateway.busy(), left);
    }
}

#[tokio::test]
async fn what_a_worker_has_compressed_is_not_looked_into() {
    let packed = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\
        content-length: 9\r\n\r\nid: 7\n\n\n\n";
    let worker = worker(vec![crate::worker::say(packed)]).await;
    let rig = Rig::new(vec![chat(&[&worker.address])]).await;
    let answer = rig.chat(ASK).await;
    assert_eq!(answer.body, "id: 7\n\n\n\n");
    assert_eq!(answer.headers["content-encoding"], "gzip");
}

/// Requests unless `BERTH_MIXED_REQUESTS` says otherwise, and how many at once.
const MIXED_REQUESTS: u32 = 2_000;
const MIXED_AT_ONCE: usize = 200;

/// However requests end, and wherever their callers leave, nothing stays counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_counted() {
    let steps = vec![stream(), chunk("data: 1\n\n"), chunk("data: [DONE]\n\n"), end()];
    let cut = vec![stream(), chunk("data: 1\n\n"), Step::Close];
    let mut workers = Vec::new();
    for steps in [steps, json("{}"), cut, vec![Step::Close]] {
        let mut worker = worker(steps).await;
        worker.requests.close();
        workers.push(worker);
    }
    let addresses: Vec<&str> = workers.iter().map(|worker| worker.address.as_str()).collect();
    let mut service = ServiceRoute { wait: PATIENCE, waiting_max: 60, ..chat(&addresses) };
    // Some have to wait, and some find no room to.
    service.replicas.iter_mut().for_each(|replica| replica.member.limit = Some(25));
    let rig = std::sync::Arc::new(Rig::new(vec![service]).await);
    let count = std::env::var("BERTH_MIXED_REQUESTS");
    let count = count.map_or(MIXED_REQUESTS, |count| count.parse().unwrap());
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..count {
        if callers.len() == MIXED_AT_ONCE {
            callers.join_next().await.unwrap().unwrap();
        }
        let rig = std::sync::Arc::clone(&rig);
        callers.spawn(async move {
            let mut asked = Box::pin(rig.begin(Method::POST, "/v1/chat/completions", ASK));
            match number % 4 {
                // Left before the answer, after so many steps of its own.
                0 => {
                    for _ in 0..number % 7 {
                        if futures::poll!(&mut asked).is_ready() {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                }
                // Left at the first byte.
                1 => drop(asked.await),
                _ => drop(asked.await.1.collect().await),
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    rig.await_idle().await;
    let service = rig.gateway.services().remove(0);
    assert_eq!(service.waiting, 0);
    let counts = service.replicas.iter().map(|replica| (replica.in_flight, replica.waiting_tokens));
    assert_eq!(counts.collect::<Vec<_>>(), [(0, 0); 4]);
    let asked = |worker: &Worker| worker.count.load(std::sync::atomic::Ordering::SeqCst) > 0;
    assert!(workers.iter().all(asked));
}
