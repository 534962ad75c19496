//! What the command line may say. `tests/bench/run` fills in the programs.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(name = "berth-bench")]
pub struct Arguments {
    #[command(subcommand)]
    pub task: Task,
}

#[derive(Subcommand)]
pub enum Task {
    /// Measure
    Run(Options),
    /// Serve gRPC's health check, the smallest unary call there is
    #[command(hide = true)]
    ServeHealth { port: u16 },
}

#[derive(Args, Clone)]
pub struct Options {
    /// The `berth` program, a release build
    #[arg(long)]
    pub berth: PathBuf,
    /// etcd's server; without it its rows have no ratio
    #[arg(long)]
    pub etcd: Option<PathBuf>,
    /// A Python that can import `hyperqueue`; without it its rows have no ratio
    #[arg(long)]
    pub hyperqueue_python: Option<PathBuf>,
    /// The script that drives HyperQueue
    #[arg(long)]
    pub hyperqueue_script: Option<PathBuf>,
    /// Where every server keeps its data: a directory on a disk
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Two short runs of each row: shows that the harness works, proves nothing
    #[arg(long)]
    pub quick: bool,
    /// Only these rows
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<RowName>,
    /// Interleaved runs of each row [default: 5, with --quick 2]
    #[arg(long)]
    pub runs: Option<u32>,
    /// Instances of the long run [default: 20000, with --quick 2000]
    #[arg(long)]
    pub long_instances: Option<u64>,
    /// Which commit was built, for the record
    #[arg(long, default_value = "unknown")]
    pub commit: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum RowName {
    /// One client, a job a call
    SubmitOne,
    /// 256 clients, a job a call each
    SubmitMany,
    /// 1,000 jobs a call
    Bulk,
    /// An array of 10,000 instances
    Array,
    /// From submit to the worker's first instruction
    Start,
    /// No-op instances end to end
    Noop,
    /// From the leader's death to the next acknowledged submit
    Failover,
    /// Linearizable reads, 64 clients
    Reads,
    /// 5,000 agents: what they cost the leader, and how soon they are back after it
    Agents,
    /// Memory with 1,000 agents and 100,000 finished instances
    Memory,
    /// Far more submits than can be done, for a minute
    Overload,
    /// Memory and disk over many instances
    Long,
}

impl Options {
    pub fn runs(&self) -> u32 {
        self.runs.unwrap_or(if self.quick { 2 } else { 5 })
    }

    /// `full` in an ordinary run, `quick` in a quick one.
    pub fn amount(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    pub fn wants(&self, row: RowName) -> bool {
        self.only.is_empty() || self.only.contains(&row)
    }

    pub fn long_instances(&self) -> u64 {
        self.long_instances.unwrap_or_else(|| self.amount(20_000, 2_000))
    }
}
