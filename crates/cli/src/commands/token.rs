//! `berth token create|list|revoke`: who may do what, and who may join.

use std::path::PathBuf;

use berth_identity::Token;
use berth_identity::folder::{Folder, write_private};
use berth_model::{DurationMs, Grant, JoinGrant, Machine, Name, Role, Scope, TokenId};
use berth_proto::v1::{ListTokensRequest, RevokeTokenRequest, TokenInfo, token_info};
use berth_wire::access::token_request;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::access::{authority, of_folder};
use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, Table, ago, rfc3339};
use crate::session::Session;
use crate::values;

/// A join token lives so long unless told otherwise, and never longer.
const JOIN_TTL_MS: u64 = 15 * 60 * 1000;

/// A command about tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token of a person, or one with which a machine joins
    Create(CreateArgs),
    /// List tokens that have not expired
    List,
    /// Revoke tokens; from the answer on they open nothing
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What its holder may do: read, submit, operate or admin
    #[arg(long, value_parser = role, default_value = "submit")]
    pub role: Role,
    /// Only in these namespaces; for read and submit [default: all]
    #[arg(long, value_name = "NAME[,NAME]", value_delimiter = ',', value_parser = values::name)]
    pub namespaces: Vec<Name>,
    /// Not of a person: lets one machine join, once; scheduler, agent or gateway
    #[arg(long, value_name = "MACHINE", value_parser = joiner, conflicts_with_all = ["role", "namespaces"])]
    pub join: Option<Machine>,
    /// With --join: only a machine of this name
    #[arg(long, value_name = "NAME", value_parser = values::name, requires = "join")]
    pub only: Option<Name>,
    /// With --join agent: only into this pool
    #[arg(long, value_name = "POOL", value_parser = values::name, requires = "join")]
    pub pool: Option<Name>,
    /// Whose or what it is, for listings and the audit
    #[arg(long, default_value = "")]
    pub label: String,
    /// How long it is good for, such as 30m or 7d [default: 15m to join, else until revoked]
    #[arg(long, value_name = "DURATION", value_parser = values::duration_ms)]
    pub ttl: Option<u64>,
    /// Write it to this file, for its owner alone, instead of printing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Ids, as `berth token list` shows them
    #[arg(value_name = "ID", required = true, value_parser = token_id)]
    pub ids: Vec<TokenId>,
}

fn role(text: &str) -> Result<Role, String> {
    text.parse().map_err(|_| "expected read, submit, operate or admin".to_owned())
}

fn joiner(text: &str) -> Result<Machine, String> {
    match text {
        "scheduler" | "server" => Ok(Machine::Server),
        "agent" => Ok(Machine::Agent),
        "gateway" => Ok(Machine::Gateway),
        _ => Err("expected scheduler, agent or gateway".to_owned()),
    }
}

fn token_id(text: &str) -> Result<TokenId, String> {
    text.parse().map_err(|_| "expected a token's id of 16 hex digits, not its text".to_owned())
}

impl TokenCommand {
    pub(crate) async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            TokenCommand::Create(args) => create(args, session).await,
            TokenCommand::List => list(session).await,
            TokenCommand::Revoke(args) => revoke(args, session).await,
        }
    }
}

