//! Which devices of a node a task is given: of a share the device where it fits best, of
//! several whole ones those that reach each other best.

use std::cmp::Reverse;

use berth_model::{Device, GpuRequest, PcieWay, Policy, TaskSpec};

use crate::host::Host;
use crate::terms::cost::best_place;
use crate::terms::fragmentation::least_fragmenting;
use crate::terms::{Look, Term, terms_of};

/// Positions of the devices that the task is given of the node, none if it asks for none;
/// `None` if there is no room.
pub(crate) fn choose(policy: Policy, look: Look<'_>) -> Option<Vec<usize>> {
    let Some(gpu) = &look.task.gpu else { return Some(Vec::new()) };
    if gpu.count > 1 {
        return closest(look.host, gpu, look.suits);
    }
    let terms = terms_of(policy, look.task);
    if terms.contains(&Term::Fragmentation) {
        return least_fragmenting(look);
    }
    if terms.contains(&Term::Cost) {
        return best_place(look).map(|(_, chosen)| chosen);
    }
    tightest(look.host, gpu, look.suits)
}

/// Devices for so many members of a gang on one node: of whole ones those that reach each other
/// best, and of these for each member those that do; of shares the fullest. `None` if there is no room.
pub(crate) fn for_gang(
    host: &Host,
    task: &TaskSpec,
    suits: &[bool],
    members: u32,
) -> Option<Vec<Vec<usize>>> {
    let Some(gpu) = &task.gpu else { return Some(vec![Vec::new(); members as usize]) };
    let open: Vec<usize> = host.spots_for_gang(gpu, suits, task.count).collect();
    if gpu.is_shared() {
        return shares(host, gpu, open, members);
    }
    let devices = &host.row.spec.devices;
    let count = gpu.count as usize;
    let mut set = closest_of(devices, &open, count.checked_mul(members as usize)?)?;
    let mut sets = Vec::with_capacity(members as usize);
    for _ in 0..members {
        let chosen = closest_of(devices, &set, count)?;
        set.retain(|at| !chosen.contains(at));
        sets.push(chosen);
    }
    Some(sets)
}

/// One part after another, on the device with the least left that has room for it.
fn shares(
    host: &Host,
    gpu: &GpuRequest,
    open: Vec<usize>,
    members: u32,
) -> Option<Vec<Vec<usize>>> {
    let mut left: Vec<(u32, u32, usize)> = open
        .into_iter()
        .map(|at| (host.spots[at].share_free, host.shares_of(&host.spots[at], gpu), at))
        .collect();
    let mut sets = Vec::with_capacity(members as usize);
    for _ in 0..members {
        let (share, parts, at) = left.iter_mut().filter(|(_, parts, _)| *parts > 0).min()?;
        *share = share.saturating_sub(gpu.share.0);
        *parts -= 1;
        sets.push(vec![*at]);
    }
    Some(sets)
}

/// How far two devices are from each other, less is nearer: over NVLinks the more of them the
/// nearer, then by what the way over PCIe leads through.
fn distance(devices: &[Device], one: usize, other: usize) -> u32 {
    const NVLINKS: u32 = 256;
    let (first, second) = (one.min(other), one.max(other));
    match devices[second].ways.get(first) {
        Some(way) if way.nvlinks > 0 => NVLINKS.saturating_sub(way.nvlinks),
        Some(way) => NVLINKS * (1 + way.pcie as u32),
        None => NVLINKS * (1 + PcieWay::Unknown as u32),
    }
}

/// What the devices of a task are to each other: the longest way, which is what their exchange
/// waits for, then all ways together.
fn spread_of(devices: &[Device], chosen: &[usize]) -> (u32, u32) {
    let mut spread = (0, 0_u32);
    for (at, one) in chosen.iter().enumerate() {
        for other in &chosen[at + 1..] {
            let way = distance(devices, *one, *other);
            spread = (spread.0.max(way), spread.1.saturating_add(way));
        }
    }
    spread
}

/// Several whole devices that reach each other best: from each that is open the set grows by
/// the nearest, and the best of these sets is taken; where nobody says how devices reach each
/// other, or nothing is nearer, as [`tightest`] has it. Costs O(open² × count).
fn closest(host: &Host, gpu: &GpuRequest, suits: &[bool]) -> Option<Vec<usize>> {
    let plain = tightest(host, gpu, suits)?;
    let open: Vec<usize> = host.open_spots(gpu, suits).collect();
    Some(nearer_than(plain, &host.row.spec.devices, &open))
}

/// The same among these positions, in ascending order.
fn closest_of(devices: &[Device], open: &[usize], count: usize) -> Option<Vec<usize>> {
    let plain = neighbours(devices, open, count)?;
    Some(nearer_than(plain, devices, open))
}

/// As many of `open` as `plain` has that reach each other better, or `plain`.
fn nearer_than(plain: Vec<usize>, devices: &[Device], open: &[usize]) -> Vec<usize> {
    let count = plain.len();
    if open.iter().all(|at| devices[*at].ways.is_empty()) {
        return plain;
    }
    let mut best = (spread_of(devices, &plain), plain);
    for seed in open {
        let mut chosen = vec![*seed];
        let mut others: Vec<usize> = open.iter().copied().filter(|at| at != seed).collect();
        while chosen.len() < count {
            let reach = |at: usize| {
                let ways = chosen.iter().map(|one| distance(devices, *one, at));
                ways.fold((0, 0_u32), |(longest, all), way| {
                    (longest.max(way), all.saturating_add(way))
                })
            };
            let nearest = others.iter().enumerate().min_by_key(|(_, at)| (reach(**at), **at));
            let Some(position) = nearest.map(|(position, _)| position) else { break };
            chosen.push(others.remove(position));
        }
        chosen.sort_unstable();
        let spread = spread_of(devices, &chosen);
        if chosen.len() == count && spread < best.0 {
            best = (spread, chosen);
        }
    }
    best.1
}

