//! The smallest domain that a gang fits into: one host, else one zone on the fewest hosts, else
//! the fewest hosts of all. Pure, and made anew for each gang.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use berth_model::Name;

use crate::policies::Score;

/// How many members of a gang a node could take, at least one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Room<'a> {
    pub position: usize,
    pub zone: &'a Name,
    pub members: u32,
    /// Of the policy, for the first of them.
    pub score: Score,
}

/// So many members on the node at this position.
pub(crate) type Share = (usize, u32);

/// The nodes that a gang of so many members is put on, in the order in which they are filled;
/// `None` if there is not enough room. Costs O(n log n).
pub(crate) fn choose(rooms: Vec<Room<'_>>, members: u32) -> Option<Vec<Share>> {
    let mut zones: BTreeMap<&Name, Vec<Room<'_>>> = BTreeMap::new();
    for room in &rooms {
        zones.entry(room.zone).or_default().push(*room);
    }
    let of_zones = zones.into_values().filter_map(|rooms| fewest(rooms, members));
    // Of zones with as few hosts the one that the first of these would be chosen in.
    let best = of_zones.min_by_key(|taken| (taken.len(), taken.first().map(key)));
    let taken = best.or_else(|| fewest(rooms, members))?;
    Some(taken.iter().map(|room| (room.position, room.members)).collect())
}

/// What decides between nodes that would take as many.
fn key(room: &Room<'_>) -> (Reverse<u32>, Score, usize) {
    (Reverse(room.members), room.score, room.position)
}

/// The fewest nodes that hold all members, with as many as each is given: those that take the
/// most, and the last by what the policy makes of all that could take the rest.
fn fewest(mut rooms: Vec<Room<'_>>, members: u32) -> Option<Vec<Room<'_>>> {
    rooms.sort_by_key(key);
    let mut taken = Vec::new();
    let mut left = members;
    for (at, room) in rooms.iter().enumerate() {
        if room.members < left {
            left -= room.members;
            taken.push(*room);
            continue;
        }
        let enough = rooms[at..].iter().take_while(|room| room.members >= left);
        let last = enough.min_by_key(|room| (room.score, room.position))?;
        taken.push(Room { members: left, ..*last });
        return Some(taken);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gang_goes_into_the_smallest_domain() {
        let (east, west) = (Name::new("east").unwrap(), Name::new("west").unwrap());
        let check =
            |nodes: &[(&Name, u32, u32)], members: u32, expected: Option<&[Share]>| {
                let rooms = nodes.iter().enumerate().map(|(position, (zone, members, score))| {
                    Room { position, zone, members: *members, score: Score([*score, 0, 0]) }
                });
                let found = choose(rooms.collect(), members);
                assert_eq!(found.as_deref(), expected, "{members} in {nodes:?}");
            };
        // One host, by the policy's choice among those that are large enough.
        check(&[(&east, 4, 5), (&east, 8, 5), (&west, 4, 3)], 4, Some(&[(2, 4)]));
        check(&[(&east, 2, 0), (&west, 8, 9)], 4, Some(&[(1, 4)]));
        // One zone, though its hosts are no better.
        check(&[(&east, 3, 0), (&west, 3, 1), (&west, 3, 1)], 5, Some(&[(1, 3), (2, 2)]));
        // The zone with the fewest hosts.
        let two = [(&east, 2, 0), (&east, 2, 0), (&east, 2, 0), (&west, 3, 9), (&west, 3, 9)];
        check(&two, 6, Some(&[(3, 3), (4, 3)]));
        // The last host is the policy's among those that can take the rest.
        check(
            &[(&east, 8, 0), (&east, 8, 1), (&east, 4, 9), (&east, 2, 0)],
            10,
            Some(&[(0, 8), (3, 2)]),
        );
        // No zone alone: the fewest hosts of all.
        check(&[(&east, 2, 0), (&east, 3, 0), (&west, 4, 9)], 6, Some(&[(2, 4), (0, 2)]));
        check(&[(&east, 2, 0), (&west, 3, 0)], 6, None);
        check(&[], 1, None);
        // Equals in the order of the nodes.
        check(&[(&west, 2, 1), (&east, 2, 1)], 2, Some(&[(0, 2)]));
    }
}
