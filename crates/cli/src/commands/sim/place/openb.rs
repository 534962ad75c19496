//! `berth sim place --openb FOLDER`: every workload of the folder under every policy that is
//! asked for, ten seeds each, beside what is published.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_model::Policy;
use berth_sim::openb::{Curve, Published, SEEDS, Workload, published};
use berth_sim::place::{Arrival, MovesMax, NodeShape, PlaceRun, mix_of};
use serde_json::{Value, json};

use super::PlaceArgs;
use crate::commands::sim::write_plot;
use crate::error::{CliError, Exit};
use crate::lists::{read_arrivals, read_nodes};
use crate::output::{Answer, Bars, Piece, Series, Table, bars};
use crate::session::Session;

const NODES: &str = "openb_node_list_gpu_node.csv";
const LIST: (&str, &str) = ("openb_pod_list_", ".csv");

/// How a workload is placed.
#[derive(Clone, Copy, PartialEq)]
struct Way {
    policy: Policy,
    moves_max: Option<MovesMax>,
}

/// A workload placed one way: what came of each seed, in percent of the GPUs.
struct Outcome {
    workload: String,
    way: Way,
    at_100: Figure,
    at_130: Figure,
    /// Tasks that were moved, in thousandths of those that were placed, and how many.
    moved_milli: Figure,
    moved: Figure,
}

/// What came of one run.
#[derive(Clone, Copy)]
struct Run {
    at_100: f64,
    at_130: f64,
    moved_milli: f64,
    moved: f64,
}

impl Way {
    /// Each policy, and where moves are allowed each without them and with them.
    fn all(args: &PlaceArgs) -> Vec<Way> {
        let mut ways = Vec::new();
        for policy in &args.policy {
            ways.push(Way { policy: *policy, moves_max: None });
            if args.moves_max.is_some() {
                ways.push(Way { policy: *policy, moves_max: args.moves_max });
            }
        }
        ways
    }

    fn name(self) -> String {
        let policy = self.policy.name();
        match self.moves_max {
            None => policy.to_owned(),
            Some(MovesMax::Count(count)) => format!("{policy}, {count} moves"),
            Some(MovesMax::OfPlaced(parts)) => {
                format!("{policy}, {} % moved", f64::from(parts) / 100.0)
            }
        }
    }
}

/// Mean and standard deviation over seeds.
#[derive(Clone, Copy)]
struct Figure {
    mean: f64,
    deviation: f64,
}

pub(super) fn run(
    args: &PlaceArgs,
    folder: &Path,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let machines = read_nodes(&folder.join(NODES))?;
    let mut lists = Vec::new();
    for (name, path) in lists_of(folder)? {
        if args.workload.is_empty() || args.workload.contains(&name) {
            let rows = read_arrivals(&path)?;
            lists.push((name, rows.into_iter().map(|(_, arrival)| arrival).collect()));
        }
    }
    let missing = args.workload.iter().find(|name| !lists.iter().any(|(list, _)| list == *name));
    if let Some(missing) = missing {
        let folder = folder.display();
        return Err(CliError::bad_input(format!("no workload `{missing}` in {folder}")));
    }
    let outcomes = compare(args, &machines, &lists)?;
    session.print(&answer(&outcomes, args))?;
    write_plot(args.plot.as_deref(), || draw(&outcomes, &Way::all(args)))?;
    Ok(Exit::Done)
}

/// The workloads of a folder by name.
fn lists_of(folder: &Path) -> Result<Vec<(String, PathBuf)>, CliError> {
    let cannot = |error: std::io::Error| {
        CliError::bad_input(format!("cannot read {}: {error}", folder.display()))
    };
    let mut lists = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        let name = file.strip_prefix(LIST.0).and_then(|rest| rest.strip_suffix(LIST.1));
        if let Some(name) = name {
            lists.push((name.to_owned(), path.clone()));
        }
    }
    lists.sort();
    if lists.is_empty() {
        let message = format!("{} holds no {}*{}", folder.display(), LIST.0, LIST.1);
        return Err(CliError::bad_input(message));
    }
    Ok(lists)
}

/// All runs, on as many threads as the machine has cores.
fn compare(
    args: &PlaceArgs,
    machines: &[NodeShape],
    lists: &[(String, Vec<Arrival>)],
) -> Result<Vec<Outcome>, CliError> {
    let seeds: Vec<u64> = SEEDS.take(usize::try_from(args.seeds).unwrap_or(1)).collect();
    let mut jobs = Vec::new();
    for (list, _) in lists.iter().enumerate() {
        for way in Way::all(args) {
            jobs.extend(seeds.iter().map(|seed| (list, way, *seed)));
        }
    }
    let next = AtomicUsize::new(0);
    let found = Mutex::new(vec![None; jobs.len()]);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    let Some((list, way, seed)) = jobs.get(position) else { break };
                    let outcome = one_run(args, machines, &lists[*list].1, *way, *seed);
                    if let Ok(mut found) = found.lock() {
                        found[position] = Some(outcome);
                    }
                }
            });
        }
    });
    let found = found.into_inner().map_err(|_| CliError::failed("a run did not finish"))?;
    let mut runs = found.into_iter();
    let mut outcomes = Vec::new();
    for (name, _) in lists {
        for way in Way::all(args) {
            let mut of_way = Vec::new();
            for _ in &seeds {
                let run = runs.next().flatten();
                let run = run.ok_or_else(|| CliError::failed("a run did not finish"))?;
                of_way.push(run.map_err(CliError::failed)?);
            }
            let figure =
                |of: fn(&Run) -> f64| Figure::of(&of_way.iter().map(of).collect::<Vec<_>>());
            outcomes.push(Outcome {
                workload: name.clone(),
                way,
                at_100: figure(|run| run.at_100),
                at_130: figure(|run| run.at_130),
                moved_milli: figure(|run| run.moved_milli),
                moved: figure(|run| run.moved),
            });
        }
    }
    Ok(outcomes)
}