/// Of whole devices the lowest run of neighbouring free ones, because neighbours usually
/// share a switch or a link; failing that the lowest. Of those that have room for a share the
/// one with the least of it left, so that whole ones stay whole. Suspects come last.
pub(crate) fn tightest(host: &Host, gpu: &GpuRequest, suits: &[bool]) -> Option<Vec<usize>> {
    let devices = &host.row.spec.devices;
    let count = gpu.count as usize;
    let mut open: Vec<usize> = host.open_spots(gpu, suits).collect();
    open.sort_by_key(|at| {
        let spot = &host.spots[*at];
        let held = 1000_u32.saturating_sub(spot.share_free);
        (spot.is_suspect, Reverse(held), devices[*at].index, *at)
    });
    neighbours(devices, &open, count)
}

/// The first run of neighbours among these positions, failing that the first of them.
fn neighbours(devices: &[Device], open: &[usize], count: usize) -> Option<Vec<usize>> {
    let mut runs = open.windows(count.max(1));
    let run = runs.find(|window| {
        let index = |at: usize| devices[at].index;
        window.windows(2).all(|pair| index(pair[0]).checked_add(1) == Some(index(pair[1])))
    });
    let chosen = run.or_else(|| open.get(..count))?;
    Some(chosen.to_vec())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use berth_model::{DeviceHealth, DeviceWay, ShareMilli, StateMs};

    use super::*;
    use crate::fixture::{gpu_node, node_row};
    use crate::kinds::Kinds;

    /// Eight devices in pairs of NVLinks, on two switches, one to a NUMA node.
    fn linked(busy: &[usize]) -> Host {
        let mut spec = gpu_node(8);
        for (at, device) in spec.devices.iter_mut().enumerate() {
            let way = |other: usize| DeviceWay {
                pcie: if other / 4 == at / 4 { PcieWay::Switch } else { PcieWay::System },
                nvlinks: if other / 2 == at / 2 { 4 } else { 0 },
            };
            device.ways = (0..at).map(way).collect();
        }
        let mut row = node_row(1, spec);
        for at in busy {
            let held = row.used.devices.entry(format!("GPU-{at}")).or_default();
            held.share = ShareMilli::WHOLE;
            held.tasks = 1;
        }
        Host::new(Arc::new(row), None, StateMs(0), &mut Kinds::default())
    }

    #[test]
    fn several_devices_reach_each_other_best() {
        let check = |busy: &[usize], count: u32, expected: &[usize]| {
            let found = closest(&linked(busy), &GpuRequest::whole(count), &[true]);
            assert_eq!(found.as_deref(), Some(expected), "{count} beside {busy:?}");
        };
        check(&[], 2, &[0, 1]);
        check(&[1], 2, &[2, 3]);
        check(&[0, 2, 4], 2, &[6, 7]);
        check(&[1, 3], 3, &[4, 5, 6]);
        check(&[1], 4, &[4, 5, 6, 7]);
        check(&[0, 2, 4, 6], 2, &[1, 3]);
        check(&[0, 4], 6, &[1, 2, 3, 5, 6, 7]);
        check(&[], 8, &[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(closest(&linked(&[0]), &GpuRequest::whole(8), &[true]), None);
    }

    #[test]
    fn neighbours_are_taken_before_the_lowest() {
        let check =
            |busy: &[(u32, u32)], lost: &[u32], gpu: &GpuRequest, expected: Option<&[usize]>| {
                let mut spec = gpu_node(8);
                for index in lost {
                    spec.devices[*index as usize].health = DeviceHealth::Lost;
                }
                let mut row = node_row(1, spec);
                for (index, share) in busy {
                    let held = row.used.devices.entry(format!("GPU-{index}")).or_default();
                    held.share = ShareMilli(*share);
                    held.tasks = 1;
                }
                let host = Host::new(Arc::new(row), None, StateMs(0), &mut Kinds::default());
                let found = tightest(&host, gpu, &[true]);
                assert_eq!(found.as_deref(), expected, "busy {busy:?}, lost {lost:?}, {gpu:?}");
            };
        let whole = GpuRequest::whole;
        let half = GpuRequest { share: ShareMilli(500), ..whole(1) };
        check(&[], &[], &whole(2), Some(&[0, 1]));
        check(&[(1, 1000)], &[], &whole(2), Some(&[2, 3]));
        check(&[(1, 10), (3, 10), (5, 10), (7, 10)], &[], &whole(2), Some(&[0, 2]));
        check(&[(0, 1000)], &[1], &whole(1), Some(&[2]));
        check(&[(0, 1000)], &[1], &whole(7), None);
        check(&[], &[], &whole(8), Some(&[0, 1, 2, 3, 4, 5, 6, 7]));
        check(&[(4, 300), (5, 500), (6, 501)], &[], &half, Some(&[5]));
        check(&[(0, 600)], &[], &half, Some(&[1]));
    }
}
