//! Tokens, the authority and revocations: who is let in, once, and what no
//! answer tells.

use std::sync::Arc;

use berth_model::{
    DurationMs, Grant, JoinGrant, Machine, Name, Role, Scope, StateMs, TokenId, WallMs,
};

use super::restores::restored;
use super::world::{World, join_token, name, proof, security};
use crate::access::{AUTHORITY_BYTES_MAX, CREATED_BY_BYTES_MAX, LABEL_BYTES_MAX};
use crate::{
    ClusterState, Command, EventKind, JOIN_TTL_MS_MAX, JoinProof, NewToken, REVOCATIONS_MAX,
    Refusal, Reply, RestoreError, RevocationRow, Seat, Security, Stored, TOKENS_MAX,
};

fn person(id: u8, role: Role, scope: Scope) -> NewToken {
    NewToken { grant: Grant::Person { role, scope }, ttl: None, ..join_token(id, Machine::Agent) }
}

fn use_token(proof: JoinProof, machine: Machine, text: &str) -> Command {
    Command::UseJoinToken { proof, machine, name: name(text), pool: None }
}

fn admit(key: u8, proof: Option<JoinProof>) -> Command {
    let address = format!("10.0.0.{key}:7071");
    Command::AdmitScheduler { instance_key: [key; 16], address, seat: Seat::Voter, proof }
}

fn revoke(machine: Machine, text: &str) -> Command {
    Command::RevokeMachine { machine, name: text.to_owned() }
}

fn kinds(world: &World) -> Vec<&'static str> {
    world.events.iter().map(|event| event.kind.name()).collect()
}

#[test]
fn a_cluster_is_founded_with_all_of_its_security_or_not_at_all() {
    let check = |change: &dyn Fn(&mut Security), expected: Refusal| {
        let mut security = security();
        change(&mut security);
        let mut world = World::of(ClusterState::default());
        let found = Command::Found { cluster_id: [7; 16], security: Some(Arc::new(security)) };
        assert_eq!(world.one(found), Err(expected));
        assert_eq!(world.state.cluster().id, [0; 16]);
        assert_eq!(world.state.cluster().authority, None);
        assert!(world.state.tokens().is_empty() && world.events.is_empty());
    };
    let wrong = |what: &str, found: usize| {
        Refusal::Invalid(format!(
            "authority.{what}: expected 1 to {AUTHORITY_BYTES_MAX} bytes, found {found}"
        ))
    };
    check(&|security| security.authority.certificate.clear(), wrong("certificate", 0));
    let long = AUTHORITY_BYTES_MAX + 1;
    check(&|security| security.authority.sealed_key.resize(long, 0), wrong("sealed_key", long));
    let twice = Refusal::TokenExists(TokenId(1));
    check(&|security| security.tokens.push(security.tokens[0].clone()), twice);
    let endless = NewToken { ttl: None, ..join_token(2, Machine::Server) };
    let ttl = Refusal::JoinTtl { asked: None };
    check(&|security| security.tokens.push(endless.clone()), ttl);

    let world = World::secured(0);
    assert_eq!(world.state.cluster().authority.as_deref(), Some(&security().authority));
    assert_eq!(world.state.tokens().len(), 1);
    assert_eq!(kinds(&world), ["cluster-founded", "token-created"]);
}

#[test]
fn without_an_authority_there_is_no_access_to_give() {
    let commands = || {
        [
            Command::CreateToken(join_token(2, Machine::Agent)),
            Command::RevokeToken { token: TokenId(2) },
            use_token(proof(2, 9), Machine::Agent, "gpu-01"),
            revoke(Machine::Agent, "gpu-01"),
        ]
    };
    for command in commands() {
        let mut world = World::of(ClusterState::default());
        assert_eq!(world.one(command), Err(Refusal::NotFounded));
    }
    let mut world = World::new(0);
    for command in commands() {
        assert_eq!(world.one(command), Err(Refusal::NotSecured));
    }
    assert_eq!(world.one(admit(2, Some(proof(2, 9)))), Err(Refusal::NotSecured));
    assert_eq!(world.one(admit(2, None)), Ok(Reply::Admitted { scheduler: 2 }));
}

