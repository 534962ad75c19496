//! The replicas of one service as one gateway sees them. Everything that changes what a decision
//! sees goes through here: who is there, what is sent to them, and how it ended.

use berth_model::{AllocationId, RoutingPolicy as Policy};

use crate::breaker::{Breaker, Leave, Verdict};
use crate::clock::{GatewayUs, SpanUs};
use crate::load::{Load, Outcome, Signals};
use crate::pick::{self, Decision, NoReplica};
use crate::prefix::PrefixIndex;
use crate::request::Request;

/// A newcomer among others gets its full part after so long and so many answers.
const SLOW_START: SpanUs = SpanUs::from_secs(10);
const SLOW_START_ANSWERS: u64 = 20;
/// And this part at first.
const FIRST_PART_MILLI: u64 = 100;
/// Blocks of prompts that are remembered of each replica: half a million tokens in blocks of 64.
const PREFIX_BLOCKS: usize = 8_192;

/// A replica as the cluster names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub id: AllocationId,
    /// 1,000 is a whole one; 0 takes nothing new and ends what it has.
    pub weight_milli: u32,
    /// The policy `priority` uses the lowest that has room.
    pub tier: u8,
    /// Requests that it may have at once, if that is bounded.
    pub limit: Option<u32>,
}

/// The replicas of one service and what the policy remembers.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(crate) policy: Policy,
    /// In the order of their ids.
    pub(crate) replicas: Vec<Replica>,
    pub(crate) prefixes: PrefixIndex,
    /// Whose turn was last.
    pub(crate) last: Option<AllocationId>,
    /// When parts by answer times are made anew.
    pub(crate) parts_until: GatewayUs,
    serials: u64,
    /// Requests that were sent.
    tickets: u64,
    /// Replicas whose breaker is not closed.
    broken: usize,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    pub(crate) member: Member,
    /// Tells it from an earlier one of the same id.
    serial: u64,
    /// When it joined others.
    joined: Option<GatewayUs>,
    pub(crate) load: Load,
    /// What others sent it, by its last report.
    others: Option<u32>,
    pub(crate) breaker: Breaker,
    /// Of the smooth weighted turns.
    pub(crate) credit: i64,
    /// Its part by answer times, in millionths.
    pub(crate) part: Option<u64>,
}

/// One request at one replica. Given back at its end, however it ends.
#[derive(Debug)]
#[must_use = "the replica counts it until it is given back"]
pub struct Ticket {
    /// The first of a pool is 1.
    pub number: u64,
    pub replica: AllocationId,
    serial: u64,
    tokens: u64,
    ahead_tokens: u64,
    sent: GatewayUs,
    stage: Stage,
    is_trial: IsTrial,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Waiting,
    Answering,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum IsTrial {
    Yes,
    No,
}

impl Pool {
    pub fn new(policy: Policy) -> Pool {
        Pool {
            policy,
            replicas: Vec::new(),
            prefixes: PrefixIndex::new(PREFIX_BLOCKS),
            last: None,
            parts_until: GatewayUs::default(),
            serials: 0,
            tickets: 0,
            broken: 0,
        }
    }

    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Who is there from now on. What is known of those who stay stays.
    pub fn set_members(&mut self, members: &[Member], now: GatewayUs) {
        let is_first = self.replicas.is_empty();
        let mut wanted: Vec<&Member> = members.iter().collect();
        wanted.sort_by_key(|member| member.id);
        wanted.dedup_by_key(|member| member.id);
        let mut before = std::mem::take(&mut self.replicas).into_iter().peekable();
        for member in wanted {
            while let Some(gone) = before.next_if(|known| known.member.id < member.id) {
                self.prefixes.forget(gone.member.id);
            }
            let known = before.next_if(|known| known.member.id == member.id);
            let mut replica = known.unwrap_or_else(|| {
                self.serials += 1;
                let joined = (!is_first).then_some(now);
                Replica::new(member.clone(), self.serials, joined)
            });
            replica.member.clone_from(member);
            self.replicas.push(replica);
        }
        before.for_each(|gone| self.prefixes.forget(gone.member.id));
        self.broken = self.replicas.iter().filter(|known| known.breaker.is_broken()).count();
    }

    /// Decides who answers, and counts the request there in the same step. Those that were
    /// `tried` are asked again only where there is nobody else.
    ///
    /// # Errors
    /// Where nobody can be asked.
    pub fn pick(
        &mut self,
        request: &Request,
        tried: &[AllocationId],
        chance: u64,
        now: GatewayUs,
    ) -> Result<(Ticket, Decision), NoReplica> {
        let (position, decision) = pick::pick(self, request, tried, chance, now)?;
        let replica = &mut self.replicas[position];
        let held = self.prefixes.held_by(replica.member.id, &request.prefix);
        let held = request.prefix.tokens(held);
        let tokens = u64::from(request.prompt_tokens).saturating_sub(held);
        let ahead_tokens = replica.load.waiting_tokens();
        let is_trial = match replica.breaker.leave(now) {
            Leave::Try => {
                replica.breaker.begin_trial();
                IsTrial::Yes
            }
            Leave::Ask | Leave::LeaveAlone => IsTrial::No,
        };
        replica.load.charge(tokens);
        let (id, serial) = (replica.member.id, replica.serial);
        self.prefixes.used(id, &request.prefix);
        self.tickets += 1;
        let ticket = Ticket {
            number: self.tickets,
            replica: id,
            serial,
            tokens,
            ahead_tokens,
            sent: now,
            stage: Stage::Waiting,
            is_trial,
        };
        Ok((ticket, decision))
    }

