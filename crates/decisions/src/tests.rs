use berth_model::{AllocationId, Attempt, InstanceIndex, JobId, RoutingPolicy, TaskIndex};
use berth_routing::record::{Happening, Picked};
use berth_routing::{
    Blocks, Decision, GatewayUs, Member, NoReplica, Outcome, Reason, Request, Score, Signals,
    SpanUs,
};
use proptest::prelude::*;

use super::*;

fn id() -> impl Strategy<Value = AllocationId> {
    (any::<u64>(), any::<u16>(), any::<u32>(), any::<u32>()).prop_map(
        |(job, task, instance, attempt)| AllocationId {
            job: JobId(job),
            task: TaskIndex(task),
            instance: InstanceIndex(instance),
            attempt: Attempt(attempt),
        },
    )
}

fn at() -> impl Strategy<Value = GatewayUs> {
    any::<u64>().prop_map(GatewayUs)
}

fn scored() -> impl Strategy<Value = (AllocationId, Score)> {
    (id(), any::<u64>(), any::<bool>())
        .prop_map(|(id, cost, is_spared)| (id, Score { is_spared, cost }))
}

fn answer() -> impl Strategy<Value = Result<(u64, Decision), NoReplica>> {
    let reason = prop::sample::select(Reason::ALL.to_vec());
    let decision = (any::<u64>(), scored(), reason, prop::option::of(scored()), 0..2_000_usize);
    prop_oneof![
        4 => decision.prop_map(|(number, (replica, score), reason, runner_up, compared)| {
            Ok((number, Decision { replica, reason, score, runner_up, compared }))
        }),
        1 => prop::sample::select(vec![NoReplica::NoneReady, NoReplica::AllFull]).prop_map(Err),
    ]
}

fn picked() -> impl Strategy<Value = Happening> {
    let prefix = prop_oneof![
        Just(Blocks::default()),
        (prop::collection::vec(any::<u64>(), 0..5), any::<u32>())
            .prop_map(|(hashes, tokens_each)| Blocks { hashes, tokens_each }),
    ];
    let request = (any::<u32>(), any::<Option<u64>>(), prefix)
        .prop_map(|(prompt_tokens, key, prefix)| Request { prompt_tokens, key, prefix });
    let tried = prop::collection::vec(id(), 0..3);
    (request, tried, any::<u64>(), at(), answer()).prop_map(
        |(request, tried, chance, at, answer)| {
            Happening::Picked(Picked { request, tried, chance, at, answer })
        },
    )
}

