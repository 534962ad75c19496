//! Events into lines and back.

use std::str::FromStr as _;

use berth_model::{AllocationId, RoutingPolicy};
use berth_routing::record::{Happening, Picked};
use berth_routing::{
    Blocks, Decision, GatewayUs, Member, NoReplica, Outcome, Reason, Request, Score, Signals,
    SpanUs,
};

use crate::line::{Event, FORMAT, Line, LineMember, LinePicked, LinePrefix, LineScored};

const NONE_READY: &str = "none-ready";
const ALL_FULL: &str = "all-full";
const OVERLOADED: &str = "overloaded";
/// The others, by their names.
const OUTCOMES: [(&str, Outcome); 4] = [
    ("answered", Outcome::Answered),
    ("declined", Outcome::Declined),
    ("failed", Outcome::Failed),
    ("left", Outcome::Left),
];

impl From<&Event> for Line {
    fn from(event: &Event) -> Line {
        match event {
            Event::Recording { writer } => {
                Line::Recording { format: FORMAT, writer: writer.clone() }
            }
            Event::Service { pool, service } => {
                Line::Service { pool: *pool, service: service.clone() }
            }
            Event::Happened { pool, happening } => of_happening(*pool, happening),
            Event::Ended(because) => Line::Ended { because: *because },
        }
    }
}

fn of_happening(pool: u64, happening: &Happening) -> Line {
    match happening {
        Happening::Begun { policy } => Line::Begun { pool, policy: policy.name().to_owned() },
        Happening::Policy { policy } => Line::Policy { pool, policy: policy.name().to_owned() },
        Happening::Members { members, at } => {
            let members = members.iter().map(of_member).collect();
            Line::Members { pool, at_us: at.0, members }
        }
        Happening::Picked(picked) => of_picked(pool, picked),
        Happening::FirstByte { number, at } => {
            Line::FirstByte { pool, at_us: at.0, number: *number }
        }
        Happening::Finished { number, outcome, at } => {
            let (outcome, spare_for_us) = match outcome {
                Outcome::Overloaded { spare_for } => (OVERLOADED, Some(spare_for.0)),
                Outcome::Answered | Outcome::Declined | Outcome::Failed | Outcome::Left => {
                    let named = OUTCOMES.iter().find(|(_, known)| known == outcome);
                    (named.map_or("", |(name, _)| name), None)
                }
            };
            let outcome = outcome.to_owned();
            Line::Finished { pool, at_us: at.0, number: *number, outcome, spare_for_us }
        }
        Happening::Reported { replica, signals, at } => Line::Reported {
            pool,
            at_us: at.0,
            replica: replica.to_string(),
            running: signals.running,
            waiting: signals.waiting,
            kv_milli: signals.kv_milli,
        },
    }
}

fn of_member(member: &Member) -> LineMember {
    LineMember {
        replica: member.id.to_string(),
        weight_milli: member.weight_milli,
        tier: member.tier,
        limit: member.limit,
    }
}

fn of_picked(pool: u64, picked: &Picked) -> Line {
    let Request { prompt_tokens, key, prefix } = &picked.request;
    let prefix = (*prefix != Blocks::default()).then(|| LinePrefix {
        tokens_each: prefix.tokens_each,
        hashes: prefix.hashes.iter().map(|hash| hex(*hash)).collect(),
    });
    let decided = picked.answer.ok();
    let decision = decided.map(|(_, decision)| decision);
    let none = picked.answer.err().map(|none| match none {
        NoReplica::NoneReady => NONE_READY,
        NoReplica::AllFull => ALL_FULL,
    });
    Line::Picked(Box::new(LinePicked {
        pool,
        at_us: picked.at.0,
        number: decided.map(|(number, _)| number),
        replica: decision.map(|decision| scored(decision.replica, decision.score)),
        reason: decision.map(|decision| decision.reason.name().to_owned()),
        runner_up: decision
            .and_then(|decision| decision.runner_up)
            .map(|(id, score)| scored(id, score)),
        compared: decision.map(|decision| decision.compared),
        none: none.map(str::to_owned),
        prompt_tokens: *prompt_tokens,
        key: key.map(hex),
        prefix,
        tried: picked.tried.iter().map(AllocationId::to_string).collect(),
        chance: hex(picked.chance),
    }))
}

fn scored(id: AllocationId, score: Score) -> LineScored {
    LineScored { id: id.to_string(), cost: score.cost, spared: score.is_spared }
}

fn hex(number: u64) -> String {
    format!("{number:016x}")
}