#[test]
fn a_token_that_breaks_a_rule_is_refused() {
    let invalid = |text: &str| Refusal::Invalid(text.to_owned());
    let ttl = |ttl| NewToken { ttl, ..join_token(2, Machine::Agent) };
    let long = DurationMs(JOIN_TTL_MS_MAX + 1);
    let one = Scope::Namespaces([name("team")].into());
    let none = Scope::Namespaces([].into());
    let cases = [
        (ttl(Some(DurationMs(JOIN_TTL_MS_MAX))), None),
        (ttl(Some(long)), Some(Refusal::JoinTtl { asked: Some(long) })),
        (ttl(None), Some(Refusal::JoinTtl { asked: None })),
        (ttl(Some(DurationMs::ZERO)), Some(invalid("ttl: expected more than zero"))),
        (person(2, Role::Submit, one.clone()), None),
        (
            person(2, Role::Operate, one),
            Some(invalid("namespaces: the role operate holds for the whole cluster")),
        ),
        (
            person(2, Role::Read, none),
            Some(invalid("namespaces: expected 1 to 32 namespaces, found 0")),
        ),
        (
            join_token(2, Machine::Client),
            Some(invalid("machine: a client does not join; it has a token of a person")),
        ),
        (
            NewToken { label: "x".repeat(LABEL_BYTES_MAX + 1), ..ttl(Some(DurationMs(1))) },
            Some(invalid("label: expected at most 128 bytes, found 129")),
        ),
        (
            NewToken {
                created_by: "x".repeat(CREATED_BY_BYTES_MAX + 1),
                ..ttl(Some(DurationMs(1)))
            },
            Some(invalid("created_by: expected at most 256 bytes, found 257")),
        ),
    ];
    for (new, refused) in cases {
        let mut world = World::secured(0);
        let expected = refused.map_or(Ok(Reply::Done), Err);
        assert_eq!(world.one(Command::CreateToken(new.clone())), expected, "{new:?}");
    }
    assert_eq!(
        Refusal::JoinTtl { asked: Some(long) }.to_string(),
        "a join token lives 15 minutes at most, asked was 900001 ms"
    );
}

#[test]
fn a_token_is_created_once_and_its_id_means_one_thing() {
    let mut world = World::secured(0);
    let new = join_token(2, Machine::Agent);
    let create = |new: &NewToken| Command::CreateToken(new.clone());
    assert_eq!(world.one(create(&new)), Ok(Reply::Done));
    world.now += 10;
    assert_eq!(world.one(create(&new)), Ok(Reply::Done), "the answer may have been lost");
    let others = [
        NewToken { secret_hash: [3; 32], ..new.clone() },
        NewToken { label: String::new(), ..new.clone() },
        NewToken { ttl: Some(DurationMs(60_001)), ..new.clone() },
        NewToken { created_by: "mallory".to_owned(), ..new.clone() },
        NewToken { grant: join_token(2, Machine::Gateway).grant, ..new.clone() },
        person(2, Role::Admin, Scope::All),
    ];
    for other in others {
        let refused = Err(Refusal::TokenExists(TokenId(2)));
        assert_eq!(world.one(create(&other)), refused, "{other:?}");
    }
    let row = world.state.tokens().get(&TokenId(2)).unwrap();
    assert_eq!(row.created, WallMs(1_700_000_001_000), "and its time runs from the first");
    assert_eq!(row.expires.unwrap().at, StateMs(61_000));
    assert_eq!(row.expires.unwrap().wall, WallMs(1_700_000_061_000));
    assert_eq!(kinds(&world), ["cluster-founded", "token-created", "token-created"]);
}

