//! A file, or what is in a directory, below a task's own directory. Opened beneath it, whatever
//! a worker has put there meanwhile: a link that leads out is refused by the kernel.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use berth_proto::v1::{FileEntry, FileKind, LogPush};
use berth_shim::protocol::UserIds;
use prost::Message as _;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, open, openat2, readlinkat, statat,
};
use tokio::sync::mpsc;

/// Entries of a directory that are told; the rest is counted.
const ENTRIES_MAX: usize = 10_000;
/// Of the entries of one message, about: names and targets of links are long where somebody wants
/// them to be.
const ENTRIES_BYTES_MAX: usize = 128 << 10;
const CHUNK_BYTES: usize = 64 << 10;

/// Sends it, and returns why nothing more comes; an empty text for the plain end. Blocks on the
/// disk, and as long as nobody reads.
pub fn send(below: &Below, request_id: &str, chunks: &mpsc::Sender<LogPush>) -> String {
    let path = &below.path;
    let say = |push: LogPush| {
        let push = LogPush { request_id: request_id.to_owned(), ..push };
        chunks.blocking_send(push).map_err(|_| String::new())
    };
    let sent = beneath(below).map_err(|error| in_words(path, &error)).and_then(|opened| {
        let subject = Some(opened.subject.clone());
        say(LogPush { subject, ..LogPush::default() })?;
        match opened.content {
            Content::Directory(dir) => send_entries(dir, path, &say),
            Content::File(file) => send_bytes(file, path, &say),
        }
    });
    sent.err().unwrap_or_default()
}

/// What is asked for.
pub struct Below {
    pub root: PathBuf,
    pub path: String,
    /// The worker's, where that is not the agent: what it cannot read is not told, so that no link
    /// of its to somebody else's file is of any use.
    pub reader: Option<UserIds>,
}

struct Opened {
    subject: FileEntry,
    content: Content,
}

enum Content {
    Directory(OwnedFd),
    File(File),
}

fn beneath(below: &Below) -> io::Result<Opened> {
    let Below { root, path, reader } = below;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = open(root, directory, Mode::empty())?;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let path = if path.is_empty() { "." } else { path.as_str() };
    // Looked at before it is opened: to open a device or a pipe may do something.
    let found = openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)?;
    let kind = kind_of(&rustix::fs::fstat(&found)?);
    let for_reading = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let kind_flags = match kind {
        FileKind::Directory => OFlags::DIRECTORY,
        FileKind::File => OFlags::empty(),
        FileKind::Link | FileKind::Other | FileKind::Unspecified => {
            return Err(io::Error::other("it is neither a file nor a directory"));
        }
    };
    let opened = openat2(&root, path, for_reading | kind_flags, Mode::empty(), inside)?;
    let stat = rustix::fs::fstat(&opened)?;
    if kind_of(&stat) != kind {
        return Err(io::Error::other("it has just become something else"));
    }
    if reader.is_some_and(|reader| !may_read(&stat, reader)) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let name = Path::new(path).file_name().unwrap_or(OsStr::new("."));
    let subject = entry(name, &stat);
    let content = match kind {
        FileKind::Directory => Content::Directory(opened),
        FileKind::File | FileKind::Link | FileKind::Other | FileKind::Unspecified => {
            Content::File(opened.into())
        }
    };
    Ok(Opened { subject, content })
}

fn send_entries(
    dir: OwnedFd,
    path: &str,
    say: &dyn Fn(LogPush) -> Result<(), String>,
) -> Result<(), String> {
    let (entries, more) = entries_of(&dir).map_err(|error| in_words(path, &error))?;
    let (mut ready, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        bytes += entry.encoded_len();
        ready.push(entry);
        if bytes > ENTRIES_BYTES_MAX {
            say(LogPush { entries: std::mem::take(&mut ready), ..LogPush::default() })?;
            bytes = 0;
        }
    }
    say(LogPush { entries: ready, ..LogPush::default() })?;
    if more > 0 {
        return Err(format!("there are {more} more entries, which are not shown"));
    }
    Ok(())
}

/// By name; and how many are left out.
fn entries_of(dir: &impl AsFd) -> io::Result<(Vec<FileEntry>, usize)> {
    let mut entries = Vec::new();
    let mut more = 0;
    for found in Dir::read_from(dir)? {
        let found = found?;
        let name = OsStr::from_bytes(found.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        if entries.len() == ENTRIES_MAX {
            more += 1;
            continue;
        }
        // It may have gone meanwhile.
        let Ok(stat) = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let mut entry = entry(name, &stat);
        if entry.kind() == FileKind::Link
            && let Ok(target) = readlinkat(dir, name, Vec::new())
        {
            entry.link = target.to_string_lossy().into_owned();
        }
        entries.push(entry);
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok((entries, more))
}

fn send_bytes(
    mut file: File,
    path: &str,
    say: &dyn Fn(LogPush) -> Result<(), String>,
) -> Result<(), String> {
    // As long as it was: one that is written faster than it is read has no end.
    let mut left = file.metadata().map_err(|error| in_words(path, &error))?.len();
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let mut data = vec![0; most];
        let length = file.read(&mut data).map_err(|error| in_words(path, &error))?;
        if length == 0 {
            return Ok(());
        }
        data.truncate(length);
        left -= length as u64;
        say(LogPush { data: data.into(), ..LogPush::default() })?;
    }
    Ok(())
}

fn entry(name: &OsStr, stat: &Stat) -> FileEntry {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    let millis = stat.st_mtime_nsec / 1_000_000;
    FileEntry {
        name: name.to_string_lossy().into_owned(),
        kind: kind_of(stat).into(),
        size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
        modified_at_ms: seconds.saturating_mul(1000).saturating_add(millis),
        mode: stat.st_mode & 0o7777,
        link: String::new(),
    }
}

fn kind_of(stat: &Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Link,
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => FileKind::Other,
    }
}

