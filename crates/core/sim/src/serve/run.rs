//! A run: requests arrive when they arrive, whatever became of those before them, and the pool of
//! `berth-routing` decides who answers each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use berth_model::{AllocationId, InstanceIndex};
use berth_routing::retry::{Attempt, Budget, Progress, Repeatable, Retry};
use berth_routing::{GatewayUs, Member, Outcome, Pool, Request, SpanUs, Ticket};

use super::arrivals::{ServeArrival, scaled};
use super::engine::{Done, Engine, EngineShape, Work};
use super::herd::Herd;
use super::options::{Checks, Outage, OutageKind, Retries, ServeError, ServeOptions, check};
use super::report::{Latency, ServeReport, spread};
use crate::random::Random;

mod scaled;

/// A refused connection is known after so long.
const REFUSED_AFTER: SpanUs = SpanUs::from_millis(1);
/// The lowest rate at which a capacity is looked for, in thousandths of the trace's.
const CAPACITY_LEAST_MILLI: u64 = 10;

/// The multiple of the trace's rate, in thousandths, up to which 99 of 100 requests are answered
/// well, to a hundredth of it: doubled until it is too much, and then halved in between. 0 where a
/// hundredth of the trace's rate is too much, and at most `most_milli`.
///
/// # Errors
/// As [`run`].
pub fn capacity(
    arrivals: &[ServeArrival],
    options: &ServeOptions,
    most_milli: u64,
) -> Result<u64, ServeError> {
    let is_fine = |rate_milli: u64| -> Result<bool, ServeError> {
        let report = run(arrivals, &ServeOptions { rate_milli, ..options.clone() })?;
        Ok(report.good_per_100_000() >= 99_000)
    };
    let (mut fine, mut next) = (0, CAPACITY_LEAST_MILLI.min(most_milli));
    while is_fine(next)? {
        fine = next;
        if fine >= most_milli {
            return Ok(fine);
        }
        next = most_milli.min(2 * fine);
    }
    let mut too_much = next;
    while fine > 0 && too_much - fine > (fine / 100).max(1) {
        let middle = u64::midpoint(fine, too_much);
        if is_fine(middle)? {
            fine = middle;
        } else {
            too_much = middle;
        }
    }
    Ok(fine)
}

/// Serves the requests.
///
/// # Errors
/// If they, or the options, make no sense.
pub fn run(arrivals: &[ServeArrival], options: &ServeOptions) -> Result<ServeReport, ServeError> {
    check(arrivals, options)?;
    let mut run = Run::new(arrivals, options);
    while let Some(Reverse((at, _, event))) = run.events.pop() {
        run.now = at;
        run.handle(event);
    }
    Ok(run.report())
}

/// What happens at a moment; of one moment in the order in which it was told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Arrives {
        index: usize,
    },
    /// The steps that were counted so ended, unless they were cut short.
    Steps {
        replica: usize,
        version: u64,
    },
    Fails {
        outage: usize,
    },
    Returns {
        outage: usize,
    },
    /// An attempt of a request is known to have failed.
    Refused {
        index: usize,
        attempt: u32,
    },
    Again {
        index: usize,
    },
    Silent {
        index: usize,
        attempt: u32,
        heard: u64,
    },
    Check {
        round: u64,
    },
    /// It is looked how many replicas there are to be.
    Scales,
    /// A replica that began is there.
    Begins {
        replica: usize,
        turn: u64,
    },
    /// A request has waited for a replica for as long as it may.
    GivesUp {
        index: usize,
    },
}

/// One replica with what is known of it from outside.
struct Replica {
    engine: Engine,
    version: u64,
    down: Option<OutageKind>,
    /// Checks that failed, one after the other.
    missed: u32,
}

/// A request that has not ended.
struct Open {
    ticket: Ticket,
    replica: usize,
    attempt: u32,
    tried: Vec<AllocationId>,
    first: Option<GatewayUs>,
    /// Counts what was heard of it.
    heard: u64,
}

