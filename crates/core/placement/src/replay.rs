//! Decisions written down and made anew: from the same inputs the same decision, whatever the
//! planner that made it first had reckoned before.

use std::sync::Arc;

use berth_model::{CpuMilli, MemoryBytes, StateMs};
use berth_state::ClusterState;
use berth_state::decision::{Decision, GaveUp, Inputs, Scope, WorkBounds};

use crate::budget::Budget;
use crate::mix::MixCounts;
use crate::plan::{HuntKey, Run};
use crate::planner::Planner;
use crate::report::PlanOutcome;
use crate::search::FitKey;
use crate::soft::SoftView;
use crate::walk;

/// Makes a decision anew.
///
/// Work is not counted: it ends where it ended then, or when all is done.
pub fn decide_anew(inputs: &Inputs) -> PlanOutcome {
    let Inputs { view, now, scope, bounds, loads, asked, gave_up, stop } = inputs;
    let mix = Arc::new(MixCounts::of_asked(asked).mix());
    let soft = SoftView { loads: loads.clone(), mix };
    let mut planner = Planner::that_gave_up(gave_up);
    let budget = Budget {
        candidates_examined_max: u64::MAX,
        placements_max: bounds.placements_max,
        reservations_max: bounds.reservations_max,
    };
    let run = Run::new(&mut planner, view, &soft, *now, budget).ending_at(*stop);
    match scope {
        Scope::Everything => run.for_all().over(walk::everything(view)),
        Scope::Jobs(jobs) => run.over(walk::of_jobs(view, jobs)),
    }
}

/// What a plan was made on and what it came to, as it is written down. `gave_up` is what its
/// planner said before it.
pub fn decision_of(
    view: ClusterState,
    soft: &SoftView,
    now: StateMs,
    (scope, budget): (Scope, Budget),
    gave_up: Vec<GaveUp>,
    outcome: &PlanOutcome,
) -> Decision {
    let Budget { candidates_examined_max, placements_max, reservations_max } = budget;
    let bounds = WorkBounds { candidates_examined_max, placements_max, reservations_max };
    let (loads, asked, stop) = (soft.loads.clone(), soft.mix.asked(), outcome.stop);
    let inputs = Inputs { view, now, scope, bounds, loads, asked, gave_up, stop };
    Decision { inputs, made: outcome.made() }
}

impl Planner {
    /// One that knows nothing but for whom nobody ends.
    pub fn that_gave_up(gave_up: &[GaveUp]) -> Planner {
        let hopeless = gave_up.iter().map(|one| (hunt_key(one), one.until)).collect();
        Planner { hopeless, ..Planner::default() }
    }

    /// For whom it has found that nobody ends, which is all that it remembers beside what
    /// follows from the nodes.
    pub fn gave_up(&self) -> Vec<GaveUp> {
        let one = |(key, until): (&HuntKey, &StateMs)| gave_up(key, *until);
        self.hopeless.iter().map(one).collect()
    }
}

fn gave_up(key: &HuntKey, until: StateMs) -> GaveUp {
    let HuntKey { fit, priority, members, by } = key;
    let FitKey { cpu_milli, memory_bytes, port_count, in_container, gpu, constraints, permit } =
        fit;
    GaveUp {
        cpu: CpuMilli(*cpu_milli),
        memory: MemoryBytes(*memory_bytes),
        port_count: u32::try_from(*port_count).unwrap_or(u32::MAX),
        in_container: *in_container,
        gpu: gpu.clone(),
        constraints: constraints.clone(),
        permit: *permit,
        priority: *priority,
        members: *members,
        by: by.clone(),
        until,
    }
}

fn hunt_key(one: &GaveUp) -> HuntKey {
    let fit = FitKey {
        cpu_milli: one.cpu.0,
        memory_bytes: one.memory.0,
        port_count: one.port_count as usize,
        in_container: one.in_container,
        gpu: one.gpu.clone(),
        constraints: one.constraints.clone(),
        permit: one.permit,
    };
    HuntKey { fit, priority: one.priority, members: one.members, by: one.by.clone() }
}
