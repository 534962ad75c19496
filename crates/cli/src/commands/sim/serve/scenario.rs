//! What a scenario file says: the replicas, the policies to compare, the load, and what fails.

use std::path::Path;

use berth_config::units;
use berth_sim::serve::{
    Checks, EngineShape, Fleet, OutageKind, Retries, RoutingPolicy, Slo, SpanUs,
};
use serde::Deserialize;

use super::scaling::{LawSetting, Scaling};
use crate::error::CliError;

/// Replicas of one scenario.
const REPLICAS_MAX: usize = 10_000;
/// Policies times rates times seeds: hours on one machine.
const RUNS_MAX: usize = 10_000;
const OUTAGES_MAX: u32 = 100_000;
/// A scenario is a page.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Scenario {
    fleet: Vec<Part>,
    policies: Vec<String>,
    /// Multiples of the rate that `rates_of` names.
    rates: Vec<f64>,
    rates_of: RatesOf,
    seeds: u64,
    pub capacity: bool,
    checks: bool,
    retries: bool,
    silence: Option<String>,
    slo: Objectives,
    outages: Option<Outages>,
    scaling: Option<Scaling>,
}

/// What a rate of 1 is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RatesOf {
    /// The trace's own.
    #[default]
    Trace,
    /// The highest at which round robin answers 99 of 100 well.
    RoundRobin,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    count: usize,
    #[serde(default = "whole")]
    speed: f64,
}

fn whole() -> f64 {
    1.0
}

#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Objectives {
    first: Option<String>,
    each: Option<String>,
    reading: f64,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outages {
    count: u32,
    lasts: String,
    #[serde(default)]
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    #[default]
    Dead,
    Hung,
}

impl Default for Scenario {
    /// Eight equal replicas and the trace as it is.
    fn default() -> Scenario {
        let policies = ["round-robin", "least-outstanding", "auto"];
        Scenario {
            fleet: vec![Part { count: 8, speed: 1.0 }],
            policies: policies.map(str::to_owned).to_vec(),
            rates: vec![1.0],
            rates_of: RatesOf::Trace,
            seeds: 5,
            capacity: false,
            checks: true,
            retries: true,
            silence: None,
            slo: Objectives::default(),
            outages: None,
            scaling: None,
        }
    }
}

/// The same, checked.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Setting {
    pub fleet: Fleet,
    pub policies: Vec<RoutingPolicy>,
    /// In thousandths.
    pub rates_milli: Vec<u64>,
    pub rates_of: RatesOf,
    pub seeds: u64,
    pub capacity: bool,
    pub checks: Checks,
    pub retries: Retries,
    pub silence_max: Option<SpanUs>,
    pub slo: Slo,
    pub outages: Option<(u32, SpanUs, OutageKind)>,
    /// Each is compared with the others.
    pub laws: Vec<LawSetting>,
}

impl Setting {
    /// Whether there is less than the whole fleet at times.
    pub(super) fn is_scaled(&self) -> bool {
        self.laws != [LawSetting::WHOLE_FLEET]
    }
}

