//! What a body asks for, as far as the gateway has to know: the model, whether the answer is to be
//! streamed, whose request it is, and what its prompt has in common with others. The body itself
//! is passed on as it came; it is read once here, and checked on the way for what a worker might
//! read differently: a key that stands twice, text that is none, nesting without end.

use std::fmt;

use berth_routing::chance::mix_both;
use berth_routing::{Blocks, Request};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// How deeply lists and objects may stand in each other.
const DEPTH_MAX: u32 = 32;
/// Bytes of a prompt in a block, and the tokens that are taken for them.
const BLOCK_BYTES: usize = 256;
const BYTES_PER_TOKEN: usize = 4;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Asked {
    /// `None` where nothing was said.
    pub model: Option<String>,
    /// Anything but `true` is not for the gateway to judge.
    pub is_stream: bool,
    pub routing: Request,
}

/// Why a body is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BadBody {
    pub message: String,
    /// The key that it is about.
    pub param: Option<&'static str>,
}

/// Reads the body of a request of OpenAI's API.
pub(crate) fn read(body: &[u8]) -> Result<Asked, BadBody> {
    let of = |message: String, param| BadBody { message, param };
    let text = std::str::from_utf8(body).map_err(|error| {
        of(format!("the body is not UTF-8 behind byte {}", error.valid_up_to()), None)
    })?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let found = reader.deserialize_any(Top).and_then(|found| reader.end().map(|()| found));
    let found = found.map_err(|error| {
        let about_model = error.to_string().contains("`model`");
        of(format!("the body is not as it should be: {error}"), about_model.then_some("model"))
    })?;
    Ok(found.into())
}

/// What the visitors gather.
#[derive(Default)]
struct Found {
    model: Option<String>,
    is_stream: bool,
    user: Option<String>,
    cache_key: Option<String>,
    prompt: Prompt,
}

impl From<Found> for Asked {
    fn from(found: Found) -> Asked {
        let salt = found.model.as_deref().map_or(0, |model| digest(model.as_bytes()));
        let key = found.cache_key.or(found.user);
        let tokens = found.prompt.bytes.div_ceil(BYTES_PER_TOKEN);
        let hashes = found.prompt.blocks.into_iter().map(|hash| mix_both(salt, hash));
        let tokens_each = u32::try_from(BLOCK_BYTES / BYTES_PER_TOKEN).unwrap_or(u32::MAX);
        let routing = Request {
            prompt_tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            key: key.map(|key| digest(key.as_bytes())),
            prefix: Blocks { hashes: hashes.collect(), tokens_each },
        };
        Asked { model: found.model, is_stream: found.is_stream, routing }
    }
}

/// The text of a prompt in blocks: the number of each stands for it and all before it.
#[derive(Default)]
struct Prompt {
    bytes: usize,
    chain: u64,
    pending: Vec<u8>,
    blocks: Vec<u64>,
}

impl Prompt {
    fn add(&mut self, text: &str) {
        self.bytes += text.len();
        // What ends one text and begins the next is part of it.
        for part in [text.as_bytes(), &[0]] {
            self.pending.extend_from_slice(part);
        }
        let whole = self.pending.len() / BLOCK_BYTES * BLOCK_BYTES;
        for block in self.pending[..whole].chunks_exact(BLOCK_BYTES) {
            self.chain = mix_both(self.chain, digest(block));
            self.blocks.push(self.chain);
        }
        self.pending.drain(..whole);
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    };
    bytes.chunks(8).fold(bytes.len() as u64, |hash, chunk| mix_both(hash, word(chunk)))
}

/// The object that a body is.
struct Top;

impl<'de> Visitor<'de> for Top {
    type Value = Found;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found::default();
        let mut has_model = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "model" => {
                    if std::mem::replace(&mut has_model, true) {
                        return Err(A::Error::custom("`model` stands twice"));
                    }
                    found.model = Some(map.next_value::<ModelName>()?.0);
                }
                "stream" => {
                    let said = map.next_value_seed(Inside::plain())?;
                    found.is_stream = matches!(said, Plain::True);
                }
                "user" => found.user = map.next_value_seed(Inside::plain())?.text(),
                "prompt_cache_key" => {
                    found.cache_key = map.next_value_seed(Inside::plain())?.text();
                }
                "messages" | "prompt" | "input" | "instructions" => {
                    let inside = Inside { depth: 1, prompt: Some(&mut found.prompt) };
                    map.next_value_seed(inside)?;
                }
                _ => drop(map.next_value_seed(Inside::plain())?),
            }
        }
        Ok(found)
    }
}

