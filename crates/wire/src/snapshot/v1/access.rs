//! Rows of tokens and revocations.

use berth_model::{StateMs, TokenId, WallMs};
use berth_proto::log::v1;
use berth_state::{Expiry, RevocationRow, TokenRow, TokenUser};
use bytes::Bytes;

use crate::frozen::access::{grant_to_proto, machine_to_proto, read_grant, read_machine};
use crate::problem::{Field, Problems};

pub(super) fn token_to_proto(row: &TokenRow) -> v1::TokenRow {
    let TokenRow { id, secret_hash, label, grant, created_by, created, expires, used_by } = row;
    v1::TokenRow {
        id: id.0,
        secret_hash: Bytes::copy_from_slice(secret_hash),
        label: label.clone(),
        grant: Some(grant_to_proto(grant)),
        created_by: created_by.clone(),
        created_wall_ms: created.0,
        expires: expires.map(|Expiry { at, wall }| v1::Expiry { state_ms: at.0, wall_ms: wall.0 }),
        used_by: used_by.as_ref().map(|TokenUser { key_hash, name }| v1::TokenUser {
            key_hash: Bytes::copy_from_slice(key_hash),
            name: name.clone(),
        }),
    }
}

pub(super) fn read_token(
    at: Field<'_>,
    proto: v1::TokenRow,
    problems: &mut Problems,
) -> Option<TokenRow> {
    let used_by = match proto.used_by {
        Some(v1::TokenUser { key_hash, name }) => {
            let at = at.named("used_by");
            Some(TokenUser { key_hash: problems.bytes(at.named("key_hash"), &key_hash)?, name })
        }
        None => None,
    };
    let expiry =
        |proto: v1::Expiry| Expiry { at: StateMs(proto.state_ms), wall: WallMs(proto.wall_ms) };
    Some(TokenRow {
        id: TokenId(proto.id),
        secret_hash: problems.bytes(at.named("secret_hash"), &proto.secret_hash)?,
        label: proto.label,
        grant: read_grant(at.named("grant"), proto.grant, problems)?,
        created_by: proto.created_by,
        created: WallMs(proto.created_wall_ms),
        expires: proto.expires.map(expiry),
        used_by,
    })
}

pub(super) fn revocation_to_proto(row: &RevocationRow) -> v1::RevocationRow {
    v1::RevocationRow {
        machine: machine_to_proto(row.machine),
        name: row.name.clone(),
        times: row.times,
    }
}

pub(super) fn read_revocation(
    at: Field<'_>,
    proto: v1::RevocationRow,
    problems: &mut Problems,
) -> Option<RevocationRow> {
    Some(RevocationRow {
        machine: read_machine(at.named("machine"), proto.machine, problems)?,
        name: proto.name,
        times: proto.times,
    })
}