fn may_read(stat: &Stat, reader: UserIds) -> bool {
    let bit = if stat.st_uid == reader.uid {
        0o400
    } else if stat.st_gid == reader.gid {
        0o040
    } else {
        0o004
    };
    stat.st_mode & bit != 0
}

fn in_words(path: &str, error: &io::Error) -> String {
    let shown = if path.is_empty() { "." } else { path };
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::XDEV) => {
            format!("`{shown}` leads out of the task's directory")
        }
        Some(rustix::io::Errno::NOENT) => format!("there is no `{shown}` in the task's directory"),
        Some(_) | None => format!("`{shown}` cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn said(root: &Path, path: &str) -> (Option<FileEntry>, Vec<String>, Vec<u8>, String) {
        said_to(None, root, path)
    }

    fn said_to(
        reader: Option<UserIds>,
        root: &Path,
        path: &str,
    ) -> (Option<FileEntry>, Vec<String>, Vec<u8>, String) {
        let (chunks, mut told) = mpsc::channel(64);
        let below = Below { root: root.to_owned(), path: path.to_owned(), reader };
        let end = send(&below, "1", &chunks);
        drop(chunks);
        let (mut subject, mut names, mut bytes) = (None, Vec::new(), Vec::new());
        while let Some(push) = told.blocking_recv() {
            subject = subject.or(push.subject);
            names.extend(push.entries.into_iter().map(|entry| entry.name));
            bytes.extend(push.data);
        }
        (subject, names, bytes, end)
    }

    #[test]
    fn only_what_lies_beneath_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("task");
        fs::create_dir_all(root.join("models")).unwrap();
        fs::write(root.join("models/weights"), "abc").unwrap();
        fs::write(dir.path().join("secret"), "no").unwrap();
        symlink("models/weights", root.join("inside")).unwrap();
        symlink("../secret", root.join("outside")).unwrap();
        symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), Mode::RWXU).unwrap();
        let (subject, names, _, end) = said(&root, "");
        assert_eq!(subject.unwrap().kind(), FileKind::Directory);
        assert_eq!(names, ["absolute", "inside", "models", "outside", "pipe"]);
        assert_eq!(end, "");
        for path in ["models/weights", "inside", "./models/../inside"] {
            let (subject, _, bytes, end) = said(&root, path);
            assert_eq!(
                (subject.unwrap().size_bytes, &*bytes, &*end),
                (3, &b"abc"[..], ""),
                "{path}"
            );
        }
        for (path, expected) in [
            ("outside", "`outside` leads out of the task's directory"),
            ("absolute", "`absolute` leads out of the task's directory"),
            ("../secret", "`../secret` leads out of the task's directory"),
            ("/etc/passwd", "`/etc/passwd` leads out of the task's directory"),
            ("none", "there is no `none` in the task's directory"),
            ("pipe", "`pipe` cannot be read: it is neither a file nor a directory"),
            ("inside/x", "`inside/x` cannot be read: Not a directory (os error 20)"),
        ] {
            let (subject, names, bytes, end) = said(&root, path);
            assert_eq!((subject, names.len(), bytes.len(), &*end), (None, 0, 0, expected));
        }
    }

    #[test]
    fn what_a_worker_cannot_read_is_not_told_as_its_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "abc").unwrap();
        let own = rustix::process::getuid().as_raw();
        let group = rustix::process::getgid().as_raw();
        let check = |mode: u32, reader: UserIds, expected: &[u8]| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(dir.path().join("file"), mode).unwrap();
            let (_, _, bytes, end) = said_to(Some(reader), dir.path(), "file");
            assert_eq!(bytes, expected, "{end}");
            assert_eq!(end.contains("permission denied"), expected.is_empty(), "{end}");
        };
        check(0o600, UserIds { uid: own, gid: group }, b"abc");
        check(0o600, UserIds { uid: own + 1, gid: group }, b"");
        check(0o640, UserIds { uid: own + 1, gid: group }, b"abc");
        check(0o640, UserIds { uid: own + 1, gid: group + 1 }, b"");
        check(0o604, UserIds { uid: own + 1, gid: group + 1 }, b"abc");
    }
}
