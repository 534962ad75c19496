//! Tokens and machines as messages.

use std::collections::BTreeSet;

use berth_model::{
    DurationMs, Grant, JoinGrant, Machine, Name, Role, Scope, TokenId, Violation, validate_grant,
};
use berth_proto::v1;
use berth_state::{NewToken, TokenRow};
use bytes::Bytes;

use crate::enumeration::{enumeration, number, read};
use crate::problem::{Cause, Field, Problems};

/// A certificate request is some 300 bytes.
const REQUEST_BYTES_MAX: usize = 4096;
/// As long as a machine's name may be, and a label.
const LABEL_BYTES_MAX: usize = 128;

enumeration!(Role, v1::Role, [Read, Submit, Operate, Admin]);
enumeration!(Machine, v1::Machine, [Server, Agent, Gateway, Client]);

/// A machine that wants a certificate, as it says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applicant {
    pub machine: Machine,
    pub name: Name,
    pub pool: Option<Name>,
    /// PKCS#10 in DER; not looked into.
    pub request: Bytes,
}

/// The token that a request asks for, made by `created_by`.
///
/// # Errors
/// Everything wrong with it.
pub fn new_token_from_proto(
    proto: v1::CreateTokenRequest,
    created_by: String,
) -> Result<NewToken, Vec<Violation>> {
    use v1::create_token_request::Grant as Asked;
    let mut problems = Problems::default();
    let at = Field::ROOT;
    let secret_hash = problems.bytes(at.named("secret_hash"), &proto.secret_hash);
    let label = problems.short(at.named("label"), proto.label, LABEL_BYTES_MAX);
    let grant = match proto.grant {
        Some(Asked::Person(person)) => read_person(at.named("person"), &person, &mut problems),
        Some(Asked::Join(join)) => read_join(at.named("join"), &join, &mut problems),
        None => {
            problems.add(at.named("grant"), Cause::Missing);
            None
        }
    };
    let token = (|| {
        Some(NewToken {
            id: TokenId(proto.id),
            secret_hash: secret_hash?,
            label: label?,
            grant: grant?,
            ttl: proto.ttl_ms.map(DurationMs),
            created_by,
        })
    })();
    let token = problems.verdict(token)?;
    let violations = validate_grant(&token.grant);
    if violations.is_empty() { Ok(token) } else { Err(violations) }
}

/// The request for a token, less its grant's sense: the cluster judges that.
pub fn token_request(
    id: TokenId,
    secret_hash: [u8; 32],
    label: String,
    grant: &Grant,
    ttl: Option<DurationMs>,
) -> v1::CreateTokenRequest {
    use v1::create_token_request::Grant as Asked;
    v1::CreateTokenRequest {
        id: id.0,
        secret_hash: Bytes::copy_from_slice(&secret_hash),
        label,
        grant: Some(match grant {
            Grant::Person { role, scope } => Asked::Person(person(*role, scope)),
            Grant::Join(grant) => Asked::Join(join(grant)),
        }),
        ttl_ms: ttl.map(|ttl| ttl.0),
    }
}

/// A token as a listing shows it: without anything made of its secret.
pub fn token_info(row: &TokenRow) -> v1::TokenInfo {
    use v1::token_info::Grant as Shown;
    v1::TokenInfo {
        id: row.id.0,
        label: row.label.clone(),
        grant: Some(match &row.grant {
            Grant::Person { role, scope } => Shown::Person(person(*role, scope)),
            Grant::Join(grant) => Shown::Join(join(grant)),
        }),
        created_by: row.created_by.clone(),
        created_at_ms: row.created.0,
        expires_at_ms: row.expires.map(|expires| expires.wall.0),
        used: row.used_by.is_some(),
    }
}

/// Who wants to come in.
///
/// # Errors
/// Everything wrong with the request but the token, which is nobody's to judge
/// here.
pub fn applicant_from_enrol(proto: &v1::EnrolRequest) -> Result<Applicant, Vec<Violation>> {
    let mut problems = Problems::default();
    let at = Field::ROOT;
    let pool = Some(proto.pool.as_str()).filter(|pool| !pool.is_empty());
    let pool = problems.optional_name(at.named("pool"), pool);
    let applicant = read_applicant(proto.machine, &proto.name, &proto.request, &mut problems);
    let applicant = (|| {
        let (machine, name, request) = applicant?;
        Some(Applicant { machine, name, pool: pool?, request })
    })();
    problems.verdict(applicant)
}