fn happening() -> impl Strategy<Value = Happening> {
    let policy = || prop::sample::select(RoutingPolicy::ALL.to_vec());
    let member = (id(), any::<u32>(), any::<u8>(), any::<Option<u32>>())
        .prop_map(|(id, weight_milli, tier, limit)| Member { id, weight_milli, tier, limit });
    let outcome = prop_oneof![
        prop::sample::select(vec![
            Outcome::Answered,
            Outcome::Declined,
            Outcome::Failed,
            Outcome::Left,
        ]),
        any::<u64>().prop_map(|us| Outcome::Overloaded { spare_for: SpanUs(us) }),
    ];
    let signals = (any::<Option<u32>>(), any::<Option<u32>>(), any::<Option<u32>>())
        .prop_map(|(running, waiting, kv_milli)| Signals { running, waiting, kv_milli });
    prop_oneof![
        policy().prop_map(|policy| Happening::Begun { policy }),
        policy().prop_map(|policy| Happening::Policy { policy }),
        (prop::collection::vec(member, 0..4), at())
            .prop_map(|(members, at)| Happening::Members { members, at }),
        picked(),
        (any::<u64>(), at()).prop_map(|(number, at)| Happening::FirstByte { number, at }),
        (any::<u64>(), outcome, at()).prop_map(|(number, outcome, at)| Happening::Finished {
            number,
            outcome,
            at
        }),
        (id(), signals, at()).prop_map(|(replica, signals, at)| Happening::Reported {
            replica,
            signals,
            at
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (any::<u64>(), happening())
            .prop_map(|(pool, happening)| Event::Happened { pool, happening }),
        1 => (any::<u64>(), ".{0,9}").prop_map(|(pool, service)| Event::Service { pool, service }),
        1 => prop::sample::select(vec![Ended::Full, Ended::TooSlow]).prop_map(Event::Ended),
    ]
}

fn begun() -> String {
    line(&Event::Recording { writer: "berth test".to_owned() })
}

/// All events behind the first, and what ended them.
fn all(text: &[u8]) -> (Vec<Event>, Option<String>) {
    let (mut reader, _) = Reader::open(text).unwrap();
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(event)) => events.push(event),
            Ok(None) => return (events, None),
            Err(error) => return (events, Some(error.to_string())),
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_it_was(events in prop::collection::vec(event(), 0..20)) {
        let mut text = begun();
        events.iter().for_each(|event| text += &line(event));
        prop_assert_eq!(all(text.as_bytes()), (events, None));
    }

    /// Nothing that a file may have become makes a reader stop but with an error.
    #[test]
    fn whatever_stands_there_is_read_or_told(
        events in prop::collection::vec(event(), 1..4),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut text = begun();
        let from = text.len();
        events.iter().for_each(|event| text += &line(event));
        let mut bytes = text.into_bytes();
        let place = from + place.index(bytes.len() - from);
        bytes[place] = byte;
        let (read, error) = all(&bytes);
        prop_assert!(error.is_some() || read.len() >= events.len());
        let (_, error) = all(&bytes[..place]);
        prop_assert!(error.is_none_or(|error| error.contains("is not whole")));
    }
}

#[test]
fn lines_are_there_for_people() {
    let id = |number| AllocationId {
        job: JobId(7),
        instance: InstanceIndex(number),
        attempt: Attempt(1),
        ..AllocationId::default()
    };
    let score = |cost| Score { is_spared: false, cost };
    let decision = Decision {
        replica: id(0),
        reason: Reason::LeastWork,
        score: score(120),
        runner_up: Some((id(1), Score { is_spared: true, cost: 90 })),
        compared: 2,
    };
    let picked = Picked {
        request: Request { prompt_tokens: 30, ..Request::default() },
        tried: Vec::new(),
        chance: 255,
        at: GatewayUs(5),
        answer: Ok((3, decision)),
    };
    assert_eq!(
        line(&Event::Happened { pool: 1, happening: Happening::Picked(picked) }),
        "{\"event\":\"picked\",\"pool\":1,\"at_us\":5,\"number\":3,\
         \"replica\":{\"id\":\"7.0.0.1\",\"cost\":120},\"reason\":\"least-work\",\
         \"runner_up\":{\"id\":\"7.0.1.1\",\"cost\":90,\"spared\":true},\"compared\":2,\
         \"prompt_tokens\":30,\"chance\":\"00000000000000ff\"}\n"
    );
}

#[test]
fn what_is_no_record_or_of_another_format_is_told() {
    let refused = |text: &str| Reader::open(text.as_bytes()).err().unwrap().to_string();
    for text in ["", "{}\n", "hello\n", "{\"event\":\"begun\",\"pool\":1,\"policy\":\"auto\"}\n"] {
        assert_eq!(refused(text), "does not begin as a record of decisions does", "{text}");
    }
    assert_eq!(
        refused("{\"event\":\"recording\",\"format\":2,\"writer\":\"berth 9\"}\n"),
        "line 1: format 2, written by berth 9; this version reads 1"
    );
}

#[test]
fn a_line_that_is_wrong_is_told_with_its_number() {
    let bytes = |second: &str| format!("{}{second}\n", begun()).into_bytes();
    for (second, expected) in [
        (
            "{\"event\":\"begun\",\"pool\":1,\"policy\":\"none\"}",
            "line 2: no policy has the name `none`",
        ),
        ("{\"event\":\"begun\"}", "line 2: no event: missing field `pool`"),
        (
            "{\"event\":\"finished\",\"pool\":1,\"at_us\":1,\"number\":1,\"outcome\":\"overloaded\"}",
            "line 2: no outcome is `overloaded`, and overloaded alone has `spare_for_us`, and always",
        ),
        (
            "{\"event\":\"picked\",\"pool\":1,\"at_us\":1,\"prompt_tokens\":1,\"chance\":\"0\"}",
            "line 2: needs `number`, `replica`, `reason` and `compared`, or `none` as none-ready or all-full",
        ),
        ("{\"event\":\"reported\",\"pool\":1,\"at_us\":1,\"replica\":\"x\"}", "line 2: "),
        ("", "line 2: no event: EOF while parsing a value"),
    ] {
        let (_, error) = all(&bytes(second));
        let error = error.unwrap();
        assert!(error.starts_with(expected), "{error}");
    }
}
