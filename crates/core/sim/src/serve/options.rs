//! What is varied from run to run, and whether it makes sense.

use berth_routing::chance::mix_both;
use berth_routing::{GatewayUs, Policy, SpanUs};
use thiserror::Error;

use super::arrivals::{ARRIVALS_MAX, ServeArrival};
use super::engine::EngineShape;
use super::herd::ScalingOptions;
use super::report::Slo;
use crate::random::Random;

/// The replicas.
pub type Fleet = Vec<EngineShape>;

/// A replica that is not there for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outage {
    pub replica: usize,
    pub from: GatewayUs,
    pub lasts: SpanUs,
    pub kind: OutageKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutageKind {
    /// Its connections break, and new ones are refused.
    Dead,
    /// It takes requests and answers none; what it had goes on afterwards.
    Hung,
}

/// Whether somebody looks whether replicas are well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checks {
    /// Nobody, nor is it learnt from failures: a fixed list.
    None,
    /// Every second; three that fail take it off, and one that does not puts it back.
    EverySecond,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retries {
    None,
    Budget,
}

/// What is varied from run to run.
#[derive(Clone, PartialEq, Debug)]
pub struct ServeOptions {
    pub policy: Policy,
    pub fleet: Fleet,
    /// In thousandths of the trace's: at 2,000 the same requests come in half the time.
    pub rate_milli: u64,
    pub slo: Slo,
    /// In the time of the run, the first request at 0.
    pub outages: Vec<Outage>,
    pub checks: Checks,
    pub retries: Retries,
    /// No first token for so long, or none after another, is a failure; `None`: it is waited for.
    pub silence_max: Option<SpanUs>,
    /// `None`: the whole fleet is there all the time.
    pub scaling: Option<ScalingOptions>,
    pub seed: u64,
}

/// Why a run cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ServeError {
    #[error("there are no replicas")]
    NoReplicas,
    #[error("there are no requests")]
    NoArrivals,
    #[error("{count} requests are more than {ARRIVALS_MAX}")]
    TooMany { count: usize },
    #[error("request {} arrives before the one that is written before it", .index + 1)]
    OutOfOrder { index: usize },
    #[error("request {} has no token of a prompt or of an answer", .index + 1)]
    Empty { index: usize },
    #[error("an outage is of replica {replica}, and there are {replicas}")]
    NoSuchReplica { replica: usize, replicas: usize },
    #[error("there are {replicas} replicas, and it is to begin with {begins_with}")]
    BeginsWith { begins_with: u32, replicas: usize },
    #[error("outages are of a fleet that is there all the time")]
    OutagesOfScaled,
}

/// So many outages by chance, each of one replica; of one replica none overlap, so that of very many
/// some are left out.
pub fn spread_outages(
    (count, lasts, kind): (u32, SpanUs, OutageKind),
    replicas: usize,
    within: SpanUs,
    seed: u64,
) -> Vec<Outage> {
    let mut random = Random::new(mix_both(seed, u64::from(count)));
    let mut outages: Vec<Outage> = Vec::new();
    for _ in 0..count {
        let from =
            GatewayUs(random.below(usize::try_from(within.0.max(1)).unwrap_or(usize::MAX)) as u64);
        let outage = Outage { replica: random.below(replicas), from, lasts, kind };
        let meets = |other: &Outage| {
            let apart = from.since(other.from).0.max(other.from.since(from).0);
            other.replica == outage.replica && apart <= lasts.0
        };
        if !outages.iter().any(meets) {
            outages.push(outage);
        }
    }
    outages
}

/// Whether a run can be made of them.
pub(super) fn check(arrivals: &[ServeArrival], options: &ServeOptions) -> Result<(), ServeError> {
    if options.fleet.is_empty() {
        return Err(ServeError::NoReplicas);
    }
    if arrivals.is_empty() {
        return Err(ServeError::NoArrivals);
    }
    if arrivals.len() > ARRIVALS_MAX {
        return Err(ServeError::TooMany { count: arrivals.len() });
    }
    let late = arrivals.windows(2).position(|pair| pair[0].at > pair[1].at);
    if let Some(index) = late {
        return Err(ServeError::OutOfOrder { index: index + 1 });
    }
    let empty = |arrival: &ServeArrival| arrival.prompt_tokens == 0 || arrival.output_tokens == 0;
    if let Some(index) = arrivals.iter().position(empty) {
        return Err(ServeError::Empty { index });
    }
    let replicas = options.fleet.len();
    if let Some(scaling) = &options.scaling {
        let begins_with = scaling.begins_with;
        if begins_with as usize > replicas {
            return Err(ServeError::BeginsWith { begins_with, replicas });
        }
        if !options.outages.is_empty() {
            return Err(ServeError::OutagesOfScaled);
        }
    }
    match options.outages.iter().find(|outage| outage.replica >= replicas) {
        Some(Outage { replica, .. }) => {
            Err(ServeError::NoSuchReplica { replica: *replica, replicas })
        }
        None => Ok(()),
    }
}
