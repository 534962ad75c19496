//! In turns, as many as its weight says: nginx's smooth weighted round robin, which never sends two
//! in a row to one that is not worth more than all the others together.

use crate::pick::{Choice, Field, Reason, Score};
use crate::pool::Replica;

pub(super) fn choose(field: &mut Field<'_>) -> Option<Choice> {
    let now = field.now;
    take_turn(field, Reason::WeightedTurn, |replica| replica.weight(now))
}

/// Everybody is given credit by its weight; who has the most is chosen, and pays for all.
pub(super) fn take_turn(
    field: &mut Field<'_>,
    reason: Reason,
    weight: impl Fn(&Replica) -> u64,
) -> Option<Choice> {
    let mut best: Option<(usize, i64)> = None;
    let mut second: Option<(usize, i64)> = None;
    let mut sum: i64 = 0;
    for position in field.open.iter().copied() {
        let replica = &mut field.replicas[position];
        let weight = i64::try_from(weight(replica)).unwrap_or(i64::MAX);
        replica.credit = replica.credit.saturating_add(weight);
        sum = sum.saturating_add(weight);
        let is_more =
            |known: Option<(usize, i64)>| known.is_none_or(|(_, most)| replica.credit > most);
        if is_more(best) {
            second = best.replace((position, replica.credit));
        } else if is_more(second) {
            second = Some((position, replica.credit));
        }
    }
    let (position, _) = best?;
    let chosen = &mut field.replicas[position];
    chosen.credit = chosen.credit.saturating_sub(sum);
    let runner_up = second.map(|(position, _)| (position, Score::default()));
    Some(Choice { position, reason, score: Score::default(), runner_up })
}
