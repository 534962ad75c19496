//! `berth service list|show`: services as their callers reach them.

use berth_proto::v1::{GetServiceRequest, ListServicesRequest};
use clap::{Args, Subcommand};

use crate::error::{CliError, Exit};
use crate::output::{service_answer, services_answer};
use crate::session::{Session, StaleArgs, consistency};
use crate::values;

/// A command about services.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// List services that can be asked, and what is under way
    List(ListArgs),
    /// Show a service: how it is reached, and what gateways see of each replica
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Services of every namespace
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,

    #[command(flatten)]
    pub stale: StaleArgs,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Name, id, or prefix of an id
    #[arg(value_name = "SERVICE", value_parser = values::reference)]
    pub service: String,

    #[command(flatten)]
    pub stale: StaleArgs,
}

impl ServiceCommand {
    pub(crate) async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            ServiceCommand::List(args) => list(args, session).await,
            ServiceCommand::Show(args) => show(args, session).await,
        }
    }
}

async fn list(args: ListArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let namespace = if args.all_namespaces { String::new() } else { session.namespace.to_string() };
    let request = ListServicesRequest { namespace, consistency: consistency(args.stale) };
    let reply = session.client.list_services(request).await?;
    session.print(&services_answer(&reply.services))?;
    session.note_age(reply.stale_ms);
    note_gateways(session, reply.gateways);
    Ok(Exit::Done)
}

async fn show(args: ShowArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let job = Some(session.job(&args.service));
    let request = GetServiceRequest { job, consistency: consistency(args.stale) };
    let service = session.client.get_service(request).await?;
    session.print(&service_answer(&service))?;
    session.note_age(service.stale_ms);
    note_gateways(session, service.gateways);
    Ok(Exit::Done)
}

/// Nobody asks a service but through a gateway, or past the cluster.
fn note_gateways(session: &mut Session<'_, '_>, gateways: Option<u32>) {
    match gateways {
        Some(0) => session.note("note: no gateway is there; `berth gateway` starts one"),
        Some(_) => {}
        None => session.note("note: what gateways see is known to the leader alone"),
    }
}
