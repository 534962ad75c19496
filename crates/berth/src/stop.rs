//! When a daemon is asked to end: by a signal, or because whoever holds the
//! other end of a pipe has gone.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

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

/// Resolves when the other end of descriptor `fd` is closed; never where there
/// is none. The descriptor is opened anew through `/proc`, so that nothing
/// here owns a number that it did not make.
pub async fn on_fd_close(fd: Option<u32>) -> anyhow::Result<()> {
    let Some(fd) = fd else {
        std::future::pending::<()>().await;
        return Ok(());
    };
    let path = PathBuf::from(format!("/proc/self/fd/{fd}"));
    let mut pipe = File::open(&path).with_context(|| format!("open descriptor {fd}"))?;
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