async fn create(args: CreateArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let token = generate(session.tls.as_ref())?;
    let (grant, ttl_ms) = match args.join {
        Some(machine) => {
            let grant = JoinGrant { machine, name: args.only, pool: args.pool };
            (Grant::Join(grant), Some(args.ttl.unwrap_or(JOIN_TTL_MS)))
        }
        None => {
            let scope = match args.namespaces.is_empty() {
                true => Scope::All,
                false => Scope::Namespaces(args.namespaces.into_iter().collect()),
            };
            (Grant::Person { role: args.role, scope }, args.ttl)
        }
    };
    let (secret_hash, ttl) = (token.secret.hash(), ttl_ms.map(DurationMs));
    let request = token_request(token.id, secret_hash, args.label, &grant, ttl);
    let reply = session.client.create_token(request).await?;
    let (id, expires_at) = (token.id.to_string(), reply.expires_at_ms.map(rfc3339));
    let answer = match args.out {
        Some(path) => {
            let text = format!("{}\n", token.to_text());
            write_private(&path, &text).map_err(|error| of_folder(&error))?;
            let file = path.display().to_string();
            let text = format!("token {id} is in {file}");
            let json = json!({ "id": id, "file": file, "expires_at": expires_at });
            Answer { json, pieces: vec![Piece::Text(text)], ids: vec![id] }
        }
        None => {
            let text = token.to_text();
            let json = json!({ "id": id, "token": text, "expires_at": expires_at });
            // The text is shown this once: `--quiet` must not lose it.
            Answer { json, pieces: vec![Piece::Text(text.clone())], ids: vec![text] }
        }
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}

/// A new token of the cluster whose authority the folder believes.
fn generate(tls: Option<&Folder>) -> Result<Token, CliError> {
    let Some(folder) = tls else {
        return Err(CliError::Failed {
            message: "tokens belong to a cluster with TLS, and there is no --tls-dir".to_owned(),
            hint: Some("give your certificate's folder with --tls-dir or BERTH_TLS_DIR".to_owned()),
        });
    };
    let (fingerprint, _) = authority(folder)?;
    Token::generate(fingerprint)
        .map_err(|_| CliError::failed("the system has no randomness to give"))
}

async fn list(session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let reply = session.client.list_tokens(ListTokensRequest {}).await?;
    let columns = ["ID", "LABEL", "FOR", "MAY", "WHERE", "AGE", "EXPIRES"];
    let mut table = Table::new(&columns, &["CREATED BY"]);
    for token in &reply.tokens {
        let (whom, may, place) = granted(token);
        table.row(vec![
            TokenId(token.id).to_string(),
            token.label.clone(),
            whom,
            may,
            place,
            ago(session.host.now_ms, token.created_at_ms),
            token.expires_at_ms.map_or_else(|| "-".to_owned(), rfc3339),
            token.created_by.clone(),
        ]);
    }
    let answer = Answer {
        json: reply.tokens.iter().map(token_json).collect(),
        pieces: vec![Piece::Table(table)],
        ids: reply.tokens.iter().map(|token| TokenId(token.id).to_string()).collect(),
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}

/// Whom a token is for, what it allows, and where.
fn granted(token: &TokenInfo) -> (String, String, String) {
    match &token.grant {
        Some(token_info::Grant::Person(person)) => {
            let place = match person.namespaces.is_empty() {
                true => "all".to_owned(),
                false => person.namespaces.join(","),
            };
            ("person".to_owned(), word(person.role().as_str_name()), place)
        }
        Some(token_info::Grant::Join(join)) => {
            let may = if token.used { "joined" } else { "join" };
            let bounds: Vec<String> = [("name", &join.name), ("pool", &join.pool)]
                .into_iter()
                .filter_map(|(what, only)| Some(format!("{what} {}", only.as_ref()?)))
                .collect();
            let place = if bounds.is_empty() { "any".to_owned() } else { bounds.join(", ") };
            (word(join.machine().as_str_name()), may.to_owned(), place)
        }
        None => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
    }
}

/// `ROLE_READ` as `read`.
fn word(enumerator: &str) -> String {
    enumerator.split('_').next_back().unwrap_or_default().to_lowercase()
}

fn token_json(token: &TokenInfo) -> Value {
    let (whom, may, place) = granted(token);
    json!({
        "id": TokenId(token.id).to_string(),
        "label": token.label,
        "for": whom,
        "may": may,
        "where": place,
        "created_by": token.created_by,
        "created_at": rfc3339(token.created_at_ms),
        "expires_at": token.expires_at_ms.map(rfc3339),
        "used": token.used,
    })
}

async fn revoke(args: RevokeArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let mut revoked = Vec::new();
    for id in args.ids {
        session.client.revoke_token(RevokeTokenRequest { id: id.0 }).await?;
        revoked.push(id.to_string());
    }
    let text = format!("revoked {}", revoked.join(", "));
    let json = json!({ "revoked": revoked });
    session.print(&Answer { json, pieces: vec![Piece::Text(text)], ids: revoked })?;
    Ok(Exit::Done)
}
