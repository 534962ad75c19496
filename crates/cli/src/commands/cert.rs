//! `berth cert init|issue|show|revoke`: certificates of machines, by an
//! authority's own files or by the cluster.

use std::path::{Path, PathBuf};

use berth_identity::folder::Folder;
use berth_identity::{
    Authority, AuthorityError, CERTIFICATE_DAYS, Certified, Fingerprint, MachineId, Validity,
};
use berth_model::{Machine, Name, WallMs};
use berth_proto::v1::{self, IssueRequest, RevokeCertificatesRequest};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::access::{of_folder, with_causes};
use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, rfc3339};
use crate::session::Session;

/// As long as the cluster itself would sign for.
const DAYS_MAX: i64 = 825;

/// A command about certificates.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Make the authority of a new cluster, before its first scheduler starts
    Init(InitArgs),
    /// Certify a machine
    Issue(IssueArgs),
    /// Tell what is in a folder of credentials
    Show(ShowArgs),
    /// Have every certificate that a machine was given so far count no more
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder to make; for `berth scheduler --bootstrap`, DATA-DIR/authority
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

#[derive(Debug, Args)]
pub struct IssueArgs {
    /// agent, gateway or client; with --authority also server
    #[arg(value_name = "MACHINE", value_parser = machine)]
    pub machine: Machine,
    /// Its name; a scheduler's number
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The folder that gets key, certificate and authority; a key that is there is kept
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How long it is good for, in days
    #[arg(long, value_name = "DAYS", default_value_t = CERTIFICATE_DAYS,
          value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
    pub days: u32,
    /// Sign with the authority in this folder, without a cluster
    #[arg(long, value_name = "DIR")]
    pub authority: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The folder; the one of --tls-dir where absent
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// server, agent, gateway or client
    #[arg(value_name = "MACHINE", value_parser = machine)]
    pub machine: Machine,
    /// Its name; a scheduler's number
    #[arg(value_name = "NAME")]
    pub name: String,
}

fn machine(text: &str) -> Result<Machine, String> {
    text.parse().map_err(|_| "expected server, agent, gateway or client".to_owned())
}

impl CertCommand {
    pub(crate) async fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        let answer = match self {
            CertCommand::Init(args) => init(&args.folder, now(session))?,
            CertCommand::Issue(args) => issue(args, session).await?,
            CertCommand::Show(args) => show(args, session)?,
            CertCommand::Revoke(args) => revoke(args, session).await?,
        };
        session.print(&answer)?;
        Ok(Exit::Done)
    }
}

fn now(session: &Session<'_, '_>) -> WallMs {
    WallMs(session.host.now_ms)
}

fn init(path: &Path, now: WallMs) -> Result<Answer, CliError> {
    let folder = Folder::new(path.to_owned());
    if folder.has_authority() {
        let message = format!("{} holds an authority already", path.display());
        let hint = Some("take another folder; two clusters must not share one".to_owned());
        return Err(CliError::Failed { message, hint });
    }
    let cluster_id = berth_identity::random_cluster_id()
        .map_err(|_| CliError::failed("the system has no randomness to give"))?;
    let authority = Authority::create(cluster_id, now).map_err(|error| of_authority(&error))?;
    folder.save_authority(&authority).map_err(|error| of_folder(&error))?;
    let fingerprint = authority.fingerprint().to_string();
    let text = format!("authority {fingerprint} is in {}", path.display());
    let json = json!({ "folder": path.display().to_string(), "authority": fingerprint });
    Ok(Answer { json, pieces: vec![Piece::Text(text)], ids: vec![fingerprint] })
}

