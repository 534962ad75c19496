//! A scheduler that speaks TLS, and callers of every kind to it. Certificates
//! that a cluster would not sign any more, such as old ones, come from the
//! authority's own files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use berth::local::{Child, free_ports};
use berth_client::{Client, Options};
use berth_identity::folder::{Folder, write_private};
use berth_identity::tls::{Credentials, Trust, client_config};
use berth_identity::{Authority, Dialer, KeyMaterial, MachineId, Token, Validity, random_token_id};
use berth_model::{DurationMs, Grant, Machine, WallMs};
use berth_proto::v1;
use berth_wire::access::token_request;

pub const DAY_MS: u64 = 86_400_000;
/// For a token to join with.
pub const QUARTER: Option<DurationMs> = Some(DurationMs(15 * 60 * 1000));

/// A scheduler with TLS on loopback, as a process.
pub struct SecureScheduler {
    pub grpc: String,
    pub http: String,
    pub data_dir: PathBuf,
    pub child: Child,
}

impl SecureScheduler {
    /// Founds a cluster, and waits until it answers its administrator.
    pub async fn found(data_dir: PathBuf) -> SecureScheduler {
        let scheduler = SecureScheduler::start(data_dir, &["--bootstrap"]);
        scheduler.answers().await;
        scheduler
    }

    /// Joins with the token in a file.
    pub fn join(data_dir: PathBuf, others: &[&SecureScheduler], token: &Path) -> SecureScheduler {
        let servers: Vec<&str> = others.iter().map(|other| other.grpc.as_str()).collect();
        let token = token.display().to_string();
        let arguments = ["--join", &servers.join(","), "--join-token-file", &token];
        SecureScheduler::start(data_dir, &arguments)
    }

    fn start(data_dir: PathBuf, more: &[&str]) -> SecureScheduler {
        let ports = free_ports(2).unwrap();
        let (grpc, http) = (format!("127.0.0.1:{}", ports[0]), format!("127.0.0.1:{}", ports[1]));
        let folder = data_dir.display().to_string();
        let tls = data_dir.join("tls").display().to_string();
        let own = ["--data-dir", &folder, "--tls-dir", &tls];
        let child = spawn(&[&own[..], more].concat(), &grpc, &http);
        SecureScheduler { grpc, http, data_dir, child }
    }

    /// Starts it again on its own data, as a service would.
    pub fn restart(self) -> SecureScheduler {
        SecureScheduler::on(self.data_dir, self.grpc, self.http)
    }

    /// Starts what a data directory holds, at these addresses.
    pub fn on(data_dir: PathBuf, grpc: String, http: String) -> SecureScheduler {
        let child = spawn(&["--data-dir", &data_dir.display().to_string()], &grpc, &http);
        SecureScheduler { grpc, http, data_dir, child }
    }

    /// Waits until its administrator is answered.
    pub async fn answers(&self) {
        super::until("the cluster to be founded", || async {
            let admin = self.admin()?;
            admin.status(v1::StatusRequest { consistency: 0 }).await.ok()
        })
        .await;
    }

    /// What its administrator would give on the command line; none until the
    /// files are there.
    pub fn admin(&self) -> Option<Client> {
        let credentials = Folder::new(self.data_dir.join("admin")).credentials().ok()?;
        let token = std::fs::read_to_string(self.data_dir.join("admin.token")).ok()?;
        Some(self.client(Arc::new(credentials), Some(token.trim())))
    }

    /// A client of this scheduler alone.
    pub fn client(&self, credentials: Arc<Credentials>, token: Option<&str>) -> Client {
        let mut options = Options::new(vec![self.grpc.clone()]);
        options.dialer = Dialer::tls(Trust::Member(credentials)).unwrap();
        options.token = token.map(str::to_owned);
        Client::new(options)
    }

    pub fn authority(&self) -> Authority {
        Folder::new(self.data_dir.join("authority")).authority().unwrap()
    }

