//! Tokens: what a person shows with each call, and what a machine shows once to
//! be let in. The state holds a digest of the secret; the text is shown once.

use std::fmt;
use std::str::FromStr;

use berth_model::TokenId;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::machine::{from_hex, hex};

/// SHA-256 of an authority's certificate: who shows a token knows by it whom to
/// believe, before anything else is known of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fingerprint([u8; 32]);

/// 32 random bytes. A plain digest of them needs no salt and no slow hash:
/// nobody guesses 256 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// A token as it is handed out: `berth_<id>_<secret>_<fingerprint>`, in hex.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub id: TokenId,
    pub secret: Secret,
    pub authority: Fingerprint,
}

/// Why a text is no token. It never holds any part of the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error(
    "not a token; expected berth_<16 hex digits>_<64>_<64>, as `berth token create` printed it"
)]
pub struct TokenError;

/// An id that no other token has, but by a chance of one in 2^64.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random_token_id() -> Result<TokenId, getrandom::Error> {
    getrandom::u64().map(TokenId)
}

/// SHA-256.
#[must_use]
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

impl Fingerprint {
    /// Of a certificate in DER.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Fingerprint {
        Fingerprint(digest(certificate))
    }

    /// None if they are not 32.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Fingerprint> {
        <[u8; 32]>::try_from(bytes).ok().map(Fingerprint)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl Secret {
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Secret, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Secret(bytes))
    }

    /// What the state holds.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        digest(&self.0)
    }
}

impl Token {
    /// A new one of the cluster that this authority signs for.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate(authority: Fingerprint) -> Result<Token, getrandom::Error> {
        Ok(Token { id: random_token_id()?, secret: Secret::generate()?, authority })
    }

    /// The whole text, secret included.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("berth_{}_{}_{}", self.id, hex(&self.secret.0), self.authority)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let mut parts = text.trim().split('_');
        let (Some("berth"), Some(id), Some(secret), Some(authority), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError);
        };
        Ok(Token {
            id: id.parse().map_err(|_| TokenError)?,
            secret: from_hex(secret).map(Secret).ok_or(TokenError)?,
            authority: from_hex(authority).map(Fingerprint).ok_or(TokenError)?,
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written_and_debugs_without_its_secret() {
        let token = Token::generate(Fingerprint::of(b"certificate")).unwrap();
        let text = token.to_text();
        assert_eq!(format!("{text}\n").parse::<Token>().unwrap(), token);
        let secret = text.split('_').nth(2).unwrap();
        assert!(!format!("{token:?} {:?}", token.secret).contains(secret));
    }

    #[test]
    fn what_is_no_token_is_refused_without_repeating_it() {
        let good = Token::generate(Fingerprint::of(b"certificate")).unwrap().to_text();
        for bad in [
            "",
            "berth",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}_"),
            &good.to_uppercase(),
        ] {
            assert_eq!(bad.parse::<Token>().unwrap_err(), TokenError, "{bad}");
        }
    }
}
