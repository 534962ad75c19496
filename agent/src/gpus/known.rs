//! The GPUs that were last seen, on disk: an agent that starts before the driver
//! answers still knows what its node has, and nothing that runs there is moved.

use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::kept;
use super::said::{GpuLook, Look, Topology};
use super::seen::Seen;
use crate::frame;

/// What is on disk.
#[derive(Clone, PartialEq, prost::Message)]
struct FileOfGpus {
    /// A look, with the numbers that it has there: the file was one before it said more.
    #[prost(message, repeated, tag = "2")]
    gpus: Vec<GpuLook>,
    #[prost(message, optional, tag = "6")]
    topology: Option<Topology>,
    /// In which run of the host they were seen.
    #[prost(string, tag = "16")]
    boot_id: String,
}

/// What an agent before this one has seen. A file that is damaged says nothing: the
/// driver will. `boot_id` is of this run of the host.
pub fn known(file: &Path, boot_id: &str) -> Seen {
    let Some(file) = kept::read::<FileOfGpus>(file) else { return Seen::default() };
    let (gpus, topology) = (file.gpus, file.topology);
    let mut seen = Seen::remembered(Look { gpus, topology, ..Look::default() });
    if file.boot_id != boot_id {
        seen.forget_links();
    }
    seen
}

/// Keeps the file true, until nobody looks at GPUs any more. What changes all the time
/// is left out, so that it is written when the devices change.
pub async fn keep_known(file: PathBuf, boot_id: String, mut seen: watch::Receiver<Seen>) {
    let mut written = Vec::new();
    while seen.changed().await.is_ok() {
        let Some(look) = seen.borrow_and_update().to_remember() else { continue };
        let Look { gpus, topology, .. } = look;
        let bytes = frame::encode(&FileOfGpus { gpus, topology, boot_id: boot_id.clone() });
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

    use super::super::said::{Pair, Said};
    use super::*;

    const BOOT: &str = "one";

    /// The file after an agent has seen this.
    async fn write(file: &Path, look: Look) {
        let (tell, seen) = watch::channel(Seen::default());
        tell.send_modify(|seen| seen.hear(Said::Look(look)));
        let keeping = keep_known(file.to_owned(), BOOT.to_owned(), seen);
        drop(tell);
        keeping.await;
    }

    fn gpu(uuid: &str) -> GpuLook {
        GpuLook {
            uuid: uuid.to_owned(),
            memory_total_bytes: 80 << 30,
            memory_used_bytes: Some(7),
            ..GpuLook::default()
        }
    }

    #[tokio::test]
    async fn what_was_seen_is_known_after_a_restart_and_takes_nothing_new() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known");
        assert_eq!(known(&file, BOOT), Seen::default());
        write(&file, Look { gpus: vec![gpu("GPU-a")], ..Look::default() }).await;
        let devices = known(&file, BOOT).devices();
        assert_eq!((devices[0].uuid.as_str(), devices[0].memory.0), ("GPU-a", 80 << 30));
        assert_eq!(devices[0].health, DeviceHealth::Cordoned);
        assert_eq!(known(&file, BOOT).samples()[0].memory_used_bytes, None);

        // As it was before it said of which run of the host it is.
        let look = Look { gpus: vec![gpu("GPU-b")], ..Look::default() };
        std::fs::write(&file, frame::encode(&look)).unwrap();
        assert_eq!(known(&file, BOOT).devices()[0].uuid, "GPU-b");

        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(known(&file, BOOT), Seen::default());
    }

    #[tokio::test]
    async fn links_that_do_not_come_up_with_another_boot_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known");
        let look = |nvlinks| {
            let (one, other) = ("GPU-a".to_owned(), "GPU-b".to_owned());
            let pair = Pair { one, other, nvlinks, ..Pair::default() };
            let topology = Topology { pairs: vec![pair], ..Topology::default() };
            let gpus = vec![gpu("GPU-a"), gpu("GPU-b")];
            Look { gpus, topology: Some(topology), ..Look::default() }
        };
        write(&file, look(Some(18))).await;
        for (boot_id, told, is_linked) in [
            (BOOT, Some(18), true),
            // It went down.
            (BOOT, Some(0), true),
            ("two", Some(18), true),
            ("two", Some(0), false),
            // Nobody says so.
            ("two", None, true),
        ] {
            let mut seen = known(&file, boot_id);
            seen.hear(Said::Look(look(told)));
            assert_eq!(seen.linked("GPU-a").count() == 1, is_linked, "{boot_id} {told:?}");
        }
    }
}
