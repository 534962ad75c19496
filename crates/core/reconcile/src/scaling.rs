//! Services whose replicas follow their load: looked at one after the other, and told how many they
//! are to have.

use std::collections::BTreeMap;
use std::fmt;

use berth_autoscale::{Change, Measured, Scaler, Seen, Why};
use berth_model::{AllocationState, DurationMs, JobId, ScalingMetric, StateMs, TaskIndex};
use berth_state::{AllocationRow, ClusterState, Command, JobRow};

/// As often as gateways tell what they see.
const LOOK_EVERY: DurationMs = DurationMs::from_secs(1);

/// What a leader remembers of them. Soft: it begins anew with each term.
#[derive(Default)]
pub struct Scaling {
    services: BTreeMap<JobId, Watched>,
    looked_at: Option<StateMs>,
}

struct Watched {
    scaler: Scaler,
    last: Change,
}

/// A service of which something is to be measured.
pub struct Scaled<'a> {
    pub job: &'a JobRow,
    /// Its replicas that answer.
    pub ready: Vec<&'a AllocationRow>,
}

/// A number of replicas in words.
pub struct Reason(pub Why);

impl Scaling {
    /// What is to change now. `measure` tells of a service what is known of it, `None` where nobody
    /// tells anything. Looks once a second, however often it is called; costs O(jobs, and the live
    /// instances of those that are scaled).
    pub fn look(
        &mut self,
        view: &ClusterState,
        mut measure: impl FnMut(&Scaled<'_>) -> Option<Measured>,
        now: StateMs,
    ) -> Vec<Command> {
        if self.looked_at.is_some_and(|at| now.since(at) < LOOK_EVERY) {
            return Vec::new();
        }
        self.looked_at = Some(now);
        let mut before = std::mem::take(&mut self.services);
        let mut commands = Vec::new();
        for job in view.jobs().values().filter(|job| job.places()) {
            let Some((position, rule)) = job.spec.scaled() else { continue };
            let wanted = job.spec.tasks[position].count;
            let task = TaskIndex(u16::try_from(position).unwrap_or(u16::MAX));
            let rows = view.allocations_of_task(job.id, task).map(|row| &**row);
            let ready = rows.filter(|row| row.state == AllocationState::Running { ready: true });
            let measured = measure(&Scaled { job, ready: ready.collect() });
            let in_flight_max = job.spec.route.in_flight_max;
            let seen = Seen { now, wanted, measured, in_flight_max };
            let scaler = before.remove(&job.id).map(|watched| watched.scaler);
            let mut scaler = scaler.unwrap_or_else(|| Scaler::new(now));
            let last = scaler.look(rule, &seen);
            if last.count != wanted {
                let (from, count) = (wanted, last.count);
                let reason = Reason(last.why).to_string();
                commands.push(Command::Scale { job: job.id, from, count, reason });
            }
            self.services.insert(job.id, Watched { scaler, last });
        }
        commands
    }

    /// What was found of a service when it was looked at last.
    pub fn found(&self, job: JobId) -> Option<Change> {
        self.services.get(&job).map(|watched| watched.last)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Why::Unknown => out.write_str("nobody tells what its load is"),
            Why::Range => out.write_str("its job allows no other number"),
            Why::Idle(span) => write!(out, "nobody has asked it anything for {} s", span.0 / 1_000),
            Why::Woken => out.write_str("it is asked, and there is none"),
            Why::Load { metric, total, target } => {
                let (name, unit) = (metric.name(), unit(metric));
                write!(
                    out,
                    "{name} is {total:.2}{unit} in all, and {target:.2}{unit} for each replica"
                )
            }
        }
    }
}

fn unit(metric: ScalingMetric) -> &'static str {
    match metric {
        ScalingMetric::Requests => "/s",
        ScalingMetric::Latency => " s",
        ScalingMetric::Concurrency
        | ScalingMetric::Queue
        | ScalingMetric::KvCache
        | ScalingMetric::Gpu => "",
    }
}
