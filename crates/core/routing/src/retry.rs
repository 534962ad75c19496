//! Whether a request that failed at one replica is sent to another. Retries are what turns the end of
//! one replica into an overload of the rest, so that they come out of a budget.

use crate::chance::Dice;
use crate::clock::{GatewayUs, SpanUs};

/// Further attempts of one request.
pub const RETRIES_MAX: u32 = 2;
/// Of a hundred requests so many may be sent again.
const PER_HUNDRED: u64 = 15;
/// And that many in a second where there are few requests.
const PER_SECOND_FLOOR: u64 = 2;
/// Seconds over which both are counted.
const SECONDS: usize = 10;
/// The first retry goes to another replica at once; those after it wait for up to so long, doubled
/// each time.
const BACKOFF: SpanUs = SpanUs::from_millis(25);

/// What one service's requests may still be sent again, from how many there were of late.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    seconds: [Second; SECONDS],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Second {
    number: u64,
    requests: u64,
    retries: u64,
}

/// What an attempt left of the chance for another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Progress {
    /// Nothing of it has reached a replica.
    Unsent,
    /// It may have been worked on; the caller has heard nothing.
    Sent,
    /// The caller has the first byte of an answer.
    Answered,
}

/// Whether it does harm to do it twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeatable {
    Yes,
    /// Only what nothing was sent of is sent again.
    No,
}

/// A failed attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Attempts of this request so far, at least 1.
    pub made: u32,
    pub progress: Progress,
    pub repeatable: Repeatable,
    /// The caller itself tries for the so-manieth time again: its retries times those here would
    /// be a flood.
    pub callers_retry: u32,
    /// The caller waits no longer than that.
    pub deadline: Option<GatewayUs>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// At another replica, after a pause.
    Again {
        after: SpanUs,
    },
    GiveUp(GiveUp),
}

/// Why not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GiveUp {
    AlreadyAnswered,
    NotRepeatable,
    TriedOften,
    NoBudget,
    TooLate,
}

impl Budget {
    /// A request comes, not counting its retries.
    pub fn request(&mut self, now: GatewayUs) {
        let second = self.second(now);
        second.requests = second.requests.saturating_add(1);
    }

    /// Decides on an attempt that failed, and takes from the budget what it grants.
    pub fn decide(&mut self, attempt: Attempt, chance: u64, now: GatewayUs) -> Retry {
        match (attempt.progress, attempt.repeatable) {
            (Progress::Answered, Repeatable::Yes | Repeatable::No) => {
                return Retry::GiveUp(GiveUp::AlreadyAnswered);
            }
            (Progress::Sent, Repeatable::No) => return Retry::GiveUp(GiveUp::NotRepeatable),
            (Progress::Sent, Repeatable::Yes)
            | (Progress::Unsent, Repeatable::Yes | Repeatable::No) => {}
        }
        if attempt.made > RETRIES_MAX {
            return Retry::GiveUp(GiveUp::TriedOften);
        }
        let after = pause(attempt.made, chance);
        if attempt.deadline.is_some_and(|deadline| now.after(after) >= deadline) {
            return Retry::GiveUp(GiveUp::TooLate);
        }
        let price = if attempt.callers_retry == 0 { 1 } else { 2 };
        if self.left(now) < price {
            return Retry::GiveUp(GiveUp::NoBudget);
        }
        let second = self.second(now);
        second.retries = second.retries.saturating_add(price);
        Retry::Again { after }
    }

    /// Retries that may be made now.
    pub fn left(&self, now: GatewayUs) -> u64 {
        let number = number(now);
        let recent = |second: &&Second| number - second.number.min(number) < SECONDS as u64;
        let (mut requests, mut retries) = (0_u64, 0_u64);
        for second in self.seconds.iter().filter(recent) {
            requests = requests.saturating_add(second.requests);
            retries = retries.saturating_add(second.retries);
        }
        let floor = PER_SECOND_FLOOR * SECONDS as u64;
        (requests.saturating_mul(PER_HUNDRED) / 100 + floor).saturating_sub(retries)
    }

