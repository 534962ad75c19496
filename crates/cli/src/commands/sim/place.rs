//! `berth sim place`: one task after another is offered to the placement code of the cluster,
//! and what finds no place, nor one that others make by moving, is turned away for good.

mod openb;

use std::path::{Path, PathBuf};

use berth_model::Policy;
use berth_sim::place::{Arrival, MovesMax, PlaceRun, Totals, mix_of};
use clap::Args;
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::lists::{Moves, Placements, read_arrivals, read_nodes};
use crate::output::{Answer, Piece};
use crate::session::Session;
use crate::values::{moves_max, policy};

#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// The nodes: CSV with sn, cpu_milli, memory_mib, gpu, model
    #[arg(long, value_name = "FILE", required_unless_present = "openb")]
    nodes: Option<PathBuf>,
    /// The tasks in their order: CSV with seq, name, cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec
    #[arg(long, value_name = "FILE", required_unless_present = "openb")]
    arrivals: Option<PathBuf>,
    /// The placement policy, or several of them with --openb
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = policy, default_value = "berth")]
    policy: Vec<Policy>,
    /// Where to write what became of each task: CSV with seq, node, gpus
    #[arg(long, value_name = "FILE", conflicts_with = "openb")]
    placements: Option<PathBuf>,
    /// Let tasks be moved when another would be refused: so many at the most, or at any moment so much of those placed, such as 1%. With --openb each policy runs without and with it
    #[arg(long, value_name = "N|P%", value_parser = moves_max)]
    moves_max: Option<MovesMax>,
    /// Where to write who was moved: CSV with seq, name, from, to, gpus
    #[arg(long, value_name = "FILE", requires = "moves_max", conflicts_with = "openb")]
    moves: Option<PathBuf>,
    /// How many tasks may share one GPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tasks_per_gpu_max: Option<u32>,
    /// A list of tasks, with the columns of the arrivals, whose mix is known from the start; else it is learnt from what arrives
    #[arg(long, value_name = "FILE", conflicts_with = "openb")]
    mix: Option<PathBuf>,
    /// Compare policies over the openb workloads in this folder, in the protocol of their publication
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["nodes", "arrivals"])]
    openb: Option<PathBuf>,
    /// Runs of each workload, of at most 10
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=10))]
    seeds: u64,
    /// Only these workloads, such as default,cpu200
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "openb")]
    workload: Vec<String>,
    /// The mix is known from the start, as the publication's policy has it, not learnt
    #[arg(long, requires = "openb")]
    mix_known: bool,
    /// Where to draw the comparison: SVG
    #[arg(long, value_name = "FILE", requires = "openb")]
    plot: Option<PathBuf>,
}

pub(crate) fn run(args: &PlaceArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    if let Some(folder) = &args.openb {
        return openb::run(args, folder, session);
    }
    let (Some(nodes), Some(arrivals)) = (&args.nodes, &args.arrivals) else {
        return Err(CliError::bad_input("expected --nodes and --arrivals"));
    };
    let [policy] = args.policy.as_slice() else {
        return Err(CliError::bad_input("one list is placed under one policy"));
    };
    let (machines, tasks) = (read_nodes(nodes)?, read_arrivals(arrivals)?);
    let mix = match &args.mix {
        Some(mix) => Some(mix_of(read_arrivals(mix)?.iter().map(|(_, arrival)| arrival))),
        None => None,
    };
    let tasks_max = args.tasks_per_gpu_max.unwrap_or(u32::MAX);
    let mut run = PlaceRun::new(&machines, tasks_max, *policy, mix)
        .map_err(|refusal| CliError::bad_input(format!("{}: {refusal}", nodes.display())))?;
    if let Some(moves_max) = args.moves_max {
        run.allow_moves(moves_max);
    }
    place(&mut run, &tasks, arrivals, args)?;
    session.print(&answer(*policy, run.totals()))?;
    Ok(Exit::Done)
}

fn place(
    run: &mut PlaceRun,
    tasks: &[(String, Arrival)],
    arrivals: &Path,
    args: &PlaceArgs,
) -> Result<(), CliError> {
    let mut written = args.placements.as_deref().map(Placements::create).transpose()?;
    let mut moves = args.moves.as_deref().map(Moves::create).transpose()?;
    for (seq, arrival) in tasks {
        let placed = run.offer(arrival).map_err(|refusal| {
            CliError::bad_input(format!("{}: seq {seq}: {refusal}", arrivals.display()))
        })?;
        if let Some(written) = &mut written {
            written.add(seq, placed.as_ref())?;
        }
        let moved = run.take_moved();
        if let Some(moves) = &mut moves {
            moved.iter().try_for_each(|moved| moves.add(tasks, moved))?;
        }
    }
    written.map_or(Ok(()), Placements::finish)?;
    moves.map_or(Ok(()), Moves::finish)
}

fn answer(policy: Policy, totals: Totals) -> Answer {
    let Totals { capacity_milli, allocated_milli, arrived_milli, offered, refused, moved } = totals;
    let percent = |milli: u64| milli as f64 * 100.0 / capacity_milli.max(1) as f64;
    let text = format!(
        "{}: {} of {offered} tasks placed, {refused} turned away, {moved} moved; {:.2} % of the \
         GPUs allocated, {:.2} % asked for",
        policy.name(),
        offered - refused,
        percent(allocated_milli),
        percent(arrived_milli),
    );
    Answer {
        json: json!({
            "policy": policy.name(),
            "offered": offered,
            "placed": offered - refused,
            "refused": refused,
            "moved": moved,
            "gpu_capacity_milli": capacity_milli,
            "gpu_allocated_milli": allocated_milli,
            "gpu_arrived_milli": arrived_milli,
        }),
        pieces: vec![Piece::Text(text)],
        ids: Vec::new(),
    }
}