/// Reads a file; the defaults without one.
pub(super) fn read(path: Option<&Path>) -> Result<Setting, CliError> {
    let Some(path) = path else {
        return Scenario::default().check().map_err(CliError::bad_input);
    };
    let place = path.display();
    let cannot = |error| CliError::bad_input(format!("cannot read {place}: {error}"));
    if std::fs::metadata(path).map_err(cannot)?.len() > FILE_BYTES_MAX {
        return Err(CliError::bad_input(format!("{place}: more than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(cannot)?;
    let scenario: Scenario = toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        CliError::bad_input(format!("{place}:{line}: {}", error.message().replace('\n', " ")))
    })?;
    scenario.check().map_err(|what| CliError::bad_input(format!("{place}: {what}")))
}

impl Scenario {
    fn check(&self) -> Result<Setting, String> {
        let mut fleet = Vec::new();
        for (index, part) in self.fleet.iter().enumerate() {
            let speed_milli = milli(part.speed, 1, 1_000_000)
                .ok_or_else(|| format!("fleet[{index}].speed: expected 0.001 to 1000"))?;
            if part.count == 0 || fleet.len() + part.count > REPLICAS_MAX {
                return Err(format!("fleet[{index}].count: expected 1 to {REPLICAS_MAX} in all"));
            }
            let speed_milli = u32::try_from(speed_milli).unwrap_or(u32::MAX);
            let shape = EngineShape { speed_milli, ..EngineShape::default() };
            fleet.extend(std::iter::repeat_n(shape, part.count));
        }
        if fleet.is_empty() {
            return Err("fleet: expected at least one part".to_owned());
        }
        let mut policies = Vec::new();
        for (index, name) in self.policies.iter().enumerate() {
            let policy = name.parse().map_err(|()| {
                let names = RoutingPolicy::ALL.map(RoutingPolicy::name).join(", ");
                format!("policies[{index}]: unknown policy `{name}`; expected one of {names}")
            })?;
            if !policies.contains(&policy) {
                policies.push(policy);
            }
        }
        let rate = |(index, rate): (usize, &f64)| {
            milli(*rate, 1, 1_000_000)
                .ok_or_else(|| format!("rates[{index}]: expected 0.001 to 1000"))
        };
        let rates_milli: Vec<u64> =
            self.rates.iter().enumerate().map(rate).collect::<Result<_, _>>()?;
        let laws = match &self.scaling {
            Some(_) if self.outages.is_some() || self.capacity => {
                return Err("scaling: goes with neither outages nor capacity".to_owned());
            }
            Some(scaling) => scaling.check(fleet.len())?,
            None => vec![LawSetting::WHOLE_FLEET],
        };
        let runs = policies.len().saturating_mul(rates_milli.len()).saturating_mul(laws.len());
        let seeds = usize::try_from(self.seeds).unwrap_or(usize::MAX);
        if runs == 0 || seeds == 0 || runs.saturating_mul(seeds) > RUNS_MAX {
            let what =
                "policies, rates, laws and seeds: expected at least one of each, and at most";
            return Err(format!("{what} {RUNS_MAX} runs in all"));
        }
        Ok(Setting {
            fleet,
            policies,
            rates_milli,
            rates_of: self.rates_of,
            seeds: self.seeds,
            capacity: self.capacity,
            checks: if self.checks { Checks::EverySecond } else { Checks::None },
            retries: if self.retries { Retries::Budget } else { Retries::None },
            silence_max: self.silence.as_deref().map(|text| span("silence", text)).transpose()?,
            slo: self.objectives()?,
            outages: self.outages.as_ref().map(outages).transpose()?,
            laws,
        })
    }

    fn objectives(&self) -> Result<Slo, String> {
        let Objectives { first, each, reading } = &self.slo;
        let usual = Slo::default();
        let first = first.as_deref().map_or(Ok(usual.first), |text| span("slo.first", text))?;
        let each = each.as_deref().map_or(Ok(usual.each), |text| span("slo.each", text))?;
        let reading_milli = milli(*reading, 0, 1_000_000)
            .ok_or_else(|| "slo.reading: expected 0 to 1000".to_owned())?;
        Ok(Slo { first, reading_milli, each })
    }
}

fn outages(outages: &Outages) -> Result<(u32, SpanUs, OutageKind), String> {
    if outages.count > OUTAGES_MAX {
        return Err(format!("outages.count: expected at most {OUTAGES_MAX}"));
    }
    let kind = match outages.kind {
        Kind::Dead => OutageKind::Dead,
        Kind::Hung => OutageKind::Hung,
    };
    Ok((outages.count, span("outages.lasts", &outages.lasts)?, kind))
}

pub(super) fn span(key: &str, text: &str) -> Result<SpanUs, String> {
    let day_ms = 24 * 3_600_000;
    let read = units::duration_ms_between(text, 1, day_ms);
    let millis = read.map_err(|error| {
        format!("{key}: {}; expected a duration such as 100ms, 30s; at most 1d", error.problem)
    })?;
    Ok(SpanUs::from_millis(millis))
}

/// Thousandths, where that is a number in range.
fn milli(value: f64, least: u64, most: u64) -> Option<u64> {
    let scaled = (value * 1_000.0).round();
    let in_range = scaled >= least as f64 && scaled <= most as f64;
    in_range.then_some(scaled as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scenario.toml");
        std::fs::write(&path, text).unwrap();
        match read(Some(&path)) {
            Ok(setting) => panic!("{text}: {setting:?}"),
            Err(CliError::BadInput(faults)) => {
                let told = faults[0].message.replace(&path.display().to_string(), "FILE");
                assert!(told.starts_with(expected), "{text}: {told}");
            }
            Err(error) => panic!("{text}: {error:?}"),
        }
    }

    #[test]
    fn a_scenario_is_read_and_its_defaults_are_the_ones_that_are_told() {
        let usual = read(None).unwrap();
        assert_eq!((usual.fleet.len(), usual.seeds, usual.rates_milli.len()), (8, 5, 1));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scenario.toml");
        let text = "fleet = [{ count = 4 }, { count = 4, speed = 0.5 }]\nrates = [0.5, 1.35]\n\
            rates_of = \"round-robin\"\nsilence = \"5s\"\n[slo]\nfirst = \"500ms\"\nreading = 2\n\
            [outages]\ncount = 12\nlasts = \"30s\"\nkind = \"hung\"\n";
        std::fs::write(&path, text).unwrap();
        let setting = read(Some(&path)).unwrap();
        let speeds: Vec<u32> = setting.fleet.iter().map(|shape| shape.speed_milli).collect();
        assert_eq!(speeds, [1_000, 1_000, 1_000, 1_000, 500, 500, 500, 500]);
        assert_eq!(
            (setting.rates_milli, setting.rates_of),
            (vec![500, 1_350], RatesOf::RoundRobin)
        );
        assert_eq!(setting.silence_max, Some(SpanUs::from_secs(5)));
        let slo = Slo { first: SpanUs::from_millis(500), reading_milli: 2_000, ..Slo::default() };
        assert_eq!(setting.slo, slo);
        assert_eq!(setting.outages, Some((12, SpanUs::from_secs(30), OutageKind::Hung)));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        check("fleet = []", "FILE: fleet: expected at least one part");
        check("seeds = 1\nspeed = 3", "FILE:2: unknown field `speed`, expected one of `fleet`");
        check("fleet = [{ count = 1, speed = nan }]", "FILE: fleet[0].speed: expected 0.001 to");
        check("fleet = [{ count = 0 }]", "FILE: fleet[0].count: expected 1 to 10000 in all");
        check("policies = [\"best\"]", "FILE: policies[0]: unknown policy `best`; expected one of");
        check("rates = [0]", "FILE: rates[0]: expected 0.001 to 1000");
        check("rates = [-1.0]", "FILE: rates[0]: expected 0.001 to 1000");
        check("seeds = 0", "FILE: policies, rates, laws and seeds: expected at least one of each");
        check(
            "seeds = 5000",
            "FILE: policies, rates, laws and seeds: expected at least one of each",
        );
        check("silence = \"5\"", "FILE: silence: ");
        check("[outages]\ncount = 1\nlasts = \"2d\"", "FILE: outages.lasts: ");
        check("rates_of = \"mine\"", "FILE:1: unknown variant `mine`, expected `trace` or");
        check("seeds = ", "FILE:1: ");
        check(
            "[scaling]\nlaws = [\"best\"]",
            "FILE: scaling.laws[0]: unknown law `best`; expected",
        );
        check(
            "[scaling]\nmin = 8",
            "FILE: scaling.min: expected less than there are in the fleet, 8",
        );
        check("[scaling]\ntarget = 0", "FILE: scaling.target: expected 1 to");
        check("[scaling]\nstart = \"soon\"", "FILE: scaling.start: ");
        check("[scaling]\nlaws = []", "FILE: policies, rates, laws and seeds: expected");
        check("capacity = true\n[scaling]", "FILE: scaling: goes with neither outages nor");
    }
}
