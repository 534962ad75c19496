//! Jobs and rows for tests.

use std::sync::Arc;

use berth_model::{
    AllocationId, Constraints, DeviceClaim, DurationMs, HealthCheck, HealthProbe, JobKind, JobSpec,
    Name, Policy, PortClaim, SpecDigest, TaskSpec,
};
use berth_wire::agent::DesiredRow;
use berth_wire::spec::spec_digest;

/// A job of one task, and how its rows look.
#[derive(Clone)]
pub struct Job {
    pub number: u64,
    pub spec: JobSpec,
}

impl Job {
    /// A batch job that runs `script` in a shell.
    pub fn shell(number: u64, script: &str) -> Job {
        Job::of(number, JobKind::Batch, &["sh", "-c", script])
    }

    pub fn of(number: u64, kind: JobKind, command: &[&str]) -> Job {
        let name = |text: &str| -> Name { text.parse().unwrap() };
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let spec = JobSpec {
            name: name("trial"),
            namespace: name("default"),
            kind,
            priority: 50,
            policy: Policy::BestFit,
            constraints: Constraints::default(),
            tasks: vec![TaskSpec::new(name("main"), kind, command)],
            deadline: None,
            max_disconnect: DurationMs(10_000),
            on_return: Default::default(),
            policy_origin: Default::default(),
            update: Default::default(),
            exclusive: false,
            preemption: berth_model::Preemption::default(),
            route: berth_model::Route::default(),
            autoscale: None,
        };
        Job { number, spec }
    }

    pub fn task(&mut self) -> &mut TaskSpec {
        &mut self.spec.tasks[0]
    }

    /// Its health is what a shell says.
    pub fn check_by(&mut self, script: &str) {
        self.task().health = Some(HealthCheck {
            probe: HealthProbe::Command { command: ["sh", "-c", script].map(str::to_owned).into() },
            interval: DurationMs(50),
            timeout: DurationMs(10_000),
            failures: 3,
            start_period: DurationMs(60_000),
        });
    }

    pub fn id(&self, instance: u32) -> AllocationId {
        format!("{}.0.{instance}.1", self.number).parse().unwrap()
    }

    pub fn digest(&self) -> SpecDigest {
        spec_digest(&self.spec)
    }

    pub fn shared(&self) -> Arc<JobSpec> {
        Arc::new(self.spec.clone())
    }

    pub fn row(&self, instance: u32) -> DesiredRow {
        DesiredRow {
            allocation: self.id(instance),
            spec: self.digest(),
            devices: Vec::new(),
            ports: Vec::new(),
            seat: None,
            stop: None,
        }
    }

    pub fn row_with(
        &self,
        instance: u32,
        devices: Vec<DeviceClaim>,
        ports: Vec<PortClaim>,
    ) -> DesiredRow {
        DesiredRow { devices, ports, ..self.row(instance) }
    }
}
