//! What a pool is told and what it decides. A pool depends on nothing else, so that from a record
//! of all of it each decision can be made anew, elsewhere and later.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use berth_model::{AllocationId, RoutingPolicy as Policy};

use crate::clock::GatewayUs;
use crate::load::{Outcome, Signals};
use crate::pick::{Decision, NoReplica};
use crate::pool::{Member, Pool, Ticket};
use crate::request::Request;

/// One call of a pool, with all that it depends on. Requests go by the number of their ticket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happening {
    /// A new pool; always the first.
    Begun {
        policy: Policy,
    },
    Policy {
        policy: Policy,
    },
    Members {
        members: Vec<Member>,
        at: GatewayUs,
    },
    Picked(Picked),
    FirstByte {
        number: u64,
        at: GatewayUs,
    },
    Finished {
        number: u64,
        outcome: Outcome,
        at: GatewayUs,
    },
    Reported {
        replica: AllocationId,
        signals: Signals,
        at: GatewayUs,
    },
}

/// A decision and all that was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Picked {
    pub request: Request,
    pub tried: Vec<AllocationId>,
    pub chance: u64,
    pub at: GatewayUs,
    /// The number of the ticket, and the decision.
    pub answer: Result<(u64, Decision), NoReplica>,
}

/// Where a recorder tells what happens, in its order.
pub type Tell = Box<dyn FnMut(Happening) + Send>;

/// A pool that tells what happens to it, if anybody wants to know.
pub struct Recorder {
    pool: Pool,
    tell: Option<Tell>,
}

impl Recorder {
    /// A new pool.
    pub fn new(policy: Policy, tell: Option<Tell>) -> Recorder {
        let mut recorder = Recorder { pool: Pool::new(policy), tell };
        recorder.tell(|| Happening::Begun { policy });
        recorder
    }

    fn tell(&mut self, happening: impl FnOnce() -> Happening) {
        if let Some(tell) = &mut self.tell {
            tell(happening());
        }
    }

    /// See [`Pool::set_policy`].
    pub fn set_policy(&mut self, policy: Policy) {
        self.tell(|| Happening::Policy { policy });
        self.pool.set_policy(policy);
    }

    /// See [`Pool::set_members`].
    pub fn set_members(&mut self, members: &[Member], at: GatewayUs) {
        self.tell(|| Happening::Members { members: members.to_vec(), at });
        self.pool.set_members(members, at);
    }

    /// See [`Pool::pick`].
    ///
    /// # Errors
    /// Where nobody can be asked.
    pub fn pick(
        &mut self,
        request: &Request,
        tried: &[AllocationId],
        chance: u64,
        at: GatewayUs,
    ) -> Result<(Ticket, Decision), NoReplica> {
        let picked = self.pool.pick(request, tried, chance, at);
        let answer = numbered(&picked);
        self.tell(|| {
            let (request, tried) = (request.clone(), tried.to_vec());
            Happening::Picked(Picked { request, tried, chance, at, answer })
        });
        picked
    }

    /// See [`Pool::first_byte`].
    pub fn first_byte(&mut self, ticket: &mut Ticket, at: GatewayUs) {
        self.tell(|| Happening::FirstByte { number: ticket.number, at });
        self.pool.first_byte(ticket, at);
    }

    /// See [`Pool::finish`].
    pub fn finish(&mut self, ticket: Ticket, outcome: Outcome, at: GatewayUs) {
        self.tell(|| Happening::Finished { number: ticket.number, outcome, at });
        self.pool.finish(ticket, outcome, at);
    }

    /// See [`Pool::report`].
    pub fn report(&mut self, replica: AllocationId, signals: Signals, at: GatewayUs) {
        self.tell(|| Happening::Reported { replica, signals, at });
        self.pool.report(replica, signals, at);
    }
}

/// What changes nothing is asked of the pool itself.
impl Deref for Recorder {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.pool
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pool.fmt(formatter)
    }
}

fn numbered(picked: &Result<(Ticket, Decision), NoReplica>) -> Result<(u64, Decision), NoReplica> {
    picked.as_ref().map(|(ticket, decision)| (ticket.number, *decision)).map_err(|none| *none)
}

