//! `berth operator recover-admin`: a new administrator's token for whoever owns
//! a scheduler's data directory, when all others are lost.

use std::path::PathBuf;
use std::sync::Arc;

use berth_client::{Client, Options};
use berth_identity::{Dialer, Fingerprint, Secret, Token, random_token_id};
use berth_proto::v1::RecoverAdminRequest;
use clap::Args;
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The data directory of a scheduler that runs on this machine
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
}

pub(crate) async fn run(
    args: RecoverArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let socket = args.data_dir.join("admin.sock");
    if !socket.exists() {
        return Err(CliError::Failed {
            message: format!("there is no {}", socket.display()),
            hint: Some("name the data directory of a scheduler with TLS that runs".to_owned()),
        });
    }
    // The address is for messages alone.
    let mut options = Options::new(vec!["localhost:0".to_owned()]);
    options.dialer = Dialer::Local(Arc::from(socket));
    let client = Client::new(options);
    let no_chance = |_| CliError::failed("the system has no randomness to give");
    let secret = Secret::generate().map_err(no_chance)?;
    let id = random_token_id().map_err(no_chance)?;
    let secret_hash = secret.hash().to_vec().into();
    let reply = client.recover_admin(RecoverAdminRequest { id: id.0, secret_hash }).await?;
    let authority = Fingerprint::from_bytes(&reply.authority)
        .ok_or_else(|| CliError::failed("the scheduler answered without its authority"))?;
    let text = Token { id, secret, authority }.to_text();
    let json = json!({ "id": id.to_string(), "token": text });
    let ids = vec![text.clone()];
    session.print(&Answer { json, pieces: vec![Piece::Text(text)], ids })?;
    Ok(Exit::Done)
}
