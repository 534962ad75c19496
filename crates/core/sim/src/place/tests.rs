use super::*;
use crate::Random;

fn shape(number: usize, gpus: u32, model: &str) -> NodeShape {
    NodeShape {
        name: Name::new(&format!("node-{number}")).unwrap(),
        cpu: CpuMilli(u64::from(gpus.max(1)) * 8_000),
        memory: MemoryBytes(64 << 30),
        gpus,
        model: model.to_owned(),
    }
}

fn arrival(number: usize, gpus: u32, share: u32, models: &[&str]) -> Arrival {
    Arrival {
        name: Name::new(&format!("task-{number}")).unwrap(),
        cpu: CpuMilli(1_000 + 500 * (number as u64 % 7)),
        memory: MemoryBytes(1 << 30),
        gpus,
        share: ShareMilli(share),
        models: models.iter().map(|model| (*model).to_owned()).collect(),
    }
}

/// A load of the project's own: all kinds of requests on nodes of three kinds.
fn load(seed: u64) -> (Vec<NodeShape>, Vec<Arrival>) {
    let mut random = Random::new(seed);
    let kinds = [(8, "A100"), (4, "L4"), (2, "T4"), (0, "")];
    let machines = (0..40)
        .map(|number| {
            let (gpus, model) = kinds[random.below(kinds.len())];
            shape(number, gpus, model)
        })
        .collect();
    let arrivals = (0..600)
        .map(|number| match random.below(10) {
            0 => arrival(number, 0, 1000, &[]),
            1..=4 => arrival(number, 1, [120, 250, 480, 500][random.below(4)], &[]),
            5..=6 => arrival(number, 1, 1000, &[]),
            7 => arrival(number, 1, 1000, &["A100"]),
            8 => arrival(number, 1, 500, &["L4", "T4"]),
            _ => arrival(number, [2, 4, 8][random.below(3)], 1000, &[]),
        })
        .collect();
    (machines, arrivals)
}

/// What is left of a node, reckoned apart from the cluster's code.
struct Left {
    cpu: u64,
    memory: u64,
    gpus: Vec<u32>,
}

impl Left {
    fn has_room(&self, shape: &NodeShape, arrival: &Arrival) -> bool {
        let accepted = arrival.models.is_empty() || arrival.models.contains(&shape.model);
        let fitting = self.gpus.iter().filter(|left| **left >= arrival.share.0).count();
        self.cpu >= arrival.cpu.0
            && self.memory >= arrival.memory.0
            && (arrival.gpus == 0 || (accepted && fitting >= arrival.gpus as usize))
    }
}

#[test]
fn no_policy_gives_more_than_there_is_or_refuses_what_fits() {
    for policy in Policy::ALL {
        let (machines, arrivals) = load(7);
        let mut run = PlaceRun::new(&machines, u32::MAX, policy, None).unwrap();
        let mut left: Vec<Left> = machines
            .iter()
            .map(|shape| Left {
                cpu: shape.cpu.0,
                memory: shape.memory.0,
                gpus: vec![1000; shape.gpus as usize],
            })
            .collect();
        let mut refused = 0;
        for arrival in &arrivals {
            let Some(placed) = run.offer(arrival).unwrap() else {
                let mut both = machines.iter().zip(&left);
                let fits = both.find(|(shape, left)| left.has_room(shape, arrival));
                assert!(
                    fits.is_none(),
                    "{}: {arrival:?} fits {fits:?}",
                    policy.name(),
                    fits = fits.map(|fits| fits.0)
                );
                refused += 1;
                continue;
            };
            let at = machines.iter().position(|shape| shape.name == placed.node).unwrap();
            let node = &mut left[at];
            assert!(node.has_room(&machines[at], arrival), "{}: {arrival:?}", policy.name());
            assert_eq!(placed.gpus.len(), arrival.gpus as usize);
            node.cpu -= arrival.cpu.0;
            node.memory -= arrival.memory.0;
            for gpu in &placed.gpus {
                node.gpus[*gpu as usize] -= arrival.share.0;
            }
        }
        let totals = run.totals();
        let taken: u64 =
            left.iter().flat_map(|left| &left.gpus).map(|left| 1000 - u64::from(*left)).sum();
        assert_eq!((totals.allocated_milli, totals.refused), (taken, refused));
        assert_eq!(totals.offered, 600);
        assert!(refused > 0, "the load is to be more than there is");
    }
}

