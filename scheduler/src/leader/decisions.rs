//! The last decisions of this term, each with what it was made on, so that one can be looked at
//! after the fact. Nothing here decides anything.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_model::StateMs;
use berth_placement::{Budget, PlanOutcome, Planner, SoftView, decision_of};
use berth_state::ClusterState;
use berth_state::decision::{GaveUp, Scope};
use berth_wire::capture::{Captured, Origin};

/// Decisions that are kept. Views share what has not changed between them, so each costs what has
/// changed since.
const DECISIONS_MAX: usize = 8;
/// A decision is forgotten when so many entries were applied after it: a view that is kept keeps
/// the rows alive that it had, and so at most those that so many entries have replaced.
const ENTRIES_MAX: u64 = 16_384;

/// The lock guards short pushes and copies of what is shared.
#[derive(Default)]
pub struct Decisions(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    last: VecDeque<Arc<Made>>,
    /// What the planner remembers for its next plan.
    gave_up: Vec<GaveUp>,
}

/// What a plan was asked, and for whom.
#[derive(Clone)]
pub struct Asked {
    pub origin: Origin,
    pub view: ClusterState,
    pub soft: SoftView,
    pub now: StateMs,
    pub scope: Scope,
    pub budget: Budget,
    pub gave_up: Vec<GaveUp>,
}

/// A decision as it is kept: written out only when somebody wants to have it.
struct Made {
    asked: Asked,
    outcome: PlanOutcome,
}

impl Asked {
    /// Plans.
    pub fn plan(&self, planner: &mut Planner) -> PlanOutcome {
        let Asked { view, soft, now, scope, budget, .. } = self;
        match scope {
            Scope::Everything => planner.plan(view, soft, *now, *budget),
            Scope::Jobs(jobs) => planner.plan_jobs(view, soft, *now, *budget, jobs),
        }
    }

    /// The decision as a capture has it.
    pub fn captured(&self, outcome: &PlanOutcome) -> Captured {
        let Asked { origin, view, soft, now, scope, budget, gave_up } = self.clone();
        let decision = decision_of(view, &soft, now, (scope, budget), gave_up, outcome);
        Captured { origin, decision }
    }
}

impl Decisions {
    /// Keeps a decision, if anything was decided.
    pub fn note(&self, asked: Asked, outcome: &PlanOutcome) {
        if outcome.placements.is_empty() && outcome.reservations.is_empty() {
            return;
        }
        let outcome = outcome.clone();
        let mut kept = self.kept();
        if kept.last.len() >= DECISIONS_MAX {
            kept.last.pop_front();
        }
        kept.last.push_back(Arc::new(Made { asked, outcome }));
    }

    /// Keeps what the planner remembers.
    pub fn note_gave_up(&self, gave_up: Vec<GaveUp>) {
        self.kept().gave_up = gave_up;
    }

    pub fn gave_up(&self) -> Vec<GaveUp> {
        self.kept().gave_up.clone()
    }

    /// Forgets what was decided too many entries ago.
    pub fn forget_before(&self, applied_index: u64) {
        let oldest = applied_index.saturating_sub(ENTRIES_MAX);
        let mut kept = self.kept();
        while kept.last.front().is_some_and(|one| one.asked.view.applied_index() < oldest) {
            kept.last.pop_front();
        }
    }

    /// The oldest first. Costs a pass over what each of them placed.
    pub fn captured(&self) -> Vec<Captured> {
        let last: Vec<Arc<Made>> = self.kept().last.iter().cloned().collect();
        last.iter().map(|made| made.asked.captured(&made.outcome)).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use berth_model::{JobKind, JobSpec, Name, SpecDigest, TaskSpec, WallMs};
    use berth_state::{Command, Entry, SubmitJob};

    use super::*;

    /// A view of one job without a node, so many entries in.
    fn asked(index: u64) -> Asked {
        let name = |text: &str| Name::new(text).unwrap();
        let task = TaskSpec::new(name("main"), JobKind::Batch, vec!["x".to_owned()]);
        let spec = JobSpec::new(name("job"), name("default"), JobKind::Batch, vec![task]);
        let (spec, digest) = (Arc::new(spec), SpecDigest::default());
        let submit = SubmitJob { key: None, spec, digest, if_version: None };
        let commands =
            vec![Command::Found { cluster_id: [1; 16], security: None }, Command::Submit(submit)];
        let (state_ms, wall_ms, proposer) = (StateMs(1), WallMs(1), String::new());
        let mut view = ClusterState::default();
        view.apply(index, &Entry { state_ms, wall_ms, proposer, commands });
        Asked {
            origin: Origin::Planner,
            view,
            soft: SoftView::default(),
            now: StateMs(1),
            scope: Scope::Everything,
            budget: Budget::INLINE,
            gave_up: Vec::new(),
        }
    }

    #[test]
    fn the_last_decisions_with_something_in_them_are_kept_for_a_while() {
        let decisions = Decisions::default();
        let nothing = asked(1).plan(&mut Planner::default());
        decisions.note(asked(1), &nothing);
        assert_eq!(decisions.captured().len(), 0);
        let placement = berth_state::Placement {
            job: berth_model::JobId(1),
            task: Default::default(),
            instance: Default::default(),
            attempt: berth_model::Attempt::FIRST,
            node: berth_model::NodeId(1),
            devices: Vec::new(),
            ports: Vec::new(),
            score: Default::default(),
        };
        let something = PlanOutcome { placements: vec![placement], ..nothing };
        (1..=10).for_each(|index| decisions.note(asked(index), &something));
        let indices = || -> Vec<u64> {
            let all = decisions.captured();
            all.iter().map(|one| one.decision.inputs.view.applied_index()).collect()
        };
        assert_eq!(indices(), (3..=10).collect::<Vec<u64>>());
        decisions.forget_before(ENTRIES_MAX + 8);
        assert_eq!(indices(), [8, 9, 10]);
        decisions.forget_before(ENTRIES_MAX * 2);
        assert_eq!(indices(), [0; 0]);
    }
}
