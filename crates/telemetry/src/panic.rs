//! Ends the process on the first panic. A task that died while its process lives
//! on, holding a port and answering health checks, is worse than a process that
//! is gone: the supervisor of a dead process starts it again.

use std::panic::PanicHookInfo;

use crate::log::{flush_installed, is_installed};

/// Replaces the panic hook: from now on a panic in any thread writes one line
/// (through the log where there is one, else to standard error) and aborts the
/// process. The line waits at most a second for its reader.
///
/// `is_guarded` says whether the panicking thread is inside a call whose panics
/// its caller catches and turns into an error of its own; such a panic is left
/// to the caller, unreported. Pass `|| false` where there is none.
pub fn abort_on_panic(is_guarded: fn() -> bool) {
    std::panic::set_hook(Box::new(move |panic| {
        if is_guarded() {
            return;
        }
        report(panic);
        std::process::abort();
    }));
}

fn report(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let place = panic.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let message = panic.payload_as_str().unwrap_or("no message").escape_debug().to_string();
    if is_installed() {
        tracing::error!(%thread, %place, %message, "internal error, process aborts");
        flush_installed();
    } else {
        eprintln!("internal error, process aborts: {message} ({place}, thread {thread})");
    }
}