/// One list, shuffled by one seed, placed one way.
fn one_run(
    args: &PlaceArgs,
    machines: &[NodeShape],
    tasks: &[Arrival],
    way: Way,
    seed: u64,
) -> Result<Run, String> {
    let workload = Workload::new(machines, tasks, seed);
    let tasks_max = args.tasks_per_gpu_max.unwrap_or(u32::MAX);
    let mix = args.mix_known.then(|| mix_of(tasks));
    let mut run = PlaceRun::new(&workload.machines, tasks_max, way.policy, mix)
        .map_err(|refusal| refusal.to_string())?;
    if let Some(moves_max) = way.moves_max {
        run.allow_moves(moves_max);
    }
    let mut curve = Curve::default();
    for arrival in &workload.arrivals {
        run.offer(arrival).map_err(|refusal| format!("{}: {refusal}", arrival.name))?;
        curve.note(run.totals());
    }
    let at = |percent| curve.allocated_at(percent).ok_or_else(|| "nothing arrived".to_owned());
    let totals = run.totals();
    let placed = (totals.offered - totals.refused).max(1);
    let moved = totals.moved as f64;
    let moved_milli = moved * 1000.0 / placed as f64;
    Ok(Run { at_100: at(100)?, at_130: at(130)?, moved_milli, moved })
}

impl Figure {
    fn of(values: &[f64]) -> Figure {
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Figure { mean, deviation: (squares / (count - 1.0).max(1.0)).sqrt() }
    }
}

fn answer(outcomes: &[Outcome], args: &PlaceArgs) -> Answer {
    let mut table = Table::new(
        &[
            "WORKLOAD",
            "POLICY",
            "AT 100 %",
            "SD",
            "AGAINST FGD",
            "AT 130 %",
            "AGAINST FGD",
            "MOVES",
        ],
        &[],
    );
    for outcome in outcomes {
        let known = published(&outcome.workload);
        let against = |figure: Figure, bar: Option<f64>| {
            bar.map_or(String::new(), |bar| format!("{:+.2}", figure.mean - bar))
        };
        table.row(vec![
            outcome.workload.clone(),
            outcome.way.name(),
            format!("{:.2}", outcome.at_100.mean),
            format!("{:.2}", outcome.at_100.deviation),
            against(outcome.at_100, known.map(|known| known.fgd_at_100)),
            format!("{:.2}", outcome.at_130.mean),
            against(outcome.at_130, known.map(|known| known.fgd_at_130)),
            format!("{:.1}", outcome.moved.mean),
        ]);
    }
    let mut pieces = vec![Piece::Table(table)];
    for way in Way::all(args) {
        let of_way: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.way == way).collect();
        if let Some(gain) = mean_gain(&of_way) {
            pieces.push(Piece::Text(format!(
                "{}: {gain:+.2} points against FGD as published, mean over {} workloads at 100 %",
                way.name(),
                of_way.len()
            )));
        }
    }
    Answer { json: outcomes.iter().map(outcome_json).collect(), pieces, ids: Vec::new() }
}

/// Over the workloads of which there are published figures.
fn mean_gain(outcomes: &[&Outcome]) -> Option<f64> {
    let gain = |outcome: &&Outcome| {
        published(&outcome.workload).map(|known| outcome.at_100.mean - known.fgd_at_100)
    };
    let gains: Vec<f64> = outcomes.iter().filter_map(gain).collect();
    (!gains.is_empty()).then(|| gains.iter().sum::<f64>() / gains.len() as f64)
}

fn outcome_json(outcome: &Outcome) -> Value {
    let figure = |figure: Figure| json!({ "mean": figure.mean, "sd": figure.deviation });
    let known = published(&outcome.workload).map(|Published { fgd_at_100, fgd_at_130, .. }| {
        json!({ "at_100": fgd_at_100, "at_130": fgd_at_130 })
    });
    json!({
        "workload": outcome.workload,
        "policy": outcome.way.policy.name(),
        "moves_allowed": outcome.way.moves_max.is_some(),
        "moves": figure(outcome.moved),
        "moved_milli_of_placed": figure(outcome.moved_milli),
        "allocated_percent": {
            "at_100": figure(outcome.at_100),
            "at_130": figure(outcome.at_130),
        },
        "published_fgd_percent": known,
    })
}

/// The figures at 100 % as bars, with the published ones and the ceiling first and last.
fn draw(outcomes: &[Outcome], ways: &[Way]) -> String {
    let mut workloads: Vec<&str> = outcomes.iter().map(|one| one.workload.as_str()).collect();
    workloads.dedup();
    let known = |of: fn(&Published) -> f64| -> Vec<Option<f64>> {
        workloads.iter().map(|name| published(name).as_ref().map(of)).collect()
    };
    let mut series =
        vec![Series { name: "FGD, published".to_owned(), values: known(|known| known.fgd_at_100) }];
    for way in ways {
        let of_workload =
            |name: &&str| outcomes.iter().find(|one| one.workload == *name && one.way == *way);
        let values = workloads.iter().map(of_workload);
        series.push(Series {
            name: way.name(),
            values: values.map(|one| one.map(|one| one.at_100.mean)).collect(),
        });
    }
    series.push(Series { name: "ceiling".to_owned(), values: known(|known| known.ceiling) });
    bars(&Bars {
        title: "GPUs allocated when 100 % had been asked for".to_owned(),
        unit: "%".to_owned(),
        groups: workloads.iter().map(|name| (*name).to_owned()).collect(),
        series,
    })
}