#[test]
fn a_token_is_known_by_its_secret_until_it_expires_or_is_revoked() {
    let mut world = World::secured(0);
    let short = NewToken { ttl: Some(DurationMs(500)), ..person(2, Role::Read, Scope::All) };
    world.one(Command::CreateToken(short)).unwrap();
    let known = |world: &World, id: u8, secret: u8, now: u64| {
        world.state.token(TokenId(u64::from(id)), &[secret; 32], StateMs(now)).is_some()
    };
    assert!(known(&world, 2, 2, 1_499));
    assert!(!known(&world, 2, 2, 1_500), "expired");
    assert!(!known(&world, 2, 3, 1_000), "another secret");
    assert!(!known(&world, 3, 3, 1_000), "unknown");
    assert!(known(&world, 1, 1, u64::MAX), "no end");
    let revoke = Command::RevokeToken { token: TokenId(1) };
    assert_eq!(world.one(revoke.clone()), Ok(Reply::Done), "even the last of an admin");
    assert_eq!(world.one(revoke), Err(Refusal::UnknownToken(TokenId(1))));
    assert!(!known(&world, 1, 1, 1_000));
}

#[test]
fn expired_tokens_make_room_and_tokens_are_bounded() {
    let mut world = World::secured(0);
    let new = |id: usize, ttl| NewToken {
        id: TokenId(id as u64),
        ttl: Some(DurationMs(ttl)),
        ..person(2, Role::Read, Scope::All)
    };
    let fill = (2..=TOKENS_MAX).map(|id| Command::CreateToken(new(id, 1_000)));
    // In one entry, since every entry is followed by a pass over the state.
    assert!(world.entry(fill.collect()).iter().all(Result::is_ok));
    let more = Command::CreateToken(new(20_000, 1_000));
    assert_eq!(world.one(more.clone()), Err(Refusal::TooManyTokens));
    assert_eq!(world.state.tokens().len(), TOKENS_MAX);
    let again = Command::CreateToken(new(7, 1_000));
    assert_eq!(world.one(again.clone()), Ok(Reply::Done), "a repetition needs no room");
    world.now += 1_000;
    let bad = Command::CreateToken(new(20_000, 0));
    assert!(world.one(bad).is_err());
    assert_eq!(world.state.tokens().len(), TOKENS_MAX, "what is refused changes nothing");
    assert_eq!(world.one(more), Ok(Reply::Done));
    assert_eq!(world.state.tokens().len(), 2);
    assert_eq!(world.one(again), Ok(Reply::Done), "an id whose token is over is free");
}

