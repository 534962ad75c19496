//! One after the other, whatever they have to do: the baseline that the others are compared with.

use crate::pick::{Choice, Field, Reason, Score};

pub(super) fn choose(field: &mut Field<'_>) -> Option<Choice> {
    let after = |position: &&usize| {
        let id = field.replicas[**position].member.id;
        field.last.is_none_or(|last| id > last)
    };
    let next = field.open.iter().find(after).or(field.open.first())?;
    let runner_up = field.open.iter().find(|position| *position > next).or(field.open.first());
    let runner_up = runner_up.filter(|position| *position != next);
    Some(Choice {
        position: *next,
        reason: Reason::Turn,
        score: Score::default(),
        runner_up: runner_up.map(|position| (*position, Score::default())),
    })
}
