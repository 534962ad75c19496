//! Sources on the agent's own host.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use berth_model::Location;
use hyper::body::Bytes;
use rustix::fs::{Mode, OFlags, ResolveFlags, open as open_path, openat2};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::fetcher::{Content, Opened};
use super::order::{Failure, Order, Stamp};
use super::rules::{NotAllowed, Rules, decoded};

/// Bytes of one read.
const PIECE_BYTES: usize = 1 << 20;
/// Reads that wait to be written.
const PIECES_MAX: usize = 4;

/// Opens a file below a directory that is allowed, wherever its links lead.
///
/// # Errors
/// There is none there, or its links lead elsewhere.
pub fn open(order: &Order, location: &Location<'_>, rules: &Rules) -> Result<Opened, Failure> {
    let path = decoded(location.path)
        .ok_or_else(|| Failure::Lasting("its path is not a text".to_owned()))?;
    let roots = rules
        .roots(&path)
        .map_err(|NotAllowed(why)| Failure::Lasting(format!("it is not allowed: {why}")))?;
    let mut last = Failure::Lasting("it is not there".to_owned());
    for (root, below) in roots {
        match open_below(&root, &below) {
            Ok(file) => {
                refuse_hidden(&file, &order.hidden)?;
                return content(order, file);
            }
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// What workers see nothing of is not to be fetched for them either, by whatever name.
fn refuse_hidden(file: &File, hidden: &[PathBuf]) -> Result<(), Failure> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let real = std::fs::read_link(link).map_err(|error| Failure::Host(error.to_string()))?;
    match hidden.iter().any(|hidden| real.starts_with(hidden)) {
        true => Err(Failure::Lasting("it is not allowed: it is the host's own".to_owned())),
        false => Ok(()),
    }
}

fn open_below(root: &Path, below: &Path) -> Result<File, Failure> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let outside = |error: rustix::io::Errno| match error {
        rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => {
            Failure::Lasting("its links lead out of what agent.artifacts.allow names".to_owned())
        }
        // A file system that comes back, or a host that has it.
        rustix::io::Errno::IO | rustix::io::Errno::STALE => {
            Failure::Passing(io::Error::from(error).to_string())
        }
        other => Failure::Lasting(io::Error::from(other).to_string()),
    };
    let root = open_path(root, directory, Mode::empty()).map_err(outside)?;
    // A pipe that nobody writes to would never open.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(&root, below, flags, Mode::empty(), resolve).map_err(outside)?;
    Ok(File::from(found))
}

fn content(order: &Order, mut file: File) -> Result<Opened, Failure> {
    let found = file.metadata().map_err(|error| Failure::Host(error.to_string()))?;
    if !found.is_file() {
        return Err(Failure::Lasting("it is not a file".to_owned()));
    }
    let modified = format!("{}:{}.{:09}", found.ino(), found.mtime(), found.mtime_nsec());
    let total = Some(found.len());
    let stamp = Stamp { etag: None, last_modified: Some(modified), bytes: total };
    if order.held.as_ref() == Some(&stamp) {
        return Ok(Opened::Unchanged);
    }
    let (pieces, received) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let read = match file.read(&mut piece) {
                Ok(0) => return,
                Ok(read) => Ok(read),
                Err(error) => Err(error.to_string()),
            };
            let is_over = read.is_err();
            let read = read.map(|read| {
                piece.truncate(read);
                Bytes::from(piece)
            });
            if pieces.blocking_send(read).is_err() || is_over {
                return;
            }
        }
    });
    let body = Box::pin(ReceiverStream::new(received));
    Ok(Opened::Content(Content { resumed_at: 0, stamp, total, body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_no_source_by_whatever_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        for folder in ["models", "secrets"] {
            std::fs::create_dir(real.join(folder)).unwrap();
            std::fs::write(real.join(folder).join("file"), "x").unwrap();
        }
        std::os::unix::fs::symlink("../secrets/file", real.join("models/link")).unwrap();
        let hidden = [real.join("secrets")];
        let opened = |name: &str| open_below(&real, Path::new(name)).unwrap();
        assert_eq!(refuse_hidden(&opened("models/file"), &hidden), Ok(()));
        for name in ["secrets/file", "models/link"] {
            let refused = refuse_hidden(&opened(name), &hidden);
            assert!(matches!(refused, Err(Failure::Lasting(_))), "{name}: {refused:?}");
        }
    }
}
