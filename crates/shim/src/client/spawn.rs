//! Starting a shim that is nobody's child.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{ShimError, ShimHandle};

const MESSAGE_BYTES_MAX: usize = 4096;

impl ShimHandle {
    /// Starts a warm shim that serves `dir` and connects to it. `exe` with `arguments` must end in [`crate::run`] for
    /// the same directory, such as `berth shim --dir DIR`. The directory is made, mode 0700, if need be. The shim is
    /// detached: it gets no environment, no descriptor, and init as its parent.
    ///
    /// # Errors
    /// [`ShimError::NotStarted`] with the shim's own words, another shim serving the directory among them.
    pub fn spawn<S: AsRef<OsStr>>(
        exe: &Path,
        arguments: impl IntoIterator<Item = S>,
        dir: &Path,
    ) -> Result<Self, ShimError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let output = Command::new(exe).args(arguments).env_clear().stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let kept = &output.stderr[..output.stderr.len().min(MESSAGE_BYTES_MAX)];
            let message = String::from_utf8_lossy(kept).trim_end().to_owned();
            return Err(ShimError::NotStarted { message });
        }
        Self::connect(dir)
    }
}
