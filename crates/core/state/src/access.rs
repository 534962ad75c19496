//! Who may speak to the cluster, as it is replicated: tokens by the hash of
//! their secret, the authority's key as it was sealed, certificates that count
//! no more. No secret, no open key and no arithmetic of either is known here.

use std::sync::Arc;

use berth_model::{
    DurationMs, Grant, JoinGrant, Machine, Name, StateMs, TokenId, WallMs, validate_grant,
};

use crate::refusal::Refusal;
use crate::rows::ClusterRow;
use crate::state::ClusterState;

/// The longest label of a token, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;
/// The longest name of who created a token, in bytes.
pub const CREATED_BY_BYTES_MAX: usize = 256;
/// The longest name of a machine that is revoked, in bytes: room for whatever
/// a certificate may have been given to.
pub const MACHINE_NAME_BYTES_MAX: usize = 256;
/// The longest certificate of an authority, and the longest sealed key: ten
/// times what either takes, and little beside the limit of a log entry.
pub const AUTHORITY_BYTES_MAX: usize = 8 << 10;
/// Tokens that a cluster knows at once: enough for a token per person and
/// program, and a bound on what a snapshot carries of them.
pub const TOKENS_MAX: usize = 10_000;
/// Machines that may be revoked in the life of a cluster.
pub const REVOCATIONS_MAX: usize = 10_000;
/// A token that lets a machine in lives this long at most: it is made to be
/// used at once, and lies in shell histories and scripts afterwards.
pub const JOIN_TTL_MS_MAX: u64 = 15 * 60 * 1000;

/// A token. Its secret is known to its holder alone.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TokenRow {
    pub id: TokenId,
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// At most `LABEL_BYTES_MAX` bytes.
    pub label: String,
    pub grant: Grant,
    /// At most `CREATED_BY_BYTES_MAX` bytes.
    pub created_by: String,
    pub created: WallMs,
    /// Always there for a token that lets a machine in.
    pub expires: Option<Expiry>,
    /// Who has used a token that lets a machine in.
    pub used_by: Option<TokenUser>,
}

/// When a token opens nothing any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Expiry {
    /// Decides.
    pub at: StateMs,
    /// The same for people: a step of a wall clock never expires a token.
    pub wall: WallMs,
}

/// The one machine that a token has let in. The key alone would not do: its
/// holder could come again and again under other names.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TokenUser {
    /// SHA-256 of the public key that was to be certified.
    pub key_hash: [u8; 32],
    /// The machine's name, or the id of a scheduler.
    pub name: String,
}

/// How often a machine was shut out. Its certificates say how often it had been
/// when it was let in, and one that says less counts no more: no clock has a
/// say, and a renewal says what the certificate before it said.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RevocationRow {
    pub machine: Machine,
    /// At most `MACHINE_NAME_BYTES_MAX` bytes.
    pub name: String,
    pub times: u32,
}

/// What signs the certificates of a cluster.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Authority {
    /// DER; at most `AUTHORITY_BYTES_MAX` bytes.
    pub certificate: Vec<u8>,
    /// Its private key, sealed with one that is never replicated; at most
    /// `AUTHORITY_BYTES_MAX` bytes.
    pub sealed_key: Vec<u8>,
}

/// What makes a new cluster one that speaks TLS.
#[derive(Clone, PartialEq, Debug)]
pub struct Security {
    pub authority: Authority,
    /// The first tokens: a cluster without any would let nobody in.
    pub tokens: Vec<NewToken>,
}

/// A token that is to be.
#[derive(Clone, PartialEq, Debug)]
pub struct NewToken {
    /// Random; the same one again, with the same contents, changes nothing.
    pub id: TokenId,
    /// SHA-256 of a random secret of 256 bits.
    pub secret_hash: [u8; 32],
    pub label: String,
    pub grant: Grant,
    /// At most `JOIN_TTL_MS_MAX` for a token that lets a machine in, which
    /// needs one.
    pub ttl: Option<DurationMs>,
    pub created_by: String,
}

