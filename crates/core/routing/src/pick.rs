//! Who answers a request: who may be asked, then whom the policy prefers, and what to tell of it.

use berth_model::AllocationId;
use thiserror::Error;

use crate::breaker::Leave;
use crate::chance::Dice;
use crate::clock::GatewayUs;
use crate::policies;
use crate::pool::{Counted, Pool, Replica};
use crate::prefix::PrefixIndex;
use crate::request::Request;

/// Up to so many all are looked at; of more a few by chance, so that a decision does not cost more
/// the more there are, and several gateways do not all choose the same.
pub const ALL_LOOKED_AT_MAX: usize = 64;

/// What a replica costs. The least is chosen: the order of the fields is the policy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Score {
    /// It failed lately or asked to be spared.
    pub is_spared: bool,
    /// In the policy's own unit; 0 where it only takes turns.
    pub cost: u64,
}

/// Why it was this one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// It was its turn.
    Turn,
    /// It was its turn by its weight.
    WeightedTurn,
    /// It was its turn by how soon it answers.
    AnswerTimeTurn,
    /// The fewest requests in flight for its weight.
    FewestInFlight,
    /// The better of two that were drawn.
    BetterOfTwo,
    /// It is expected to come to this request first.
    ShortestDelay,
    /// The least work before it: tokens to read, times requests at once, by its speed.
    LeastWork,
    /// The request's key leads there.
    Key,
    /// The key leads to one that has far more than the others.
    KeyElsewhere,
    /// It holds much of the prompt.
    HoldsPrefix,
    /// Who holds much of the prompt has too much to do.
    PrefixBusy,
    /// The best tier that has room.
    Tier,
}

impl Reason {
    pub const ALL: [Reason; 12] = [
        Reason::Turn,
        Reason::WeightedTurn,
        Reason::AnswerTimeTurn,
        Reason::FewestInFlight,
        Reason::BetterOfTwo,
        Reason::ShortestDelay,
        Reason::LeastWork,
        Reason::Key,
        Reason::KeyElsewhere,
        Reason::HoldsPrefix,
        Reason::PrefixBusy,
        Reason::Tier,
    ];

    /// As it is shown and counted.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Turn => "turn",
            Reason::WeightedTurn => "weighted-turn",
            Reason::AnswerTimeTurn => "answer-time-turn",
            Reason::FewestInFlight => "fewest-in-flight",
            Reason::BetterOfTwo => "better-of-two",
            Reason::ShortestDelay => "shortest-delay",
            Reason::LeastWork => "least-work",
            Reason::Key => "key",
            Reason::KeyElsewhere => "key-elsewhere",
            Reason::HoldsPrefix => "holds-prefix",
            Reason::PrefixBusy => "prefix-busy",
            Reason::Tier => "tier",
        }
    }
}

/// Who answers, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    pub replica: AllocationId,
    pub reason: Reason,
    pub score: Score,
    /// Who would have, were it not there.
    pub runner_up: Option<(AllocationId, Score)>,
    /// Replicas that were compared.
    pub compared: usize,
}

/// Why nobody can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NoReplica {
    #[error("no replica is ready")]
    NoneReady,
    #[error("every replica has as many requests as it may have at once")]
    AllFull,
}

/// What a policy chooses from.
pub(crate) struct Field<'a> {
    pub replicas: &'a mut [Replica],
    pub prefixes: &'a PrefixIndex,
    pub request: &'a Request,
    /// Positions of those who may be asked; at least one.
    pub open: Vec<usize>,
    pub counted: Counted,
    pub last: Option<AllocationId>,
    pub parts_until: &'a mut GatewayUs,
    pub now: GatewayUs,
    pub dice: Dice,
}

/// What a policy chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Choice {
    pub position: usize,
    pub reason: Reason,
    pub score: Score,
    pub runner_up: Option<(usize, Score)>,
}

impl Field<'_> {
    /// The least of these positions, and the least of the rest; chance decides between equals, or
    /// all gateways would herd on one. `None` only where there are none.
    pub fn least(
        &mut self,
        positions: &[usize],
        reason: Reason,
        cost: impl Fn(&Replica) -> u64,
    ) -> Option<Choice> {
        let mut best: Option<(usize, Score)> = None;
        let mut second: Option<(usize, Score)> = None;
        let mut equals = 1;
        for position in positions.iter().copied() {
            let replica = &self.replicas[position];
            let score = Score { is_spared: replica.load.is_spared(self.now), cost: cost(replica) };
            let Some((_, least)) = best else {
                best = Some((position, score));
                continue;
            };
            equals = if score == least { equals + 1 } else { equals };
            let wins = score < least || score == least && self.dice.below(equals) == 0;
            if wins {
                equals = if score < least { 1 } else { equals };
                second = best.replace((position, score));
            } else if second.is_none_or(|(_, second)| score < second) {
                second = Some((position, score));
            }
        }
        let (position, score) = best?;
        Some(Choice { position, reason, score, runner_up: second })
    }

    /// The fewest in flight for its weight.
    pub fn fewest(&mut self, positions: &[usize], reason: Reason) -> Option<Choice> {
        let (counted, now) = (self.counted, self.now);
        self.least(positions, reason, |replica| {
            (replica.in_flight(counted) + 1).saturating_mul(1_000_000) / replica.weight(now)
        })
    }

    /// Requests in flight that nobody should be above, so that no key or prefix makes one replica
    /// do the work of all: a quarter more than the mean (Mirrokni and others, "Consistent hashing
    /// with bounded loads", 2016).
    pub fn bound(&self) -> u64 {
        let in_flight = |position: &usize| self.replicas[*position].in_flight(self.counted);
        let all: u64 = self.open.iter().map(in_flight).sum();
        ((all + 1) * 5).div_ceil(4 * self.open.len().max(1) as u64)
    }
}