#[test]
fn every_reason_why_a_join_token_does_not_open_is_answered_alike() {
    let pinned = |id: u8, machine, only: Option<&str>, pool: Option<&str>| NewToken {
        grant: Grant::Join(JoinGrant { machine, name: only.map(name), pool: pool.map(name) }),
        ..join_token(id, machine)
    };
    let used = join_token(7, Machine::Agent);
    let tokens = [
        join_token(2, Machine::Agent),
        join_token(3, Machine::Gateway),
        join_token(4, Machine::Server),
        pinned(5, Machine::Agent, Some("gpu-01"), None),
        pinned(6, Machine::Agent, None, Some("h100")),
        used,
    ];
    let mut world = World::secured(0);
    world.entry(tokens.into_iter().map(Command::CreateToken).collect());
    world.one(use_token(proof(7, 9), Machine::Agent, "gpu-01")).unwrap();
    let (agent, gateway) = (Machine::Agent, Machine::Gateway);
    let guess = JoinProof { secret_hash: [0; 32], ..proof(2, 9) };
    let cases = [
        ("as granted", proof(2, 9), agent, "gpu-01", None, true),
        ("in any pool", proof(2, 9), agent, "gpu-01", Some("h100"), true),
        ("a gateway", proof(3, 9), gateway, "front", None, true),
        ("the name", proof(5, 9), agent, "gpu-01", None, true),
        ("the pool", proof(6, 9), agent, "gpu-01", Some("h100"), true),
        ("used by the same", proof(7, 9), agent, "gpu-01", None, true),
        ("unknown", proof(99, 9), agent, "gpu-01", None, false),
        ("wrong secret", guess, agent, "gpu-01", None, false),
        ("a person's", proof(1, 9), agent, "gpu-01", None, false),
        ("another machine", proof(2, 9), gateway, "gpu-01", None, false),
        ("another machine", proof(3, 9), agent, "gpu-01", None, false),
        ("a server comes otherwise", proof(4, 9), Machine::Server, "gpu-01", None, false),
        ("a client never", proof(2, 9), Machine::Client, "gpu-01", None, false),
        ("a gateway in a pool", proof(3, 9), gateway, "front", Some("h100"), false),
        ("another name", proof(5, 9), agent, "gpu-02", None, false),
        ("another pool", proof(6, 9), agent, "gpu-01", Some("a100"), false),
        ("no pool", proof(6, 9), agent, "gpu-01", None, false),
        ("used with another key", proof(7, 8), agent, "gpu-01", None, false),
        ("used under another name", proof(7, 9), agent, "gpu-02", None, false),
    ];
    let at = world.now;
    for (why, proof, machine, text, pool, opens) in cases {
        let (text, pool): (Name, Option<Name>) = (name(text), pool.map(name));
        let ask = |world: &World, now: u64| {
            let now = StateMs(now);
            world.state.join_token_opens(&proof, machine, &text, pool.as_ref(), now)
        };
        assert_eq!(ask(&world, at), opens, "{why}");
        assert!(!ask(&world, at + 60_000), "{why}, expired");
        let command = Command::UseJoinToken {
            proof: proof.clone(),
            machine,
            name: text.clone(),
            pool: pool.clone(),
        };
        let expected = if opens {
            Ok(Reply::LetIn { times_revoked: 0 })
        } else {
            Err(Refusal::JoinTokenRefused)
        };
        let mut world = World::of(world.state.clone());
        assert_eq!(world.one(command.clone()), expected, "{why}");
        assert_eq!(world.one(command.clone()), expected, "{why}, once more");
        world.now += 60_000;
        assert_eq!(world.one(command), Err(Refusal::JoinTokenRefused), "{why}, expired");
        let joined = kinds(&world).iter().filter(|kind| **kind == "machine-joined").count();
        let first = usize::from(opens && proof.token != TokenId(7));
        assert_eq!(joined, first, "{why}");
    }
}

#[test]
fn a_server_joins_with_a_token_that_lets_in_one_scheduler() {
    let mut world = World::secured(0);
    for (id, machine) in [(2, Machine::Server), (3, Machine::Server), (4, Machine::Agent)] {
        world.one(Command::CreateToken(join_token(id, machine))).unwrap();
    }
    let refused = || Err(Refusal::JoinTokenRefused);
    assert_eq!(world.one(admit(5, None)), refused());
    assert_eq!(world.one(admit(5, Some(proof(4, 9)))), refused(), "an agent's");
    assert_eq!(world.one(admit(5, Some(proof(1, 9)))), refused(), "an admin's");
    assert!(world.state.server_token_opens(&proof(2, 9), [5; 16], StateMs(world.now)));
    let admitted = || Ok(Reply::Admitted { scheduler: 2 });
    assert_eq!(world.one(admit(5, Some(proof(2, 9)))), admitted());
    assert_eq!(world.one(admit(5, Some(proof(2, 9)))), admitted(), "the answer was lost");
    assert_eq!(world.one(admit(5, None)), refused(), "the key alone is not enough");
    assert_eq!(world.one(admit(5, Some(proof(2, 8)))), refused(), "another key");
    assert_eq!(world.one(admit(6, Some(proof(2, 9)))), refused(), "another scheduler");
    let row = world.state.tokens().get(&TokenId(2)).unwrap();
    assert_eq!(row.used_by.as_ref().unwrap().name, "2");
    // Too late for the first token; with another it is the same scheduler.
    assert_eq!(world.one(admit(5, Some(proof(3, 7)))), admitted());
    assert_eq!(world.one(admit(6, Some(proof(3, 7)))), refused());
    // What is refused for another reason leaves its token as it was.
    world.one(Command::CreateToken(join_token(8, Machine::Server))).unwrap();
    let address = "10.9.9.9:1".to_owned();
    let (instance_key, seat) = ([5; 16], Seat::Voter);
    let moved = Command::AdmitScheduler { instance_key, address, seat, proof: Some(proof(8, 1)) };
    assert!(matches!(world.one(moved), Err(Refusal::SchedulerElsewhere { .. })));
    let admitted = world.one(admit(6, Some(proof(8, 2))));
    assert_eq!(admitted, Ok(Reply::Admitted { scheduler: 3 }));
    world.now += 60_000;
    assert_eq!(world.one(admit(6, Some(proof(8, 2)))), refused(), "expired");
}

