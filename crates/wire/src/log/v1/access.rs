//! Security of a new cluster, tokens, and machines that come in or are shut out.

use std::sync::Arc;

use berth_model::{DurationMs, Machine, Name, TokenId};
use berth_proto::log::v1;
use berth_state::{Command, JoinProof, NewToken, Security};
use bytes::Bytes;

use crate::frozen::access::{
    authority_to_proto, grant_to_proto, machine_to_proto, read_authority, read_grant, read_machine,
};
use crate::problem::{Field, Problems};

pub(super) fn found_to_proto(cluster_id: [u8; 16], security: Option<&Security>) -> v1::Found {
    v1::Found {
        cluster_id: Bytes::copy_from_slice(&cluster_id),
        security: security.map(|Security { authority, tokens }| v1::Security {
            authority: Some(authority_to_proto(authority)),
            tokens: tokens.iter().map(token_to_proto).collect(),
        }),
    }
}

pub(super) fn read_found(
    at: Field<'_>,
    proto: v1::Found,
    problems: &mut Problems,
) -> Option<Command> {
    let security = match proto.security {
        Some(security) => Some(Arc::new(read_security(at.named("security"), security, problems)?)),
        None => None,
    };
    let cluster_id = problems.bytes(at.named("cluster_id"), &proto.cluster_id)?;
    Some(Command::Found { cluster_id, security })
}

fn read_security(at: Field<'_>, proto: v1::Security, problems: &mut Problems) -> Option<Security> {
    let authority = problems.present(at.named("authority"), proto.authority)?;
    let mut tokens = Vec::with_capacity(proto.tokens.len());
    for (position, token) in proto.tokens.into_iter().enumerate() {
        let tokens_at = at.named("tokens");
        tokens.push(read_token(tokens_at.item(position), Some(token), problems)?);
    }
    Some(Security { authority: read_authority(&authority), tokens })
}

pub(super) fn create_to_proto(token: &NewToken) -> v1::CreateToken {
    v1::CreateToken { token: Some(token_to_proto(token)) }
}

fn token_to_proto(token: &NewToken) -> v1::NewToken {
    let NewToken { id, secret_hash, label, grant, ttl, created_by } = token;
    v1::NewToken {
        id: id.0,
        secret_hash: Bytes::copy_from_slice(secret_hash),
        label: label.clone(),
        grant: Some(grant_to_proto(grant)),
        ttl_ms: ttl.map(|ttl| ttl.0),
        created_by: created_by.clone(),
    }
}

pub(super) fn read_token(
    at: Field<'_>,
    proto: Option<v1::NewToken>,
    problems: &mut Problems,
) -> Option<NewToken> {
    let proto = problems.present(at, proto)?;
    Some(NewToken {
        id: TokenId(proto.id),
        secret_hash: problems.bytes(at.named("secret_hash"), &proto.secret_hash)?,
        label: proto.label,
        grant: read_grant(at.named("grant"), proto.grant, problems)?,
        ttl: proto.ttl_ms.map(DurationMs),
        created_by: proto.created_by,
    })
}

pub(super) fn proof_to_proto(proof: &JoinProof) -> v1::JoinProof {
    let JoinProof { token, secret_hash, key_hash } = proof;
    v1::JoinProof {
        token: token.0,
        secret_hash: Bytes::copy_from_slice(secret_hash),
        key_hash: Bytes::copy_from_slice(key_hash),
    }
}

pub(super) fn read_proof(
    at: Field<'_>,
    proto: &v1::JoinProof,
    problems: &mut Problems,
) -> Option<JoinProof> {
    Some(JoinProof {
        token: TokenId(proto.token),
        secret_hash: problems.bytes(at.named("secret_hash"), &proto.secret_hash)?,
        key_hash: problems.bytes(at.named("key_hash"), &proto.key_hash)?,
    })
}

pub(super) fn use_to_proto(
    proof: &JoinProof,
    machine: Machine,
    name: &Name,
    pool: Option<&Name>,
) -> v1::UseJoinToken {
    v1::UseJoinToken {
        proof: Some(proof_to_proto(proof)),
        machine: machine_to_proto(machine),
        name: name.to_string(),
        pool: pool.map(Name::to_string),
    }
}

pub(super) fn read_use(
    at: Field<'_>,
    proto: v1::UseJoinToken,
    problems: &mut Problems,
) -> Option<Command> {
    let proof = problems.present(at.named("proof"), proto.proof)?;
    Some(Command::UseJoinToken {
        proof: read_proof(at.named("proof"), &proof, problems)?,
        machine: read_machine(at.named("machine"), proto.machine, problems)?,
        name: problems.name(at.named("name"), &proto.name)?,
        pool: problems.optional_name(at.named("pool"), proto.pool.as_deref())?,
    })
}

pub(super) fn revoke_to_proto(machine: Machine, name: &str) -> v1::RevokeMachine {
    v1::RevokeMachine { machine: machine_to_proto(machine), name: name.to_owned() }
}

pub(super) fn read_revoke_machine(
    at: Field<'_>,
    proto: v1::RevokeMachine,
    problems: &mut Problems,
) -> Option<Command> {
    let machine = read_machine(at.named("machine"), proto.machine, problems)?;
    Some(Command::RevokeMachine { machine, name: proto.name })
}
