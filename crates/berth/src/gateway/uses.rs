//! What a gateway sees of services, as schedulers are told.

use berth_gateway::{Gateway, ReplicaView, ServiceView};
use berth_proto::v1;
use berth_routing::Signals;

/// Of all services.
pub fn of(gateway: &Gateway) -> v1::ServiceUses {
    v1::ServiceUses { services: gateway.services().into_iter().map(service).collect() }
}

fn service(view: ServiceView) -> v1::ServiceUse {
    let ServiceView { namespace, name, requests, retries, waiting, replicas } = view;
    v1::ServiceUse {
        namespace: namespace.to_string(),
        name: name.to_string(),
        requests,
        retries,
        waiting: waiting as u64,
        replicas: replicas.into_iter().map(replica).collect(),
        ..v1::ServiceUse::default()
    }
}

fn replica(view: ReplicaView) -> v1::ReplicaUse {
    let ReplicaView { id, state, in_flight, waiting_tokens, answers, answer_time, signals } = view;
    let (Signals { running, waiting, kv_milli }, metrics) = signals.unwrap_or_default();
    v1::ReplicaUse {
        allocation_id: id.to_string(),
        state: state.name().to_owned(),
        in_flight,
        waiting_tokens,
        answers,
        answer_us: answer_time.map(|span| span.0),
        running,
        waiting,
        kv_milli,
        metrics: metrics.into_iter().map(str::to_owned).collect(),
    }
}
