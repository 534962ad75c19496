//! A file system of its own for a scheduler, which can be made to stand still.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An ext4 file system in a sparse image file of 2 GiB, above the limits at which
/// a scheduler complains; mounted until this is dropped.
pub struct Disk {
    at: PathBuf,
}

/// Nothing is written to the disk, and every sync waits, until this is dropped.
pub struct Frozen<'a>(&'a Disk);

impl Disk {
    /// Makes it, or says what is missing here.
    pub fn mount(image: &Path, at: PathBuf) -> Result<Disk, String> {
        File::create(image).unwrap().set_len(2 << 30).unwrap();
        std::fs::create_dir_all(&at).unwrap();
        run("mkfs.ext4", &["-q", "-F", &image.display().to_string()])?;
        let folder = at.display().to_string();
        run("mount", &["-o", "loop", &image.display().to_string(), &folder])?;
        Ok(Disk { at })
    }

    pub fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", &["--freeze", &self.at.display().to_string()]).unwrap();
        Frozen(self)
    }
}

/// A file system in memory, mounted until this is dropped.
pub struct Memory(PathBuf);

impl Memory {
    pub fn mount(at: PathBuf, options: &str) -> Memory {
        std::fs::create_dir_all(&at).unwrap();
        let folder = at.display().to_string();
        run("mount", &["-t", "tmpfs", "-o", options, "none", &folder]).unwrap();
        Memory(at)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = run("fsfreeze", &["--unfreeze", &self.0.at.display().to_string()]);
        assert!(thawed.is_ok() || std::thread::panicking(), "{thawed:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.at);
    }
}

fn unmount(at: &Path) {
    let folder = at.display().to_string();
    let unmounted = run("umount", &[&folder]).or_else(|_| run("umount", &["-l", &folder]));
    assert!(unmounted.is_ok() || std::thread::panicking(), "{unmounted:?}");
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