async fn issue(args: IssueArgs, session: &mut Session<'_, '_>) -> Result<Answer, CliError> {
    let out = Folder::new(args.out);
    let request = out.key().map_err(|error| of_folder(&error))?.request();
    let request = request.map_err(|error| CliError::failed(with_causes(&error)))?;
    let (certificate, authority) = match args.authority {
        Some(folder) => {
            let authority = Folder::new(folder).authority().map_err(|error| of_folder(&error))?;
            let cluster_id = authority
                .cluster_id()
                .ok_or_else(|| CliError::bad_input("the authority is not one of a cluster"))?;
            let id = machine_id(cluster_id, args.machine, &args.name)?;
            let validity = Validity { now: now(session), days: args.days, times_revoked: 0 };
            let signed = authority.sign(&request, &id, validity);
            let signed = signed.map_err(|error| of_authority(&error))?;
            (signed.to_vec(), authority.certificate().to_vec())
        }
        None => {
            let request = IssueRequest {
                request: request.into(),
                machine: proto(args.machine).into(),
                name: args.name,
                days: Some(args.days),
            };
            let reply = session.client.issue_certificate(request).await?;
            (reply.certificate.to_vec(), reply.authority.to_vec())
        }
    };
    out.save_certificate(&certificate, &authority).map_err(|error| of_folder(&error))?;
    told(&out)
}

fn show(args: ShowArgs, session: &Session<'_, '_>) -> Result<Answer, CliError> {
    let folder = match (args.folder, &session.tls) {
        (Some(folder), _) => Folder::new(folder),
        (None, Some(folder)) => folder.clone(),
        (None, None) => return Err(CliError::bad_input("name a folder, or give --tls-dir")),
    };
    told(&folder)
}

/// What is in a folder, read back and found to fit together.
fn told(folder: &Folder) -> Result<Answer, CliError> {
    let credentials = folder.credentials().map_err(|error| of_folder(&error))?;
    let authorities = folder.authorities().map_err(|error| of_folder(&error))?;
    let Certified { id, issued, expires, .. } = credentials.certified();
    let pins: Vec<String> =
        authorities.iter().map(|one| Fingerprint::of(one).to_string()).collect();
    let lines = [
        format!("machine    {id}"),
        format!("issued     {}", rfc3339(issued.0)),
        format!("expires    {}", rfc3339(expires.0)),
        format!("authority  {}", pins.join(", ")),
        format!("folder     {}", folder.path().display()),
    ];
    let json = json!({
        "machine": id.machine.as_str(),
        "name": id.name,
        "id": id.to_string(),
        "issued_at": rfc3339(issued.0),
        "expires_at": rfc3339(expires.0),
        "authorities": pins,
        "folder": folder.path().display().to_string(),
    });
    let pieces = lines.into_iter().map(Piece::Text).collect();
    Ok(Answer { json, pieces, ids: vec![id.to_string()] })
}

async fn revoke(args: RevokeArgs, session: &mut Session<'_, '_>) -> Result<Answer, CliError> {
    let RevokeArgs { machine, name } = args;
    let request = RevokeCertificatesRequest { machine: proto(machine).into(), name: name.clone() };
    session.client.revoke_certificates(request).await?;
    let machine = machine.as_str();
    let text = format!("the certificates of {machine} {name} count no more");
    let json = json!({ "machine": machine, "name": name });
    Ok(Answer { json, pieces: vec![Piece::Text(text)], ids: vec![name] })
}

fn machine_id(cluster_id: [u8; 16], machine: Machine, name: &str) -> Result<MachineId, CliError> {
    match machine {
        Machine::Server => {
            let id = name.parse().map_err(|_| {
                CliError::bad_input(format!("expected a scheduler's number, found `{name}`"))
            })?;
            Ok(MachineId::scheduler(cluster_id, id))
        }
        Machine::Agent | Machine::Gateway | Machine::Client => {
            let name = Name::new(name).map_err(|error| CliError::bad_input(error.to_string()))?;
            Ok(MachineId::named(cluster_id, machine, &name))
        }
    }
}

fn proto(machine: Machine) -> v1::Machine {
    match machine {
        Machine::Server => v1::Machine::Server,
        Machine::Agent => v1::Machine::Agent,
        Machine::Gateway => v1::Machine::Gateway,
        Machine::Client => v1::Machine::Client,
    }
}

fn of_authority(error: &AuthorityError) -> CliError {
    CliError::failed(with_causes(error))
}