/// Whom an administrator wants certified.
///
/// # Errors
/// Everything wrong with the request.
pub fn applicant_from_issue(proto: &v1::IssueRequest) -> Result<Applicant, Vec<Violation>> {
    let mut problems = Problems::default();
    let applicant = read_applicant(proto.machine, &proto.name, &proto.request, &mut problems);
    let applicant =
        applicant.map(|(machine, name, request)| Applicant { machine, name, pool: None, request });
    problems.verdict(applicant)
}

/// The machine that is to be revoked.
///
/// # Errors
/// Everything wrong with the request.
pub fn revoked_machine_from_proto(
    proto: &v1::RevokeCertificatesRequest,
) -> Result<(Machine, String), Vec<Violation>> {
    let mut problems = Problems::default();
    let at = Field::ROOT;
    let machine = read::<v1::Machine, Machine>(at.named("machine"), proto.machine, &mut problems);
    let name = match machine {
        Some(Machine::Server) => proto.name.parse::<u64>().ok().map(|id| id.to_string()),
        Some(Machine::Agent | Machine::Gateway | Machine::Client) | None => {
            problems.name(at.named("name"), &proto.name).map(|name| name.to_string())
        }
    };
    if machine == Some(Machine::Server) && name.is_none() {
        problems.add(at.named("name"), Cause::Contradiction("a scheduler's name is its number"));
    }
    problems.verdict(machine.zip(name))
}

fn read_applicant(
    machine: i32,
    name: &str,
    request: &Bytes,
    problems: &mut Problems,
) -> Option<(Machine, Name, Bytes)> {
    let at = Field::ROOT;
    let machine = read::<v1::Machine, Machine>(at.named("machine"), machine, problems);
    let name = problems.name(at.named("name"), name);
    if request.len() > REQUEST_BYTES_MAX {
        let (bytes_max, found) = (REQUEST_BYTES_MAX, request.len());
        problems.add(at.named("request"), Cause::TooLong { bytes_max, found });
        return None;
    }
    Some((machine?, name?, request.clone()))
}

fn read_person(at: Field<'_>, proto: &v1::PersonGrant, problems: &mut Problems) -> Option<Grant> {
    let role = read::<v1::Role, Role>(at.named("role"), proto.role, problems);
    let field = at.named("namespaces");
    let mut names = BTreeSet::new();
    for (position, text) in proto.namespaces.iter().enumerate() {
        names.insert(problems.name(field.item(position), text)?);
    }
    let scope = if names.is_empty() { Scope::All } else { Scope::Namespaces(names) };
    Some(Grant::Person { role: role?, scope })
}

fn read_join(at: Field<'_>, proto: &v1::JoinGrant, problems: &mut Problems) -> Option<Grant> {
    let machine = read::<v1::Machine, Machine>(at.named("machine"), proto.machine, problems);
    let name = problems.optional_name(at.named("name"), proto.name.as_deref());
    let pool = problems.optional_name(at.named("pool"), proto.pool.as_deref());
    Some(Grant::Join(JoinGrant { machine: machine?, name: name?, pool: pool? }))
}

fn person(role: Role, scope: &Scope) -> v1::PersonGrant {
    let namespaces = match scope {
        Scope::All => Vec::new(),
        Scope::Namespaces(names) => names.iter().map(ToString::to_string).collect(),
    };
    v1::PersonGrant { role: number::<v1::Role, Role>(role), namespaces }
}

