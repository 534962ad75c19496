//! `[client]`

use std::path::PathBuf;

use super::scheduler::loopback;
use crate::kind::{ADDRESS, NAME, OUTPUT, PATH, WAIT};
use crate::reader::Reader;
use crate::source::Setting;
use crate::units::Address;

/// How client commands print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// Columns that fit the terminal.
    Table,
    /// All columns.
    Wide,
    /// Stable, for scripts.
    Json,
    /// As JSON, for people.
    Yaml,
}

impl OutputFormat {
    pub(crate) const ALL: [Self; 4] = [Self::Table, Self::Wide, Self::Json, Self::Yaml];

    /// The word used in files.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Wide => "wide",
            Self::Json => "json",
            Self::Yaml => "yaml",
        }
    }
}

/// `[client]`: the commands that talk to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The schedulers to ask, in this order.
    pub server: Setting<Vec<Address>>,
    /// Certificate, key and authority; plain text where absent.
    pub tls_dir: Option<Setting<PathBuf>>,
    /// The namespace that names are looked up in.
    pub namespace: Setting<String>,
    /// How results are printed.
    pub output: Setting<OutputFormat>,
    /// Milliseconds that a command may take; each has its own limit where absent.
    pub timeout: Option<Setting<u64>>,
}

impl Client {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            server: reader.list("client.server", &ADDRESS, vec![loopback(7070)]),
            tls_dir: reader.optional("client.tls_dir", &PATH),
            namespace: reader.setting("client.namespace", &NAME, "default".to_owned()),
            output: reader.setting("client.output", &OUTPUT, OutputFormat::Table),
            timeout: reader.optional("client.timeout", &WAIT),
        }
    }
}
