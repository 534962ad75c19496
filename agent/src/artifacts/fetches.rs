//! Fetches under way: one for each artifact of the host, whoever waits for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use berth_model::{Artifact, Driver, EndCause, shown_source};
use berth_shim::protocol::UserIds;
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::{info, warn};

use super::Artifacts;
use super::cache::{Cache, Key, WRONG_CHECKSUM};
use super::child::Brought;
use super::order::{Failure, Stamp};
use super::place::{Misplaced, Source, Whose, put};
use super::rules::Rules;
use crate::data_dir::DataDir;

/// Fetchers at a time: enough for any network, few enough to leave it to others.
const FETCHES_MAX: usize = 4;
/// Files that are copied or checked at a time: a disk does no more with more.
const COPIES_MAX: usize = 2;
/// Tries that bring nothing much, one after the other.
const TRIES_MAX: u32 = 5;
/// A try that brought as much is not one of those.
const PROGRESS_BYTES: u64 = 64 << 20;
/// Before the second try; doubled for each one after it.
const RETRY_AFTER: Duration = Duration::from_millis(200);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// Beginnings of the names of variables that hold credentials.
const CREDENTIALS: [&str; 4] = ["AWS_", "GOOGLE_", "AZURE_", "ARTIFACT_"];

type Outcome = Option<Result<(), Failure>>;

/// Everything about fetches. Clones share it.
#[derive(Clone)]
pub struct Fetches(pub(super) Arc<Shared>);

pub struct Shared {
    pub(super) options: Artifacts,
    /// What of the host is nobody's to have.
    pub(super) hidden: Vec<PathBuf>,
    pub(super) cache: Arc<Cache>,
    /// The worker's, where it is not the agent's own.
    pub(super) user: Option<UserIds>,
    pub(super) credentials: BTreeMap<String, String>,
    pub(super) fetchers: Semaphore,
    copies: Semaphore,
    /// The lock guards single changes.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    under_way: BTreeMap<Key, watch::Sender<Outcome>>,
    /// By how many.
    in_use: BTreeMap<Key, usize>,
}

/// Why a task has not got its files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unplaced {
    pub cause: EndCause,
    pub reason: String,
}

/// Keeps an artifact in the cache for as long as it lives.
struct InUse {
    fetches: Fetches,
    key: Key,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut state = self.fetches.state();
        if let Some(count) = state.in_use.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                state.in_use.remove(&self.key);
            }
        }
    }
}

