//! Requests of one key go to one replica while it is there, and to another only while it has far
//! more than its part: rendezvous hashing (Thaler and Ravishankar, 1998) with bounded loads.

use crate::chance;
use crate::pick::{Choice, Field, Reason, Score};
use crate::pool::Replica;

pub(super) fn choose(field: &mut Field<'_>) -> Option<Choice> {
    let Some(key) = field.request.key else {
        let open = std::mem::take(&mut field.open);
        return field.fewest(&open, Reason::FewestInFlight);
    };
    let bound = field.bound();
    let place = |replica: &Replica| chance::mix_both(key, place_of(replica));
    let highest = |positions: &mut dyn Iterator<Item = usize>| {
        positions.max_by_key(|position| (place(&field.replicas[*position]), *position))
    };
    let first = highest(&mut field.open.iter().copied())?;
    let has_part = |position: &usize| {
        let replica = &field.replicas[*position];
        replica.in_flight(field.counted) < bound && !replica.load.is_spared(field.now)
    };
    let chosen = highest(&mut field.open.iter().copied().filter(has_part)).unwrap_or(first);
    let rest = field.open.iter().copied().filter(|position| *position != chosen);
    let runner_up = highest(&mut rest.filter(has_part));
    let reason = if chosen == first { Reason::Key } else { Reason::KeyElsewhere };
    let score = |position: usize| {
        let replica = &field.replicas[position];
        Score {
            is_spared: replica.load.is_spared(field.now),
            cost: replica.in_flight(field.counted),
        }
    };
    let runner_up = runner_up.map(|position| (position, score(position)));
    Some(Choice { position: chosen, reason, score: score(chosen), runner_up })
}

/// A number of a replica that stays the same when the gateway starts anew, and for the next
/// attempt of the same instance.
fn place_of(replica: &Replica) -> u64 {
    let id = replica.member.id;
    let instance = chance::mix_both(u64::from(id.task.0), u64::from(id.instance.0));
    chance::mix_both(id.job.0, instance)
}
