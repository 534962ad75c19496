//! What the agent itself asks the engine.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_model::{AllocationId, MemoryBytes};
use bollard::errors::Error;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker as Client};
use tokio::time::timeout;

use super::plan::{AGENT_LABEL, ALLOCATION_LABEL, RUN_LABEL};

/// For an answer; what streams may go on for longer.
const ANSWER_SECONDS: u64 = 120;
/// An engine that does not say its version by then is none to count on.
const VERSION_LIMIT: Duration = Duration::from_secs(2);

/// For a removal that somebody else has begun.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);

/// More of it says nothing more.
const VERSION_CHARS_MAX: usize = 32;

/// What was left of a container, before it was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cleared {
    pub out_of_memory: bool,
    pub memory_limit: Option<MemoryBytes>,
}

/// Reaches the engine, in a version that both understand.
///
/// # Errors
/// In one sentence.
pub async fn connect(socket: &Path) -> Result<Client, String> {
    let in_words =
        |error: Error| format!("no Docker engine answers at {}: {error}", socket.display());
    let path = socket.to_string_lossy();
    let client = Client::connect_with_unix(&path, ANSWER_SECONDS, API_DEFAULT_VERSION);
    client.map_err(in_words)?.negotiate_version().await.map_err(in_words)
}

/// The version of the engine; empty if none answers.
pub async fn version(socket: &Path) -> String {
    let asked = async { connect(socket).await.ok()?.version().await.ok()?.version };
    let version = timeout(VERSION_LIMIT, asked).await.ok().flatten().unwrap_or_default();
    version.chars().take(VERSION_CHARS_MAX).collect()
}

/// Sees to it that nothing of a container is left: what runs in it is killed.
///
/// # Errors
/// In one sentence; it is to be tried again.
pub async fn clear(socket: &Path, name: &str) -> Result<Cleared, String> {
    let client = connect(socket).await?;
    let mut cleared = Cleared::default();
    let deadline = Instant::now() + REMOVAL_LIMIT;
    loop {
        let found = match client.inspect_container(name, None::<InspectContainerOptions>).await {
            Err(error) if is(&error, 404) => return Ok(cleared),
            found => found.map_err(|error| format!("cannot look at container {name}: {error}"))?,
        };
        let limit = found.host_config.and_then(|config| u64::try_from(config.memory?).ok());
        cleared = Cleared {
            out_of_memory: found.state.is_some_and(|state| state.oom_killed == Some(true)),
            memory_limit: limit.filter(|bytes| *bytes > 0).map(MemoryBytes),
        };
        let all = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match client.remove_container(name, Some(all)).await {
            // Somebody else removes it: it is gone when the next look says so.
            Err(error) if is(&error, 409) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) if !is(&error, 404) => {
                return Err(format!("cannot remove container {name}: {error}"));
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// The containers that earlier runs of the agent with this key have made, by what they are for
/// and their names.
///
/// # Errors
/// In one sentence.
pub async fn containers_of(
    socket: &Path,
    key: &str,
    run: &str,
) -> Result<Vec<(AllocationId, String)>, String> {
    let client = connect(socket).await?;
    let filters: HashMap<&str, Vec<String>> =
        [("label", vec![format!("{AGENT_LABEL}={key}")])].into();
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let found = client.list_containers(Some(options)).await;
    let found = found.map_err(|error| format!("cannot list containers: {error}"))?;
    let named = |container: ContainerSummary| {
        let labels =
            container.labels.filter(|labels| labels.get(RUN_LABEL) != Some(&run.into()))?;
        let id = labels.get(ALLOCATION_LABEL)?.parse().ok()?;
        let name = container.names?.first()?.trim_start_matches('/').to_owned();
        Some((id, name))
    };
    Ok(found.into_iter().filter_map(named).collect())
}

/// Whether it is this answer of the engine's.
pub fn is(error: &Error, status: u16) -> bool {
    answer(error).is_some_and(|(found, _)| found == status)
}

/// What the engine answered, if it did: a status of HTTP, and words.
pub fn answer(error: &Error) -> Option<(u16, &str)> {
    if let Error::DockerResponseServerError { status_code, message } = error {
        Some((*status_code, message))
    } else {
        None
    }
}
