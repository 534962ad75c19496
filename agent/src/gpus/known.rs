//! The GPUs that were last seen, on disk: an agent that starts before the driver
//! answers still knows what its node has, and nothing that runs there is moved.

use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::kept;
use super::said::Look;
use super::seen::Seen;
use crate::frame;

/// What an agent before this one has seen. A file that is damaged says nothing: the
/// driver will.
pub fn known(file: &Path) -> Seen {
    kept::read::<Look>(file).map_or_else(Seen::default, Seen::remembered)
}

/// Keeps the file true, until nobody looks at GPUs any more. What changes all the time
/// is left out, so that it is written when the devices change.
pub async fn keep_known(file: PathBuf, mut seen: watch::Receiver<Seen>) {
    let mut written = Vec::new();
    while seen.changed().await.is_ok() {
        let Some(look) = seen.borrow_and_update().to_remember() else { continue };
        let bytes = frame::encode(&look);
        if bytes == written {
            continue;
        }
        if kept::write(file.clone(), bytes.clone()).await {
            written = bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_model::DeviceHealth;

    use super::super::said::{GpuLook, Said};
    use super::*;

    #[tokio::test]
    async fn what_was_seen_is_known_after_a_restart_and_takes_nothing_new() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known");
        assert_eq!(known(&file), Seen::default());
        let gpu = |uuid: &str, used| GpuLook {
            uuid: uuid.to_owned(),
            memory_total_bytes: 80 << 30,
            memory_used_bytes: Some(used),
            ..GpuLook::default()
        };
        let (tell, seen) = watch::channel(Seen::default());
        tell.send_modify(|seen| {
            seen.hear(Said::Look(Look { gpus: vec![gpu("GPU-a", 7)], ..Look::default() }));
        });
        let keeping = keep_known(file.clone(), seen);
        drop(tell);
        keeping.await;
        let devices = known(&file).devices();
        assert_eq!((devices[0].uuid.as_str(), devices[0].memory.0), ("GPU-a", 80 << 30));
        assert_eq!(devices[0].health, DeviceHealth::Cordoned);
        assert_eq!(known(&file).samples()[0].memory_used_bytes, None);

        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(known(&file), Seen::default());
    }
}
