//! `berth reservation set|list|show|remove`: nodes that are reserved.

use berth_model::{JobSpec, Name};
use berth_proto::v1::{
    GetNodeReservationRequest, ListNodeReservationsRequest, NodeReservationSpec,
    RemoveNodeReservationRequest, SetNodeReservationRequest,
};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, reservation_answer, reservations_answer};
use crate::session::{Session, StaleArgs, consistency};
use crate::values::{self, Moment};

/// A command about reservations of nodes.
#[derive(Debug, Subcommand)]
pub enum ReservationCommand {
    /// Reserve nodes, or otherwise than before
    Set(SetArgs),
    /// List reservations of nodes
    List(ListArgs),
    /// Show a reservation: its nodes, whom it lets in, and what still runs there beside
    Show(ShowArgs),
    /// End a reservation
    Remove(RemoveArgs),
}

/// What becomes of what runs there when it begins, and is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Running {
    /// It runs on; before, only what ends in time by its time limit is put there
    Keep,
    /// It is asked to end and goes elsewhere; before, anything is put there
    End,
}

#[derive(Debug, Args)]
pub struct SetArgs {
    /// Its name
    #[arg(value_name = "NAME", value_parser = values::name)]
    pub name: Name,
    /// A node; may be repeated
    #[arg(long = "node", value_name = "NODE", value_parser = values::name, required_unless_present = "pool")]
    pub nodes: Vec<Name>,
    /// All nodes of a pool instead, also those which come later
    #[arg(long, value_name = "POOL", value_parser = values::name, conflicts_with = "nodes")]
    pub pool: Option<Name>,
    /// Let in jobs of this namespace; may be repeated
    #[arg(long = "for", value_name = "NAMESPACE", value_parser = values::name)]
    pub namespaces: Vec<Name>,
    /// Let in jobs of this priority or more; with --for those of its namespaces alone. Without
    /// either nobody is let in
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=i64::from(JobSpec::PRIORITY_MAX)))]
    pub priority_min: Option<u8>,
    /// When it begins: a time in UTC such as 2026-11-25T18:00:00Z, or +30m; now unless given
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub from: Option<Moment>,
    /// When it is over, said likewise; when it is removed unless given
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub until: Option<Moment>,
    /// What becomes of what runs there when it begins, and is not let in
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Running::Keep)]
    pub running: Running,
    /// Only if it stands at this version; 0: only if there is none
    #[arg(long, value_name = "N")]
    pub if_version: Option<u32>,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub stale: StaleArgs,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Its name
    #[arg(value_name = "NAME", value_parser = values::name)]
    pub name: Name,
    #[command(flatten)]
    pub stale: StaleArgs,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Its name
    #[arg(value_name = "NAME", value_parser = values::name)]
    pub name: Name,
    /// Only if it stands at this version
    #[arg(long, value_name = "N")]
    pub if_version: Option<u32>,
}

impl ReservationCommand {
    pub(crate) async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            ReservationCommand::Set(args) => set(args, session).await,
            ReservationCommand::List(args) => list(args, session).await,
            ReservationCommand::Show(args) => show(args, session).await,
            ReservationCommand::Remove(args) => remove(args, session).await,
        }
    }
}

async fn set(args: SetArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let at = |moment: Moment| moment.at_ms(session.host.now_ms);
    let texts = |names: &[Name]| names.iter().map(Name::to_string).collect();
    let name = args.name.to_string();
    let spec = NodeReservationSpec {
        name: name.clone(),
        nodes: texts(&args.nodes),
        pool: args.pool.as_ref().map(Name::to_string),
        namespaces: texts(&args.namespaces),
        priority_min: args.priority_min.map(u32::from),
        // The cluster's own clock says when now is.
        from_ms: args.from.map_or(0, at),
        until_ms: args.until.map(at),
        end_running: args.running == Running::End,
    };
    let request = SetNodeReservationRequest { spec: Some(spec), if_version: args.if_version };
    let reply = session.client.set_node_reservation(request).await?;
    for warning in &reply.warnings {
        session.note(&format!("warning: {warning}"));
    }
    let version = reply.version;
    session.print(&Answer {
        json: json!({ "name": name, "version": version, "warnings": reply.warnings }),
        pieces: vec![Piece::Text(format!("reservation {name} is at version {version}"))],
        ids: vec![name],
    })?;
    Ok(Exit::Done)
}

async fn list(args: ListArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let request = ListNodeReservationsRequest { consistency: consistency(args.stale) };
    let reply = session.client.list_node_reservations(request).await?;
    session.print(&reservations_answer(&reply.reservations))?;
    session.note_age(reply.stale_ms);
    Ok(Exit::Done)
}

async fn show(args: ShowArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let name = args.name.to_string();
    let request = GetNodeReservationRequest { name, consistency: consistency(args.stale) };
    let found = session.client.get_node_reservation(request).await?;
    session.print(&reservation_answer(&found))?;
    session.note_age(found.stale_ms);
    Ok(Exit::Done)
}

async fn remove(args: RemoveArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let RemoveArgs { name, if_version } = args;
    let request = RemoveNodeReservationRequest { name: name.to_string(), if_version };
    session.client.remove_node_reservation(request).await?;
    session.print(&Answer {
        json: json!({ "name": name.as_str(), "removed": true }),
        pieces: vec![Piece::Text(format!("reservation {name} is removed"))],
        ids: vec![name.to_string()],
    })?;
    Ok(Exit::Done)
}
