//! `berth operator policy list|set|unset`: what jobs get that say no policy.

use berth_model::{Name, Policy};
use berth_proto::v1::{ListPolicyDefaultsRequest, PolicyDefault, SetPolicyDefaultRequest};
use berth_wire::spec::{policy_from_proto, policy_to_proto};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, Table};
use crate::session::{Session, StaleArgs, consistency};
use crate::values;

/// A command about the policies that stand for what jobs leave out.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// List what is set for the cluster and for pools
    List(ListArgs),
    /// Set it for the cluster or a pool, for jobs that are submitted from now on
    Set(SetArgs),
    /// Set nothing any more
    Unset(UnsetArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub stale: StaleArgs,
}

#[derive(Debug, Args)]
pub struct SetArgs {
    /// The policy
    #[arg(value_name = "NAME", value_parser = values::policy)]
    pub policy: Policy,
    /// Of jobs that name this pool; of the cluster unless given
    #[arg(long, value_name = "POOL", value_parser = values::name)]
    pub pool: Option<Name>,
}

#[derive(Debug, Args)]
pub struct UnsetArgs {
    /// Of jobs that name this pool; of the cluster unless given
    #[arg(long, value_name = "POOL", value_parser = values::name)]
    pub pool: Option<Name>,
}

impl PolicyCommand {
    pub(crate) async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            PolicyCommand::List(args) => list(args, session).await,
            PolicyCommand::Set(SetArgs { policy, pool }) => {
                change(pool, Some(policy), session).await
            }
            PolicyCommand::Unset(UnsetArgs { pool }) => change(pool, None, session).await,
        }
    }
}

async fn change(
    pool: Option<Name>,
    policy: Option<Policy>,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let request = SetPolicyDefaultRequest {
        pool: pool.as_ref().map(Name::to_string),
        policy: policy.map(policy_to_proto),
    };
    let reply = session.client.set_policy_default(request).await?;
    for warning in &reply.warnings {
        session.note(&format!("warning: {warning}"));
    }
    let whose =
        pool.as_ref().map_or_else(|| "the cluster".to_owned(), |pool| format!("pool {pool}"));
    let text = match policy {
        Some(policy) => format!("the default policy of {whose} is {}", policy.name()),
        None => format!("{whose} has no default policy of its own any more"),
    };
    session.print(&Answer {
        json: json!({
            "pool": pool.as_ref().map(Name::as_str),
            "policy": policy.map(Policy::name),
            "warnings": reply.warnings,
        }),
        pieces: vec![Piece::Text(text)],
        ids: policy.map(|policy| policy.name().to_owned()).into_iter().collect(),
    })?;
    Ok(Exit::Done)
}

async fn list(args: ListArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let request = ListPolicyDefaultsRequest { consistency: consistency(args.stale) };
    let reply = session.client.list_policy_defaults(request).await?;
    let mut table = Table::new(&["POOL", "POLICY"], &[]);
    for one in &reply.defaults {
        table.row(vec![one.pool.clone().unwrap_or_else(|| "(cluster)".to_owned()), name_of(one)]);
    }
    let piece = match reply.defaults.is_empty() {
        true => Piece::Text(format!("nothing is set: {}", Policy::default().name())),
        false => Piece::Table(table),
    };
    let told = |one: &PolicyDefault| json!({ "pool": one.pool, "policy": name_of(one) });
    session.print(&Answer {
        json: reply.defaults.iter().map(told).collect(),
        pieces: vec![piece],
        ids: reply.defaults.iter().map(name_of).collect(),
    })?;
    session.note_age(reply.stale_ms);
    Ok(Exit::Done)
}

fn name_of(one: &PolicyDefault) -> String {
    let policy = policy_from_proto(one.policy);
    policy
        .map_or_else(|| format!("of a newer version ({})", one.policy), |one| one.name().to_owned())
}
