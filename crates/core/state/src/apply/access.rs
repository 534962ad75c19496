//! Access: the cluster gets its authority, tokens come and go, machines are let
//! in and shut out. What exactly was wrong with a token that opens nothing is
//! never said.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{Grant, Machine, Name, TokenId};

use super::Step;
use crate::access::{
    JoinProof, MACHINE_NAME_BYTES_MAX, NewToken, REVOCATIONS_MAX, RevocationRow, Security,
    TOKENS_MAX, TokenRow, TokenUser,
};
use crate::event::EventKind;
use crate::refusal::Refusal;
use crate::state::{ClusterState, Reply};

impl ClusterState {
    pub(crate) fn put_token(&mut self, row: TokenRow) {
        self.remove_token(row.id);
        if let Some(expires) = row.expires {
            self.index.token_expiries.insert((expires.at, row.id));
        }
        self.tokens.insert(row.id, Arc::new(row));
    }

    pub(crate) fn remove_token(&mut self, id: TokenId) -> Option<Arc<TokenRow>> {
        let row = self.tokens.remove(&id)?;
        if let Some(expires) = row.expires {
            self.index.token_expiries.remove(&(expires.at, id));
        }
        Some(row)
    }

    /// A restore goes on with people's tokens alone: whoever was about to join
    /// the lost cluster asks anew.
    pub(crate) fn drop_join_tokens(&mut self) {
        self.drop_tokens(|row| match row.grant {
            Grant::Join(_) => true,
            Grant::Person { .. } => false,
        });
    }

    fn drop_tokens_used_by(&mut self, machine: Machine, name: &str) {
        self.drop_tokens(|row| match (&row.grant, &row.used_by) {
            (Grant::Join(grant), Some(user)) => grant.machine == machine && user.name == name,
            (Grant::Join(_), None) | (Grant::Person { .. }, _) => false,
        });
    }

    fn drop_tokens(&mut self, which: impl Fn(&TokenRow) -> bool) {
        let rows = self.tokens.values().filter(|row| which(row));
        let ids: Vec<TokenId> = rows.map(|row| row.id).collect();
        for id in ids {
            self.remove_token(id);
        }
    }

    /// Founded, and with an authority.
    fn check_secured(&self) -> Result<(), Refusal> {
        if self.cluster.id == [0; 16] {
            return Err(Refusal::NotFounded);
        }
        match self.cluster.authority {
            Some(_) => Ok(()),
            None => Err(Refusal::NotSecured),
        }
    }
}