/// What a line says.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn event(line: Line) -> Result<Event, String> {
    let (pool, happening) = match line {
        Line::Recording { format, writer } if format == FORMAT => {
            return Ok(Event::Recording { writer });
        }
        Line::Recording { format, writer } => {
            return Err(format!(
                "format {format}, written by {writer}; this version reads {FORMAT}"
            ));
        }
        Line::Service { pool, service } => return Ok(Event::Service { pool, service }),
        Line::Ended { because } => return Ok(Event::Ended(because)),
        Line::Begun { pool, policy } => (pool, Happening::Begun { policy: policy_of(&policy)? }),
        Line::Policy { pool, policy } => (pool, Happening::Policy { policy: policy_of(&policy)? }),
        Line::Members { pool, at_us, members } => {
            let members = members.iter().map(member_of).collect::<Result<_, _>>()?;
            (pool, Happening::Members { members, at: GatewayUs(at_us) })
        }
        Line::FirstByte { pool, at_us, number } => {
            (pool, Happening::FirstByte { number, at: GatewayUs(at_us) })
        }
        Line::Finished { pool, at_us, number, outcome, spare_for_us } => {
            let outcome = outcome_of(&outcome, spare_for_us)?;
            (pool, Happening::Finished { number, outcome, at: GatewayUs(at_us) })
        }
        Line::Reported { pool, at_us, replica, running, waiting, kv_milli } => {
            let signals = Signals { running, waiting, kv_milli };
            let replica = id_of(&replica)?;
            (pool, Happening::Reported { replica, signals, at: GatewayUs(at_us) })
        }
        Line::Picked(line) => (line.pool, Happening::Picked(picked_of(*line)?)),
    };
    Ok(Event::Happened { pool, happening })
}

fn picked_of(line: LinePicked) -> Result<Picked, String> {
    let LinePicked { number, replica, reason, runner_up, compared, none, .. } = line;
    let answer = match (number, replica, reason, compared, none.as_deref()) {
        (Some(number), Some(replica), Some(reason), Some(compared), None) => {
            let (replica, score) = scored_of(&replica)?;
            let runner_up = runner_up.as_ref().map(scored_of).transpose()?;
            let reason = reason_of(&reason)?;
            Ok((number, Decision { replica, reason, score, runner_up, compared }))
        }
        (None, None, None, None, Some(NONE_READY)) => Err(NoReplica::NoneReady),
        (None, None, None, None, Some(ALL_FULL)) => Err(NoReplica::AllFull),
        _ => {
            return Err(format!(
                "needs `number`, `replica`, `reason` and `compared`, or `none` as {NONE_READY} \
                 or {ALL_FULL}"
            ));
        }
    };
    let request = Request {
        prompt_tokens: line.prompt_tokens,
        key: line.key.as_deref().map(number_of).transpose()?,
        prefix: line.prefix.map(prefix_of).transpose()?.unwrap_or_default(),
    };
    let tried = line.tried.iter().map(|id| id_of(id)).collect::<Result<_, _>>()?;
    let (chance, at) = (number_of(&line.chance)?, GatewayUs(line.at_us));
    Ok(Picked { request, tried, chance, at, answer })
}

fn policy_of(name: &str) -> Result<RoutingPolicy, String> {
    RoutingPolicy::from_str(name).map_err(|()| format!("no policy has the name `{name}`"))
}

fn reason_of(name: &str) -> Result<Reason, String> {
    let known = Reason::ALL.into_iter().find(|reason| reason.name() == name);
    known.ok_or_else(|| format!("no reason has the name `{name}`"))
}

fn outcome_of(name: &str, spare_for_us: Option<u64>) -> Result<Outcome, String> {
    let plain = OUTCOMES.iter().find(|(known, _)| *known == name);
    match (plain, spare_for_us) {
        (Some((_, outcome)), None) => Ok(*outcome),
        (None, Some(us)) if name == OVERLOADED => Ok(Outcome::Overloaded { spare_for: SpanUs(us) }),
        _ => Err(format!(
            "no outcome is `{name}`, and {OVERLOADED} alone has `spare_for_us`, and always"
        )),
    }
}

fn member_of(member: &LineMember) -> Result<Member, String> {
    let LineMember { replica, weight_milli, tier, limit } = member;
    let (weight_milli, tier, limit) = (*weight_milli, *tier, *limit);
    Ok(Member { id: id_of(replica)?, weight_milli, tier, limit })
}

fn scored_of(scored: &LineScored) -> Result<(AllocationId, Score), String> {
    let score = Score { is_spared: scored.spared, cost: scored.cost };
    Ok((id_of(&scored.id)?, score))
}

fn prefix_of(prefix: LinePrefix) -> Result<Blocks, String> {
    let hashes = prefix.hashes.iter().map(|hash| number_of(hash)).collect::<Result<_, _>>()?;
    Ok(Blocks { hashes, tokens_each: prefix.tokens_each })
}

fn id_of(text: &str) -> Result<AllocationId, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn number_of(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16)
        .map_err(|_| format!("expected a number in hexadecimal letters, found `{text}`"))
}
