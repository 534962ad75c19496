//! Any history of a cluster, and every decision in it: captured, written to bytes, read back and
//! made anew, it is the same, also where all names were replaced.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod history;

use berth_model::{StateMs, WallMs};
use berth_state::ClusterState;
use berth_state::decision::Decision;
use berth_wire::capture::{
    Capture, CaptureHeader, Captured, Origin, Privacy, read_capture, write_capture,
};
use history::{Step, World, a_node, a_step};
use proptest::prelude::*;

/// What a capture holds of a leader's last decisions, and the one of now.
const KEPT: usize = 9;

fn capture(view: &ClusterState, decisions: Vec<Decision>) -> Capture {
    let header = CaptureHeader {
        writer: "0.1.0".to_owned(),
        cluster_version: view.cluster().cluster_version,
        captured_at: WallMs(1),
        captured_ms: StateMs(1),
        applied_index: view.applied_index(),
        cluster_id: Some(view.cluster().id),
    };
    let decisions = decisions
        .into_iter()
        .map(|decision| Captured { origin: Origin::Planner, decision })
        .collect();
    Capture { header, decisions }
}

/// Writes, reads and replays; the bytes.
fn same_again(capture: &Capture, privacy: Privacy) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_capture(capture, privacy, &mut bytes).unwrap();
    let read = read_capture(bytes.as_slice()).unwrap();
    assert_eq!(read.decisions.len(), capture.decisions.len());
    for (read, written) in read.decisions.iter().zip(&capture.decisions) {
        let replayed = berth_sim::replay::replay(&read.decision);
        assert_eq!(replayed.made, read.decision.made, "{privacy:?} {:?}", replayed.differences);
        assert!(replayed.differences.is_empty());
        let (read, written) = (&read.decision.made, &written.decision.made);
        assert_eq!(read.placements.len(), written.placements.len());
        match privacy {
            Privacy::Named => assert_eq!(read, written),
            Privacy::Redacted => assert_eq!(read.waiting, written.waiting),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_captured_decision_is_made_anew(
        nodes in prop::collection::vec(a_node(), 1..6),
        steps in prop::collection::vec(a_step(), 1..20),
    ) {
        let mut world = World::with_nodes(nodes);
        let mut decisions = Vec::new();
        for step in steps {
            decisions.extend(world.take(step));
        }
        decisions.extend(world.take(Step::Plan { work: u64::MAX, placements: 100 }));
        let first = decisions.len().saturating_sub(KEPT);
        let capture = capture(&world.state, decisions.split_off(first));
        same_again(&capture, Privacy::Named);
        let redacted = same_again(&capture, Privacy::Redacted);
        for text in history::NAMES {
            let found = redacted.windows(text.len()).any(|window| window == text.as_bytes());
            prop_assert!(!found, "{text} is left");
        }
    }
}
