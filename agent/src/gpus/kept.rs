//! Files of what is known of GPUs, from one agent to the next. One that cannot be read or
//! written costs what it would have told, and nothing else: the driver tells it again.

use std::io;
use std::path::{Path, PathBuf};

use prost::Message;
use tracing::warn;

use crate::data_dir::write_durably;
use crate::frame::{self, Framed};

/// What an agent before this one has left there.
pub fn read<M: Message + Default>(file: &Path) -> Option<M> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(file = %file.display(), %error, "what is known of GPUs cannot be read");
            return None;
        }
    };
    match frame::decode(&bytes) {
        Framed::Message(message, _) => Some(message),
        Framed::End => None,
        Framed::Garbled(problem) => {
            warn!(file = %file.display(), problem, "what is known of GPUs cannot be read");
            None
        }
    }
}

/// Writes it down; whether that worked.
pub async fn write(file: PathBuf, content: Vec<u8>) -> bool {
    let shown = file.display().to_string();
    let written = tokio::task::spawn_blocking(move || write_durably(&file, &content)).await;
    let written = written.map_err(io::Error::other).flatten();
    if let Err(error) = &written {
        warn!(file = shown, %error, "what is known of GPUs cannot be written");
    }
    written.is_ok()
}
