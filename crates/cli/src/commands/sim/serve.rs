//! `berth sim serve`: the requests of a trace over a fleet of replicas in virtual time, under one
//! policy of routing or another.

mod scaling;
mod scenario;

use std::path::{Path, PathBuf};

use berth_sim::serve::{
    self, GatewayUs, HerdReport, Latency, RoutingPolicy, ServeArrival, ServeError, ServeOptions,
    ServeReport, SpanUs,
};
use clap::Args;
use serde_json::{Value, json};

use super::{each_on_a_thread, write_plot};
use crate::error::{CliError, Exit, Fault};
use crate::output::{Answer, Curve, Curves, Piece, Table, curves};
use crate::requests;
use crate::session::Session;
use scaling::LawSetting;
use scenario::{RatesOf, Setting};

/// A capacity is looked for up to so many times the trace's rate.
const CAPACITY_MOST_MILLI: u64 = 64_000;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The requests: CSV with arrival_s, context_tokens and generated_tokens, or JSON lines with
    /// timestamp, input_length, output_length and hash_ids
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Replicas, policies, rates, objectives and outages: TOML; without it eight equal replicas
    /// under round-robin, least-outstanding and auto
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Where to draw how many answers took longer than so long to their first token, at the last
    /// rate: SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What became of the requests under a policy at a rate, once for each seed.
struct Outcome {
    policy: RoutingPolicy,
    /// By which the number of replicas is found.
    law: &'static str,
    rate_milli: u64,
    /// In the order of the mean time to the end, so that the median is in the middle.
    reports: Vec<ServeReport>,
}

/// All that is told.
struct Outcomes {
    /// Times the trace's rate, where rates are of round robin's.
    one_milli: u64,
    runs: Vec<Outcome>,
    capacities: Vec<(RoutingPolicy, u64)>,
}

pub(crate) fn run(args: &ServeArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let setting = scenario::read(args.scenario.as_deref())?;
    let rows = requests::read(&args.trace)?;
    let (lines, arrivals): (Vec<u64>, Vec<ServeArrival>) = rows.into_iter().unzip();
    let cannot = |error| refused(&args.trace, &lines, &error);
    let one_milli = match setting.rates_of {
        RatesOf::Trace => 1_000,
        RatesOf::RoundRobin => {
            capacity(&setting, &arrivals, RoutingPolicy::RoundRobin).map_err(cannot)?
        }
    };
    if one_milli == 0 {
        let place = args.trace.display();
        let what =
            "round robin answers 99 of 100 well at no rate, so there is none to compare with";
        let hint = "take larger objectives, or rates_of = \"trace\"";
        let fault = Fault::new(format!("{place}: {what}")).hint(hint);
        return Err(CliError::BadInput(vec![fault]));
    }
    let outcomes = compare(&setting, &arrivals, one_milli).map_err(cannot)?;
    session.print(&answer(args, &setting, &arrivals, &outcomes))?;
    write_plot(args.plot.as_deref(), || draw(&setting, &outcomes))?;
    Ok(Exit::Done)
}

/// Every policy with every law on a thread of its own.
fn compare(
    setting: &Setting,
    arrivals: &[ServeArrival],
    one_milli: u64,
) -> Result<Outcomes, ServeError> {
    let of = |(policy, law): (RoutingPolicy, &LawSetting)| {
        let one = |rate: &u64| of_rate(setting, arrivals, (policy, law), (*rate, one_milli));
        let runs: Vec<Outcome> = setting.rates_milli.iter().map(one).collect::<Result<_, _>>()?;
        let found = setting.capacity.then(|| capacity(setting, arrivals, policy)).transpose()?;
        Ok::<_, ServeError>((runs, found))
    };
    let policies = setting.policies.iter().copied();
    let pairs: Vec<(RoutingPolicy, &LawSetting)> =
        policies.flat_map(|policy| setting.laws.iter().map(move |law| (policy, law))).collect();
    let (mut runs, mut capacities) = (Vec::new(), Vec::new());
    let found = each_on_a_thread(&pairs, of);
    for ((policy, _), outcome) in pairs.into_iter().zip(found) {
        let (of_policy, capacity) = outcome?;
        runs.extend(of_policy);
        capacities.extend(capacity.map(|capacity| (policy, capacity)));
    }
    Ok(Outcomes { one_milli, runs, capacities })
}

/// The highest rate without outages.
fn capacity(
    setting: &Setting,
    arrivals: &[ServeArrival],
    policy: RoutingPolicy,
) -> Result<u64, ServeError> {
    serve::capacity(arrivals, &options(setting, policy), CAPACITY_MOST_MILLI)
}

