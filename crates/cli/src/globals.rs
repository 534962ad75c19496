//! The options that every client command takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::host::Host;
use crate::values;

/// Read where it exists and `--config` names no other.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/berth/berth.toml";

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns that fit the terminal
    Table,
    /// All columns
    Wide,
    /// Stable, for scripts
    Json,
    /// As JSON, for people
    Yaml,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Table => "table",
            Format::Wide => "wide",
            Format::Json => "json",
            Format::Yaml => "yaml",
        }
    }
}

/// Options of every client command, before or after its name.
#[derive(Debug, Clone, Default, Args)]
pub struct GlobalArgs {
    /// Schedulers to ask, in this order [environment: BERTH_SERVER]
    #[arg(long, global = true, value_name = "ADDR[,ADDR]", help_heading = "Global options")]
    pub server: Option<String>,

    /// Certificate, key and authority of a cluster with TLS [environment: BERTH_TLS_DIR]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub tls_dir: Option<String>,

    /// Token to authenticate with; else the file `token` in --tls-dir [environment: BERTH_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN", help_heading = "Global options")]
    pub token: Option<String>,

    /// Namespace of names [environment: BERTH_NAMESPACE]
    #[arg(long, short, global = true, value_name = "NAME", help_heading = "Global options")]
    pub namespace: Option<String>,

    /// How to print results
    #[arg(long, short, global = true, value_name = "FORMAT", help_heading = "Global options")]
    pub output: Option<Format>,

    /// Print ids only
    #[arg(long, global = true, help_heading = "Global options")]
    pub quiet: bool,

    /// Never colour (nothing is coloured where NO_COLOR is set or stdout is no terminal)
    #[arg(long, global = true, help_heading = "Global options")]
    pub no_color: bool,

    /// How long the command may take, such as 10s
    #[arg(long, global = true, value_name = "DURATION", value_parser = values::timeout_text, help_heading = "Global options")]
    pub timeout: Option<String>,

    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
}

impl GlobalArgs {
    /// The format of an error before the configuration is known.
    pub(crate) fn output_on_error(&self, host: &Host) -> Format {
        let named = |text: &str| Format::from_str(text, true).ok();
        self.output
            .or_else(|| host.variable("BERTH_CLIENT__OUTPUT").and_then(named))
            .unwrap_or(Format::Table)
    }
}
