use berth_model::{CpuMilli, DeviceClaim, MemoryBytes, ShareMilli};
use proptest::prelude::*;

use super::*;

fn claim(cpu: u64, gpus: &[(u8, u32)]) -> Claim {
    let device = |(index, share): &(u8, u32)| DeviceClaim {
        uuid: format!("GPU-{index}"),
        share: ShareMilli(*share),
        memory: MemoryBytes(0),
    };
    let devices = gpus.iter().map(device).collect();
    Claim { cpu: CpuMilli(cpu), devices, ..Claim::default() }
}

fn id(instance: usize) -> AllocationId {
    format!("1.0.{instance}.1").parse().unwrap()
}

fn sum<'a>(claims: impl IntoIterator<Item = &'a Claim>) -> NodeUse {
    let mut used = NodeUse::default();
    claims.into_iter().for_each(|claim| used.add(claim));
    used
}

fn candidates(held: &[(Claim, u64)]) -> Vec<Candidate<'_>> {
    let numbered = held.iter().enumerate();
    numbered.map(|(at, (claim, lost))| Candidate::alone(id(at), claim, *lost)).collect()
}

/// Room for so many cores and so many of four GPUs that nobody holds any of.
fn has_room(used: &NodeUse, cpu: u64, gpus: usize) -> bool {
    let idle = (0..4).filter(|index| !used.devices.contains_key(&format!("GPU-{index}")));
    used.cpu.0 + cpu <= 16 && idle.count() >= gpus
}

#[test]
fn the_least_work_is_lost() {
    let check = |held: &[(Claim, u64)], cpu: u64, gpus: usize, expected: Option<&[usize]>| {
        let candidates = candidates(held);
        let used = sum(held.iter().map(|(claim, _)| claim));
        let found = cheapest(&used, &candidates, &Lenders::new(), |used| has_room(used, cpu, gpus));
        assert_eq!(found.map(|set| set.chosen).as_deref(), expected, "{gpus} of {held:?}");
    };
    let one = |at: u8| claim(1, &[(at, 1000)]);
    check(&[(one(0), 5), (one(1), 3), (one(2), 9), (one(3), 4)], 1, 2, Some(&[1, 3]));
    // One that is larger and cheap rather than two that are small.
    let pair = claim(1, &[(0, 1000), (1, 1000)]);
    check(&[(pair.clone(), 6), (one(2), 3), (one(3), 4)], 1, 2, Some(&[0]));
    check(&[(pair.clone(), 8), (one(2), 3), (one(3), 4)], 1, 2, Some(&[1, 2]));
    // Two that share a GPU end for one.
    let half = |at: u8| claim(1, &[(at, 500)]);
    check(&[(half(0), 2), (half(0), 2), (one(1), 5)], 1, 3, Some(&[0, 1]));
    check(&[(half(0), 2), (half(0), 2), (one(1), 3)], 1, 3, Some(&[2]));
    // It is the processor that is missing, and one that ends anyway costs nothing.
    check(&[(claim(8, &[]), 7), (claim(8, &[]), 0)], 4, 0, Some(&[1]));
    // Of equals as few as possible end.
    check(&[(claim(4, &[]), 0), (claim(4, &[]), 0), (claim(8, &[]), 0)], 8, 0, Some(&[2]));
    check(&[(one(0), 1)], 1, 3, Some(&[]));
    check(&[(one(0), 1)], 17, 0, None);
}

fn held() -> impl Strategy<Value = Vec<(Claim, u64)>> {
    let gpus =
        proptest::collection::btree_map(0..4_u8, prop_oneof![Just(1000_u32), Just(500)], 0..3);
    let one = (0..6_u64, gpus, 0..20_u64)
        .prop_map(|(cpu, gpus, lost)| (claim(cpu, &gpus.into_iter().collect::<Vec<_>>()), lost));
    proptest::collection::vec(one, 0..9)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every subset is tried, and none that makes room is cheaper.
    #[test]
    fn no_set_is_cheaper(held in held(), cpu in 0..17_u64, gpus in 0..5_usize) {
        let candidates = candidates(&held);
        let used = sum(held.iter().map(|(claim, _)| claim));
        let price = |set: usize| {
            let ended = (0..held.len()).filter(|at| set >> at & 1 == 1);
            let (mut lost, mut victims) = (0, 0);
            ended.for_each(|at| { lost += held[at].1; victims += 1; });
            Price { lost, victims }
        };
        let rest = |set: usize| {
            let kept = (0..held.len()).filter(|at| set >> at & 1 == 0);
            sum(kept.map(|at| &held[at].0))
        };
        let sets = (0..1_usize << held.len()).filter(|set| has_room(&rest(*set), cpu, gpus));
        let expected = sets.map(price).min();
        let idle = (0..4).filter(|index| !used.devices.contains_key(&format!("GPU-{index}")));
        let shortage = Shortage {
            devices: (gpus as u64).saturating_sub(idle.count() as u64),
            cpu_milli: (used.cpu.0 + cpu).saturating_sub(16),
            memory_bytes: 0,
        };
        if let Some(expected) = expected {
            let least = at_least(&candidates, shortage);
            prop_assert!(least.is_some_and(|least| least <= expected), "{:?}", least);
        }
        let found = cheapest(&used, &candidates, &Lenders::new(), |used| has_room(used, cpu, gpus));
        prop_assert_eq!(found.as_ref().map(|set| set.price), expected);
        if let Some(found) = found {
            let set = found.chosen.iter().fold(0, |set, at| set | 1 << at);
            prop_assert_eq!(price(set), found.price);
            prop_assert!(has_room(&rest(set), cpu, gpus));
        }
    }
}