fn of_rate(
    setting: &Setting,
    arrivals: &[ServeArrival],
    (policy, law): (RoutingPolicy, &LawSetting),
    (rate_milli, one_milli): (u64, u64),
) -> Result<Outcome, ServeError> {
    let of_trace_milli = rate_milli.saturating_mul(one_milli) / 1_000;
    let lasts = match (arrivals.first(), arrivals.last()) {
        (Some(first), Some(last)) => {
            serve::scaled(last.at, first.at, of_trace_milli).since(GatewayUs(0))
        }
        _ => SpanUs::ZERO,
    };
    let one = |seed: u64| {
        let outages = setting.outages.map(|(count, each, kind)| {
            serve::spread_outages((count, each, kind), setting.fleet.len(), lasts, seed)
        });
        let options = ServeOptions {
            rate_milli: of_trace_milli,
            outages: outages.unwrap_or_default(),
            scaling: law.options(arrivals, of_trace_milli, (setting.fleet[0], setting.slo.first)),
            seed,
            ..options(setting, policy)
        };
        serve::run(arrivals, &options)
    };
    let mut reports: Vec<ServeReport> = (1..=setting.seeds).map(one).collect::<Result<_, _>>()?;
    reports.sort_by_key(|report| report.whole.mean);
    Ok(Outcome { policy, law: law.name, rate_milli, reports })
}

/// At the trace's rate and without outages.
fn options(setting: &Setting, policy: RoutingPolicy) -> ServeOptions {
    ServeOptions {
        policy,
        fleet: setting.fleet.clone(),
        rate_milli: 1_000,
        slo: setting.slo,
        outages: Vec::new(),
        checks: setting.checks,
        retries: setting.retries,
        silence_max: setting.silence_max,
        scaling: None,
        seed: 1,
    }
}

/// Says the line where the error knows the request.
fn refused(trace: &Path, lines: &[u64], error: &ServeError) -> CliError {
    let trace = trace.display();
    match error {
        ServeError::OutOfOrder { index } | ServeError::Empty { index } => {
            let line = lines.get(*index).copied().unwrap_or(0);
            CliError::bad_input(format!("{trace}:{line}: {error}"))
        }
        ServeError::NoReplicas
        | ServeError::NoArrivals
        | ServeError::TooMany { .. }
        | ServeError::NoSuchReplica { .. }
        | ServeError::BeginsWith { .. }
        | ServeError::OutagesOfScaled => CliError::bad_input(format!("{trace}: {error}")),
    }
}

fn answer(
    args: &ServeArgs,
    setting: &Setting,
    arrivals: &[ServeArrival],
    outcomes: &Outcomes,
) -> Answer {
    let mut text = format!(
        "{} requests over {} replicas, the median of {} runs each; times in seconds",
        arrivals.len(),
        setting.fleet.len(),
        setting.seeds,
    );
    if setting.rates_of == RatesOf::RoundRobin {
        let one = outcomes.one_milli as f64 / 1_000.0;
        text += &format!("\na rate of 1 is {one:.3} times the trace's: what round robin can do");
    }
    // Said of a fleet that is there all the time it would be the same in every row.
    let (first, more) = match setting.is_scaled() {
        true => (&["POLICY", "REPLICAS"][..], &["GPU HOURS", "STARTS"][..]),
        false => (&["POLICY"][..], &[][..]),
    };
    let usual = [
        "RATE",
        "GOOD %",
        "REFUSED %",
        "FAILED %",
        "CUT %",
        "FIRST",
        "P50",
        "P99",
        "WHOLE",
        "P99",
        "HIT %",
        "EFFECTIVE %",
    ];
    let mut table = Table::new(
        &[first, &usual, more].concat(),
        &["MOST", "CHANGES", "EACH P99", "RETRIES", "LASTED"],
    );
    outcomes.runs.iter().for_each(|outcome| table.row(row(outcome, setting)));
    let mut pieces = vec![Piece::Text(text), Piece::Table(table)];
    if !outcomes.capacities.is_empty() {
        let mut table = Table::new(&["POLICY", "CAPACITY"], &[]);
        for (policy, capacity) in &outcomes.capacities {
            table.row(vec![policy.name().to_owned(), format!("{:.3}", *capacity as f64 / 1e3)]);
        }
        pieces.push(Piece::Table(table));
    }
    let capacity = |(policy, milli): &(RoutingPolicy, u64)| json!({ "policy": policy.name(), "rate": *milli as f64 / 1e3 });
    let json = json!({
        "trace": args.trace.display().to_string(),
        "requests": arrivals.len(),
        "replicas": setting.fleet.len(),
        "rate_of_one": outcomes.one_milli as f64 / 1e3,
        "runs": outcomes.runs.iter().map(|one| outcome_json(one, setting)).collect::<Vec<Value>>(),
        "capacities": outcomes.capacities.iter().map(capacity).collect::<Vec<Value>>(),
    });
    Answer { json, pieces, ids: Vec::new() }
}

