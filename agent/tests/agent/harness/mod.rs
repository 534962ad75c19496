//! A scheduler in this process, agents as real processes beside it. Every wait
//! is for something to happen, with a bound after which the test has failed.

pub mod agent;
pub mod exec;
pub mod jobs;
pub mod origin;
pub mod scheduler;

use std::future::Future;
use std::time::Duration;

use berth_proto::v1::Hello;

use agent::Agent;
use scheduler::Scheduler;

/// Far above what anything here takes on a busy machine.
pub const BOUND: Duration = Duration::from_secs(30);

/// Says why a test cannot run here; an error where `BERTH_TESTS_REQUIRE` names the need.
pub fn skip(need: &str, reason: &str) {
    use std::io::Write as _;
    let required = std::env::var("BERTH_TESTS_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|one| one == need), "required but skipped: {reason}");
    // The print macros are held back when a test passes, as a skipped one does.
    let _ = writeln!(std::io::stderr().lock(), "skipped: {reason}");
}

/// A scheduler and an agent that has come in.
pub async fn cluster(more: &[&str]) -> (Scheduler, Agent) {
    let (scheduler, agent, _) = cluster_with_hello(more).await;
    (scheduler, agent)
}

/// The same, with what the agent said when it came in.
pub async fn cluster_with_hello(more: &[&str]) -> (Scheduler, Agent, Hello) {
    let mut scheduler = Scheduler::start().await;
    let agent = Agent::start(&scheduler.address, more);
    let hello = scheduler.session().await;
    scheduler.send_full();
    (scheduler, agent, hello)
}

/// Awaits `what`, or fails naming it.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(BOUND, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: did not happen within {BOUND:?}"),
    }
}

/// Waits until a file of this directory makes `look` answer.
pub async fn until_file<T>(
    what: &str,
    dir: &std::path::Path,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
    let events = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO;
    add_watch(&watch, dir, events).unwrap();
    let watch = tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(watch).unwrap();
    within(what, async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            watch.readable().await.unwrap();
            let mut buffer = [0; 4096];
            while watch.try_read(&mut buffer).is_ok() {}
        }
    })
    .await
}
