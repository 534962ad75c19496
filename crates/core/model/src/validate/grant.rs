//! Whether what a token is to give makes sense.

use super::{Complaints, Violation};
use crate::access::{Grant, JoinGrant, Machine, NAMESPACES_MAX, Role, Scope};

/// Everything wrong with `grant`; empty when a token may give it.
pub fn validate_grant(grant: &Grant) -> Vec<Violation> {
    let mut complaints = Complaints(Vec::new());
    match grant {
        Grant::Person { role, scope } => check_person(*role, scope, &mut complaints),
        Grant::Join(join) => check_join(join, &mut complaints),
    }
    complaints.0
}

fn check_person(role: Role, scope: &Scope, complaints: &mut Complaints) {
    let Scope::Namespaces(names) = scope else { return };
    if names.is_empty() || names.len() > NAMESPACES_MAX {
        complaints.add(
            "namespaces",
            format!("expected 1 to {NAMESPACES_MAX} namespaces, found {}", names.len()),
        );
    }
    match role {
        Role::Read | Role::Submit => {}
        // What they govern belongs to no namespace.
        Role::Operate | Role::Admin => complaints.add_with_hint(
            "namespaces",
            format!("the role {role} holds for the whole cluster"),
            "leave the namespaces out, or give the role submit",
        ),
    }
}

fn check_join(join: &JoinGrant, complaints: &mut Complaints) {
    let (may_name, may_pool) = match join.machine {
        Machine::Server => (false, false),
        Machine::Agent => (true, true),
        Machine::Gateway => (true, false),
        Machine::Client => {
            complaints.add("machine", "a client does not join; it has a token of a person");
            return;
        }
    };
    if join.name.is_some() && !may_name {
        complaints.add("name", format!("a {} takes no name; it is given an id", join.machine));
    }
    if join.pool.is_some() && !may_pool {
        complaints.add("pool", format!("a {} belongs to no pool; only agents do", join.machine));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::name::Name;

    #[test]
    fn a_role_over_the_cluster_has_no_namespaces() {
        let some = |count: usize| {
            let names = (0..count).map(|number| Name::new(&format!("team-{number}")).unwrap());
            Scope::Namespaces(names.collect())
        };
        let check = |role, scope: Scope, fields: &[&str]| {
            let grant = Grant::Person { role, scope };
            let found: Vec<String> =
                validate_grant(&grant).into_iter().map(|wrong| wrong.field).collect();
            assert_eq!(found, fields, "{grant:?}");
        };
        for role in [Role::Read, Role::Submit, Role::Operate, Role::Admin] {
            check(role, Scope::All, &[]);
        }
        for role in [Role::Read, Role::Submit] {
            check(role, some(1), &[]);
            check(role, some(NAMESPACES_MAX), &[]);
            check(role, some(NAMESPACES_MAX + 1), &["namespaces"]);
            check(role, Scope::Namespaces(BTreeSet::new()), &["namespaces"]);
        }
        check(Role::Operate, some(1), &["namespaces"]);
        check(Role::Admin, some(0), &["namespaces", "namespaces"]);
    }

    #[test]
    fn a_join_grant_says_only_what_its_machine_has() {
        let name = || Some(Name::new("gpu-01").unwrap());
        let check = |machine, fields: &[&str]| {
            let grant = Grant::Join(JoinGrant { machine, name: name(), pool: name() });
            let found: Vec<String> =
                validate_grant(&grant).into_iter().map(|wrong| wrong.field).collect();
            assert_eq!(found, fields, "{machine}");
            let plain = Grant::Join(JoinGrant { machine, name: None, pool: None });
            assert_eq!(validate_grant(&plain).is_empty(), machine != Machine::Client, "{machine}");
        };
        check(Machine::Server, &["name", "pool"]);
        check(Machine::Agent, &[]);
        check(Machine::Gateway, &["pool"]);
        check(Machine::Client, &["machine"]);
    }
}