struct ModelName(String);

impl<'de> serde::Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ModelName, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = ModelName;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text for `model`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ModelName, E> {
                Ok(ModelName(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Any value: it is read whole, so that what is no JSON is found, and kept only where it is plain.
struct Inside<'a> {
    depth: u32,
    prompt: Option<&'a mut Prompt>,
}

/// A value that is no list and no object.
enum Plain {
    True,
    Text(String),
    Other,
}

impl Plain {
    fn text(self) -> Option<String> {
        match self {
            Plain::Text(text) => Some(text),
            Plain::True | Plain::Other => None,
        }
    }
}

impl Inside<'_> {
    fn plain() -> Self {
        Inside { depth: 1, prompt: None }
    }

    fn deeper<E: serde::de::Error>(&mut self) -> Result<Inside<'_>, E> {
        let depth = self.depth + 1;
        if depth > DEPTH_MAX {
            return Err(E::custom(format!("more than {DEPTH_MAX} levels")));
        }
        Ok(Inside { depth, prompt: self.prompt.as_deref_mut() })
    }
}

impl<'de> DeserializeSeed<'de> for Inside<'_> {
    type Value = Plain;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Plain, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Inside<'_> {
    type Value = Plain;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Plain, E> {
        Ok(if value { Plain::True } else { Plain::Other })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Plain, E> {
        Ok(Plain::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Plain, E> {
        Ok(Plain::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Plain, E> {
        Ok(Plain::Other)
    }

    fn visit_unit<E>(self) -> Result<Plain, E> {
        Ok(Plain::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Plain, E> {
        match self.prompt {
            Some(prompt) => {
                prompt.add(text);
                Ok(Plain::Other)
            }
            None => Ok(Plain::Text(text.to_owned())),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Plain, A::Error> {
        while list.next_element_seed(self.deeper()?)?.is_some() {}
        Ok(Plain::Other)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Plain, A::Error> {
        while map.next_key::<String>()?.is_some() {
            map.next_value_seed(self.deeper()?)?;
        }
        Ok(Plain::Other)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn refused(body: &[u8]) -> BadBody {
        match read(body) {
            Ok(asked) => panic!("{}: {asked:?}", String::from_utf8_lossy(body)),
            Err(bad) => bad,
        }
    }

    #[test]
    fn what_is_needed_is_found_wherever_it_stands() {
        let body = br#" { "messages": [{"role": "user", "content": "hi", "n": [1, 2.5, null]}],
            "temperature": 1e30, "stream": true, "max_tokens": -1, "seed": 123456789012345678901,
            "model": "meta/llama", "user": "ann" } "#;
        let asked = read(body).unwrap();
        assert_eq!((asked.model.as_deref(), asked.is_stream), (Some("meta/llama"), true));
        assert_eq!(asked.routing.prompt_tokens, 2, "user and hi");
        assert_eq!(asked.routing.prefix.hashes.len(), 0);
        let keyed = |more: &str| read(format!("{{{more}\"user\": \"ann\"}}").as_bytes()).unwrap();
        assert_eq!(keyed("").routing.key, asked.routing.key);
        assert_ne!(keyed("\"prompt_cache_key\": \"k\", ").routing.key, asked.routing.key);
        assert_eq!(read(b"{}").unwrap(), Asked { model: None, ..read(b"{}").unwrap() });
        assert!(!read(br#"{"stream": "yes"}"#).unwrap().is_stream);
    }

    #[test]
    fn prompts_that_begin_alike_have_their_first_blocks_in_common() {
        let blocks = |model: &str, tail: &str| {
            let body = serde_json::json!({
                "model": model,
                "messages": [
                    { "role": "system", "content": "x".repeat(1_000) },
                    { "role": "user", "content": tail },
                ],
            });
            read(body.to_string().as_bytes()).unwrap().routing.prefix
        };
        let (one, other) = (blocks("a", &"y".repeat(600)), blocks("a", &"z".repeat(600)));
        assert_eq!((one.hashes.len(), one.tokens_each), (6, 64));
        assert_eq!(one.hashes[..3], other.hashes[..3]);
        assert!(one.hashes.iter().zip(&other.hashes).skip(4).all(|(one, other)| one != other));
        assert_ne!(blocks("b", "").hashes[0], one.hashes[0], "another model's cache");
        let (split, joined) =
            (read(br#"{"prompt": ["ab", "c"]}"#), read(br#"{"prompt": ["a", "bc"]}"#));
        assert_eq!(split.unwrap().routing.prompt_tokens, joined.unwrap().routing.prompt_tokens);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused_with_its_place() {
        let twice = refused(br#"{"model": "a", "model": "a"}"#);
        assert_eq!(twice.param, Some("model"));
        assert!(twice.message.contains("`model` stands twice at line 1 column"), "{twice:?}");
        let other = refused(br#"{"model": 3}"#);
        assert_eq!(other.param, Some("model"), "{other:?}");
        assert!(other.message.contains("expected a text for `model`"), "{other:?}");
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(40), "]".repeat(40));
        assert!(refused(deep.as_bytes()).message.contains("more than 32 levels"));
        let fine = format!("{{\"a\": {}{}}}", "[".repeat(31), "]".repeat(31));
        assert!(read(fine.as_bytes()).is_ok());
        assert!(refused(b"{\"a\": \"\xff\"}").message.contains("not UTF-8 behind byte 7"));
        for body in [
            &b""[..],
            b"hello",
            b"[1]",
            b"3",
            b"{\"a\": 1",
            b"{\"a\": 1} x",
            b"{\"a\": \"\\ud800\"}",
            b"{\"a\": [{\"b\": \"\\ud800\"}]}",
            b"{\"a\": 1,}",
            b"{'a': 1}",
            b"{\"a\": NaN}",
        ] {
            assert!(refused(body).message.contains("column"), "{}", String::from_utf8_lossy(body));
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let plain = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        plain.prop_recursive(8, 48, 4, |inner| {
            let map = prop::collection::btree_map(".{0,6}", inner.clone(), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                map.prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// The keys that are looked at, with whatever a caller may put there, among others.
    fn body() -> impl Strategy<Value = Map<String, Value>> {
        let key = prop::sample::select(vec![
            "model",
            "stream",
            "user",
            "prompt_cache_key",
            "messages",
            "prompt",
            "input",
            "n",
        ]);
        let model = (Just("model"), "[a-z/]{0,8}".prop_map(Value::from));
        let stream = (Just("stream"), any::<bool>().prop_map(Value::from));
        let any = (key, value());
        let pair = prop_oneof![3 => model, 2 => stream, 4 => any];
        prop::collection::vec(pair, 0..8).prop_map(|pairs| {
            pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// Another reader of JSON finds the same, or nobody takes it.
        #[test]
        fn any_body_is_read_as_others_read_it(
            body in body(),
            harm in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..3),
        ) {
            let mut bytes = serde_json::to_vec(&body).unwrap();
            for (place, byte, how) in &harm {
                let place = place.index(bytes.len().max(1));
                match how {
                    0 if place < bytes.len() => bytes[place] = *byte,
                    1 => bytes.truncate(place),
                    _ => bytes.insert(place.min(bytes.len()), *byte),
                }
            }
            let other = serde_json::from_slice::<Map<String, Value>>(&bytes);
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            match (read(&bytes), other) {
                (Ok(asked), Ok(other)) => {
                    let model = other.get("model").and_then(Value::as_str);
                    prop_assert_eq!(asked.model.as_deref(), model, "{}", shown);
                    let is_stream = other.get("stream") == Some(&Value::Bool(true));
                    prop_assert_eq!(asked.is_stream, is_stream, "{}", shown);
                }
                (Ok(asked), Err(error)) => prop_assert!(false, "{asked:?}, but {error}: {shown}"),
                // Harm may have given it a second model.
                (Err(bad), Ok(other)) => {
                    let has_name = other.get("model").is_none_or(Value::is_string);
                    let stands_twice = bad.message.contains("stands twice");
                    prop_assert!(stands_twice || !has_name, "{bad:?}: {shown}");
                }
                (Err(_), Err(_)) => {}
            }
        }
    }
}