impl Fetches {
    /// Opens the cache below the agent's directory.
    ///
    /// # Errors
    /// A setting means nothing, or the directory cannot be used.
    pub fn open(
        options: Artifacts,
        dir: &DataDir,
        user: Option<UserIds>,
        boot_id: &str,
        hidden: Vec<PathBuf>,
    ) -> anyhow::Result<Fetches> {
        Rules::parse(&options.allow)
            .map_err(|why| anyhow::anyhow!("agent.artifacts.allow: {why}"))?;
        let path = dir.file("artifacts");
        let cache = Cache::open(path.clone(), options.keep_bytes, boot_id.to_owned())
            .with_context(|| format!("use {}", path.display()))?;
        let credentials = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| CREDENTIALS.iter().any(|beginning| name.starts_with(beginning)))
            .collect();
        Ok(Fetches(Arc::new(Shared {
            options,
            hidden,
            cache: Arc::new(cache),
            user,
            credentials,
            fetchers: Semaphore::new(FETCHES_MAX),
            copies: Semaphore::new(COPIES_MAX),
            state: Mutex::default(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings all of `artifacts` to their places below `task_dir`, one after the other.
    /// Dropping the future ends what nobody else waits for.
    ///
    /// # Errors
    /// The first that does not get there.
    pub async fn bring(
        &self,
        artifacts: &[Artifact],
        task_dir: &Path,
        driver: &Driver,
    ) -> Result<(), Unplaced> {
        for artifact in artifacts {
            let told = |cause, why: &str| Unplaced {
                cause,
                reason: format!("artifact {}: {why}", shown_source(&artifact.source)),
            };
            let in_use = self.in_use(Key::of(artifact));
            self.fetched(artifact, &in_use.key).await.map_err(|failure| match failure {
                // The attempt's and not the host's, which would be given nothing else for a
                // while: a source that does not answer is so wherever it is asked from.
                Failure::Passing(why) => told(EndCause::Exited, &why),
                Failure::Host(why) => told(EndCause::HostFault, &why),
                Failure::Lasting(why) => told(EndCause::CannotStart, &why),
            })?;
            let placed = self.placed(artifact, in_use, task_dir, driver).await;
            // What it was kept for is done.
            let fetches = self.clone();
            tokio::spawn(async move { fetches.make_room().await });
            placed.map_err(|error| match error {
                Misplaced::InTheWay => {
                    let why = format!("something is in the way of `{}`", artifact.to);
                    told(EndCause::CannotStart, &why)
                }
                Misplaced::Unwanted => told(EndCause::Stopped, "nobody waits for it"),
                Misplaced::Disk(error) => {
                    told(EndCause::HostFault, &format!("put it to `{}`: {error}", artifact.to))
                }
            })?;
        }
        Ok(())
    }

    fn in_use(&self, key: Key) -> InUse {
        *self.state().in_use.entry(key.clone()).or_insert(0) += 1;
        InUse { fetches: self.clone(), key }
    }

    /// Waits until it is in the cache, with whoever else waits for the same.
    async fn fetched(&self, artifact: &Artifact, key: &Key) -> Result<(), Failure> {
        let mut outcome = self.join(artifact, key);
        let told = outcome.wait_for(Option::is_some).await;
        let lost = || Err(Failure::Passing("the agent is ending".to_owned()));
        told.ok().and_then(|told| told.clone()).unwrap_or_else(lost)
    }

    fn join(&self, artifact: &Artifact, key: &Key) -> watch::Receiver<Outcome> {
        let mut state = self.state();
        if let Some(under_way) = state.under_way.get(key) {
            return under_way.subscribe();
        }
        let (outcome, joined) = watch::channel(None);
        state.under_way.insert(key.clone(), outcome.clone());
        let (fetches, artifact, key) = (self.clone(), artifact.clone(), key.clone());
        tokio::spawn(async move {
            // Not removed from the cache before those who wait have said that they use it.
            let in_use = fetches.in_use(key.clone());
            match fetches.fetch(&artifact, &key, &outcome).await {
                Some(fetched) => {
                    fetches.state().under_way.remove(&key);
                    outcome.send_replace(Some(fetched));
                }
                None => info!(source = shown_source(&artifact.source), "fetch is given up"),
            }
            drop(in_use);
            fetches.make_room().await;
        });
        joined
    }

    /// Ends when nobody waits any more, after which nobody joins either.
    async fn abandoned(&self, key: &Key, outcome: &watch::Sender<Outcome>) {
        loop {
            outcome.closed().await;
            let mut state = self.state();
            if outcome.receiver_count() == 0 {
                state.under_way.remove(key);
                return;
            }
        }
    }

    async fn make_room(&self) {
        let fetches = self.clone();
        // Asked for each: what is in use changes meanwhile. Its own affair: nobody waits for it.
        let shrink = move || {
            fetches.0.cache.shrink(|key| fetches.state().in_use.contains_key(key));
        };
        let _ = tokio::task::spawn_blocking(shrink).await;
    }

    /// `None`: nobody waits any more.
    async fn fetch(
        &self,
        artifact: &Artifact,
        key: &Key,
        outcome: &watch::Sender<Outcome>,
    ) -> Option<Result<(), Failure>> {
        let held = match self.on_disk(key, |cache, key| cache.held(key)).await {
            Ok(held) => held,
            Err(failure) => return Some(Err(failure)),
        };
        // The origin could say nothing that matters.
        if held.is_some() && artifact.checksum.is_some() {
            return Some(Ok(()));
        }
        let held = held.map(|record| record.stamp).filter(Stamp::tells_changes);
        let (mut tries, mut pause, mut mistaken) = (0, RETRY_AFTER, 0);
        loop {
            let before = self.0.cache.part_bytes(key);
            let brought = tokio::select! {
                brought = self.attempt(artifact, key, held.clone()) => brought,
                () = self.abandoned(key, outcome) => return None,
            };
            // Once all of it is there nobody else may begin before it is settled.
            let failure = match self.settle(artifact, key, brought).await {
                Err(Failure::Passing(why)) => why,
                settled => return Some(settled),
            };
            // Once it may have been the beginning that was there.
            mistaken += u32::from(failure.starts_with(WRONG_CHECKSUM));
            if mistaken > 1 {
                return Some(Err(Failure::Lasting(failure)));
            }
            let come = self.0.cache.part_bytes(key).saturating_sub(before);
            tries = if come >= PROGRESS_BYTES { 1 } else { tries + 1 };
            let source = shown_source(&artifact.source);
            warn!(source, reason = failure, tries, "a fetch failed");
            if tries >= TRIES_MAX {
                return Some(Err(Failure::Passing(format!("{failure} ({tries} tries)"))));
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                () = self.abandoned(key, outcome) => return None,
            }
            pause = (pause * 2).min(RETRY_AFTER_MAX);
        }
    }

    /// What was brought becomes the file, or what is left of it goes.
    async fn settle(
        &self,
        artifact: &Artifact,
        key: &Key,
        brought: Result<Brought, Failure>,
    ) -> Result<(), Failure> {
        match brought {
            Ok(Brought::All { resumed_at, stamp }) => {
                let _turn = self.0.copies.acquire().await;
                let wanted = artifact.clone();
                let adopt = move |cache: &Cache, key: &Key| cache.adopt(&wanted, key, &stamp);
                let adopted = self.on_disk(key, adopt).await?;
                adopted.map_err(|error| error.into_failure(resumed_at))
            }
            Ok(Brought::Unchanged) => self.on_disk(key, |cache, key| cache.forget_part(key)).await,
            Err(Failure::Lasting(why)) => {
                self.on_disk(key, |cache, key| cache.forget_part(key)).await?;
                Err(Failure::Lasting(why))
            }
            Err(failure @ (Failure::Passing(_) | Failure::Host(_))) => Err(failure),
        }
    }

    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        key: &Key,
        act: impl FnOnce(&Cache, &Key) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (cache, key) = (Arc::clone(&self.0.cache), key.clone());
        let acted = tokio::task::spawn_blocking(move || act(&cache, &key)).await;
        acted.map_err(|error| Failure::Host(error.to_string()))
    }

    async fn placed(
        &self,
        artifact: &Artifact,
        in_use: InUse,
        task_dir: &Path,
        driver: &Driver,
    ) -> Result<(), Misplaced> {
        let whose = match (self.0.user, driver) {
            // In a container whoever is root can write to what is root's.
            (Some(user), Driver::Exec) if user.uid != 0 => Whose::Caches(user),
            (user, Driver::Exec | Driver::Docker { .. }) => Whose::Workers(user),
        };
        let _turn = self.0.copies.acquire().await;
        let (told, outcome) = oneshot::channel();
        let (cache, to) = (Arc::clone(&self.0.cache), artifact.to.clone());
        let task_dir = task_dir.to_owned();
        tokio::task::spawn_blocking(move || {
            let path = cache.dir().join(in_use.key.to_string());
            let placed = cache.take(&in_use.key).map_err(Misplaced::Disk).and_then(|file| {
                let source = Source { file: &file, path: &path };
                put(source, &task_dir, &to, whose, || !told.is_closed())
            });
            drop(in_use);
            // Nobody may be waiting any more.
            let _ = told.send(placed);
        });
        outcome.await.unwrap_or(Err(Misplaced::Unwanted))
    }
}

/// From half to the whole of it, so that hosts which failed together do not come together.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0; 1];
    // Without randomness there is no jitter, which harms nobody much.
    let _ = getrandom::fill(&mut byte);
    pause / 2 + pause / 2 * u32::from(byte[0]) / 255
}
