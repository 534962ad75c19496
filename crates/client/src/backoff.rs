//! How long to wait between rounds over all schedulers.

use std::time::Duration;

const FIRST_MS: u64 = 20;
/// While an election may be under way, longer waits would outlast it: with the
/// usual timers one takes half a second.
const ELECTION_MS: u64 = 80;
const ELECTION_ROUNDS: u32 = 14;
const LONGEST_MS: u64 = 500;

/// The wait after round `round`, counted from 0: doubled up to 80 ms, and up to
/// half a second after about a second; within that anything from half to all of
/// it, so that many clients of a dead leader do not come back at once. `chance`
/// is any number.
pub(crate) fn wait(round: u32, chance: u64) -> Duration {
    let full = match round.checked_sub(ELECTION_ROUNDS) {
        None => FIRST_MS.saturating_mul(1 << round.min(16)).min(ELECTION_MS),
        Some(later) => ELECTION_MS.saturating_mul(2 << later.min(16)).min(LONGEST_MS),
    };
    let half = full / 2;
    Duration::from_millis(half + chance % (full - half + 1))
}

/// Anything from half of `after` to half as much again. `chance` is any number.
pub(crate) fn spread(after: Duration, chance: u64) -> Duration {
    let full = u64::try_from(after.as_millis()).unwrap_or(u64::MAX / 2).max(1);
    Duration::from_millis(full / 2 + chance % full)
}

/// A number by chance; the same one where the system gives none, since a wait
/// needs no secrecy.
pub(crate) fn chance() -> u64 {
    getrandom::u64().unwrap_or(0)
}

/// How long a connection may take in round `round`. On one network a scheduler
/// answers in a millisecond and a dead host never, so the first rounds are short;
/// later ones allow for far and slow networks.
pub(crate) fn connect_limit(round: u32) -> Duration {
    Duration::from_millis(100_u64.saturating_mul(1 << round.min(8)).min(2_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_never_vanish() {
        for (round, least, most) in
            [(0, 10, 20), (1, 20, 40), (13, 40, 80), (14, 80, 160), (15, 160, 320), (40, 250, 500)]
        {
            for chance in [0, 1, 7, u64::MAX] {
                let wait = wait(round, chance).as_millis();
                assert!((least..=most).contains(&wait), "round {round}: {wait} ms");
            }
        }
    }

    #[test]
    fn a_wait_that_was_asked_for_is_spread_around_it() {
        for chance in [0, 1, 249, 250, u64::MAX] {
            let wait = spread(Duration::from_millis(250), chance).as_millis();
            assert!((125..375).contains(&wait), "{chance}: {wait} ms");
        }
        assert_eq!(spread(Duration::ZERO, 7), Duration::ZERO);
    }

    #[test]
    fn connections_are_given_more_time_each_round() {
        let limits: Vec<u128> = (0..6).map(|round| connect_limit(round).as_millis()).collect();
        assert_eq!(limits, [100, 200, 400, 800, 1_600, 2_000]);
    }
}
