//! When a daemon is asked to end: by a signal, or because whoever holds the
//! other end of a pipe has gone.

use std::fs::File;
use std::io::Read as _;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Resolves on SIGTERM or SIGINT.
pub async fn on_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// The pipe that whoever owns this process holds the other end of. It is opened
/// anew through `/proc`, so that nothing here owns a number that it did not
/// make.
///
/// # Errors
/// The descriptor is not open, or this user may not read from it.
pub fn owner_pipe(fd: Option<u32>) -> anyhow::Result<Option<File>> {
    let open = |fd| {
        File::open(format!("/proc/self/fd/{fd}"))
            .with_context(|| format!("open descriptor {fd} of --stop-on-fd-close"))
    };
    fd.map(open).transpose()
}

/// Resolves when the other end of the pipe is closed; never where there is
/// none.
pub async fn on_close(pipe: Option<File>) -> anyhow::Result<()> {
    let Some(mut pipe) = pipe else {
        std::future::pending::<()>().await;
        return Ok(());
    };
    let (closed, heard) = oneshot::channel::<()>();
    std::thread::Builder::new()
        .name("owner-watch".to_owned())
        .spawn(move || {
            let mut buffer = [0; 64];
            while pipe.read(&mut buffer).is_ok_and(|read| read > 0) {}
            let _ = closed.send(());
        })
        .context("watch the owner's pipe")?;
    let _ = heard.await;
    Ok(())
}
