//! What every command of one invocation shares.

use std::time::Duration;

use berth_client::{Client, Options};
use berth_config::{FileChoice, Flags, Inputs, OutputFormat, Problem};
use berth_identity::folder::Folder;
use berth_model::Name;
use berth_proto::v1::{Consistency, JobRef};

use crate::access;
use crate::console::Console;
use crate::error::{CliError, Fault};
use crate::globals::{DEFAULT_CONFIG_FILE, Format, GlobalArgs};
use crate::host::Host;
use crate::interrupt::Interrupt;
use crate::output::{Answer, print};

/// A command's surroundings.
pub(crate) struct Session<'a, 'c> {
    pub(crate) client: Client,
    /// The folder of credentials, where there is TLS.
    pub(crate) tls: Option<Folder>,
    pub(crate) namespace: Name,
    /// Somebody chose the namespace for this command.
    pub(crate) namespace_flag: bool,
    pub(crate) format: Format,
    pub(crate) quiet: bool,
    /// What the user allowed, if anything was said.
    pub(crate) timeout: Option<Duration>,
    pub(crate) console: &'a mut Console<'c>,
    pub(crate) host: &'a Host,
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) inputs: Inputs,
}

impl<'a, 'c> Session<'a, 'c> {
    /// Reads the configuration. Nothing is connected yet.
    pub(crate) fn start(
        console: &'a mut Console<'c>,
        host: &'a Host,
        globals: &GlobalArgs,
        interrupt: &'a Interrupt,
    ) -> Result<Session<'a, 'c>, CliError> {
        let inputs = inputs(host, globals);
        let loaded = berth_config::load(&inputs).map_err(|refused| faults(&refused.problems))?;
        for warning in &loaded.warnings {
            console.error_line(&format!("warning: {}: {}", warning.place, warning.message));
        }
        let config = loaded.config.client;
        let servers = config.server.value.iter().map(ToString::to_string).collect();
        let timeout = config.timeout.map(|timeout| Duration::from_millis(timeout.value));
        let token = globals.token.as_deref().or_else(|| host.variable("BERTH_TOKEN"));
        let tls = config.tls_dir.map(|folder| Folder::new(folder.value));
        let mut options = Options::new(servers);
        match &tls {
            Some(folder) => {
                options.dialer = access::dialer(folder)?;
                options.token = access::token(token, folder)?;
            }
            None if token.is_some() => console.error_line(
                "warning: the token is not sent: there is no --tls-dir, and it would travel in \
                 plain text",
            ),
            None => {}
        }
        if let Some(timeout) = timeout {
            options.deadline = timeout;
        }
        let namespace = config.namespace.value;
        Ok(Session {
            client: Client::new(options),
            tls,
            namespace: Name::new(&namespace)
                .map_err(|error| CliError::bad_input(format!("namespace: {error}")))?,
            namespace_flag: globals.namespace.is_some(),
            format: match config.output.value {
                OutputFormat::Table => Format::Table,
                OutputFormat::Wide => Format::Wide,
                OutputFormat::Json => Format::Json,
                OutputFormat::Yaml => Format::Yaml,
            },
            quiet: globals.quiet,
            timeout,
            console,
            host,
            interrupt,
            inputs,
        })
    }

    /// Prints the answer of a command in the format that the user wants.
    pub(crate) fn print(&mut self, answer: &Answer) -> Result<(), CliError> {
        if self.quiet {
            for id in &answer.ids {
                self.console.line(id)?;
            }
            return Ok(());
        }
        print(self.console, self.format, answer)
    }

    pub(crate) fn job(&self, job: &str) -> JobRef {
        JobRef { namespace: self.namespace.to_string(), job: job.to_owned() }
    }

    /// Tells how old a stale answer may be.
    pub(crate) fn note_age(&mut self, stale_ms: Option<u64>) {
        let Some(stale_ms) = stale_ms else { return };
        if stale_ms == u64::MAX {
            self.note("note: the scheduler that answered has heard from no leader yet");
        } else {
            self.note(&format!("note: as of {stale_ms}ms ago, when a leader was last heard"));
        }
    }

    /// A remark for people, not part of the data.
    pub(crate) fn note(&mut self, text: &str) {
        self.console.error_line(text);
    }
}

/// How fresh a read must be, from `--stale`.
pub(crate) fn consistency(args: StaleArgs) -> i32 {
    let consistency = if args.stale { Consistency::Stale } else { Consistency::Unspecified };
    consistency.into()
}

/// For commands that only read.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct StaleArgs {
    /// Take whatever the asked scheduler knows, even without a leader
    #[arg(long)]
    pub stale: bool,
}

/// All layers of the configuration.
fn inputs(host: &Host, globals: &GlobalArgs) -> Inputs {
    let mut flags = Flags::new();
    flags
        .set_if_given("client.server", "--server", globals.server.clone())
        .set_if_given("client.tls_dir", "--tls-dir", globals.tls_dir.clone())
        .set_if_given("client.namespace", "--namespace", globals.namespace.clone())
        .set_if_given(
            "client.output",
            "--output",
            globals.output.map(|format| format.name().to_owned()),
        )
        .set_if_given("client.timeout", "--timeout", globals.timeout.clone());
    let file = match &globals.config {
        Some(path) => FileChoice::Named(path.clone()),
        None => FileChoice::IfPresent(DEFAULT_CONFIG_FILE.into()),
    };
    Inputs { file, environment: host.environment.clone(), flags }
}

/// The problems of a configuration.
pub(crate) fn faults(problems: &[Problem]) -> CliError {
    let fault = |problem: &Problem| Fault {
        text: format!("{}: {}", problem.place, problem.message),
        message: format!("{}: {}", problem.place, problem.message),
        field: None,
        hint: problem.hint.clone(),
    };
    CliError::BadInput(problems.iter().map(fault).collect())
}
