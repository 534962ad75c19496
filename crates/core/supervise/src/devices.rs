//! Devices change hands through the cluster's state, workers leave them later:
//! a node that was given up and comes back may be asked to begin on a device
//! whose last worker is only being stopped.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, MemoryBytes, ShareMilli};

/// As much of a device as one allocation asks for, or holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Part<D> {
    pub device: D,
    pub share: ShareMilli,
    pub memory: MemoryBytes,
}

/// What a worker that is still here holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Held<D> {
    Device(Part<D>),
    /// Nothing says which devices it has: it may be any.
    Unknown,
}

/// What may be on the devices of this node at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Room<D> {
    /// How much each has; of one that is not here nobody shares anything.
    pub memory: BTreeMap<D, MemoryBytes>,
    pub tasks_per_device_max: u32,
}

/// The wishes that must wait: something else that has not ended holds what they ask for.
/// `wishes` names each device that a wish asks for, `held` each that a worker of this node
/// holds until its last process is gone, `unfree` each that is not free yet of what those held
/// that have ended.
///
/// A whole device is for one alone. Parts of one may be held together, as long as shares,
/// memory and number allow; wishes for parts go in the order of their allocations, so that two
/// are not begun at once where there is room for one.
pub fn occupied<D: Ord + Copy>(
    wishes: impl IntoIterator<Item = (AllocationId, Part<D>)>,
    held: impl IntoIterator<Item = (AllocationId, Held<D>)>,
    unfree: impl IntoIterator<Item = D>,
    room: &Room<D>,
) -> BTreeSet<AllocationId> {
    let unfree: BTreeSet<D> = unfree.into_iter().collect();
    let held: Vec<(AllocationId, Held<D>)> = held.into_iter().collect();
    let mut wishes: Vec<(AllocationId, Part<D>)> = wishes.into_iter().collect();
    wishes.sort_unstable();
    // Parts that are about to be begun.
    let mut begun: Vec<Part<D>> = Vec::new();
    let mut waiting = BTreeSet::new();
    for (wish, part) in wishes {
        let others = held.iter().filter(|(holder, _)| *holder != wish);
        let others: Option<Vec<Part<D>>> = others
            .filter_map(|(_, what)| match what {
                Held::Device(theirs) => (theirs.device == part.device).then_some(Some(*theirs)),
                Held::Unknown => Some(None),
            })
            .collect();
        let beside = begun.iter().filter(|other| other.device == part.device);
        let is_open = others.is_some_and(|mut others| {
            others.extend(beside);
            has_room(part, &others, room)
        });
        if unfree.contains(&part.device) || !is_open {
            waiting.insert(wish);
        } else if part.share.is_part() {
            begun.push(part);
        }
    }
    waiting
}

/// Whether a part fits on its device beside those that are there.
fn has_room<D: Ord>(part: Part<D>, others: &[Part<D>], room: &Room<D>) -> bool {
    if others.is_empty() {
        return true;
    }
    let Some(memory) = room.memory.get(&part.device) else { return false };
    let all = || others.iter().chain([&part]);
    let shares: u64 = all().map(|one| u64::from(one.share.0)).sum();
    let claimed: u128 = all().map(|one| u128::from(one.memory.0)).sum();
    // One that holds all of it leaves nothing of its share.
    shares <= u64::from(ShareMilli::WHOLE.0)
        && claimed <= u128::from(memory.0)
        && others.len() < room.tasks_per_device_max as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: MemoryBytes = MemoryBytes(80);

    fn id(instance: u32) -> AllocationId {
        format!("1.0.{instance}.1").parse().unwrap()
    }

    fn whole(device: char) -> Part<char> {
        Part { device, share: ShareMilli::WHOLE, memory: DEVICE }
    }

    fn room() -> Room<char> {
        let memory = ['a', 'b'].map(|device| (device, DEVICE)).into();
        Room { memory, tasks_per_device_max: 3 }
    }

    fn check(wishes: &[(u32, char)], held: &[(u32, Option<char>)], expected: &[u32]) {
        let wishes = wishes.iter().map(|(instance, device)| (id(*instance), whole(*device)));
        let held = held.iter().map(|(instance, device)| {
            (id(*instance), device.map_or(Held::Unknown, |device| Held::Device(whole(device))))
        });
        let expected = expected.iter().map(|instance| id(*instance)).collect();
        assert_eq!(occupied(wishes, held, [], &room()), expected);
    }

    #[test]
    fn a_wish_waits_for_a_device_that_is_not_free_yet() {
        let wishes = [(id(1), whole('a')), (id(2), whole('b'))];
        assert_eq!(occupied(wishes, [], ['b', 'c'], &room()), BTreeSet::from([id(2)]));
    }

    #[test]
    fn a_wish_waits_for_whoever_else_holds_its_device() {
        check(&[(1, 'a'), (1, 'b')], &[], &[]);
        check(&[(1, 'a'), (1, 'b')], &[(2, Some('b'))], &[1]);
        check(&[(1, 'a')], &[(2, Some('b')), (1, Some('a'))], &[]);
        check(&[(1, 'a'), (3, 'b')], &[(2, None)], &[1, 3]);
    }

    #[test]
    fn parts_of_a_device_are_held_together_as_far_as_there_is_room() {
        let part = |(instance, share, memory): (u32, u32, u64)| {
            let (share, memory) = (ShareMilli(share), MemoryBytes(memory));
            (id(instance), Part { device: 'a', share, memory })
        };
        let check = |wishes: &[(u32, u32, u64)], held: &[(u32, u32, u64)], expected: &[u32]| {
            let there = held.iter().copied().map(part);
            let there = there.map(|(id, part)| (id, Held::Device(part)));
            let asked = wishes.iter().copied().map(part);
            let expected: BTreeSet<_> = expected.iter().map(|instance| id(*instance)).collect();
            let found = occupied(asked, there, [], &room());
            assert_eq!(found, expected, "{wishes:?} beside {held:?}");
        };
        let half = |instance| (instance, 500, 40);
        check(&[half(1), half(2)], &[], &[]);
        check(&[half(2)], &[half(1)], &[]);
        check(&[half(3)], &[half(1), half(2)], &[3]);
        // Beside one that the cluster has given up and that lives on here.
        check(&[half(3), half(2)], &[half(1)], &[3]);
        check(&[(2, 500, 41)], &[half(1)], &[2]);
        check(&[(2, 501, 40)], &[half(1)], &[2]);
        check(&[(4, 100, 1)], &[(1, 100, 1), (2, 100, 1), (3, 100, 1)], &[4]);
        check(&[(2, 1000, 80)], &[(1, 1, 1)], &[2]);
        check(&[(2, 1, 0)], &[(1, 1000, 80)], &[2]);
        check(&[half(2)], &[half(2)], &[]);
        // A part that waits takes no room.
        check(&[(2, 600, 10), (3, 400, 10)], &[half(1)], &[2]);
        let unknown = [(id(9), Held::Unknown)];
        assert_eq!(occupied([part(half(1))], unknown, [], &room()), BTreeSet::from([id(1)]));
        let nowhere = Room { memory: BTreeMap::new(), tasks_per_device_max: 3 };
        let (one, other) = (part(half(1)), part(half(2)));
        assert!(occupied([one], [], [], &nowhere).is_empty());
        let beside = occupied([one], [(other.0, Held::Device(other.1))], [], &nowhere);
        assert_eq!(beside, BTreeSet::from([id(1)]), "of one that is not here");
    }
}
