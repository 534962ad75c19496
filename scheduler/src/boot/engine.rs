//! Threads for consensus and for the leader's decisions, shared with no call; what
//! peers send comes in with the calls. With 12,000 callers that never waited, on the threads of the calls, heartbeats
//! were late and the leader lost its place (measured in November 2026).

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

/// Raft's core, applying, and the leader's loops: mostly they wait for each other.
const THREADS: usize = 3;

/// They end when this is dropped.
pub struct Engine(Option<Runtime>);

impl Engine {
    pub fn start() -> anyhow::Result<Engine> {
        let mut threads = Builder::new_multi_thread();
        threads.worker_threads(THREADS).thread_name("engine").enable_all();
        Ok(Engine(Some(threads.build().context("start the engine's threads")?)))
    }

    /// Runs something there to its end; what it starts goes on there.
    pub async fn begin<T: Send + 'static, Work: Future<Output = anyhow::Result<T>>>(
        &self,
        work: impl FnOnce() -> Work + Send + 'static,
    ) -> anyhow::Result<T> {
        let threads = self.runtime().handle().clone();
        let begun = tokio::task::spawn_blocking(move || threads.block_on(work())).await;
        begun.context("begin on the engine's threads")?
    }

    /// Runs something there; it goes on by itself.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime().spawn(work)
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is taken when this is dropped, and never before")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // To wait here would block the runtime in which this is dropped.
            runtime.shutdown_background();
        }
    }
}
