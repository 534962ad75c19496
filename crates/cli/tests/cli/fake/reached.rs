//! Services that are asked through two gateways.

use berth_proto::v1::services_server::Services;
use berth_proto::v1::{
    Allocation, ErrorDetail, GetServiceRequest, ListServicesReply, ListServicesRequest,
    ReplicaStatus, ReplicaUse, RoutingPolicy, ScalingMetric, ScalingPolicy, ScalingTarget, Service,
    ServiceScaling, ServiceUse,
};
use tonic::{Code, Request, Response, Status};

use super::{Fake, refused};

fn replica(index: u32, node: &str, version: u32, state: &str) -> ReplicaStatus {
    ReplicaStatus {
        allocation: Some(Allocation {
            id: format!("4.0.{index}.1"),
            node: node.to_owned(),
            job_version: version,
            state: state.to_owned(),
            ready: state == "running",
            ..Allocation::default()
        }),
        address: format!("{node}:2000{index}"),
    }
}

fn seen(gateway: &str, requests: u64, replicas: Vec<ReplicaUse>) -> ServiceUse {
    let in_flight = replicas.iter().map(|used| u64::from(used.in_flight)).sum();
    ServiceUse {
        namespace: "default".to_owned(),
        name: "chat".to_owned(),
        requests,
        retries: 3,
        replicas,
        gateway: gateway.to_owned(),
        in_flight,
        waiting: 2,
    }
}

fn chat() -> Service {
    let busy = ReplicaUse {
        allocation_id: "4.0.1.1".to_owned(),
        state: "asked".to_owned(),
        in_flight: 5,
        waiting_tokens: 1_200,
        answers: 1_000,
        answer_us: Some(312_400),
        running: Some(4),
        waiting: Some(1),
        kv_milli: Some(127),
        metrics: vec!["vllm:num_requests_running".to_owned()],
    };
    let silent = ReplicaUse {
        allocation_id: "4.0.1.1".to_owned(),
        state: "spared".to_owned(),
        ..ReplicaUse::default()
    };
    Service {
        job_id: 4,
        namespace: "default".to_owned(),
        name: "chat".to_owned(),
        version: 2,
        model: "meta-llama/Llama-3.1-8B".to_owned(),
        port: "http".to_owned(),
        balance: RoutingPolicy::LeastOutstanding.into(),
        timeout_ms: 600_000,
        drain_ms: 90_000,
        replicas_wanted: 2,
        replicas_ready: 1,
        replicas_draining: 1,
        replicas: vec![replica(0, "gpu-1", 1, "draining"), replica(1, "gpu-2", 2, "running")],
        uses: vec![
            seen("0a1b2c3d4e5f6071", 1_042, vec![busy]),
            seen("f0e1d2c3b4a59687", 7, vec![silent]),
        ],
        gateways: Some(2),
        stale_ms: None,
        scaling: Some(ServiceScaling {
            min: 1,
            max: 8,
            policy: ScalingPolicy::TargetTracking.into(),
            targets: vec![
                ScalingTarget { metric: ScalingMetric::Concurrency.into(), milli: 8_000 },
                ScalingTarget { metric: ScalingMetric::KvCache.into(), milli: 750 },
            ],
            because: "concurrency is 11.00 in all, and 8.00 for each replica".to_owned(),
        }),
    }
}

fn unasked() -> Service {
    Service {
        job_id: 9,
        namespace: "research".to_owned(),
        name: "embed".to_owned(),
        version: 1,
        model: "embed".to_owned(),
        port: "grpc".to_owned(),
        balance: RoutingPolicy::Auto.into(),
        timeout_ms: 600_000,
        replicas_wanted: 3,
        gateways: Some(0),
        ..Service::default()
    }
}

#[tonic::async_trait]
impl Services for Fake {
    async fn list(
        &self,
        request: Request<ListServicesRequest>,
    ) -> Result<Response<ListServicesReply>, Status> {
        self.enter()?;
        let ListServicesRequest { namespace, consistency } = request.into_inner();
        let all = [chat(), unasked()].into_iter();
        let mut services: Vec<Service> =
            all.filter(|one| namespace.is_empty() || one.namespace == namespace).collect();
        let is_leader = consistency == 0;
        for one in &mut services {
            one.replicas.clear();
            one.uses.retain(|_| is_leader);
        }
        let stale_ms = (!is_leader).then_some(1_500);
        Ok(Response::new(ListServicesReply {
            services,
            gateways: is_leader.then_some(2),
            stale_ms,
        }))
    }

    async fn get(&self, request: Request<GetServiceRequest>) -> Result<Response<Service>, Status> {
        self.enter()?;
        let job = request.into_inner().job.unwrap_or_default().job;
        match job.as_str() {
            "chat" => Ok(Response::new(chat())),
            "embed" => Ok(Response::new(unasked())),
            job => {
                let message = format!("nobody can ask job 3 ({job}) anything: it is no service");
                Err(refused(Code::NotFound, &message, ErrorDetail::default()))
            }
        }
    }
}