#[test]
fn a_revocation_covers_what_was_given_so_far_and_nothing_later() {
    let mut world = World::secured(0);
    assert!(!world.state.is_revoked(Machine::Agent, "gpu-01", 0));
    world.one(revoke(Machine::Agent, "gpu-01")).unwrap();
    let cases = [
        (Machine::Agent, "gpu-01", 0, true),
        (Machine::Agent, "gpu-01", 1, false),
        (Machine::Agent, "gpu-02", 0, false),
        (Machine::Gateway, "gpu-01", 0, false),
    ];
    for (machine, text, times, expected) in cases {
        let found = world.state.is_revoked(machine, text, times);
        assert_eq!(found, expected, "{machine} {text} {times}");
    }
    // A wall clock that goes back takes nothing back.
    world.now = 2_000;
    world.one(revoke(Machine::Agent, "gpu-01")).unwrap();
    assert!(world.state.is_revoked(Machine::Agent, "gpu-01", 1));
    assert_eq!(kinds(&world)[2..], ["machine-revoked", "machine-revoked"]);
    for text in [String::new(), "x".repeat(257)] {
        assert!(matches!(world.one(revoke(Machine::Agent, &text)), Err(Refusal::Invalid(_))));
    }
}

#[test]
fn the_name_of_a_node_goes_to_whom_an_operator_named_alone() {
    let mut world = World::secured(1);
    let held = world.state.nodes().values().next().unwrap().name.clone();
    for id in [2, 3] {
        world.one(Command::CreateToken(join_token(id, Machine::Agent))).unwrap();
    }
    let take = |id| use_token(proof(id, 9), Machine::Agent, held.as_str());
    assert_eq!(world.one(take(2)), Err(Refusal::JoinTokenRefused));
    let grant = JoinGrant { machine: Machine::Agent, name: Some(held.clone()), pool: None };
    let named = NewToken { grant: Grant::Join(grant), ..join_token(4, Machine::Agent) };
    world.one(Command::CreateToken(named)).unwrap();
    assert_eq!(world.one(take(4)), Ok(Reply::LetIn { times_revoked: 0 }));
    // One that came in before it was a node asks once more.
    let new = use_token(proof(3, 9), Machine::Agent, "gpu-77");
    assert_eq!(world.one(new.clone()), Ok(Reply::LetIn { times_revoked: 0 }));
    assert_eq!(world.one(new), Ok(Reply::LetIn { times_revoked: 0 }));
}

#[test]
fn a_machine_that_was_revoked_does_not_come_back_with_its_token() {
    let mut world = World::secured(0);
    for id in [2, 3] {
        world.one(Command::CreateToken(join_token(id, Machine::Agent))).unwrap();
    }
    let join = use_token(proof(2, 9), Machine::Agent, "gpu-01");
    world.one(join.clone()).unwrap();
    world.one(revoke(Machine::Gateway, "gpu-01")).unwrap();
    world.one(join.clone()).unwrap();
    world.one(revoke(Machine::Agent, "gpu-01")).unwrap();
    assert_eq!(world.one(join), Err(Refusal::JoinTokenRefused));
    let fresh = use_token(proof(3, 9), Machine::Agent, "gpu-01");
    let again = Ok(Reply::LetIn { times_revoked: 1 });
    assert_eq!(world.one(fresh), again, "an operator has let it in again");
}

#[test]
fn revocations_are_bounded() {
    let mut world = World::secured(0);
    let fill = (0..REVOCATIONS_MAX).map(|id| revoke(Machine::Agent, &format!("gpu-{id}")));
    assert!(world.entry(fill.collect()).iter().all(Result::is_ok));
    assert_eq!(world.one(revoke(Machine::Agent, "more")), Err(Refusal::TooManyRevocations));
    world.now += 1;
    assert_eq!(world.one(revoke(Machine::Agent, "gpu-7")), Ok(Reply::Done), "it is there already");
}