/// What a machine that wants to come in shows of its token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinProof {
    pub token: TokenId,
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// SHA-256 of the public key that is to be certified: an answer that was
    /// lost is given again to this key, and to no other.
    pub key_hash: [u8; 32],
}

impl ClusterState {
    /// Every token, also those that have expired and were not dropped yet.
    pub fn tokens(&self) -> &crate::Table<TokenId, TokenRow> {
        &self.tokens
    }

    pub fn revocations(&self) -> &crate::Table<(Machine, String), RevocationRow> {
        &self.revocations
    }

    /// The token that somebody holds; `None` where it is unknown or has
    /// expired, or the secret is another.
    pub fn token(
        &self,
        id: TokenId,
        secret_hash: &[u8; 32],
        now: StateMs,
    ) -> Option<&Arc<TokenRow>> {
        // An ordinary comparison will do: what its timing could tell is how the
        // hash of the secret begins, and no number of leading bytes of a
        // SHA-256 brings anybody nearer to 256 random bits.
        self.tokens.get(&id).filter(|row| row.secret_hash == *secret_hash && !row.is_over(now))
    }

    /// Whether an agent or a gateway of this name and pool may come in: what
    /// `UseJoinToken` will be answered, asked first so that no guess reaches
    /// the log. Servers come by [`Self::server_token_opens`].
    pub fn join_token_opens(
        &self,
        proof: &JoinProof,
        machine: Machine,
        name: &Name,
        pool: Option<&Name>,
        now: StateMs,
    ) -> bool {
        let Some((row, grant)) = self.join_grant(proof, now) else { return false };
        let fits = match machine {
            // The name of a node that is here goes to nobody whom an operator
            // has not named; who asks once more is who got it.
            Machine::Agent => {
                grant.name.is_some() || row.used_by.is_some() || self.node_named(name).is_none()
            }
            Machine::Gateway => pool.is_none(),
            Machine::Server | Machine::Client => false,
        };
        grant.machine == machine
            && fits
            && grant.name.as_ref().is_none_or(|only| only == name)
            && grant.pool.as_ref().is_none_or(|only| Some(only) == pool)
            && row.is_free_for(proof, Some(name.as_str()))
    }

    /// Whether the scheduler with this key may come in: what the proof of
    /// `AdmitScheduler` will be answered. A used token opens only for the
    /// scheduler that it has let in.
    pub fn server_token_opens(
        &self,
        proof: &JoinProof,
        instance_key: [u8; 16],
        now: StateMs,
    ) -> bool {
        let Some((row, grant)) = self.join_grant(proof, now) else { return false };
        let known = self.cluster.scheduler_with(instance_key).map(|id| id.to_string());
        grant.machine == Machine::Server && row.is_free_for(proof, known.as_deref())
    }

    /// The same cluster under this authority: for a restore, which may have had
    /// to seal the key anew or to make another one.
    #[must_use]
    pub fn under_authority(mut self, authority: Authority) -> ClusterState {
        self.cluster.authority = Some(Arc::new(authority));
        self
    }

    /// How often a machine was shut out.
    pub fn times_revoked(&self, machine: Machine, name: &str) -> u32 {
        let row = self.revocations.get(&(machine, name.to_owned()));
        row.map_or(0, |row| row.times)
    }

    /// Whether a certificate counts no more that was given when the machine had
    /// been shut out so often.
    pub fn is_revoked(&self, machine: Machine, name: &str, times: u32) -> bool {
        self.times_revoked(machine, name) > times
    }

