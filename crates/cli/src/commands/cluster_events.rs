//! `berth events`: what happens in the cluster.

use berth_proto::v1::{EventsRequest, JobRef};
use clap::Args;

use crate::error::{CliError, Exit};
use crate::globals::Format;
use crate::output::{event_json, event_line};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct EventsArgs {
    #[command(flatten)]
    pub how: FollowArgs,
}

/// Which events are printed.
#[derive(Debug, Args)]
pub struct FollowArgs {
    /// Go on with what happens
    #[arg(long, short)]
    pub follow: bool,

    /// Only what happened after this token
    #[arg(long, value_name = "TOKEN")]
    pub after: Option<String>,
}

pub(crate) async fn run(args: EventsArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    print_events(args.how, None, session).await
}

/// Prints events of one job, or of all: a line each in every format, since a
/// stream has no end to wait for.
pub(crate) async fn print_events(
    how: FollowArgs,
    job: Option<JobRef>,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let request = EventsRequest { job, after: how.after.unwrap_or_default(), follow: how.follow };
    let mut events = session.client.events(request);
    while let Some(event) = events.next().await? {
        let line = match session.format {
            _ if session.quiet => event.token.clone(),
            Format::Json => event_json(&event).to_string(),
            Format::Yaml => format!("- {}", event_json(&event)),
            Format::Table | Format::Wide => event_line(&event),
        };
        session.console.line(&line)?;
    }
    Ok(Exit::Done)
}