/// What came of a happening when it happened again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replayed {
    /// There was nothing to decide.
    Done,
    Same,
    /// The decision now. What follows depends on it, and cannot be compared.
    Different(Result<Decision, NoReplica>),
    /// It is of a request or a pool that the record has nothing of.
    Unknown,
}

/// One pool whose record happens again.
#[derive(Debug, Default)]
pub struct Replay {
    pool: Option<Pool>,
    tickets: BTreeMap<u64, Ticket>,
}

impl Replay {
    /// The next of the record.
    pub fn step(&mut self, happening: &Happening) -> Replayed {
        if let Happening::Begun { policy } = happening {
            *self = Replay { pool: Some(Pool::new(*policy)), tickets: BTreeMap::new() };
            return Replayed::Done;
        }
        let Some(pool) = &mut self.pool else { return Replayed::Unknown };
        match happening {
            Happening::Begun { .. } => {}
            Happening::Policy { policy } => pool.set_policy(*policy),
            Happening::Members { members, at } => pool.set_members(members, *at),
            Happening::Picked(picked) => {
                let Picked { request, tried, chance, at, answer } = picked;
                let now = pool.pick(request, tried, *chance, *at);
                let is_same = numbered(&now) == *answer;
                let decided = now.map(|(ticket, decision)| {
                    self.tickets.insert(ticket.number, ticket);
                    decision
                });
                return if is_same { Replayed::Same } else { Replayed::Different(decided) };
            }
            Happening::FirstByte { number, at } => {
                let Some(ticket) = self.tickets.get_mut(number) else { return Replayed::Unknown };
                pool.first_byte(ticket, *at);
            }
            Happening::Finished { number, outcome, at } => {
                let Some(ticket) = self.tickets.remove(number) else { return Replayed::Unknown };
                pool.finish(ticket, *outcome, *at);
            }
            Happening::Reported { replica, signals, at } => pool.report(*replica, *signals, *at),
        }
        Replayed::Done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use berth_model::InstanceIndex;

    use super::*;
    use crate::chance::Dice;
    use crate::clock::SpanUs;
    use crate::prefix::Blocks;

    /// Decisions with each policy: ten of them make a million.
    const DECISIONS: u64 = 100_000;

    fn id(number: usize) -> AllocationId {
        let instance = InstanceIndex(u32::try_from(number).unwrap());
        AllocationId { instance, ..AllocationId::default() }
    }

    /// Up to ten replicas, some with a limit, of two tiers.
    fn members(dice: &mut Dice) -> Vec<Member> {
        let member = |number: usize| Member {
            id: id(number),
            weight_milli: if number == 3 { 500 } else { 1_000 },
            tier: u8::from(number > 6),
            limit: number.is_multiple_of(2).then_some(40),
        };
        let present = dice.draw() | 1;
        (0..10).filter(|number| present >> number & 1 == 1).map(member).collect()
    }

    fn request(dice: &mut Dice) -> Request {
        let prompt = dice.below(50) as u64;
        let hashes = (0..dice.below(12) as u64).map(|block| prompt << 8 | block).collect();
        Request {
            prompt_tokens: u32::try_from(dice.below(4_000)).unwrap(),
            key: (dice.below(3) > 0).then(|| dice.draw() % 200),
            prefix: Blocks { hashes, tokens_each: 64 },
        }
    }

    fn outcome(dice: &mut Dice) -> Outcome {
        match dice.below(40) {
            0 | 1 => Outcome::Failed,
            2 => Outcome::Overloaded { spare_for: SpanUs::from_secs(2) },
            3 => Outcome::Declined,
            4 => Outcome::Left,
            _ => Outcome::Answered,
        }
    }

    /// A pool in changing company, asked as often as that; `each` sees what it tells.
    fn live(policy: Policy, count: u64, each: Tell) {
        let mut dice = Dice::new(policy as u64);
        let mut pool = Recorder::new(policy, Some(each));
        let mut now = GatewayUs(0);
        pool.set_members(&members(&mut dice), now);
        let mut open: Vec<Ticket> = Vec::new();
        for _ in 0..count {
            now = now.after(SpanUs(dice.below(4_000) as u64));
            if dice.below(2_000) == 0 {
                pool.set_members(&members(&mut dice), now);
            }
            if dice.below(50) == 0 {
                let signals = Signals {
                    running: (dice.below(4) > 0).then_some(7),
                    waiting: u32::try_from(dice.below(9)).ok(),
                    kv_milli: None,
                };
                pool.report(id(dice.below(10)), signals, now);
            }
            let tried: Vec<AllocationId> =
                (0..dice.below(6) / 4).map(|_| id(dice.below(10))).collect();
            let chance = dice.draw();
            if let Ok((ticket, _)) = pool.pick(&request(&mut dice), &tried, chance, now) {
                open.push(ticket);
            }
            while open.len() > 60 || !open.is_empty() && dice.below(3) == 0 {
                let mut ticket = open.swap_remove(dice.below(open.len()));
                if dice.below(3) > 0 {
                    pool.first_byte(&mut ticket, now);
                }
                pool.finish(ticket, outcome(&mut dice), now);
            }
        }
    }

    #[test]
    fn a_million_decisions_are_made_anew_from_their_record() {
        let mut total = 0;
        for policy in Policy::ALL {
            let told = Arc::new(Mutex::new((Replay::default(), 0_u64, 0_u64)));
            let hears = Arc::clone(&told);
            live(
                policy,
                DECISIONS,
                Box::new(move |happening| {
                    let mut told = hears.lock().unwrap();
                    let (replay, same, none) = &mut *told;
                    match replay.step(&happening) {
                        Replayed::Done => {}
                        Replayed::Same => *same += 1,
                        other @ (Replayed::Different(_) | Replayed::Unknown) => {
                            panic!("{policy:?}: {other:?} of {happening:?}")
                        }
                    }
                    if let Happening::Picked(Picked { answer: Err(_), .. }) = &happening {
                        *none += 1;
                    }
                }),
            );
            let told = told.lock().unwrap();
            assert_eq!(told.1, DECISIONS, "{policy:?}");
            assert!(told.2 < DECISIONS / 10, "{policy:?}: {} times nobody", told.2);
            total += told.1;
        }
        assert_eq!(total, 1_000_000);
    }

    fn recorded(policy: Policy, count: u64) -> Vec<Happening> {
        let told = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&told);
        live(policy, count, Box::new(move |happening| hears.lock().unwrap().push(happening)));
        std::mem::take(&mut told.lock().unwrap())
    }

