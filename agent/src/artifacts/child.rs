//! One try of a fetch: a fetcher is started, told what to bring, and listened to.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::Stdio;

use berth_model::{Artifact, Location, Scheme};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tracing::warn;

use super::cache::Key;
use super::fetches::Fetches;
use super::order::{Failure, News, Order, Stamp};

/// How many times a fetcher may be as silent as a source may: it asks for a name, for some
/// addresses and at some hosts before there is a byte.
const SILENCES_MAX: u32 = 3;
/// What a fetcher may say in all.
const NEWS_BYTES_MAX: u64 = 256 << 10;
/// Where TLS finds authorities, for hosts where they are elsewhere.
const AUTHORITIES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// What a fetcher has done.
pub enum Brought {
    Unchanged,
    All { resumed_at: u64, stamp: Stamp },
}

impl Fetches {
    /// Dropping the future ends the fetcher; what it has written stays.
    pub(super) async fn attempt(
        &self,
        artifact: &Artifact,
        key: &Key,
        held: Option<Stamp>,
    ) -> Result<Brought, Failure> {
        let _turn = self.0.fetchers.acquire().await;
        let wanted = artifact.clone();
        let part = self.on_disk(key, move |cache, key| cache.part(&wanted, key)).await?;
        let (part, begun) = part.map_err(|error| disk(&error))?;
        let order = Order {
            source: artifact.source.clone(),
            allow: self.0.options.allow.clone(),
            stall_ms: u64::try_from(self.0.options.stall_after.as_millis()).unwrap_or(u64::MAX),
            bytes_max: self.0.options.size_max_bytes,
            is_pinned: artifact.checksum.is_some(),
            hidden: self.0.hidden.clone(),
            held,
            begun,
            environment: self.credentials_for(&artifact.source),
        };
        let child = self
            .spawn(part)
            .map_err(|error| Failure::Host(format!("start a process to fetch it: {error}")))?;
        self.listen(child, &order, key).await
    }

    /// What opens a source of this kind, and nothing that opens another.
    fn credentials_for(&self, source: &str) -> BTreeMap<String, String> {
        let beginning = match Location::parse(source).map(|location| location.scheme) {
            Ok(Scheme::S3) => "AWS_",
            Ok(Scheme::Gs) => "GOOGLE_",
            Ok(Scheme::Az) => "AZURE_",
            Ok(Scheme::Http | Scheme::Https) => "ARTIFACT_",
            Ok(Scheme::File) | Err(_) => return BTreeMap::new(),
        };
        let all = self.0.credentials.iter();
        let fitting = all.filter(|(name, _)| name.starts_with(beginning));
        fitting.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn spawn(&self, part: File) -> std::io::Result<Child> {
        let fetcher = &self.0.options.fetcher;
        let mut command = Command::new(&fetcher.exe);
        command
            .args(&fetcher.arguments)
            .env_clear()
            .envs(AUTHORITIES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(part)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(user) = self.0.user {
            command.uid(user.uid).gid(user.gid);
        }
        command.spawn()
    }

    /// Until the fetcher has ended.
    async fn listen(&self, mut child: Child, order: &Order, key: &Key) -> Result<Brought, Failure> {
        let ended = || Failure::Passing("the process that fetched it ended early".to_owned());
        let mut line = serde_json::to_vec(order).map_err(|error| disk(&error.into()))?;
        line.push(b'\n');
        // Held until the end: without it the fetcher ends.
        let mut stdin = child.stdin.take().ok_or_else(ended)?;
        // What it had to say to a broken pipe is read below.
        let _ = stdin.write_all(&line).await;
        let stderr = child.stderr.take().ok_or_else(ended)?;
        let mut lines = BufReader::new(stderr.take(NEWS_BYTES_MAX)).lines();
        let (mut begins, mut last) = (None, None);
        let patience = self.0.options.stall_after * SILENCES_MAX;
        let mut had = self.0.cache.part_bytes(key);
        loop {
            let line = match timeout(patience, lines.next_line()).await {
                Ok(Ok(Some(line))) => line,
                Ok(Ok(None) | Err(_)) => break,
                Err(_) => {
                    // A worker of the same user may have stopped it.
                    let has = self.0.cache.part_bytes(key);
                    if std::mem::replace(&mut had, has) == has {
                        let words = "the process that fetched it does nothing";
                        return Err(Failure::Passing(words.to_owned()));
                    }
                    continue;
                }
            };
            match serde_json::from_str::<News>(&line) {
                Ok(News::Begins { resumed_at, stamp }) => {
                    let noted = stamp.clone();
                    self.on_disk(key, move |cache, key| cache.note_begun(key, &noted))
                        .await?
                        .map_err(|error| disk(&error))?;
                    begins = Some((resumed_at, stamp));
                }
                Ok(news @ (News::Unchanged | News::Done { .. } | News::Failed(_))) => {
                    last = Some(news);
                }
                // A library's or the system's words.
                Err(_) => warn!(line, "a fetcher said"),
            }
        }
        // It has said its last, or more than anybody hears.
        drop(lines);
        let _ = child.start_kill();
        let _ = child.wait().await;
        match (last, begins) {
            (Some(News::Unchanged), _) => Ok(Brought::Unchanged),
            (Some(News::Failed(failure)), _) => Err(failure),
            (Some(News::Done { .. }), Some((resumed_at, stamp))) => {
                Ok(Brought::All { resumed_at, stamp })
            }
            (Some(News::Done { .. } | News::Begins { .. }) | None, _) => Err(ended()),
        }
    }
}

fn disk(error: &std::io::Error) -> Failure {
    Failure::Host(format!("write it down: {error}"))
}
