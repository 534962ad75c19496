//! What a planner decides that has planned before is decided anew from what was written down.

use berth_state::decision::{Inputs, Scope, Seen, Stop};
use proptest::prelude::*;

use super::preemption::{a_move, make, reserve};
use super::*;
use crate::replay::{decide_anew, decision_of};

/// Plans, and wants the same from a planner that knows nothing but what is written down.
pub(super) fn plan_and_again(
    planner: &mut Planner,
    cluster: &Cluster,
    soft: &SoftView,
    budget: Budget,
) -> PlanOutcome {
    let gave_up = planner.gave_up();
    let outcome = planner.plan(&cluster.state, soft, cluster.now, budget);
    let (view, asked) = (cluster.state.clone(), (Scope::Everything, budget));
    let decision = decision_of(view, soft, cluster.now, asked, gave_up, &outcome);
    let anew = decide_anew(&decision.inputs);
    assert_eq!(anew.made(), decision.made, "anew, after {:?} of {budget:?}", outcome.stop);
    outcome
}

fn any_budget() -> impl Strategy<Value = Budget> {
    (0..60u64, 1..6u32, 0..4u32).prop_map(|(work, placements, reservations)| Budget {
        candidates_examined_max: if work < 40 { work } else { u64::MAX },
        placements_max: placements,
        reservations_max: reservations,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// With gangs, kept places and victims, and budgets that end anywhere.
    #[test]
    fn wherever_a_budget_ends_the_decision_is_made_anew(
        nodes in prop::collection::vec(0..5_u32, 1..6),
        moves in prop::collection::vec((a_move(), any_budget()), 1..25),
    ) {
        let mut cluster = Cluster::with_nodes(nodes.into_iter().map(gpu_node));
        let (mut planner, soft) = (Planner::default(), SoftView::default());
        for (one, budget) in moves {
            make(&mut cluster, one);
            let outcome = plan_and_again(&mut planner, &cluster, &soft, budget);
            cluster.place(outcome.placements);
            reserve(&mut cluster, outcome.reservations);
            cluster.now = cluster.now.after(DurationMs(300));
        }
    }
}

#[test]
fn a_plan_says_where_its_work_ended_whatever_was_known_before() {
    let mut cluster = Cluster::with_nodes((0..8).map(|_| gpu_node(1)));
    cluster.submit(job(Policy::FirstFit, counted(8, gpu_task(1))));
    let (mut planner, soft) = (Planner::default(), SoftView::default());
    let budget = |work| Budget { candidates_examined_max: work, ..Budget::UNLIMITED };
    // One for the visit, and five of eight nodes.
    let cut = plan_and_again(&mut planner, &cluster, &soft, budget(6));
    let stop = cut.stop.unwrap();
    assert_eq!((stop.step, stop.seen.map(|seen| seen.count)), (2, Some(5)));
    assert_eq!(cut.placements.len(), 1);
    // The next goes on behind them, so the same budget reaches further.
    let further = plan_and_again(&mut planner, &cluster, &soft, budget(6));
    assert!(further.placements.len() > 1 && further.stop.is_some());
    let whole = plan_and_again(&mut planner, &cluster, &soft, Budget::UNLIMITED);
    assert_eq!((whole.placements.len(), whole.stop), (8, None));
}

#[test]
fn a_stop_that_no_plan_ever_told_does_no_harm() {
    let mut cluster = Cluster::with_nodes((0..4).map(|_| gpu_node(1)));
    cluster.submit(job(Policy::Berth, counted(6, gpu_task(1))));
    let soft = SoftView::default();
    let outcome = plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED);
    let (view, asked) = (cluster.state.clone(), (Scope::Everything, Budget::UNLIMITED));
    let decision = decision_of(view, &soft, cluster.now, asked, Vec::new(), &outcome);
    let wild = [0, 1, 3, 4, 5, u64::MAX];
    for numbers in 0..wild.len().pow(4) {
        let number = |place: u32| wild[numbers / wild.len().pow(place) % wild.len()];
        let seen = Some(Seen { first: number(0), of: number(1), count: number(2) });
        let stop = Some(Stop { step: number(3), seen });
        let placed = decide_anew(&Inputs { stop, ..decision.inputs.clone() }).placements.len();
        // The first step is a visit, and the last instance has no place.
        let most = if (2..=5).contains(&number(3)) { 0..=4 } else { 4..=4 };
        assert!(most.contains(&placed), "{stop:?}: {placed}");
    }
}