    /// The first byte of the answer.
    pub fn first_byte(&mut self, ticket: &mut Ticket, now: GatewayUs) {
        if ticket.stage == Stage::Answering {
            return;
        }
        ticket.stage = Stage::Answering;
        let took = now.since(ticket.sent);
        if let Some(replica) = self.replica_of(ticket) {
            replica.load.first_byte(ticket.tokens, took, ticket.ahead_tokens);
        }
    }

    /// The end, whatever it was.
    pub fn finish(&mut self, ticket: Ticket, outcome: Outcome, now: GatewayUs) {
        let Some(replica) = self.replica_of(&ticket) else { return };
        match ticket.stage {
            Stage::Waiting => replica.load.end_waiting(ticket.tokens),
            Stage::Answering => replica.load.end_answering(),
        }
        replica.load.learn(outcome, now.since(ticket.sent), now);
        let verdict = match outcome {
            Outcome::Answered => Verdict::Good,
            Outcome::Failed => Verdict::Bad,
            Outcome::Declined | Outcome::Overloaded { .. } | Outcome::Left => Verdict::Nothing,
        };
        let was_broken = replica.breaker.is_broken();
        match ticket.is_trial {
            IsTrial::Yes => replica.breaker.end_trial(verdict, now),
            IsTrial::No => replica.breaker.step(verdict, now),
        }
        match (was_broken, replica.breaker.is_broken()) {
            (false, true) => self.broken += 1,
            (true, false) => self.broken = self.broken.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
    }

    /// What a replica says of itself.
    pub fn report(&mut self, id: AllocationId, signals: Signals, now: GatewayUs) {
        let Ok(place) = self.replicas.binary_search_by_key(&id, |known| known.member.id) else {
            return;
        };
        let replica = &mut self.replicas[place];
        let all = signals.running.zip(signals.waiting);
        let all = all.map(|(running, waiting)| running.saturating_add(waiting));
        replica.others = all.map(|all| all.saturating_sub(replica.load.in_flight()));
        replica.load.report(signals, now);
    }

    /// Of one replica, for those who look on.
    pub fn load(&self, id: AllocationId) -> Option<&Load> {
        let place = self.replicas.binary_search_by_key(&id, |known| known.member.id).ok()?;
        Some(&self.replicas[place].load)
    }

    /// Whether a replica has failed so often that it is only tried now and then.
    pub fn is_broken(&self, id: AllocationId) -> bool {
        let place = self.replicas.binary_search_by_key(&id, |known| known.member.id);
        place.is_ok_and(|place| self.replicas[place].breaker.is_broken())
    }

    /// Requests that are counted at any replica.
    pub fn in_flight(&self) -> u64 {
        self.replicas.iter().map(|replica| u64::from(replica.load.in_flight())).sum()
    }

    /// Replicas that broke and have not been found well since.
    pub fn broken(&self) -> usize {
        self.broken
    }

    fn replica_of(&mut self, ticket: &Ticket) -> Option<&mut Replica> {
        let known = |replica: &Replica| replica.member.id;
        let place = self.replicas.binary_search_by_key(&ticket.replica, known).ok()?;
        Some(&mut self.replicas[place]).filter(|replica| replica.serial == ticket.serial)
    }
}

impl Replica {
    fn new(member: Member, serial: u64, joined: Option<GatewayUs>) -> Replica {
        let (load, breaker) = (Load::default(), Breaker::new(serial));
        Replica { member, serial, joined, load, others: None, breaker, credit: 0, part: None }
    }

    /// Its weight, which grows to the whole while it is new among others; at least 1.
    pub(crate) fn weight(&self, now: GatewayUs) -> u64 {
        let whole = u64::from(self.member.weight_milli).max(1);
        let Some(joined) = self.joined else { return whole };
        let by_time = now.since(joined).0.min(SLOW_START.0) * 1_000 / SLOW_START.0;
        let by_answers = self.load.answers().min(SLOW_START_ANSWERS) * 1_000 / SLOW_START_ANSWERS;
        let part = by_time.min(by_answers).max(FIRST_PART_MILLI);
        (whole * part / 1_000).max(1)
    }

    /// Requests in flight there. A half of those that others sent counts: two gateways that see
    /// each other's whole load would send everything to and fro.
    pub(crate) fn in_flight(&self, counted: Counted) -> u64 {
        let own = u64::from(self.load.in_flight());
        match counted {
            Counted::Own => own,
            Counted::WithOthers => own + u64::from(self.others.unwrap_or(0) / 2),
        }
    }

    pub(crate) fn knows_others(&self, now: GatewayUs) -> bool {
        self.others.is_some() && self.load.signals(now).is_some()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.member.limit.is_none_or(|limit| self.load.in_flight() < limit)
    }
}

/// Whose requests count. With others' only where all that are compared have told of them lately:
/// who has not would seem idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Counted {
    Own,
    WithOthers,
}

#[cfg(test)]
mod tests;
