//! A machine's certificate, its key and its authority as files in one folder:
//! `cert.pem`, `key.pem`, `ca.pem`, and on a scheduler `seal.key`.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use thiserror::Error;

use crate::authority::{Authority, AuthorityError};
use crate::request::{KeyMaterial, RequestError};
use crate::seal::{SealError, SealKey};
use crate::tls::{Credentials, CredentialsError};

const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
const AUTHORITY: &str = "ca.pem";
const AUTHORITY_KEY: &str = "ca-key.pem";
const SEAL: &str = "seal.key";

/// Read no further: none of these files has more than a few kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A folder of credentials.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder(PathBuf);

/// What is wrong with a folder of credentials, with the file's name.
#[derive(Debug, Error)]
pub enum FolderError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} may be read by others (mode {mode:o}); chmod 600 it")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} is larger than any such file, {bytes} bytes")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{path} holds no certificate in PEM")]
    NoCertificate { path: PathBuf },
    #[error("{path} holds {count} certificates; expected one")]
    ManyCertificates { path: PathBuf, count: usize },
    #[error("{path}")]
    Key { path: PathBuf, source: RequestError },
    #[error("{path}")]
    Seal { path: PathBuf, source: SealError },
    #[error("{path}")]
    Authority { path: PathBuf, source: AuthorityError },
    #[error("{certificate} and {key}")]
    Credentials { certificate: PathBuf, key: PathBuf, source: CredentialsError },
    #[error(
        "the certificate in {path} is that of {found}, and this is {own}; give --tls-dir the folder \
         that belongs to the data directory"
    )]
    OtherMachine { path: PathBuf, found: String, own: String },
}

impl Folder {
    #[must_use]
    pub fn new(path: PathBuf) -> Folder {
        Folder(path)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether it holds a machine's certificate.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.0.join(CERTIFICATE).exists()
    }

    /// Whether it holds an authority with its signing key.
    #[must_use]
    pub fn has_authority(&self) -> bool {
        self.0.join(AUTHORITY_KEY).exists()
    }

    /// When its files last changed: what to look at for changes made by others.
    #[must_use]
    pub fn changed(&self) -> Option<SystemTime> {
        let times = [CERTIFICATE, KEY, AUTHORITY]
            .iter()
            .filter_map(|name| fs::metadata(self.0.join(name)).ok()?.modified().ok());
        times.max()
    }

    /// The machine's credentials.
    ///
    /// # Errors
    /// When a file is missing, exposed, or does not belong to the others.
    pub fn credentials(&self) -> Result<Credentials, FolderError> {
        let (certificate, key, authorities) = self.parts()?;
        Credentials::new(certificate, &key, &authorities).map_err(|error| self.unfit(error))
    }

    /// Reads the files again into credentials that are in use.
    ///
    /// # Errors
    /// As `credentials`; then those in use stay as they were.
    pub fn reload(&self, credentials: &Credentials) -> Result<(), FolderError> {
        let (certificate, key, authorities) = self.parts()?;
        credentials.replace(certificate, &key, &authorities).map_err(|error| self.unfit(error))
    }

    fn parts(
        &self,
    ) -> Result<(CertificateDer<'static>, String, Vec<CertificateDer<'static>>), FolderError> {
        let path = self.0.join(CERTIFICATE);
        let mut certificates = certificates(&path)?;
        let certificate = match certificates.len() {
            1 => certificates.remove(0),
            count => return Err(FolderError::ManyCertificates { path, count }),
        };
        let key = read_private(&self.0.join(KEY))?;
        Ok((certificate, key, self.authorities()?))
    }

    fn unfit(&self, source: CredentialsError) -> FolderError {
        let (certificate, key) = (self.0.join(CERTIFICATE), self.0.join(KEY));
        FolderError::Credentials { certificate, key, source }
    }

    /// The authorities that this machine believes; at least one.
    ///
    /// # Errors
    /// When the file is missing or holds none.
    pub fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, FolderError> {
        certificates(&self.0.join(AUTHORITY))
    }

    /// The machine's key, made at the first call.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn key(&self) -> Result<KeyMaterial, FolderError> {
        let path = self.0.join(KEY);
        if path.exists() {
            let pem = read_private(&path)?;
            return KeyMaterial::from_pem(&pem).map_err(|source| FolderError::Key { path, source });
        }
        let key = KeyMaterial::generate()
            .map_err(|source| FolderError::Key { path: path.clone(), source })?;
        write_private(&path, &key.to_pem())?;
        Ok(key)
    }

    /// Writes a machine's certificate and its authority beside its key.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_certificate(
        &self,
        certificate: &[u8],
        authority: &[u8],
    ) -> Result<(), FolderError> {
        write_private(&self.0.join(AUTHORITY), &pem(authority))?;
        write_private(&self.0.join(CERTIFICATE), &pem(certificate))
    }

    /// The authority with its signing key.
    ///
    /// # Errors
    /// When there is none, or its files do not belong together.
    pub fn authority(&self) -> Result<Authority, FolderError> {
        let path = self.0.join(AUTHORITY);
        let mut found = certificates(&path)?;
        let certificate = match found.len() {
            1 => found.remove(0),
            count => return Err(FolderError::ManyCertificates { path, count }),
        };
        let key_path = self.0.join(AUTHORITY_KEY);
        let key = KeyMaterial::from_pem(&read_private(&key_path)?)
            .map_err(|source| FolderError::Key { path: key_path, source })?;
        Authority::new(certificate, key).map_err(|source| FolderError::Authority { path, source })
    }

    /// Writes an authority with its signing key.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_authority(&self, authority: &Authority) -> Result<(), FolderError> {
        // The key last: with it the authority counts as there.
        write_private(&self.0.join(AUTHORITY), &pem(authority.certificate()))?;
        write_private(&self.0.join(AUTHORITY_KEY), &authority.key_pem())
    }

    /// The key that seals the authority's signing key.
    ///
    /// # Errors
    /// When the file is missing, exposed or holds none.
    pub fn seal_key(&self) -> Result<SealKey, FolderError> {
        let path = self.0.join(SEAL);
        let text = read_private(&path)?;
        SealKey::from_text(&text).map_err(|source| FolderError::Seal { path, source })
    }

    /// Whether it holds a key that seals an authority's.
    #[must_use]
    pub fn has_seal_key(&self) -> bool {
        self.0.join(SEAL).exists()
    }

    /// # Errors
    /// When it cannot be written.
    pub fn save_seal_key(&self, key: &SealKey) -> Result<(), FolderError> {
        write_private(&self.0.join(SEAL), &format!("{}\n", key.to_text()))
    }
}

