//! Requests that find no replica, and wait for one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_gateway::{ReplicaState, Routes, ServiceRoute};
use http::{Method, StatusCode};
use tokio::net::TcpSocket;

use crate::rig::{PATIENCE, Rig, chat, next};
use crate::worker::{Step, chunk, end, json, stream, worker, worker_on};

const ASK: &str = r#"{"model": "chat", "stream": true, "messages": []}"#;

/// At most so many wait.
fn waiting(addresses: &[&str], waiting_max: u32) -> ServiceRoute {
    ServiceRoute { wait: PATIENCE, waiting_max, ..chat(addresses) }
}

async fn until_waiting(rig: &Rig, count: usize) {
    while rig.gateway.services()[0].waiting != count {
        tokio::task::yield_now().await;
    }
}

/// One that answers when it is told to.
fn held() -> Vec<Step> {
    vec![stream(), Step::Hold, chunk("data: [DONE]\n\n"), end()]
}

#[tokio::test]
async fn who_finds_no_replica_waits_for_one_and_no_more_than_may() {
    let rig = Rig::new(vec![waiting(&[], 2)]).await;
    let replica = worker(json("{\"there\": 1}")).await;
    let comes = async {
        until_waiting(&rig, 2).await;
        let third = rig.chat(ASK).await;
        assert_eq!((third.status.as_u16(), third.code().as_str()), (503, "waiting_room_full"));
        assert_eq!(third.headers["retry-after"], "1");
        rig.gateway.route(&Routes { services: vec![waiting(&[&replica.address], 2)] });
    };
    let (first, second, ()) = tokio::join!(rig.chat(ASK), rig.chat(ASK), comes);
    assert_eq!([first.json()["there"].clone(), second.json()["there"].clone()], [1, 1]);
    assert_eq!(rig.gateway.services()[0].waiting, 0);
}

/// A worker that is said to be ready before it listens, and one that crashed a moment ago.
#[tokio::test]
async fn who_is_refused_waits_until_the_replica_takes_connections() {
    // Its port is taken, and nobody listens.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let rig = Rig::new(vec![waiting(&[&address], 10)]).await;
    let listens = async {
        until_waiting(&rig, 4).await;
        let replica = &rig.gateway.services()[0].replicas[0];
        assert_eq!((replica.state, replica.in_flight), (ReplicaState::Gone, 0));
        worker_on(socket.listen(64).unwrap(), json("{\"there\": 1}"))
    };
    let asks = || rig.chat(ASK);
    let harm = rig.ask(Method::POST, "/invoke/chat/pay", "1");
    let (first, second, third, harm, worker) = tokio::join!(asks(), asks(), asks(), harm, listens);
    for answer in [first, second, third, harm] {
        assert_eq!((answer.status, answer.json()["there"].clone()), (StatusCode::OK, 1.into()));
    }
    assert_eq!(worker.count.load(Ordering::SeqCst), 4, "each was sent once");
    rig.await_idle().await;
}

#[tokio::test]
async fn who_is_refused_for_too_long_is_told_so() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let route = ServiceRoute { wait: Duration::from_millis(10), ..waiting(&[&address], 2) };
    let rig = Rig::new(vec![route]).await;
    let none = rig.chat(ASK).await;
    assert_eq!((none.status.as_u16(), none.code().as_str()), (503, "no_healthy_replica"));
    rig.await_idle().await;
}

#[tokio::test]
async fn who_has_waited_long_enough_is_told_so() {
    let route = ServiceRoute { wait: Duration::from_millis(10), ..waiting(&[], 2) };
    let rig = Rig::new(vec![route]).await;
    let none = rig.chat(ASK).await;
    assert_eq!((none.status.as_u16(), none.code().as_str()), (503, "no_replica"));
    assert_eq!(rig.gateway.services()[0].waiting, 0);
}

/// A service that is gone has no replica some day.
#[tokio::test]
async fn who_waits_for_a_service_that_is_gone_hears_of_that() {
    let rig = Rig::new(vec![waiting(&[], 2)]).await;
    let gone = async {
        until_waiting(&rig, 1).await;
        rig.gateway.route(&Routes::default());
    };
    let (told, ()) = tokio::join!(rig.chat(ASK), gone);
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn who_goes_away_waits_no_longer() {
    let rig = Rig::new(vec![waiting(&[], 2)]).await;
    tokio::select! {
        _ = rig.begin(Method::POST, "/v1/chat/completions", ASK) => panic!("nobody is there"),
        () = until_waiting(&rig, 1) => {}
    }
    // The caller's connections are closed with the client.
    let Rig { gateway, client, .. } = rig;
    drop(client);
    while gateway.services()[0].waiting != 0 {
        tokio::task::yield_now().await;
    }
}

/// A replica is sent as much as it may have, and the next request when one has ended.
#[tokio::test]
async fn a_replica_has_no_more_at_once_than_it_may() {
    let only = worker(held()).await;
    let mut route = waiting(&[&only.address], 10);
    route.replicas[0].member.limit = Some(4);
    let rig = Rig::new(vec![route]).await;
    // Two of them are another gateway's.
    rig.gateway.set_gateways(2);
    let asked = || async {
        let (_, mut body) = rig.begin(Method::POST, "/v1/chat/completions", ASK).await;
        let mut text = Vec::new();
        while let Some(piece) = next(&mut body).await {
            text.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(text, b"data: [DONE]\n\n");
    };
    let seen = || rig.gateway.services().remove(0);
    let ends = async {
        for (left, in_flight) in [(3, 2), (2, 2), (1, 2), (0, 2), (0, 1)] {
            until_waiting(&rig, left).await;
            while seen().replicas[0].in_flight != in_flight {
                tokio::task::yield_now().await;
            }
            only.go_on.add_permits(1);
        }
    };
    tokio::join!(asked(), asked(), asked(), asked(), asked(), ends);
    assert_eq!((seen().requests, seen().replicas[0].in_flight), (5, 0));
}

/// However many gateways there are, a replica has what it may have, and no more.
#[tokio::test]
async fn three_gateways_divide_what_a_replica_may_have() {
    let only = worker(held()).await;
    let mut route = waiting(&[&only.address], 100);
    route.replicas[0].member.limit = Some(6);
    let mut rigs = Vec::new();
    for _ in 0..3 {
        let rig = Rig::new(vec![route.clone()]).await;
        rig.gateway.set_gateways(3);
        rigs.push(rig);
    }
    let asked = rigs.iter().flat_map(|rig| (0..10).map(move |_| rig.chat(ASK)));
    let ends = async {
        for rig in &rigs {
            until_waiting(rig, 8).await;
        }
        let in_flight = rigs.iter().map(|rig| rig.gateway.services()[0].replicas[0].in_flight);
        assert_eq!(in_flight.collect::<Vec<_>>(), [2, 2, 2]);
        only.go_on.add_permits(30);
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(asked), ends);
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    assert_eq!(only.count.load(std::sync::atomic::Ordering::SeqCst), 30);
}
