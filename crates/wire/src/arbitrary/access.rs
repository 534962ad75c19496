//! Tokens, proofs and the authority: whatever the types hold.

use berth_model::{DurationMs, Grant, JoinGrant, Machine, Role, Scope, TokenId};
use berth_state::{
    Authority, Command, Expiry, JoinProof, NewToken, RevocationRow, Security, TokenRow, TokenUser,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::log::{state_ms, wall_ms};
use super::{name, number, text};

pub(crate) fn authority() -> impl Strategy<Value = Authority> {
    (vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..40))
        .prop_map(|(certificate, sealed_key)| Authority { certificate, sealed_key })
}

pub(crate) fn security() -> impl Strategy<Value = Security> {
    (authority(), vec(new_token(), 0..3))
        .prop_map(|(authority, tokens)| Security { authority, tokens })
}

pub(crate) fn proof() -> impl Strategy<Value = JoinProof> {
    (token_id(), any::<[u8; 32]>(), any::<[u8; 32]>())
        .prop_map(|(token, secret_hash, key_hash)| JoinProof { token, secret_hash, key_hash })
}

pub(crate) fn access_command() -> BoxedStrategy<Command> {
    prop_oneof![
        new_token().prop_map(Command::CreateToken),
        token_id().prop_map(|token| Command::RevokeToken { token }),
        (proof(), machine(), name(), option::of(name())).prop_map(
            |(proof, machine, name, pool)| Command::UseJoinToken { proof, machine, name, pool }
        ),
        (machine(), text()).prop_map(|(machine, name)| Command::RevokeMachine { machine, name }),
    ]
    .boxed()
}

pub(crate) fn token_row() -> BoxedStrategy<TokenRow> {
    let expiry = (state_ms(), wall_ms()).prop_map(|(at, wall)| Expiry { at, wall });
    let user =
        (any::<[u8; 32]>(), text()).prop_map(|(key_hash, name)| TokenUser { key_hash, name });
    (
        (token_id(), any::<[u8; 32]>(), text(), grant()),
        (text(), wall_ms(), option::of(expiry), option::of(user)),
    )
        .prop_map(|((id, secret_hash, label, grant), (created_by, created, expires, used_by))| {
            TokenRow { id, secret_hash, label, grant, created_by, created, expires, used_by }
        })
        .boxed()
}

pub(crate) fn revocation_row() -> impl Strategy<Value = RevocationRow> {
    (machine(), text(), 1_u32..).prop_map(|(machine, name, times)| RevocationRow {
        machine,
        name,
        times,
    })
}

fn token_id() -> impl Strategy<Value = TokenId> {
    number().prop_map(TokenId)
}

fn machine() -> impl Strategy<Value = Machine> {
    select(vec![Machine::Server, Machine::Agent, Machine::Gateway, Machine::Client])
}

fn grant() -> impl Strategy<Value = Grant> {
    let role = select(vec![Role::Read, Role::Submit, Role::Operate, Role::Admin]);
    let scope = prop_oneof![Just(Scope::All), btree_set(name(), 0..4).prop_map(Scope::Namespaces)];
    prop_oneof![
        (role, scope).prop_map(|(role, scope)| Grant::Person { role, scope }),
        (machine(), option::of(name()), option::of(name()))
            .prop_map(|(machine, name, pool)| Grant::Join(JoinGrant { machine, name, pool })),
    ]
}

fn new_token() -> impl Strategy<Value = NewToken> {
    let ttl = option::of(number().prop_map(DurationMs));
    (token_id(), any::<[u8; 32]>(), text(), grant(), ttl, text()).prop_map(
        |(id, secret_hash, label, grant, ttl, created_by)| NewToken {
            id,
            secret_hash,
            label,
            grant,
            ttl,
            created_by,
        },
    )
}
