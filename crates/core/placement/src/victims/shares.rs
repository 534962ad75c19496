//! How many members of a gang each node takes, so that the least work is lost for all of it.

use super::Price;

/// What it costs that a node takes up to so many members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Offer {
    pub members: u32,
    pub price: Price,
}

/// Less is better: what is lost, how many end, and then the fewest nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Total {
    price: Price,
    nodes: u32,
}

/// The cheapest offers, one of a node, that together take so many members, as positions of the
/// nodes and of the offers; of equals those of the fewest nodes, and then of the first. `None` if
/// all together take fewer.
///
/// Costs O(offers × members).
pub(crate) fn cheapest_shares(nodes: &[&[Offer]], members: u32) -> Option<Vec<(usize, usize)>> {
    let width = members as usize + 1;
    let nothing = Total { price: Price::NOTHING, nodes: 0 };
    let mut best: Vec<Option<Total>> = vec![None; width];
    best[0] = Some(nothing);
    // Which offer each node makes to the cheapest way to place so many.
    let mut chosen: Vec<Option<usize>> = vec![None; width * nodes.len()];
    for (node, offers) in nodes.iter().enumerate() {
        // From the most down: what is read has not met this node yet.
        for placed in (1..width).rev() {
            for (at, offer) in offers.iter().enumerate() {
                let before = placed.saturating_sub(offer.members as usize);
                let Some(total) = best[before].filter(|_| offer.members > 0) else { continue };
                let total = Total {
                    price: total.price.and(offer.price),
                    nodes: total.nodes.saturating_add(1),
                };
                if best[placed].is_none_or(|known| total < known) {
                    best[placed] = Some(total);
                    chosen[node * width + placed] = Some(at);
                }
            }
        }
    }
    best[width - 1]?;
    let mut left = members as usize;
    let mut shares = Vec::new();
    for node in (0..nodes.len()).rev() {
        if let Some(at) = chosen[node * width + left] {
            shares.push((node, at));
            left = left.saturating_sub(nodes[node][at].members as usize);
        }
    }
    shares.reverse();
    Some(shares)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offer((members, lost): (u32, u64)) -> Offer {
        Offer { members, price: Price { lost, victims: u32::from(lost > 0) } }
    }

    #[test]
    fn the_least_work_is_lost_over_all_nodes() {
        let check = |nodes: &[&[(u32, u64)]], members, expected: Option<&[(usize, usize)]>| {
            let offers: Vec<Vec<Offer>> =
                nodes.iter().map(|node| node.iter().copied().map(offer).collect()).collect();
            let offers: Vec<&[Offer]> = offers.iter().map(Vec::as_slice).collect();
            assert_eq!(cheapest_shares(&offers, members).as_deref(), expected, "{nodes:?}");
        };
        check(&[&[(1, 5), (2, 9)], &[(1, 3), (2, 7)]], 2, Some(&[(1, 1)]));
        check(&[&[(1, 5), (2, 9)], &[(1, 3), (2, 9)]], 2, Some(&[(0, 0), (1, 0)]));
        // Of equals on the fewest nodes, and then on the first.
        check(&[&[(1, 1)], &[(1, 1), (2, 1)], &[(2, 1)]], 2, Some(&[(1, 1)]));
        check(&[&[(1, 4), (2, 4)], &[(1, 4), (2, 4)]], 2, Some(&[(0, 1)]));
        // Room that nobody has to make.
        check(&[&[(1, 0), (2, 6)], &[(2, 5), (3, 5)]], 3, Some(&[(1, 1)]));
        check(&[&[(1, 0), (2, 4)], &[(1, 2), (2, 3)]], 3, Some(&[(0, 0), (1, 1)]));
        // One that takes more than are left.
        check(&[&[(4, 3)], &[(3, 4)]], 3, Some(&[(0, 0)]));
        check(&[&[(1, 0)], &[(1, 0)]], 3, None);
        check(&[], 1, None);
    }

    fn by_exhaustion(nodes: &[Vec<Offer>], members: u32) -> Option<Total> {
        let Some((first, rest)) = nodes.split_first() else {
            return (members == 0).then_some(Total { price: Price::NOTHING, nodes: 0 });
        };
        let without = by_exhaustion(rest, members);
        let with = first.iter().filter_map(|offer| {
            let total = by_exhaustion(rest, members.saturating_sub(offer.members))?;
            Some(Total { price: total.price.and(offer.price), nodes: total.nodes + 1 })
        });
        with.chain(without).min()
    }

    proptest! {
        #[test]
        fn no_other_offers_are_cheaper(
            nodes in prop::collection::vec(prop::collection::vec((1..4_u32, 0..9_u64), 0..4), 0..5),
            members in 1..9_u32,
        ) {
            let nodes: Vec<Vec<Offer>> =
                nodes.into_iter().map(|node| node.into_iter().map(offer).collect()).collect();
            let offers: Vec<&[Offer]> = nodes.iter().map(Vec::as_slice).collect();
            let found = cheapest_shares(&offers, members).map(|shares| {
                let chosen = shares.iter().map(|(node, at)| nodes[*node][*at]);
                let taken: u32 = chosen.clone().map(|offer| offer.members).sum();
                assert!(taken >= members);
                let price = chosen.fold(Price::NOTHING, |sum, offer| sum.and(offer.price));
                Total { price, nodes: shares.len() as u32 }
            });
            prop_assert!(found == by_exhaustion(&nodes, members));
        }
    }
}
