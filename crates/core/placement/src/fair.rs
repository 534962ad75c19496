//! Fair shares: whoever holds a large part of the cluster, now or on average lately, stands
//! somewhat further back in the queue, beside others by weight. Never so far that it would starve.

use std::collections::BTreeMap;

use berth_model::{Amounts, Name, halved};
use berth_state::state::AGE_MS_PER_POINT;
use berth_state::{ClusterState, QueueKey};

/// So many points of priority what holds everything stands behind what holds nothing: what has
/// waited for that many minutes longer, or is that much more urgent, comes first all the same.
pub const FAIR_POINTS: i64 = 30;

/// What each namespace that holds or queues something has of the cluster, with what a plan gives.
pub(crate) struct Shares {
    capacity: Amounts,
    weights: u64,
    standings: BTreeMap<Name, Standing>,
}

#[derive(Clone, Copy)]
struct Standing {
    weight: u32,
    held: Amounts,
    /// On average, a day ago counting half; in millionths of the cluster.
    lately_ppm: u64,
}

impl Shares {
    /// Costs O(nodes + namespaces + reservations).
    pub fn of(view: &ClusterState) -> Shares {
        let capacity = view.capacity();
        let standing = |(name, held): (&Name, Amounts)| {
            let lately_ppm = view.average_use(name).amounts().dominant_ppm(capacity);
            (name.clone(), Standing { weight: view.weight(name), held, lately_ppm })
        };
        let standings: BTreeMap<Name, Standing> = view.namespaces_in_use().map(standing).collect();
        let weights = standings.values().map(|one| u64::from(one.weight)).sum();
        let mut shares = Shares { capacity, weights, standings };
        for (id, _, kept) in view.reservations() {
            let place = kept.members.get(&id);
            if let Some((place, job)) = place.zip(view.jobs().get(&id.job)) {
                shares.take(job.namespace(), place.claim.amounts());
            }
        }
        shares
    }

    /// How far back a namespace stands, in milliseconds of waiting: by twice what is its fair part
    /// three quarters of the way, by all of that half of it.
    pub fn behind_ms(&self, name: &Name) -> i64 {
        let Some(one) = self.standings.get(name) else { return 0 };
        let share = one.held.dominant_ppm(self.capacity).max(one.lately_ppm);
        // As many half-ways as it has fair parts: 2^(-share / (weight / weights)).
        let part = share.saturating_mul(self.weights);
        let ahead = i128::from(halved(part, 1_000_000 * u64::from(one.weight)));
        let all = i128::from(FAIR_POINTS * AGE_MS_PER_POINT);
        let behind = all - ((all * ahead) >> 62);
        i64::try_from(behind).unwrap_or(0)
    }

    pub fn take(&mut self, name: &Name, amounts: Amounts) {
        if let Some(one) = self.standings.get_mut(name) {
            one.held = one.held.plus(amounts);
        }
    }

    pub fn give_back(&mut self, name: &Name, amounts: Amounts) {
        if let Some(one) = self.standings.get_mut(name) {
            one.held = one.held.minus(amounts);
        }
    }
}

/// Where a task stands among all that wait, from 0, as the next plan will begin to look at them.
/// Costs O(queue).
pub(crate) fn position(view: &ClusterState, key: QueueKey) -> Option<usize> {
    if !view.has_rivals() {
        return view.queue().position(|waiting| *waiting == key);
    }
    let shares = Shares::of(view);
    let mut behind: BTreeMap<&Name, i64> = BTreeMap::new();
    let mut placed = |key: &QueueKey| {
        let name = view.jobs().get(&key.job)?.namespace();
        let behind = *behind.entry(name).or_insert_with(|| shares.behind_ms(name));
        Some((key.virtual_submit_ms.saturating_add(behind), *key))
    };
    let own = placed(&key)?;
    let mut is_there = false;
    let before = view.queue().filter(|waiting| {
        is_there |= **waiting == key;
        placed(waiting).is_some_and(|other| other < own)
    });
    let before = before.count();
    is_there.then_some(before)
}
