//! Who holds the most of the prompt, unless it has far more to do than the others. It knows nothing
//! of how long the prompt takes: `auto` does.

use crate::pick::{Choice, Field, Reason, Score};

/// Less of the prompt than that is not worth a detour (SGLang's threshold).
const WORTH_IT_PERCENT: usize = 30;

pub(super) fn choose(field: &mut Field<'_>) -> Option<Choice> {
    let open = std::mem::take(&mut field.open);
    let blocks = field.request.prefix.hashes.len();
    let held = |position: usize| {
        let owner = field.replicas[position].member.id;
        field.prefixes.held_by(owner, &field.request.prefix)
    };
    let worth_it: Vec<(usize, usize)> = open
        .iter()
        .map(|position| (*position, held(*position)))
        .filter(|(_, held)| *held > 0 && held * 100 >= blocks * WORTH_IT_PERCENT)
        .collect();
    let most = worth_it.iter().map(|(_, held)| *held).max();
    field.open = open;
    let bound = field.bound();
    let open = std::mem::take(&mut field.open);
    let holders: Vec<usize> = worth_it
        .iter()
        .filter(|(_, held)| Some(*held) == most)
        .map(|(position, _)| *position)
        .collect();
    let chosen = field.fewest(&holders, Reason::HoldsPrefix);
    let is_fine = |choice: &Choice| {
        let Score { is_spared, .. } = choice.score;
        !is_spared && field.replicas[choice.position].in_flight(field.counted) < bound
    };
    match chosen {
        Some(choice) if is_fine(&choice) => Some(choice),
        Some(_) => field.fewest(&open, Reason::PrefixBusy),
        None => field.fewest(&open, Reason::FewestInFlight),
    }
}