    fn second(&mut self, now: GatewayUs) -> &mut Second {
        let number = number(now);
        let place = usize::try_from(number % SECONDS as u64).unwrap_or(0);
        let second = &mut self.seconds[place];
        if second.number != number {
            *second = Second { number, ..Second::default() };
        }
        second
    }
}

fn number(now: GatewayUs) -> u64 {
    now.0 / SpanUs::from_secs(1).0
}

fn pause(made: u32, chance: u64) -> SpanUs {
    let Some(doublings) = made.checked_sub(2) else { return SpanUs::ZERO };
    let full = BACKOFF.0 << doublings.min(10);
    let drawn = Dice::new(chance).below(usize::try_from(full).unwrap_or(usize::MAX));
    SpanUs(drawn as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Attempt = Attempt {
        made: 1,
        progress: Progress::Sent,
        repeatable: Repeatable::Yes,
        callers_retry: 0,
        deadline: None,
    };

    fn check(attempt: Attempt, expected: Result<(), GiveUp>) {
        let decided = Budget::default().decide(attempt, 1, GatewayUs(0));
        let found = match decided {
            Retry::Again { .. } => Ok(()),
            Retry::GiveUp(why) => Err(why),
        };
        assert_eq!(found, expected, "{attempt:?}");
    }

    #[test]
    fn what_may_be_sent_again() {
        use GiveUp as G;
        use Progress as P;
        use Repeatable as R;
        check(FIRST, Ok(()));
        check(Attempt { made: 2, ..FIRST }, Ok(()));
        check(Attempt { made: 3, ..FIRST }, Err(G::TriedOften));
        check(Attempt { progress: P::Answered, ..FIRST }, Err(G::AlreadyAnswered));
        check(Attempt { repeatable: R::No, ..FIRST }, Err(G::NotRepeatable));
        check(Attempt { repeatable: R::No, progress: P::Unsent, ..FIRST }, Ok(()));
        check(Attempt { deadline: Some(GatewayUs(0)), ..FIRST }, Err(G::TooLate));
        check(Attempt { deadline: Some(GatewayUs(1)), ..FIRST }, Ok(()));
    }

    #[test]
    fn the_first_goes_at_once_and_the_next_after_a_pause_by_chance() {
        let pauses = |made| -> Vec<u64> {
            let again =
                |chance| Budget::default().decide(Attempt { made, ..FIRST }, chance, GatewayUs(0));
            let of = |chance| match again(chance) {
                Retry::Again { after } => after.0,
                Retry::GiveUp(why) => panic!("{why:?}"),
            };
            (0..200).map(of).collect()
        };
        assert_eq!(pauses(1), vec![0; 200]);
        let second = pauses(2);
        assert!(second.iter().all(|pause| *pause < 25_000));
        assert!(second.iter().any(|pause| *pause > 20_000));
        assert!(second.iter().any(|pause| *pause < 5_000));
    }

    #[test]
    fn a_seventh_of_the_requests_and_two_a_second_may_be_sent_again() {
        let mut budget = Budget::default();
        let second = |number: u64| GatewayUs(number * 1_000_000);
        assert_eq!(budget.left(second(0)), 20);
        (0..1_000).for_each(|_| budget.request(second(0)));
        assert_eq!(budget.left(second(9)), 170);
        // Who tries again itself uses up two.
        let granted = |budget: &mut Budget, callers_retry| {
            let attempt = Attempt { callers_retry, ..FIRST };
            (0..1_000)
                .take_while(|_| {
                    let decided = budget.decide(attempt, 1, second(9));
                    decided != Retry::GiveUp(GiveUp::NoBudget)
                })
                .count()
        };
        assert_eq!(granted(&mut budget.clone(), 0), 170);
        assert_eq!(granted(&mut budget, 1), 85);
        // Ten seconds on, the requests are forgotten, and the retries one second before that not.
        assert_eq!(budget.left(second(10)), 0);
        assert_eq!(budget.left(second(19)), 20);
    }
}