#[test]
fn the_same_list_is_placed_alike_each_time() {
    let placed = || {
        let (machines, arrivals) = load(3);
        let mut run = PlaceRun::new(&machines, 4, Policy::Berth, None).unwrap();
        arrivals.iter().map(|arrival| run.offer(arrival).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(placed(), placed());
}

#[test]
fn berths_own_policy_leaves_the_least_unused() {
    let allocated = |policy| {
        let all = (1..=3).map(|seed| {
            let (machines, arrivals) = load(seed);
            let mut run = PlaceRun::new(&machines, u32::MAX, policy, None).unwrap();
            arrivals.iter().for_each(|arrival| drop(run.offer(arrival).unwrap()));
            run.totals().allocated_milli
        });
        all.sum::<u64>()
    };
    let own = allocated(Policy::Berth);
    for policy in Policy::ALL {
        assert!(own >= allocated(policy), "{} places more", policy.name());
    }
}

#[test]
fn no_more_tasks_share_a_gpu_than_is_allowed() {
    let machines = [shape(0, 1, "L4")];
    let placed = |tasks_max| {
        let mut run = PlaceRun::new(&machines, tasks_max, Policy::Berth, None).unwrap();
        (0..8).filter(|at| run.offer(&arrival(*at * 7, 1, 100, &[])).unwrap().is_some()).count()
    };
    assert_eq!((placed(4), placed(u32::MAX)), (4, 8));
}

/// Places shares of all sizes with moves: how things stand in the end, and who was moved.
fn with_moves(seed: u64, moves_max: MovesMax) -> (Totals, Vec<Moved>) {
    let machines: Vec<NodeShape> = (0..10).map(|number| shape(number, 4, "L4")).collect();
    let mut random = Random::new(seed);
    let mut share = || [470, 230, 650, 1000, 320, 590, 220][random.below(7)];
    let arrivals: Vec<Arrival> = (0..120).map(|number| arrival(number, 1, share(), &[])).collect();
    let mut run = PlaceRun::new(&machines, u32::MAX, Policy::Berth, None).unwrap();
    run.allow_moves(moves_max);
    let mut all = Vec::new();
    for arrival in &arrivals {
        let refused = run.totals().refused;
        run.offer(arrival).unwrap();
        let Totals { offered, refused: refused_now, moved, .. } = run.totals();
        if let MovesMax::OfPlaced(parts) = moves_max {
            assert!(moved * 10_000 <= (offered - refused_now) * u64::from(parts));
        }
        let just_moved = run.take_moved();
        assert!(just_moved.is_empty() || refused_now == refused, "moved for nothing");
        assert!(just_moved.iter().all(|one| one.position < offered - 1), "{just_moved:?}");
        all.extend(just_moved);
    }
    assert_eq!(run.totals().moved, all.len() as u64);
    (run.totals(), all)
}

#[test]
fn moves_let_in_what_would_be_refused_and_are_no_more_than_allowed() {
    let (mut with, mut without) = (0, 0);
    for seed in 1..=6 {
        let (none, moved) = with_moves(seed, MovesMax::Count(0));
        assert_eq!(moved, []);
        let (one, moved) = with_moves(seed, MovesMax::Count(1));
        assert!(moved.len() <= 1 && one.moved == moved.len() as u64);
        let (many, moved) = with_moves(seed, MovesMax::OfPlaced(1000));
        assert_eq!(with_moves(seed, MovesMax::OfPlaced(1000)).1, moved, "twice the same");
        with += many.allocated_milli;
        without += none.allocated_milli;
    }
    assert!(with > without, "{with} {without}");
}