#[test]
fn a_restore_keeps_everything_but_join_tokens() {
    let mut world = World::secured(0);
    let expiring = NewToken { ttl: Some(DurationMs(5_000)), ..person(2, Role::Read, Scope::All) };
    world.one(Command::CreateToken(expiring)).unwrap();
    for (id, machine) in [(3, Machine::Agent), (4, Machine::Server)] {
        world.one(Command::CreateToken(join_token(id, machine))).unwrap();
    }
    world.one(use_token(proof(3, 9), Machine::Agent, "gpu-01")).unwrap();
    world.one(revoke(Machine::Agent, "gpu-02")).unwrap();
    let mut after = restored(&world.state);
    let ids: Vec<u64> = after.state.tokens().iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [1, 2]);
    assert_eq!(after.state.cluster().authority, world.state.cluster().authority);
    assert_eq!(after.state.revocations().len(), 1);
    // Checks every invariant, the index of expiries among them.
    after.now += 5_000;
    after.one(Command::CreateToken(join_token(5, Machine::Agent))).unwrap();
    assert_eq!(after.state.tokens().len(), 2);
}

#[test]
fn no_event_holds_a_secret_or_its_hash() {
    let mut world = World::secured(0);
    world.one(Command::CreateToken(join_token(77, Machine::Agent))).unwrap();
    world.one(use_token(proof(77, 78), Machine::Agent, "gpu-01")).unwrap();
    world.one(Command::RevokeToken { token: TokenId(77) }).unwrap();
    let told = world.events.split_off(2);
    let expected = [
        EventKind::TokenCreated { id: TokenId(77), label: "token 77".to_owned() },
        EventKind::MachineJoined { machine: Machine::Agent, name: name("gpu-01") },
        EventKind::TokenRevoked { id: TokenId(77), label: "token 77".to_owned() },
    ];
    assert_eq!(told.into_iter().map(|event| event.kind).collect::<Vec<_>>(), expected);
}

#[test]
fn rows_that_no_command_makes_are_refused() {
    let mut world = World::secured(0);
    world.one(Command::CreateToken(join_token(2, Machine::Agent))).unwrap();
    world.one(revoke(Machine::Agent, "gpu-01")).unwrap();
    let rows: Vec<Stored> = world.state.rows().collect();
    let check = |change: &dyn Fn(&mut Vec<Stored>), expected: &str| {
        let mut rows = rows.clone();
        change(&mut rows);
        let error = ClusterState::from_rows(1, rows).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let edit_token = |rows: &mut Vec<Stored>, change: &dyn Fn(&mut crate::TokenRow)| {
        for row in rows {
            if let Stored::Token(token) = row
                && token.id == TokenId(2)
            {
                change(Arc::make_mut(token));
            }
        }
    };
    let broken = "the rows break an invariant: token 0000000000000002 is not what a token can be";
    check(&|rows| edit_token(rows, &|token| token.expires = None), broken);
    check(&|rows| edit_token(rows, &|token| token.label = "x".repeat(129)), broken);
    check(
        &|rows| edit_token(rows, &|token| token.grant = join_token(2, Machine::Client).grant),
        broken,
    );
    check(
        &|rows| edit_token(rows, &|token| token.id = TokenId(1)),
        "two rows have the key token 0000000000000001",
    );
    let (machine, text) = (Machine::Agent, "gpu-01".to_owned());
    let doubled = Arc::new(RevocationRow { machine, name: text, times: 1 });
    let twice = RestoreError::Twice("revocation of agent gpu-01".to_owned()).to_string();
    check(&|rows| rows.push(Stored::Revocation(doubled.clone())), &twice);
    let unsecured = |rows: &mut Vec<Stored>| {
        for row in rows {
            if let Stored::Cluster(cluster) = row {
                cluster.authority = None;
            }
        }
    };
    check(
        &unsecured,
        "the rows break an invariant: there is access without an authority, or an authority that \
         cannot be one",
    );
}