/// A certificate in PEM.
#[must_use]
pub fn pem(certificate: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", certificate))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FolderError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(FolderError::NoCertificate { path: path.to_owned() }),
    }
}

/// A file that nobody but its owner may read.
///
/// # Errors
/// When others may read it, or it cannot be read.
pub fn read_private(path: &Path) -> Result<String, FolderError> {
    let failed = |source| FolderError::Read { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FolderError::Exposed { path: path.to_owned(), mode });
    }
    read(path)
}

fn read(path: &Path) -> Result<String, FolderError> {
    let failed = |source| FolderError::Read { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(FolderError::TooLarge { path: path.to_owned(), bytes });
    }
    fs::read_to_string(path).map_err(failed)
}

/// Writes a file whole that nobody but its owner may read, in a folder that
/// nobody else may enter; in place of what was there.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), FolderError> {
    let write = || {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        if !folder.exists() {
            fs::create_dir_all(folder)?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let _ = fs::remove_file(&beside);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|source| FolderError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use berth_model::{Machine, WallMs};

    use super::*;
    use crate::{MachineId, Validity};

    const NOW: WallMs = WallMs(1_800_000_000_000);

    fn filled(path: &Path) -> Folder {
        let folder = Folder::new(path.join("tls"));
        let authority = Authority::create([1; 16], NOW).unwrap();
        let request = folder.key().unwrap().request().unwrap();
        let id = MachineId {
            cluster_id: [1; 16],
            machine: Machine::Agent,
            name: "a".to_owned(),
            pool: None,
        };
        let validity = Validity { now: NOW, days: 30, times_revoked: 0 };
        let certificate = authority.sign(&request, &id, validity).unwrap();
        folder.save_certificate(&certificate, authority.certificate()).unwrap();
        folder
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_folder_is_read_as_it_was_written_and_is_its_owners_alone() {
        let root = tempfile::tempdir().unwrap();
        let folder = filled(root.path());
        assert_eq!(folder.credentials().unwrap().certified().id.name, "a");
        assert_eq!(mode(folder.path()), 0o700);
        for file in [CERTIFICATE, KEY, AUTHORITY] {
            assert_eq!(mode(&folder.path().join(file)), 0o600, "{file}");
        }
        // The key that is there stays.
        let before = fs::read_to_string(folder.path().join(KEY)).unwrap();
        assert_eq!(folder.key().unwrap().to_pem(), before);
    }

    #[test]
    fn what_is_wrong_with_a_folder_is_told_by_file() {
        let root = tempfile::tempdir().unwrap();
        let other = filled(&root.path().join("other"));
        let check = |what: &str, spoil: &dyn Fn(&Folder), complaint: &str| {
            let folder = filled(&root.path().join(what));
            spoil(&folder);
            let error = folder.credentials().unwrap_err();
            let mut text = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                text = format!("{text}: {source}");
            }
            assert!(text.contains(complaint), "{what}: {text}");
        };
        let write = |folder: &Folder, file: &str, text: &str| {
            write_private(&folder.path().join(file), text).unwrap();
        };
        check("gone", &|it| fs::remove_file(it.path().join(KEY)).unwrap(), "key.pem");
        check(
            "exposed",
            &|it| {
                let mode = fs::Permissions::from_mode(0o640);
                fs::set_permissions(it.path().join(KEY), mode).unwrap();
            },
            "may be read by others (mode 640)",
        );
        check("no-certificate", &|it| write(it, CERTIFICATE, "nonsense"), "no certificate in PEM");
        check(
            "another-key",
            &|it| {
                let key = fs::read_to_string(other.path().join(KEY)).unwrap();
                write(it, KEY, &key);
            },
            "does not belong to the certificate",
        );
        check(
            "another-authority",
            &|it| {
                let authority = fs::read_to_string(other.path().join(AUTHORITY)).unwrap();
                write(it, AUTHORITY, &authority);
            },
            "not signed by the authority",
        );
        check("large", &|it| write(it, AUTHORITY, &"x".repeat(2 << 20)), "larger than any");
        check(
            "two",
            &|it| {
                let one = fs::read_to_string(it.path().join(CERTIFICATE)).unwrap();
                write(it, CERTIFICATE, &format!("{one}{one}"));
            },
            "holds 2 certificates",
        );
    }

    #[test]
    fn a_private_file_takes_the_place_of_what_was_there() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/token");
        for text in ["first", "second"] {
            write_private(&path, text).unwrap();
            assert_eq!(read_private(&path).unwrap(), text);
        }
        let left = fs::read_dir(root.path().join("a")).unwrap().count();
        assert_eq!(left, 1);
    }
}
