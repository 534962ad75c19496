mod fixture;

use berth_state::Command;
use bytes::{BufMut as _, BytesMut};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::arbitrary;

fn entry(commands: Vec<Command>) -> Entry {
    Entry { state_ms: StateMs(5), wall_ms: WallMs(6), proposer: "0.1.0".into(), commands }
}

/// The entry as a later version would write it, by way of its message.
fn changed(change: impl FnOnce(&mut v1::Entry)) -> Vec<u8> {
    let bytes = encode_entry(&entry(vec![fixture::submit()]));
    let mut proto = v1::Entry::decode(bytes).unwrap();
    change(&mut proto);
    proto.encode_to_vec()
}

fn submit_of(proto: &mut v1::Entry) -> &mut v1::Submit {
    let Some(v1::command::Command::Submit(submit)) = &mut proto.commands[0].command else {
        panic!("the first command is a submit");
    };
    submit
}

proptest! {
    #[test]
    fn entries_survive_the_log(entry in arbitrary::log::entry()) {
        let bytes = encode_entry(&entry);
        prop_assert_eq!(decode_entry(&bytes), Ok(entry));
    }

    /// The encoder writes entries piece by piece; the message written whole is
    /// the same bytes.
    #[test]
    fn the_encoder_writes_what_protobuf_would(entry in arbitrary::log::entry()) {
        let bytes = encode_entry(&entry);
        let proto = v1::Entry::decode(bytes.clone()).unwrap();
        prop_assert_eq!(proto.encode_to_vec(), bytes.clone());
        let mut encoder = EntryEncoder::new(entry.state_ms, entry.wall_ms, &entry.proposer);
        let mut expected = encoder.bytes();
        for command in &entry.commands {
            expected += encoded_len(command);
            encoder.push(command).unwrap();
            prop_assert_eq!(encoder.bytes(), expected);
        }
        prop_assert_eq!(encoder.commands(), entry.commands.len());
        prop_assert_eq!(encoder.finish(), bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(read) = decode_entry(&bytes) {
            prop_assert_eq!(decode_entry(&encode_entry(&read)), Ok(read));
        }
    }

    /// Checksums are the log store's; here damage must only never panic nor
    /// make what no entry can be.
    #[test]
    fn a_damaged_entry_is_refused_or_is_an_entry(
        entry in arbitrary::log::entry(),
        position in any::<prop::sample::Index>(),
        bits in 1..=255u8,
    ) {
        let mut bytes = encode_entry(&entry).to_vec();
        let at = position.index(bytes.len());
        bytes[at] ^= bits;
        if let Ok(read) = decode_entry(&bytes) {
            prop_assert_eq!(decode_entry(&encode_entry(&read)), Ok(read));
        }
    }

    #[test]
    fn a_truncated_entry_is_refused_or_has_fewer_commands(
        entry in arbitrary::log::entry(),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = encode_entry(&entry);
        let length = cut.index(bytes.len());
        if let Ok(read) = decode_entry(&bytes[..length]) {
            prop_assert_ne!(read, entry);
        }
    }
}

#[test]
fn version_1_is_read_and_written_as_it_was() {
    let now = arbitrary::to_hex(&encode_entry(&fixture::entry()));
    assert_eq!(now, fixture::HEX, "the frozen encoding has changed; it would now be:\n{now}");
    let read = decode_entry(&arbitrary::from_hex(fixture::HEX)).unwrap();
    assert_eq!(read, fixture::entry());
}

#[test]
fn a_later_schema_stops_the_reader() {
    let check = |bytes: &[u8], writer: &str| {
        let error = decode_entry(bytes).unwrap_err();
        let writer = writer.to_owned();
        assert_eq!(error, DecodeError::UnknownSchema { found: 2, known: 1, writer });
        assert!(error.needs_newer());
    };
    check(&changed(|proto| (proto.schema, proto.proposer) = (2, "7.1.0".into())), "7.1.0");
    // Schema 2, in which field 2 has become a text.
    check(&[0x08, 2, 0x12, 1, b'x'], "");
    let error = decode_entry(&changed(|proto| proto.schema = 2)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "has schema 2, this version knows up to 1; version 0.1.0 or later of berth is needed"
    );
}

#[test]
fn an_entry_without_a_schema_is_no_entry() {
    let missing = DecodeError::Invalid { field: "schema".into(), reason: "is missing".into() };
    assert!(!missing.needs_newer());
    assert_eq!(decode_entry(&[]), Err(missing.clone()));
    assert_eq!(decode_entry(&changed(|proto| proto.schema = 0)), Err(missing));
}

#[test]
fn an_unknown_kind_of_command_stops_the_reader() {
    let mut bytes = BytesMut::from(&encode_entry(&entry(vec![fixture::submit()]))[..]);
    // A second command, of kind 900, without fields.
    bytes.put_slice(&[5 << 3 | 2, 3]);
    prost::encoding::encode_varint(900 << 3 | 2, &mut bytes);
    bytes.put_u8(0);
    let error = decode_entry(&bytes).unwrap_err();
    let (field, writer) = ("commands[1]".to_owned(), "0.1.0".to_owned());
    assert_eq!(error, DecodeError::UnknownKind { field, writer });
    assert!(error.needs_newer());
    let unset = changed(|proto| proto.commands[0].command = None);
    assert!(matches!(decode_entry(&unset), Err(DecodeError::UnknownKind { .. })));
}

#[test]
fn an_unknown_field_stops_the_reader_wherever_it_is() {
    let check = |bytes: &[u8], extra: usize| {
        let error = decode_entry(bytes).unwrap_err();
        assert_eq!(error, DecodeError::UnknownFields { bytes: extra, writer: "0.1.0".into() });
        assert!(error.needs_newer());
    };
    let mut outside = BytesMut::from(&encode_entry(&entry(vec![]))[..]);
    for field in 1000..11_000u32 {
        prost::encoding::encode_varint(u64::from(field) << 3, &mut outside);
        outside.put_u8(1);
    }
    let extra = outside.len() - encode_entry(&entry(vec![])).len();
    check(&outside, extra);
    // Inside a command: `ExpireJob { job: 3, field 9: 1 }`.
    let mut inside = BytesMut::from(&encode_entry(&entry(vec![]))[..]);
    inside.put_slice(&[5 << 3 | 2, 6, 13 << 3 | 2, 4, 1 << 3, 3, 9 << 3, 1]);
    check(&inside, 2);
}

#[test]
fn an_unknown_value_stops_the_reader() {
    let bytes = changed(|proto| submit_of(proto).spec.as_mut().unwrap().policy = 99);
    let error = decode_entry(&bytes).unwrap_err();
    let (field, writer) = ("commands[0].spec.policy".to_owned(), "0.1.0".to_owned());
    assert_eq!(error, DecodeError::UnknownValue { field, value: 99, writer });
    assert!(error.needs_newer());
}

/// What a token gives is never guessed: not from a number that a later version
/// has given a meaning, nor from one that was left out.
#[test]
fn a_role_a_machine_or_a_scope_that_is_not_known_stops_the_reader() {
    use v1::grant::{Grant, Join, Person};
    let check = |grant: Option<Grant>, expected: &str| {
        let bytes = changed(|proto| {
            let grant = Some(v1::Grant { grant });
            let secret_hash = vec![0; 32].into();
            let token = Some(v1::NewToken { grant, secret_hash, ..v1::NewToken::default() });
            let kind = v1::command::Command::CreateToken(v1::CreateToken { token });
            proto.commands[0].command = Some(kind);
        });
        assert_eq!(decode_entry(&bytes).unwrap_err().to_string(), expected);
    };
    let all = v1::Scope { scope: Some(v1::scope::Scope::All(v1::scope::All {})) };
    let person = |role, scope| Some(Grant::Person(Person { role, scope }));
    let join = |machine| Some(Grant::Join(Join { machine, name: None, pool: None }));
    let newer = |field: &str| {
        format!(
            "commands[0].token.grant.{field} has the value 5, which this version does not know; \
             version 0.1.0 or later of berth is needed"
        )
    };
    check(person(5, Some(all.clone())), &newer("role"));
    check(join(5), &newer("machine"));
    let garbled = |what: &str| format!("is garbled: commands[0].token.grant{what}");
    check(person(0, Some(all)), &garbled(".role: is not specified"));
    check(join(0), &garbled(".machine: is not specified"));
    check(person(1, None), &garbled(".scope: is missing"));
    check(person(1, Some(v1::Scope::default())), &garbled(".scope: is missing"));
    check(None, &garbled(": is missing"));
    let names = vec!["ads".to_owned(), "ads".to_owned()];
    let twice = v1::scope::Scope::Namespaces(v1::scope::Namespaces { names });
    check(
        person(1, Some(v1::Scope { scope: Some(twice) })),
        &garbled(".scope.names: a namespace is there twice"),
    );
}

#[test]
fn what_is_missing_or_malformed_is_named() {
    let check = |bytes: &[u8], expected: &str| {
        let error = decode_entry(bytes).unwrap_err();
        assert!(!error.needs_newer(), "{error:?}");
        assert_eq!(error.to_string(), expected);
    };
    check(
        &changed(|proto| submit_of(proto).spec = None),
        "is garbled: commands[0].spec: is missing",
    );
    check(
        &changed(|proto| submit_of(proto).spec.as_mut().unwrap().kind = 0),
        "is garbled: commands[0].spec.kind: is not specified",
    );
    check(
        &changed(|proto| submit_of(proto).digest = vec![0; 31].into()),
        "is garbled: commands[0].digest: expected 32 bytes, found 31",
    );
    let change = v1::ChangeJob { job: 1, if_version: None, change: None };
    check(
        &changed(|proto| {
            let kind = v1::command::Command::ChangeJob(change);
            proto.commands[0].command = Some(kind);
        }),
        "is garbled: commands[0].change: is missing",
    );
    let twice = [&[0x08, 1][..], &encode_entry(&entry(vec![]))[..]].concat();
    assert!(decode_entry(&twice).is_err(), "a field that is written twice");
}

#[test]
fn deep_nesting_is_refused_without_overflowing_the_stack() {
    let mut bytes = BytesMut::from(&encode_entry(&entry(vec![]))[..]);
    for _ in 0..100_000 {
        prost::encoding::encode_varint(100 << 3 | 3, &mut bytes);
    }
    assert!(matches!(decode_entry(&bytes), Err(DecodeError::Garbled(_))));
}

/// Whatever may be submitted can be placed, with all numbers as large as they will be for years.
#[test]
fn the_plan_of_the_largest_gang_fits_an_entry() {
    let check = |count: u32, gpus: u32, ports: usize| {
        let name = |text: String| berth_model::Name::new(&text).unwrap();
        let ports: Vec<_> = (0..ports).map(|port| name(format!("port-{port}"))).collect();
        let task = berth_model::TaskSpec {
            count,
            gpu: Some(berth_model::GpuRequest::whole(gpus)),
            ports,
            ..berth_model::TaskSpec::new(name("main".into()), berth_model::JobKind::Batch, vec![])
        };
        assert!(task.plan_bytes() <= berth_model::GANG_PLAN_BYTES_MAX);
        let placements = (0..count).map(|instance| fixture::member(instance, &task)).collect();
        let found = encoded_len(&Command::Place { placements }) as u64;
        assert!(found <= task.plan_bytes() + 256, "{found} of {count} x {gpus}");
    };
    check(1024, 1, 0);
    check(500, 4, 0);
    check(128, 8, 10);
    check(300, 8, 0);
}

#[test]
fn an_entry_is_filled_up_to_its_limits() {
    let mut encoder = EntryEncoder::new(StateMs(1), WallMs(2), "0.1.0");
    let expire = Command::ExpireJob { job: berth_model::JobId(1) };
    for _ in 0..COMMANDS_MAX {
        encoder.push(&expire).unwrap();
    }
    assert_eq!(encoder.push(&expire), Err(NoRoom::Commands));
    let mut encoder = EntryEncoder::new(StateMs(1), WallMs(2), "0.1.0");
    let submit = fixture::submit();
    let mut pushed = 0;
    let refused = loop {
        match encoder.push(&fixture::padded(8000)) {
            Ok(()) => pushed += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(pushed, 8);
    assert!(matches!(refused, NoRoom::Bytes { found } if found > ENTRY_BYTES_MAX));
    // What is smaller still goes in, and the refusal left no trace.
    encoder.push(&submit).unwrap();
    assert!(encoder.bytes() <= ENTRY_BYTES_MAX);
    let read = decode_entry(&encoder.finish()).unwrap();
    assert_eq!(read.commands.len(), 9);
    assert_eq!(read.commands[8], submit);
}