fn row(Outcome { policy, law, rate_milli, reports }: &Outcome, setting: &Setting) -> Vec<String> {
    let report = &reports[reports.len() / 2];
    let of = |count: u64| format!("{:.2}", percent(count, report.offered));
    let seconds = |span: SpanUs| format!("{:.3}", span.0 as f64 / 1e6);
    let scaled = setting.is_scaled();
    let mut row = vec![policy.name().to_owned()];
    row.extend(scaled.then(|| (*law).to_owned()));
    row.extend([
        format!("{:.2}", *rate_milli as f64 / 1e3),
        of(report.good),
        of(report.refused),
        of(report.failed),
        of(report.cut),
        seconds(report.first.mean),
        seconds(report.first.p50),
        seconds(report.first.p99),
        seconds(report.whole.mean),
        seconds(report.whole.p99),
        format!("{:.1}", report.hit_milli as f64 / 10.0),
        format!("{:.1}", report.effective_milli as f64 / 10.0),
    ]);
    if scaled {
        row.push(format!("{:.2}", gpu_hours(report, setting)));
        row.push(of_herd(report, |herd| herd.starts));
    }
    row.extend([
        of_herd(report, |herd| most(herd).into()),
        of_herd(report, |herd| herd.changes.len() as u64),
        seconds(report.each.p99),
        report.retries.to_string(),
        seconds(report.lasted),
    ]);
    row
}

/// Nothing of a fleet that is there all the time.
fn of_herd(report: &ServeReport, told: fn(&HerdReport) -> u64) -> String {
    report.herd.as_ref().map_or_else(|| "-".to_owned(), |herd| told(herd).to_string())
}

fn most(herd: &HerdReport) -> u32 {
    herd.changes.iter().map(|(_, count)| *count).max().unwrap_or(0)
}

/// At a GPU each.
fn gpu_hours(report: &ServeReport, setting: &Setting) -> f64 {
    let whole = SpanUs(report.lasted.0.saturating_mul(setting.fleet.len() as u64));
    let held = report.herd.as_ref().map_or(whole, |herd| herd.held);
    held.0 as f64 / 3.6e9
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / (whole as f64).max(1.0)
}

fn outcome_json(outcome: &Outcome, setting: &Setting) -> Value {
    let Outcome { policy, law, rate_milli, reports } = outcome;
    let latency = |latency: &Latency| {
        let [mean, p50, p90, p99] =
            [latency.mean, latency.p50, latency.p90, latency.p99].map(|span| span.0 as f64 / 1e6);
        json!({ "mean": mean, "p50": p50, "p90": p90, "p99": p99 })
    };
    let one = |report: &ServeReport| {
        json!({
            "offered": report.offered,
            "answered": report.answered,
            "refused": report.refused,
            "failed": report.failed,
            "cut": report.cut,
            "good": report.good,
            "attainment": percent(report.good, report.offered) / 100.0,
            "retries": report.retries,
            "first_s": latency(&report.first),
            "each_s": latency(&report.each),
            "whole_s": latency(&report.whole),
            "hit_percent": report.hit_milli as f64 / 10.0,
            "effective_percent": report.effective_milli as f64 / 10.0,
            "lasted_s": report.lasted.0 as f64 / 1e6,
            "gpu_hours": gpu_hours(report, setting),
            "starts": report.herd.as_ref().map(|herd| herd.starts),
            "replicas": report.herd.as_ref().map(timeline),
        })
    };
    json!({
        "policy": policy.name(),
        "scaling": law,
        "rate": *rate_milli as f64 / 1e3,
        "runs": reports.iter().map(one).collect::<Vec<Value>>(),
    })
}

/// From when on how many there were to be.
fn timeline(herd: &HerdReport) -> Vec<Value> {
    let one = |(at, count): &(GatewayUs, u32)| json!({ "at_s": at.0 as f64 / 1e6, "count": count });
    herd.changes.iter().map(one).collect()
}

/// The median run of each policy at the last rate that was asked for.
fn draw(setting: &Setting, outcomes: &Outcomes) -> String {
    let last = setting.rates_milli.last().copied().unwrap_or_default();
    let curve = |Outcome { policy, law, reports, .. }: &Outcome| {
        let report = &reports[reports.len() / 2];
        let mean = report.first.mean.0 as f64 / 1e6;
        let values = report.first_spread.iter().map(|span| span.0 as f64 / 1e6);
        let name = match setting.laws.len() {
            1 => format!("{} {mean:.3} s", policy.name()),
            _ => format!("{}, {law} {mean:.3} s", policy.name()),
        };
        Curve { name, values: values.collect() }
    };
    let shown = outcomes.runs.iter().filter(|outcome| outcome.rate_milli == last);
    curves(&Curves {
        title: "Answers that take longer than so long to their first token; the mean of all"
            .to_owned(),
        curves: shown.map(curve).collect(),
    })
}
