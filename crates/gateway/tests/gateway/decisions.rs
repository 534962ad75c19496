//! What a witness hears of decisions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use berth_gateway::{Routes, ServiceRoute, Witness};
use berth_routing::Policy;
use berth_routing::record::{Happening, Replay, Replayed};
use http::Method;
use http_body_util::BodyExt as _;

use crate::rig::{PATIENCE, Rig, chat};
use crate::worker::{Step, chunk, end, json, stream, worker};

#[derive(Default)]
struct Heard(Mutex<BTreeMap<u64, (String, Vec<Happening>)>>);

impl Witness for Heard {
    fn begun(&self, pool: u64, service: &str) {
        let before = self.0.lock().unwrap().insert(pool, (service.to_owned(), Vec::new()));
        assert!(before.is_none(), "pool {pool} is two");
    }

    fn happened(&self, pool: u64, happening: Happening) {
        self.0.lock().unwrap().get_mut(&pool).unwrap().1.push(happening);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_decision_is_made_anew_from_what_a_witness_heard() {
    let streaming = worker(vec![stream(), chunk("data: [DONE]\n\n"), end()]).await;
    let (plain, closing) = (worker(json("{}")).await, worker(vec![Step::Close]).await);
    let addresses = [&streaming, &plain, &closing].map(|worker| worker.address.as_str());
    let route = |name: &str, policy| {
        let route = chat(&addresses);
        let name = berth_model::Name::new(name).unwrap();
        let (model, wait) = (name.to_string(), PATIENCE);
        ServiceRoute { name, model, policy, wait, waiting_max: 1_000, ..route }
    };
    let services = |policy| vec![route("one", Policy::Auto), route("two", policy)];
    let heard = Arc::new(Heard::default());
    let rig = Rig::witnessed(
        services(Policy::LeastOutstanding),
        berth_gateway::GatewayOptions::default(),
        Some(Arc::clone(&heard) as Arc<dyn Witness>),
    );
    let rig = Arc::new(rig.await);
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..600 {
        if number == 300 {
            // Another policy, and one of the services is gone and comes back.
            rig.gateway.route(&Routes { services: services(Policy::PowerOfTwo).split_off(1) });
            rig.gateway.route(&Routes { services: services(Policy::PowerOfTwo) });
        }
        let rig = Arc::clone(&rig);
        callers.spawn(async move {
            let model = if number % 3 == 0 { "one" } else { "two" };
            let words = "word ".repeat(number % 200);
            let body = serde_json::json!({ "model": model, "user": "u", "prompt": words });
            let body = body.to_string();
            let (_, body) = rig.begin(Method::POST, "/v1/completions", &body).await;
            if number % 5 > 0 {
                let _ = body.collect().await;
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    rig.await_idle().await;

    let heard = heard.0.lock().unwrap();
    let names: Vec<&str> = heard.values().map(|(service, _)| service.as_str()).collect();
    assert_eq!(names, ["default/one", "default/two", "default/one"]);
    let mut decisions = 0;
    for (service, happenings) in heard.values() {
        let mut replay = Replay::default();
        for happening in happenings {
            match replay.step(happening) {
                Replayed::Done => {}
                Replayed::Same => decisions += 1,
                other @ (Replayed::Different(_) | Replayed::Unknown) => {
                    panic!("{service}: {other:?} of {happening:?}")
                }
            }
        }
    }
    assert!(decisions >= 600, "{decisions}");
}