/// The position of who answers, and what to tell of it.
pub(crate) fn pick(
    pool: &mut Pool,
    request: &Request,
    tried: &[AllocationId],
    chance: u64,
    now: GatewayUs,
) -> Result<(usize, Decision), NoReplica> {
    let mut dice = Dice::new(chance);
    let open = open(pool, request, tried, &mut dice, now)?;
    let knows = |position: &usize| pool.replicas[*position].knows_others(now);
    let counted = if open.iter().all(knows) { Counted::WithOthers } else { Counted::Own };
    let compared = open.len();
    let mut field = Field {
        replicas: &mut pool.replicas,
        prefixes: &pool.prefixes,
        request,
        open,
        counted,
        last: pool.last,
        parts_until: &mut pool.parts_until,
        now,
        dice,
    };
    let choice = policies::choose(pool.policy, &mut field).ok_or(NoReplica::NoneReady)?;
    let id = |position: usize| pool.replicas[position].member.id;
    let replica = id(choice.position);
    pool.last = Some(replica);
    let runner_up = choice.runner_up.map(|(position, score)| (id(position), score));
    let (reason, score) = (choice.reason, choice.score);
    Ok((choice.position, Decision { replica, reason, score, runner_up, compared }))
}

/// What keeps a replica from being asked.
#[derive(Clone, Copy)]
struct Rules<'a> {
    tried: &'a [AllocationId],
    breakers: Breakers,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Breakers {
    Count,
    /// Where most are left alone it is not they that are at fault, and the rest would not bear it.
    Ignore,
}

impl Rules<'_> {
    /// Whether it may be asked, apart from its room.
    fn let_in(self, replica: &Replica, now: GatewayUs) -> bool {
        replica.member.weight_milli > 0
            && (self.breakers == Breakers::Ignore
                || replica.breaker.leave(now) != Leave::LeaveAlone)
            && !self.tried.contains(&replica.member.id)
    }
}

/// Who may be asked: those who are well and have not been tried; if there are none, those who are
/// well; only then those who are not.
fn open(
    pool: &Pool,
    request: &Request,
    tried: &[AllocationId],
    dice: &mut Dice,
    now: GatewayUs,
) -> Result<Vec<usize>, NoReplica> {
    let most_broken = pool.broken() * 2 > pool.replicas.len();
    let breakers = if most_broken { Breakers::Ignore } else { Breakers::Count };
    let rules = Rules { tried, breakers };
    if pool.replicas.len() > ALL_LOOKED_AT_MAX && policies::is_sampled(pool.policy) {
        let sample = sample(pool, request, rules, dice, now);
        if !sample.is_empty() {
            return Ok(sample);
        }
    }
    let first = [rules, Rules { tried: &[], ..rules }];
    let last = first.map(|rules| Rules { breakers: Breakers::Ignore, ..rules });
    for step in [first, last] {
        let mut are_full = false;
        for rules in step {
            let mut open = Vec::with_capacity(pool.replicas.len());
            for (position, replica) in pool.replicas.iter().enumerate() {
                let let_in = rules.let_in(replica, now);
                are_full |= let_in && !replica.has_room();
                if let_in && replica.has_room() {
                    open.push(position);
                }
            }
            if !open.is_empty() {
                return Ok(open);
            }
        }
        // Who is well and full is waited for; who is not well is no help.
        if are_full {
            return Err(NoReplica::AllFull);
        }
    }
    Err(NoReplica::NoneReady)
}

/// A few by chance, and two of those that hold the prompt.
fn sample(
    pool: &Pool,
    request: &Request,
    rules: Rules<'_>,
    dice: &mut Dice,
    now: GatewayUs,
) -> Vec<usize> {
    let count = pool.replicas.len();
    let wanted = (count.isqrt() / 4 + 1).max(2);
    let mut open: Vec<usize> = Vec::with_capacity(wanted + 2);
    let consider = |open: &mut Vec<usize>, position: usize| {
        let replica = &pool.replicas[position];
        if rules.let_in(replica, now) && replica.has_room() && !open.contains(&position) {
            open.push(position);
        }
    };
    for found in
        pool.prefixes.matches(&request.prefix, request.prefix.hashes.len() / 2, dice.draw())
    {
        let place = pool.replicas.binary_search_by_key(&found.owner, |known| known.member.id);
        if let Some(position) = place.ok().filter(|_| open.len() < 2) {
            consider(&mut open, position);
        }
    }
    let wanted = wanted + open.len();
    for _ in 0..wanted * 4 {
        if open.len() >= wanted {
            break;
        }
        consider(&mut open, dice.below(count));
    }
    open.sort_unstable();
    open
}
