//! `berth namespace apply|list|show|delete`, `berth quota show`: what namespaces may use, and what
//! they do use.

use std::path::PathBuf;

use berth_proto::v1::{
    ApplyNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, ListNamespacesRequest,
    Namespace,
};
use berth_wire::spec::namespace_spec_to_proto;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::commands::run::{read_file, refused};
use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, namespace_answer, namespaces_answer, quota_answer};
use crate::session::{Session, StaleArgs, consistency};
use crate::values;

/// Pages of one listing: more than there can be namespaces with something set, a thousand times
/// over.
const PAGES_MAX: usize = 10_000;

/// A command about namespaces.
#[derive(Debug, Subcommand)]
pub enum NamespaceCommand {
    /// Set what a file says for a namespace, and nothing else
    Apply(ApplyArgs),
    /// List namespaces for which something is set, and those in use
    List(ListArgs),
    /// Show what is set for a namespace, and what it uses
    Show(ShowArgs),
    /// Set nothing for a namespace any more, if all of its jobs have ended
    Delete(DeleteArgs),
}

/// A command about quotas.
#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// Show what the namespace may use, and what it uses
    Show(ListArgs),
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// TOML, YAML or JSON by its ending; `-` for TOML from standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only if it stands at this version; 0: only if nothing is set
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
    pub name: berth_model::Name,
    #[command(flatten)]
    pub stale: StaleArgs,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Its name
    #[arg(value_name = "NAME", value_parser = values::name)]
    pub name: berth_model::Name,
    /// Only if it stands at this version
    #[arg(long, value_name = "N")]
    pub if_version: Option<u32>,
}

impl NamespaceCommand {
    pub(crate) async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            NamespaceCommand::Apply(args) => apply(args, session).await,
            NamespaceCommand::List(args) => list(args, session).await,
            NamespaceCommand::Show(args) => show(args, session).await,
            NamespaceCommand::Delete(args) => delete(args, session).await,
        }
    }
}

impl QuotaCommand {
    pub(crate) async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            QuotaCommand::Show(args) => {
                let name = session.namespace.to_string();
                let namespace = get(name, args.stale, session).await?;
                session.print(&quota_answer(&namespace))?;
                session.note_age(namespace.stale_ms);
                Ok(Exit::Done)
            }
        }
    }
}

async fn apply(args: ApplyArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let (name, syntax, bytes) = read_file(&args.file, session)?;
    let spec = berth_jobfile::parse_namespace(&name, syntax, &bytes).map_err(refused)?;
    let request = ApplyNamespaceRequest {
        spec: Some(namespace_spec_to_proto(&spec)),
        if_version: args.if_version,
    };
    let reply = session.client.apply_namespace(request).await?;
    let version = reply.version;
    for warning in &reply.warnings {
        session.note(&format!("warning: {warning}"));
    }
    session.print(&Answer {
        json: json!({ "name": spec.name.as_str(), "version": version, "warnings": reply.warnings }),
        pieces: vec![Piece::Text(format!("namespace {} is at version {version}", spec.name))],
        ids: vec![spec.name.to_string()],
    })?;
    Ok(Exit::Done)
}

async fn list(args: ListArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let (mut all, mut after, mut age) = (Vec::new(), String::new(), None);
    for _ in 0..PAGES_MAX {
        let request = ListNamespacesRequest { consistency: consistency(args.stale), after };
        let reply = session.client.list_namespaces(request).await?;
        all.extend(reply.namespaces);
        age = reply.stale_ms;
        let last = all.last().and_then(|one: &Namespace| one.spec.as_ref());
        match last.filter(|_| reply.more) {
            Some(last) => after = last.name.clone(),
            None => break,
        }
    }
    session.print(&namespaces_answer(&all))?;
    session.note_age(age);
    Ok(Exit::Done)
}

async fn show(args: ShowArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let namespace = get(args.name.to_string(), args.stale, session).await?;
    session.print(&namespace_answer(&namespace))?;
    session.note_age(namespace.stale_ms);
    Ok(Exit::Done)
}

async fn delete(args: DeleteArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let DeleteArgs { name, if_version } = args;
    let request = DeleteNamespaceRequest { name: name.to_string(), if_version };
    session.client.delete_namespace(request).await?;
    session.print(&Answer {
        json: json!({ "name": name.as_str(), "deleted": true }),
        pieces: vec![Piece::Text(format!("nothing is set for namespace {name} any more"))],
        ids: vec![name.to_string()],
    })?;
    Ok(Exit::Done)
}

async fn get(
    name: String,
    stale: StaleArgs,
    session: &mut Session<'_, '_>,
) -> Result<Namespace, CliError> {
    let request = GetNamespaceRequest { name, consistency: consistency(stale) };
    Ok(session.client.get_namespace(request).await?)
}
