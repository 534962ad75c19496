//! The key file that seals the authority's signing key, so that whoever holds
//! a copy of the replicated state alone can sign nothing.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use thiserror::Error;

use crate::machine::{from_hex, hex};

/// 32 random bytes, known to the schedulers and to no backup.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey([u8; 32]);

/// Why something does not open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SealError {
    #[error("a seal key is 64 hex digits")]
    NoKey,
    #[error("the seal key does not fit: it is another cluster's, or what it sealed is damaged")]
    Mismatch,
}

impl SealKey {
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<SealKey, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(SealKey(bytes))
    }

    /// # Errors
    /// When the text is not 64 hex digits.
    pub fn from_text(text: &str) -> Result<SealKey, SealError> {
        from_hex(text.trim()).map(SealKey).ok_or(SealError::NoKey)
    }

    /// For the key file alone.
    #[must_use]
    pub fn to_text(&self) -> String {
        hex(&self.0)
    }

    /// # Errors
    /// When they are not 32.
    pub fn from_bytes(bytes: &[u8]) -> Result<SealKey, SealError> {
        <[u8; 32]>::try_from(bytes).map(SealKey).map_err(|_| SealError::NoKey)
    }

    /// For the answer to a scheduler that joins.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Nonce, then `secret` encrypted and authenticated with ChaCha20-Poly1305
    /// (RFC 8439). `about` is not in it, and has to be the same to open it.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn seal(&self, secret: &[u8], about: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
        // A random nonce of 96 bits: a cluster seals once or twice in its life.
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce)?;
        let mut sealed = secret.to_vec();
        self.cipher()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(about),
                &mut sealed,
            )
            .expect("a signing key is far shorter than the cipher's limit of 256 GiB");
        let mut whole = nonce.to_vec();
        whole.append(&mut sealed);
        Ok(whole)
    }

    /// # Errors
    /// When this is not the key, `about` differs, or a byte has changed.
    pub fn open(&self, sealed: &[u8], about: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError::Mismatch)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Mismatch)?;
        let mut rest = rest.to_vec();
        let secret = self
            .cipher()
            .open_in_place(nonce, Aad::from(about), &mut rest)
            .map_err(|_| SealError::Mismatch)?;
        Ok(secret.to_vec())
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.0);
        LessSafeKey::new(key.expect("the cipher takes keys of 32 bytes"))
    }
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_with_the_same_key_and_context_only() {
        let key = SealKey::generate().unwrap();
        let sealed = key.seal(b"secret", b"cluster").unwrap();
        assert_eq!(key.open(&sealed, b"cluster").unwrap(), b"secret");
        assert_eq!(key.open(&sealed, b"another"), Err(SealError::Mismatch));
        assert_eq!(
            SealKey::generate().unwrap().open(&sealed, b"cluster"),
            Err(SealError::Mismatch)
        );
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(key.open(&damaged, b"cluster"), Err(SealError::Mismatch));
        }
        assert_eq!(key.open(&sealed[..8], b"cluster"), Err(SealError::Mismatch));
    }

    #[test]
    fn the_key_file_is_read_as_it_is_written_and_shown_nowhere() {
        let key = SealKey::generate().unwrap();
        assert_eq!(SealKey::from_text(&format!("{}\n", key.to_text())).unwrap(), key);
        assert_eq!(SealKey::from_text("abc"), Err(SealError::NoKey));
        assert_eq!(format!("{key:?}"), "SealKey(…)");
    }
}