struct Run<'a> {
    arrivals: &'a [ServeArrival],
    options: &'a ServeOptions,
    block_tokens: u32,
    /// Of engines that have ended: tokens of prompts that were in the cache, and all.
    hit: (u64, u64),
    now: GatewayUs,
    events: BinaryHeap<Reverse<(GatewayUs, u64, Event)>>,
    told: u64,
    pool: Pool,
    budget: Budget,
    random: Random,
    replicas: Vec<Replica>,
    open: BTreeMap<usize, Open>,
    /// Between attempts: how many were made, and by whom.
    between: BTreeMap<usize, (u32, Vec<AllocationId>)>,
    herd: Option<Herd>,
    /// Those that wait for a replica, in the order in which they came.
    waiting: BTreeSet<usize>,
    sums: ServeReport,
    first: Vec<SpanUs>,
    each: Vec<SpanUs>,
    whole: Vec<SpanUs>,
    good_work: u128,
    last_end: GatewayUs,
}

fn id_of(replica: usize) -> AllocationId {
    let instance = InstanceIndex(u32::try_from(replica).unwrap_or(u32::MAX));
    AllocationId { instance, ..AllocationId::default() }
}

impl<'a> Run<'a> {
    fn new(arrivals: &'a [ServeArrival], options: &'a ServeOptions) -> Run<'a> {
        let block_tokens = arrivals.iter().map(|arrival| arrival.prefix.tokens_each).max();
        let block_tokens = block_tokens.unwrap_or(0).max(1);
        let replicas = options.fleet.iter().map(|shape| Replica {
            engine: Engine::new(*shape, block_tokens),
            version: 0,
            down: None,
            missed: 0,
        });
        let mut run = Run {
            arrivals,
            options,
            block_tokens,
            hit: (0, 0),
            now: GatewayUs(0),
            events: BinaryHeap::new(),
            told: 0,
            pool: Pool::new(options.policy),
            budget: Budget::default(),
            random: Random::new(options.seed),
            replicas: replicas.collect(),
            open: BTreeMap::new(),
            between: BTreeMap::new(),
            herd: options.scaling.as_ref().map(|scaling| Herd::new(scaling, options.fleet.len())),
            waiting: BTreeSet::new(),
            sums: ServeReport { offered: arrivals.len() as u64, ..ServeReport::default() },
            first: Vec::new(),
            each: Vec::new(),
            whole: Vec::new(),
            good_work: 0,
            last_end: GatewayUs(0),
        };
        run.set_members();
        run.tell(run.at(&arrivals[0]), Event::Arrives { index: 0 });
        for (outage, one) in options.outages.iter().enumerate() {
            run.tell(one.from, Event::Fails { outage });
            run.tell(one.from.after(one.lasts), Event::Returns { outage });
        }
        if options.checks == Checks::EverySecond {
            run.tell(GatewayUs(0), Event::Check { round: 0 });
        }
        if run.herd.is_some() {
            run.tell(GatewayUs(0), Event::Scales);
        }
        run
    }

    fn at(&self, arrival: &ServeArrival) -> GatewayUs {
        scaled(arrival.at, self.arrivals[0].at, self.options.rate_milli)
    }

    fn tell(&mut self, at: GatewayUs, event: Event) {
        self.told += 1;
        self.events.push(Reverse((at, self.told, event)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrives { index } => {
                if let Some(next) = self.arrivals.get(index + 1) {
                    self.tell(self.at(next), Event::Arrives { index: index + 1 });
                }
                self.budget.request(self.now);
                self.send(index, 1, Vec::new());
            }
            Event::Steps { replica, version } => self.steps(replica, version),
            Event::Fails { outage } => self.fails(self.options.outages[outage]),
            Event::Returns { outage } => self.returns(self.options.outages[outage]),
            Event::Refused { index, attempt } => self.attempt_failed(index, attempt),
            Event::Again { index } => {
                if let Some((made, tried)) = self.between.remove(&index) {
                    self.send(index, made + 1, tried);
                }
            }
            Event::Silent { index, attempt, heard } => {
                if self.open.get(&index).is_some_and(|open| open.heard == heard) {
                    self.attempt_failed(index, attempt);
                }
            }
            Event::Check { round } => self.look(round),
            Event::Scales => self.scale(),
            Event::Begins { replica, turn } => self.begins(replica, turn),
            Event::GivesUp { index } => {
                if self.waiting.remove(&index) {
                    self.sums.refused += 1;
                }
            }
        }
    }

    fn send(&mut self, index: usize, attempt: u32, mut tried: Vec<AllocationId>) {
        let arrival = &self.arrivals[index];
        let request = Request {
            prompt_tokens: arrival.prompt_tokens,
            key: None,
            prefix: arrival.prefix.clone(),
        };
        let chance = self.random.draw();
        let Ok((ticket, decision)) = self.pool.pick(&request, &tried, chance, self.now) else {
            return self.no_replica(index);
        };
        tried.push(decision.replica);
        let replica = usize::try_from(decision.replica.instance.0).unwrap_or(usize::MAX);
        let open = Open { ticket, replica, attempt, tried, first: None, heard: 0 };
        self.open.insert(index, open);
        if let Some(herd) = &mut self.herd {
            herd.asked(replica);
        }
        if let Some(silence) = self.options.silence_max {
            let silent = Event::Silent { index, attempt, heard: 0 };
            self.tell(self.now.after(silence), silent);
        }
        if self.replicas[replica].down == Some(OutageKind::Dead) {
            self.tell(self.now.after(REFUSED_AFTER), Event::Refused { index, attempt });
            return;
        }
        let work = Work {
            id: index as u64,
            prompt_tokens: u64::from(arrival.prompt_tokens),
            output_tokens: u64::from(arrival.output_tokens),
            prefix: request.prefix,
        };
        self.replicas[replica].engine.submit(work, self.now);
        self.expect(replica);
    }

    /// Tells when the replica's steps end.
    fn expect(&mut self, replica: usize) {
        let one = &mut self.replicas[replica];
        if one.down.is_some() {
            return;
        }
        one.version += 1;
        let version = one.version;
        if let Some(at) = one.engine.next() {
            self.tell(at.max(self.now), Event::Steps { replica, version });
        }
    }

    fn steps(&mut self, replica: usize, version: u64) {
        let one = &self.replicas[replica];
        if one.version == version && one.down.is_none() {
            self.advance(replica);
        }
    }

    fn advance(&mut self, replica: usize) {
        for done in self.replicas[replica].engine.advance(self.now) {
            match done {
                Done::FirstToken { id } => self.first_token(id),
                Done::Token { .. } => {}
                Done::All { id } => self.answered(id),
            }
        }
        self.expect(replica);
    }

    fn first_token(&mut self, id: u64) {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        let Some(open) = self.open.get_mut(&index) else { return };
        open.first = Some(self.now);
        open.heard += 1;
        self.pool.first_byte(&mut open.ticket, self.now);
    }

    fn answered(&mut self, id: u64) {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        let Some(mut open) = self.open.remove(&index) else { return };
        self.pool.first_byte(&mut open.ticket, self.now);
        self.pool.finish(open.ticket, Outcome::Answered, self.now);
        self.has_one_less(open.replica);
        let arrival = &self.arrivals[index];
        let first = open.first.unwrap_or(self.now).since(self.at(arrival));
        let whole = self.now.since(self.at(arrival));
        let after_first = u64::from(arrival.output_tokens).saturating_sub(1);
        let each = SpanUs((whole.0 - first.0).checked_div(after_first).unwrap_or(0));
        let (slo, shape) = (self.options.slo, EngineShape::default());
        let reading = shape.work(u64::from(arrival.prompt_tokens), 0).0;
        let first_max = slo.first.0 + reading * slo.reading_milli / 1_000;
        self.sums.answered += 1;
        if first.0 <= first_max && each <= slo.each {
            self.sums.good += 1;
            let (prompt, output) = (arrival.prompt_tokens, arrival.output_tokens);
            let work = self.options.fleet[open.replica].work(u64::from(prompt), u64::from(output));
            self.good_work += u128::from(work.0);
        }
        self.first.push(first);
        self.each.push(each);
        self.whole.push(whole);
        self.last_end = self.now;
    }

    /// The attempt that is open failed, and the caller or another replica is told.
    fn attempt_failed(&mut self, index: usize, attempt: u32) {
        if self.open.get(&index).is_none_or(|open| open.attempt != attempt) {
            return;
        }
        let Some(open) = self.open.remove(&index) else { return };
        // A fixed list learns nothing from a failure.
        let outcome = match self.options.checks {
            Checks::None => Outcome::Left,
            Checks::EverySecond => Outcome::Failed,
        };
        self.pool.finish(open.ticket, outcome, self.now);
        self.has_one_less(open.replica);
        self.last_end = self.now;
        self.replicas[open.replica].engine.cancel(index as u64);
        if open.first.is_some() {
            self.sums.cut += 1;
            return;
        }
        let failed = Attempt {
            made: open.attempt,
            progress: Progress::Sent,
            repeatable: Repeatable::Yes,
            callers_retry: 0,
            deadline: None,
        };
        let chance = self.random.draw();
        let decided = match self.options.retries {
            Retries::None => None,
            Retries::Budget => match self.budget.decide(failed, chance, self.now) {
                Retry::Again { after } => Some(after),
                Retry::GiveUp(_) => None,
            },
        };
        let Some(after) = decided else {
            self.sums.failed += 1;
            return;
        };
        self.sums.retries += 1;
        self.between.insert(index, (open.attempt, open.tried));
        self.tell(self.now.after(after), Event::Again { index });
    }

    fn fails(&mut self, outage: Outage) {
        let one = &mut self.replicas[outage.replica];
        one.down = Some(outage.kind);
        one.version += 1;
        if outage.kind == OutageKind::Hung {
            return;
        }
        one.engine.fail();
        let there = |open: &Open| open.replica == outage.replica;
        let broken: Vec<(usize, u32)> = self
            .open
            .iter()
            .filter(|(_, open)| there(open))
            .map(|(index, open)| (*index, open.attempt))
            .collect();
        for (index, attempt) in broken {
            self.attempt_failed(index, attempt);
        }
    }

    fn returns(&mut self, outage: Outage) {
        self.replicas[outage.replica].down = None;
        // What would have ended while it hung ends now.
        self.advance(outage.replica);
    }

    /// One look at every replica; the last when nothing is left to happen.
    fn look(&mut self, round: u64) {
        let before: Vec<u32> = self.replicas.iter().map(|one| one.missed).collect();
        for one in &mut self.replicas {
            one.missed = if one.down.is_some() { one.missed + 1 } else { 0 };
        }
        let is_off = |missed: u32| missed >= 3;
        let mut changed = self.replicas.iter().zip(before);
        if changed.any(|(one, before)| is_off(one.missed) != is_off(before)) {
            self.set_members();
        }
        if !self.events.is_empty() {
            let next = self.now.after(SpanUs::from_secs(1));
            self.tell(next, Event::Check { round: round + 1 });
        }
    }

    fn set_members(&mut self) {
        let member = |(replica, one): (usize, &Replica)| Member {
            id: id_of(replica),
            weight_milli: if one.missed >= 3 { 0 } else { 1_000 },
            tier: 0,
            limit: None,
        };
        let is_there =
            |replica: usize| self.herd.as_ref().is_none_or(|herd| herd.is_ready(replica));
        let there = self.replicas.iter().enumerate().filter(|(replica, _)| is_there(*replica));
        let members: Vec<Member> = there.map(member).collect();
        self.pool.set_members(&members, self.now);
    }

    fn report(mut self) -> ServeReport {
        let hit = self.replicas.iter().map(|one| one.engine.hit());
        let (hit, all) = hit.fold(self.hit, |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let lasted = self.last_end.since(GatewayUs(0));
        let speed: u128 =
            self.options.fleet.iter().map(|shape| u128::from(shape.speed_milli)).sum();
        let could = u128::from(lasted.0) * speed / 1_000;
        let effective = (self.good_work * 1_000).checked_div(could).unwrap_or(0);
        self.sums.hit_milli = (hit * 1_000).checked_div(all).unwrap_or(0);
        self.sums.effective_milli = u64::try_from(effective).unwrap_or(u64::MAX);
        self.sums.lasted = lasted;
        self.sums.herd = self.herd.map(|herd| herd.close(self.last_end));
        self.sums.first = Latency::of(&mut self.first);
        self.sums.first_spread = spread(&self.first);
        self.sums.each = Latency::of(&mut self.each);
        self.sums.whole = Latency::of(&mut self.whole);
        self.sums
    }
}