    /// Whatever of the record is another, a decision that depends on it is told to be.
    #[test]
    fn what_was_decided_otherwise_is_told() {
        let mut record = recorded(Policy::LeastOutstanding, 500);
        let position = record.iter().rposition(|happening| {
            matches!(happening, Happening::Picked(Picked { answer: Ok(_), .. }))
        });
        let Happening::Picked(picked) = &mut record[position.unwrap()] else { panic!() };
        let decided = picked.answer.unwrap().1;
        picked.answer = Err(NoReplica::AllFull);
        let mut replay = Replay::default();
        let told: Vec<Replayed> = record.iter().map(|one| replay.step(one)).collect();
        let different = told.iter().filter(|one| matches!(one, Replayed::Different(_)));
        assert_eq!(different.collect::<Vec<_>>(), [&Replayed::Different(Ok(decided))]);

        let mut replay = Replay::default();
        record[0] = Happening::Begun { policy: Policy::RoundRobin };
        let told = record.iter().map(|one| replay.step(one));
        assert!(told.filter(|one| matches!(one, Replayed::Different(_))).count() > 100);
    }

    #[test]
    fn what_the_record_has_nothing_of_is_unknown() {
        let at = GatewayUs(0);
        let (policy, outcome) = (Policy::Auto, Outcome::Answered);
        let mut replay = Replay::default();
        assert_eq!(replay.step(&Happening::Policy { policy }), Replayed::Unknown);
        assert_eq!(replay.step(&Happening::Begun { policy }), Replayed::Done);
        for unknown in
            [Happening::FirstByte { number: 3, at }, Happening::Finished { number: 3, outcome, at }]
        {
            assert_eq!(replay.step(&unknown), Replayed::Unknown);
        }
    }
}