impl Step<'_> {
    /// The tokens of a cluster that is about to be founded, if all of it is as
    /// it should be.
    pub(super) fn first_tokens(&self, security: &Security) -> Result<Vec<TokenRow>, Refusal> {
        security.authority.check()?;
        let mut rows = BTreeMap::new();
        for new in &security.tokens {
            if rows.insert(new.id, new.clone().into_row(self.now, self.wall)?).is_some() {
                return Err(Refusal::TokenExists(new.id));
            }
        }
        if rows.len() > TOKENS_MAX {
            return Err(Refusal::TooManyTokens);
        }
        Ok(rows.into_values().collect())
    }

    /// Who repeats it is answered like the first time: nobody else can know the
    /// random id with the same hash.
    pub(super) fn create_token(&mut self, new: &NewToken) -> Result<Reply, Refusal> {
        self.state.check_secured()?;
        let row = new.clone().into_row(self.now, self.wall)?;
        let known = self.state.tokens.get(&new.id).filter(|known| !known.is_over(self.now));
        if let Some(known) = known {
            return if known.is_of(new) {
                Ok(Reply::Done)
            } else {
                Err(Refusal::TokenExists(new.id))
            };
        }
        // At most as many as there may be tokens. Here alone they go, so that
        // time by itself changes nothing.
        let over: Vec<TokenId> = self.state.expired_tokens(self.now).collect();
        if self.state.tokens.len().saturating_sub(over.len()) >= TOKENS_MAX {
            return Err(Refusal::TooManyTokens);
        }
        for id in over {
            self.state.remove_token(id);
        }
        self.put_new_token(row);
        Ok(Reply::Done)
    }

    pub(super) fn put_new_token(&mut self, row: TokenRow) {
        let kind = EventKind::TokenCreated { id: row.id, label: row.label.clone() };
        self.state.put_token(row);
        self.emit(None, None, None, kind);
    }

    /// Also the last token of an admin: whoever has a scheduler's disk can make
    /// another, and a token that has leaked must not be beyond reach.
    pub(super) fn revoke_token(&mut self, id: TokenId) -> Result<Reply, Refusal> {
        self.state.check_secured()?;
        let Some(row) = self.state.remove_token(id) else {
            return Err(Refusal::UnknownToken(id));
        };
        self.emit(None, None, None, EventKind::TokenRevoked { id, label: row.label.clone() });
        Ok(Reply::Done)
    }

    pub(super) fn use_join_token(
        &mut self,
        proof: &JoinProof,
        machine: Machine,
        name: &Name,
        pool: Option<&Name>,
    ) -> Result<Reply, Refusal> {
        self.state.check_secured()?;
        if !self.state.join_token_opens(proof, machine, name, pool, self.now) {
            return Err(Refusal::JoinTokenRefused);
        }
        if self.mark_used(proof, name.to_string()) {
            self.emit(None, None, None, EventKind::MachineJoined { machine, name: name.clone() });
        }
        let times_revoked = self.state.times_revoked(machine, name.as_str());
        Ok(Reply::LetIn { times_revoked })
    }

    /// Whether a scheduler may come in as far as tokens have a say.
    pub(super) fn check_server_proof(
        &self,
        proof: Option<&JoinProof>,
        instance_key: [u8; 16],
    ) -> Result<(), Refusal> {
        match (&self.state.cluster.authority, proof) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(Refusal::NotSecured),
            (Some(_), Some(proof))
                if self.state.server_token_opens(proof, instance_key, self.now) =>
            {
                Ok(())
            }
            (Some(_), Some(_) | None) => Err(Refusal::JoinTokenRefused),
        }
    }

    /// Remembers who came in by a token that opens for them; whether it was
    /// free before. One that was not has let the same machine in.
    pub(super) fn mark_used(&mut self, proof: &JoinProof, name: String) -> bool {
        let user = TokenUser { key_hash: proof.key_hash, name };
        let was_free = self.state.tokens.edit(&proof.token, |row| {
            let free = row.used_by.is_none();
            row.used_by.get_or_insert(user);
            free
        });
        was_free == Some(true)
    }

    /// Whatever the machine was given up to now counts no more; what it is given
    /// when it is let in again does.
    pub(super) fn revoke_machine(
        &mut self,
        machine: Machine,
        name: &str,
    ) -> Result<Reply, Refusal> {
        self.state.check_secured()?;
        if name.is_empty() || name.len() > MACHINE_NAME_BYTES_MAX {
            return Err(Refusal::Invalid(format!(
                "name: expected 1 to {MACHINE_NAME_BYTES_MAX} bytes, found {}",
                name.len()
            )));
        }
        let key = (machine, name.to_owned());
        let times = self.state.times_revoked(machine, name).saturating_add(1);
        if times == 1 && self.state.revocations.len() >= REVOCATIONS_MAX {
            return Err(Refusal::TooManyRevocations);
        }
        // Or whoever holds its key would be certified once more.
        self.state.drop_tokens_used_by(machine, name);
        let row = RevocationRow { machine, name: name.to_owned(), times };
        self.state.revocations.insert(key, Arc::new(row));
        let name = name.to_owned();
        self.emit(None, None, None, EventKind::MachineRevoked { machine, name });
        Ok(Reply::Done)
    }
}
