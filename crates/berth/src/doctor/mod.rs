//! `berth doctor`: what is wrong with this host, and how to mend it.

mod findings;
mod look;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use berth_cli::{Format, GlobalArgs};
use serde_json::{Value, json};

use crate::arguments::DoctorArguments;
use crate::settings::BadSettings;
use findings::{Finding, Verdict, findings};

const DOCKER_SOCKET: &str = "/var/run/docker.sock";

#[expect(clippy::print_stdout, reason = "the findings are the command's output")]
pub fn run(arguments: &DoctorArguments, globals: &GlobalArgs) -> anyhow::Result<ExitCode> {
    let as_json = match globals.output {
        None | Some(Format::Table | Format::Wide) => false,
        Some(Format::Json) => true,
        Some(Format::Yaml) => {
            return Err(BadSettings("--output: expected table or json".to_owned()).into());
        }
    };
    let config = globals.config.as_deref();
    let (library, lister) = crate::agent::device_sources(config)?;
    let socket = arguments.docker_socket.clone().unwrap_or_else(|| PathBuf::from(DOCKER_SOCKET));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let found =
        findings(&runtime.block_on(look::facts(library.as_deref(), lister.as_ref(), &socket)));
    match as_json {
        true => println!("{:#}", found.iter().map(to_json).collect::<Value>()),
        false => print!("{}", table(&found)),
    }
    let is_wrong = found.iter().any(|one| one.verdict == Verdict::Wrong);
    Ok(if is_wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Fine => "fine",
        Verdict::Absent => "absent",
        Verdict::Wrong => "WRONG",
    }
}

fn table(found: &[Finding]) -> String {
    let mut text = String::new();
    for one in found {
        text += &format!("{:<18} {:<7} {}\n", one.what, name(one.verdict), one.found);
        if !one.mend.is_empty() {
            text += &format!("{:<18} {:<7} {}\n", "", "mend:", one.mend);
        }
    }
    text
}

fn to_json(one: &Finding) -> Value {
    json!({
        "what": one.what,
        "verdict": name(one.verdict).to_lowercase(),
        "found": one.found,
        "mend": one.mend,
    })
}
