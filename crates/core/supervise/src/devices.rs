//! Devices change hands through the cluster's state, workers leave them later:
//! a node that was given up and comes back may be asked to begin on a device
//! whose last worker is only being stopped.

use std::collections::BTreeSet;

use berth_model::AllocationId;

/// What a worker that is still here holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Held<D> {
    Device(D),
    /// Nothing says which devices it has: it may be any.
    Unknown,
}

/// The wishes that must wait: something else that has not ended holds a device
/// of theirs. `wishes` names each device that a wish asks for, `held` each that
/// a worker of this node holds until its last process is gone, `unfree` each that no
/// worker holds and that is not free yet.
pub fn occupied<D: Ord>(
    wishes: impl IntoIterator<Item = (AllocationId, D)>,
    held: impl IntoIterator<Item = (AllocationId, Held<D>)>,
    unfree: impl IntoIterator<Item = D>,
) -> BTreeSet<AllocationId> {
    let unfree: BTreeSet<D> = unfree.into_iter().collect();
    let held: Vec<(AllocationId, Held<D>)> = held.into_iter().collect();
    let blocks = |wish: AllocationId, device: &D, (holder, what): &(AllocationId, Held<D>)| {
        let same = match what {
            Held::Device(theirs) => theirs == device,
            Held::Unknown => true,
        };
        *holder != wish && same
    };
    wishes
        .into_iter()
        .filter(|(wish, device)| {
            unfree.contains(device) || held.iter().any(|one| blocks(*wish, device, one))
        })
        .map(|(wish, _)| wish)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(instance: u32) -> AllocationId {
        format!("1.0.{instance}.1").parse().unwrap()
    }

    fn check(wishes: &[(u32, char)], held: &[(u32, Option<char>)], expected: &[u32]) {
        let wishes = wishes.iter().map(|(instance, device)| (id(*instance), *device));
        let held = held
            .iter()
            .map(|(instance, device)| (id(*instance), device.map_or(Held::Unknown, Held::Device)));
        let expected = expected.iter().map(|instance| id(*instance)).collect();
        assert_eq!(occupied(wishes, held, []), expected);
    }

    #[test]
    fn a_wish_waits_for_a_device_that_is_not_free_yet() {
        let wishes = [(id(1), 'a'), (id(2), 'b')];
        assert_eq!(occupied(wishes, [], ['b', 'c']), BTreeSet::from([id(2)]));
    }

    #[test]
    fn a_wish_waits_for_whoever_else_holds_its_device() {
        check(&[(1, 'a'), (1, 'b')], &[], &[]);
        check(&[(1, 'a'), (1, 'b')], &[(2, Some('b'))], &[1]);
        check(&[(1, 'a')], &[(2, Some('b')), (1, Some('a'))], &[]);
        check(&[(1, 'a'), (3, 'b')], &[(2, None)], &[1, 3]);
    }
}
