//! The routes that were told last, kept on disk: a gateway that is started while no scheduler can
//! be reached goes by them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use berth_proto::v1;
use prost::Message as _;

/// The first bytes: what it is, and in which form.
const MAGIC: &[u8; 8] = b"BRTHRT01";

pub struct Kept {
    path: PathBuf,
}

impl Kept {
    pub fn new(folder: &Path) -> anyhow::Result<Kept> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Kept { path: folder.join("routes") })
    }

    /// `None`, with a word in the log, where there are none or they are damaged: they are told
    /// again as soon as a scheduler is reached.
    pub fn read(&self) -> Option<v1::Routes> {
        let path = self.path.display();
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%path, %error, "the routes of before cannot be read");
                return None;
            }
        };
        let routes = opened(&bytes);
        if routes.is_none() {
            tracing::warn!(%path, "the routes of before are damaged, and left alone");
        }
        routes
    }

    /// A reader sees the old ones or these. That they could not be kept does not keep them from
    /// being gone by.
    pub fn write(&self, routes: &v1::Routes) {
        let encoded = routes.encode_to_vec();
        let sum = crc32c::crc32c(&encoded).to_le_bytes();
        let temporary = self.path.with_extension("tmp");
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&temporary)?;
            for part in [&MAGIC[..], &sum, &encoded] {
                file.write_all(part)?;
            }
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        };
        if let Err(error) = write() {
            tracing::warn!(path = %self.path.display(), %error, "the routes could not be kept");
        }
    }
}

fn opened(bytes: &[u8]) -> Option<v1::Routes> {
    let (sum, encoded) = bytes.strip_prefix(MAGIC)?.split_at_checked(4)?;
    let is_whole = crc32c::crc32c(encoded).to_le_bytes() == sum;
    is_whole.then(|| v1::Routes::decode(encoded).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again_unless_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(&folder.path().join("new")).unwrap();
        assert_eq!(kept.read(), None);
        let routes = v1::Routes {
            index: 7,
            services: vec![v1::ServiceRoute { name: "chat".to_owned(), ..Default::default() }],
            unchanged: false,
        };
        kept.write(&routes);
        assert_eq!(kept.read(), Some(routes));
        let path = folder.path().join("new/routes");
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(kept.read(), None, "cut at {length}");
        }
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(kept.read(), None, "damaged at {position}");
        }
        assert_eq!(fs::read(&path).unwrap().len(), whole.len(), "it is not thrown away");
    }
}
