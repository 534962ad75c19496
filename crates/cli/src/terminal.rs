//! The terminal of this process, while a command somewhere else has the use of it.

use std::io::{self, IsTerminal as _, Read as _};
use std::thread;

use berth_proto::v1::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

/// Pieces typed ahead.
const PIECES_MAX: usize = 8;
const PIECE_BYTES: usize = 16 << 10;

/// Whether somebody sits at both ends.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Of the terminal that standard output is.
pub(crate) fn size() -> Option<TerminalSize> {
    let (columns, rows) = terminal_size::terminal_size_of(io::stdout())?;
    Some(TerminalSize { columns: columns.0.into(), rows: rows.0.into() })
}

/// While it is there, every key goes to whoever reads, Ctrl-C among them, and nothing is shown
/// that nobody writes.
#[derive(Debug)]
pub(crate) struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` where standard input is no terminal.
    pub(crate) fn begin() -> Option<RawTerminal> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw).ok()?;
        Some(RawTerminal(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// What is typed, or comes through a pipe, until its end. Read by a thread that nobody waits for:
/// a read of a terminal cannot be called off.
pub(crate) fn typed() -> mpsc::Receiver<Vec<u8>> {
    let (pieces, typed) = mpsc::channel(PIECES_MAX);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if pieces.blocking_send(buffer[..length].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    typed
}
