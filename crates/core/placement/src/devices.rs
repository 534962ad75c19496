//! Which devices of a node a task is given.

use std::cmp::Reverse;

use berth_model::{GpuRequest, Policy};

use crate::host::Host;
use crate::terms::cost::best_place;
use crate::terms::fragmentation::least_fragmenting;
use crate::terms::{Look, Term, terms_of};

/// Positions of the devices that the task is given of the node, none if it asks for none;
/// `None` if there is no room.
pub(crate) fn choose(policy: Policy, look: Look<'_>) -> Option<Vec<usize>> {
    let Some(gpu) = &look.task.gpu else { return Some(Vec::new()) };
    let terms = terms_of(policy, look.task);
    if terms.contains(&Term::Fragmentation) {
        return least_fragmenting(look);
    }
    if terms.contains(&Term::Cost) {
        return best_place(look).map(|(_, chosen)| chosen);
    }
    tightest(look.host, gpu, look.suits)
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

    use berth_model::{DeviceHealth, ShareMilli, StateMs};

    use super::*;
    use crate::fixture::{gpu_node, node_row};
    use crate::kinds::Kinds;

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