fn join(grant: &JoinGrant) -> v1::JoinGrant {
    v1::JoinGrant {
        machine: number::<v1::Machine, Machine>(grant.machine),
        name: grant.name.as_ref().map(ToString::to_string),
        pool: grant.pool.as_ref().map(ToString::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> v1::CreateTokenRequest {
        v1::CreateTokenRequest {
            id: 7,
            secret_hash: vec![1; 32].into(),
            label: "ci".to_owned(),
            grant: Some(v1::create_token_request::Grant::Person(v1::PersonGrant {
                role: v1::Role::Submit.into(),
                namespaces: vec!["research".to_owned()],
            })),
            ttl_ms: Some(60_000),
        }
    }

    #[test]
    fn a_token_is_asked_for_as_it_is_meant() {
        let token = new_token_from_proto(asked(), "alice".to_owned()).unwrap();
        let NewToken { id, secret_hash, label, grant, ttl, .. } = token.clone();
        assert_eq!(token_request(id, secret_hash, label, &grant, ttl), asked());
        assert_eq!(token.created_by, "alice");
        let research = Name::new("research").unwrap();
        let scope = Scope::Namespaces(BTreeSet::from([research]));
        assert_eq!(token.grant, Grant::Person { role: Role::Submit, scope });
    }

    #[test]
    fn everything_wrong_with_a_request_is_told() {
        use v1::create_token_request::Grant as Asked;
        let person = |role, namespaces: &[&str]| {
            let namespaces = namespaces.iter().map(ToString::to_string).collect();
            Some(Asked::Person(v1::PersonGrant { role, namespaces }))
        };
        let join = |machine: v1::Machine, pool: Option<&str>| {
            let (name, pool) = (None, pool.map(str::to_owned));
            Some(Asked::Join(v1::JoinGrant { machine: machine.into(), name, pool }))
        };
        let cases = [
            (None, "grant"),
            (person(0, &[]), "person.role"),
            (person(99, &[]), "person.role"),
            (person(2, &["a/b"]), "person.namespaces[0]"),
            (person(4, &["research"]), "namespaces"),
            (join(v1::Machine::Client, None), "machine"),
            (join(v1::Machine::Server, Some("gpu")), "pool"),
        ];
        for (grant, field) in cases {
            let request = v1::CreateTokenRequest { grant, ..asked() };
            let told = new_token_from_proto(request.clone(), String::new()).unwrap_err();
            assert!(told.iter().any(|one| one.field.contains(field)), "{request:?}: {told:?}");
        }
        let request = v1::CreateTokenRequest { secret_hash: vec![1; 31].into(), ..asked() };
        let told = new_token_from_proto(request, String::new()).unwrap_err();
        assert_eq!(told[0].field, "secret_hash");
    }

    #[test]
    fn an_applicant_names_itself_and_is_bounded() {
        let asked = v1::EnrolRequest {
            token: "secret".to_owned(),
            request: vec![1; 10].into(),
            machine: v1::Machine::Agent.into(),
            name: "gpu-7".to_owned(),
            pool: String::new(),
        };
        let applicant = applicant_from_enrol(&asked).unwrap();
        assert_eq!((applicant.machine, applicant.pool), (Machine::Agent, None));
        let bad = v1::EnrolRequest {
            request: vec![1; REQUEST_BYTES_MAX + 1].into(),
            machine: 0,
            name: "..".to_owned(),
            pool: "a b".to_owned(),
            ..asked
        };
        let told = applicant_from_enrol(&bad).unwrap_err();
        let fields: Vec<&str> = told.iter().map(|one| one.field.as_str()).collect();
        for field in ["request", "machine", "name", "pool"] {
            assert!(fields.contains(&field), "{fields:?}");
        }
        assert!(!format!("{told:?}").contains("secret"));
    }

    #[test]
    fn a_scheduler_is_revoked_by_its_number() {
        let asked = |machine: v1::Machine, name: &str| v1::RevokeCertificatesRequest {
            machine: machine.into(),
            name: name.to_owned(),
        };
        let read = |machine, name| revoked_machine_from_proto(&asked(machine, name));
        assert_eq!(read(v1::Machine::Server, "3").unwrap().1, "3");
        assert_eq!(read(v1::Machine::Agent, "gpu-7").unwrap().1, "gpu-7");
        assert!(read(v1::Machine::Server, "gpu-7").is_err());
        assert!(read(v1::Machine::Agent, "3").is_err());
        assert!(read(v1::Machine::Unspecified, "3").is_err());
    }
}