    /// The certificate of a machine of the cluster, signed so many days ago for
    /// thirty.
    pub fn credentials(&self, machine: Machine, name: &str, age_days: u64) -> Arc<Credentials> {
        let authority = self.authority();
        let cluster_id = authority.cluster_id().unwrap();
        let id = MachineId { cluster_id, machine, name: name.to_owned(), pool: None };
        let key = KeyMaterial::generate().unwrap();
        let certificate = sign(&authority, &id, &key, age_days);
        let authorities = [authority.certificate().clone()];
        let certificate = certificate.into();
        Arc::new(Credentials::new(certificate, &key.to_pem(), &authorities).unwrap())
    }

    /// Makes a token as an administrator would; its text.
    pub async fn token(&self, grant: Grant, ttl: Option<DurationMs>) -> Token {
        let mut token = Token::generate(self.authority().fingerprint()).unwrap();
        token.id = random_token_id().unwrap();
        let request = token_request(token.id, token.secret.hash(), "test".into(), &grant, ttl);
        self.admin().unwrap().create_token(request).await.unwrap();
        token
    }
}

fn spawn(own: &[&str], grpc: &str, http: &str) -> Child {
    let level = super::log_level();
    let common = ["--listen", grpc, "--http", http, "--log-level", &level];
    let arguments = [&["scheduler"], own, &common[..], &["--stop-on-fd-close", "0"]].concat();
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_berth"));
    Child::spawn(&program, "scheduler", &arguments).unwrap()
}

/// The certificate that a scheduler shows now.
pub async fn shown_certificate(grpc: &str, credentials: Arc<Credentials>) -> Vec<u8> {
    let config = client_config(Trust::Member(credentials)).unwrap();
    let stream = tokio::net::TcpStream::connect(grpc).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect("scheduler".try_into().unwrap(), stream).await.unwrap();
    let (_, session) = stream.get_ref();
    session.peer_certificates().unwrap()[0].to_vec()
}

/// Signs for a machine, so many days ago, for thirty days.
pub fn sign(authority: &Authority, id: &MachineId, key: &KeyMaterial, age_days: u64) -> Vec<u8> {
    let now = WallMs(wall_ms() - age_days * DAY_MS);
    let request = key.request().unwrap();
    authority.sign(&request, id, Validity { now, days: 30, times_revoked: 0 }).unwrap().to_vec()
}

pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// An agent process; with a token, or with what is in its folder.
pub struct SecureAgent {
    pub data_dir: PathBuf,
    pub child: Child,
}

impl SecureAgent {
    pub fn start(folder: &Path, name: &str, servers: &[&str], token: Option<&Path>) -> SecureAgent {
        let data_dir = folder.join(name);
        let mut arguments = vec!["agent".to_owned()];
        let mut give = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        give("--data-dir", data_dir.display().to_string());
        give("--tls-dir", data_dir.join("tls").display().to_string());
        give("--name", name.to_owned());
        give("--servers", servers.join(","));
        give("--http", format!("127.0.0.1:{}", free_ports(1).unwrap()[0]));
        give("--simulate", "2xH100-80GB".to_owned());
        give("--stop-on-fd-close", "0".to_owned());
        give("--log-level", super::log_level());
        if let Some(token) = token {
            give("--join-token-file", token.display().to_string());
        }
        let program = PathBuf::from(env!("CARGO_BIN_EXE_berth"));
        let child = Child::spawn(&program, name, &arguments).unwrap();
        SecureAgent { data_dir, child }
    }
}

pub async fn token_file(scheduler: &SecureScheduler, grant: Grant, path: PathBuf) -> PathBuf {
    let token = scheduler.token(grant, QUARTER).await;
    write_private(&path, &format!("{}\n", token.to_text())).unwrap();
    path
}

pub async fn is_ready(client: &Client, name: &str) {
    super::until("the node to be ready", || async {
        let reply = client.list_nodes(v1::ListNodesRequest { consistency: 0 }).await.ok()?;
        reply.nodes.iter().any(|node| node.name == name && node.state == "ready").then_some(())
    })
    .await;
}