    /// Tokens that have expired at `now`.
    pub fn expired_tokens(&self, now: StateMs) -> impl Iterator<Item = TokenId> + '_ {
        self.index.token_expiries.iter().take_while(move |(at, _)| *at <= now).map(|(_, id)| *id)
    }

    fn join_grant(&self, proof: &JoinProof, now: StateMs) -> Option<(&TokenRow, &JoinGrant)> {
        let row = self.token(proof.token, &proof.secret_hash, now)?;
        match &row.grant {
            Grant::Join(grant) => Some((row, grant)),
            Grant::Person { .. } => None,
        }
    }
}

impl ClusterRow {
    /// The scheduler that was admitted with this key, if there is one.
    pub fn scheduler_with(&self, instance_key: [u8; 16]) -> Option<u64> {
        let known = self.schedulers.iter().find(|(_, row)| row.instance_key == instance_key);
        known.map(|(id, _)| *id)
    }
}

impl TokenRow {
    /// Whether it opens nothing any more.
    pub fn is_over(&self, now: StateMs) -> bool {
        self.expires.is_some_and(|expires| expires.at <= now)
    }

    /// Whether nobody has used it, or the one who shows it now has, as `name`.
    fn is_free_for(&self, proof: &JoinProof, name: Option<&str>) -> bool {
        self.used_by
            .as_ref()
            .is_none_or(|user| user.key_hash == proof.key_hash && Some(user.name.as_str()) == name)
    }

    /// Whether it is what `new` asks for; it may have been used since.
    pub(crate) fn is_of(&self, new: &NewToken) -> bool {
        let expires = new.ttl.map(|ttl| later(self.created, ttl));
        let NewToken { id, secret_hash, label, grant, ttl: _, created_by } = new;
        (&self.id, &self.secret_hash, &self.label) == (id, secret_hash, label)
            && (&self.grant, &self.created_by) == (grant, created_by)
            && self.expires.map(|own| own.wall) == expires
    }
}

impl NewToken {
    /// The row that it becomes, unless it breaks a rule.
    pub(crate) fn into_row(self, now: StateMs, wall: WallMs) -> Result<TokenRow, Refusal> {
        self.check()?;
        let NewToken { id, secret_hash, label, grant, ttl, created_by } = self;
        let expires = ttl.map(|ttl| Expiry { at: now.after(ttl), wall: later(wall, ttl) });
        let (created, used_by) = (wall, None);
        Ok(TokenRow { id, secret_hash, label, grant, created_by, created, expires, used_by })
    }

    fn check(&self) -> Result<(), Refusal> {
        if let Some(first) = validate_grant(&self.grant).first() {
            return Err(Refusal::Invalid(format!("{}: {}", first.field, first.message)));
        }
        for (what, text, bytes_max) in [
            ("label", &self.label, LABEL_BYTES_MAX),
            ("created_by", &self.created_by, CREATED_BY_BYTES_MAX),
        ] {
            if text.len() > bytes_max {
                let found = text.len();
                return Err(Refusal::Invalid(format!(
                    "{what}: expected at most {bytes_max} bytes, found {found}"
                )));
            }
        }
        if self.ttl == Some(DurationMs::ZERO) {
            return Err(Refusal::Invalid("ttl: expected more than zero".to_owned()));
        }
        match &self.grant {
            Grant::Person { .. } => Ok(()),
            Grant::Join(_) => match self.ttl {
                Some(ttl) if ttl.0 <= JOIN_TTL_MS_MAX => Ok(()),
                asked => Err(Refusal::JoinTtl { asked }),
            },
        }
    }
}

impl Authority {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        for (what, bytes) in [("certificate", &self.certificate), ("sealed_key", &self.sealed_key)]
        {
            if bytes.is_empty() || bytes.len() > AUTHORITY_BYTES_MAX {
                let found = bytes.len();
                return Err(Refusal::Invalid(format!(
                    "authority.{what}: expected 1 to {AUTHORITY_BYTES_MAX} bytes, found {found}"
                )));
            }
        }
        Ok(())
    }
}

fn later(wall: WallMs, span: DurationMs) -> WallMs {
    WallMs(wall.0.saturating_add(span.0))
}
