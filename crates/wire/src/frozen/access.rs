//! Grants and the authority, of which both log entries and snapshot rows are
//! made.

use std::collections::BTreeSet;

use berth_model::{Grant, JoinGrant, Machine, Name, Role, Scope};
use berth_proto::log::v1;
use berth_proto::log::v1::grant::{Grant as GrantKind, Join, Person};
use berth_proto::log::v1::scope::{All, Namespaces, Scope as ScopeKind};
use berth_state::Authority;
use bytes::Bytes;

use crate::enumeration::{self, enumeration};
use crate::problem::{Cause, Field, Problems};

enumeration!(Role, v1::Role, [Read, Submit, Operate, Admin]);
enumeration!(Machine, v1::Machine, [Server, Agent, Gateway, Client]);

pub(crate) fn machine_to_proto(machine: Machine) -> i32 {
    enumeration::number::<v1::Machine, _>(machine)
}

pub(crate) fn read_machine(at: Field<'_>, number: i32, problems: &mut Problems) -> Option<Machine> {
    enumeration::read::<v1::Machine, _>(at, number, problems)
}

pub(crate) fn grant_to_proto(grant: &Grant) -> v1::Grant {
    let kind = match grant {
        Grant::Person { role, scope } => GrantKind::Person(Person {
            role: enumeration::number::<v1::Role, _>(*role),
            scope: Some(scope_to_proto(scope)),
        }),
        Grant::Join(JoinGrant { machine, name, pool }) => GrantKind::Join(Join {
            machine: machine_to_proto(*machine),
            name: name.as_ref().map(Name::to_string),
            pool: pool.as_ref().map(Name::to_string),
        }),
    };
    v1::Grant { grant: Some(kind) }
}

pub(crate) fn read_grant(
    at: Field<'_>,
    proto: Option<v1::Grant>,
    problems: &mut Problems,
) -> Option<Grant> {
    let kind = proto.and_then(|grant| grant.grant);
    Some(match problems.present(at, kind)? {
        GrantKind::Person(Person { role, scope }) => Grant::Person {
            role: enumeration::read::<v1::Role, _>(at.named("role"), role, problems)?,
            scope: read_scope(at.named("scope"), scope, problems)?,
        },
        GrantKind::Join(Join { machine, name, pool }) => Grant::Join(JoinGrant {
            machine: read_machine(at.named("machine"), machine, problems)?,
            name: problems.optional_name(at.named("name"), name.as_deref())?,
            pool: problems.optional_name(at.named("pool"), pool.as_deref())?,
        }),
    })
}

/// Without namespaces is another scope than all of them, and has a message of
/// its own, so that nothing that is left out ever widens a grant.
fn scope_to_proto(scope: &Scope) -> v1::Scope {
    let kind = match scope {
        Scope::All => ScopeKind::All(All {}),
        Scope::Namespaces(names) => {
            ScopeKind::Namespaces(Namespaces { names: names.iter().map(Name::to_string).collect() })
        }
    };
    v1::Scope { scope: Some(kind) }
}

fn read_scope(at: Field<'_>, proto: Option<v1::Scope>, problems: &mut Problems) -> Option<Scope> {
    let kind = proto.and_then(|scope| scope.scope);
    Some(match problems.present(at, kind)? {
        ScopeKind::All(All {}) => Scope::All,
        ScopeKind::Namespaces(Namespaces { names: texts }) => {
            let at = at.named("names");
            let mut names = BTreeSet::new();
            for (position, text) in texts.iter().enumerate() {
                if !names.insert(problems.name(at.item(position), text)?) {
                    problems.add(at, Cause::Contradiction("a namespace is there twice"));
                }
            }
            Scope::Namespaces(names)
        }
    })
}

pub(crate) fn authority_to_proto(authority: &Authority) -> v1::Authority {
    v1::Authority {
        certificate: Bytes::copy_from_slice(&authority.certificate),
        sealed_key: Bytes::copy_from_slice(&authority.sealed_key),
    }
}

pub(crate) fn read_authority(proto: &v1::Authority) -> Authority {
    Authority { certificate: proto.certificate.to_vec(), sealed_key: proto.sealed_key.to_vec() }
}
