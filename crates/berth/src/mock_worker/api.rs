//! OpenAI's API, as far as a stand-in needs it: what comes in is read like an engine would, what
//! goes out has the shape of an engine's answers, and the words mean nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::{get, post};
use berth_sim::serve::{Blocks, Work};
use serde_json::{Value, json};

use super::engine::{Asked, Orders};

/// Bytes of a prompt that are taken for a token.
const BYTES_PER_TOKEN: usize = 4;
/// What is written where nobody says how much.
const TOKENS_USUAL: u64 = 16;
const TOKENS_MAX: u64 = 100_000;
const DIMENSIONS: usize = 8;
const WORDS: [&str; 8] = ["one", "two", "three", "four", "five", "six", "seven", "eight"];

pub struct Worker {
    pub model: String,
    pub orders: Orders,
    pub asked: AtomicU64,
}

/// Which of the two ways of asking for a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Chat,
    Completion,
}

pub fn router(worker: Worker) -> Router {
    Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(complete))
        .route("/v1/embeddings", post(embed))
        .with_state(Arc::new(worker))
}

type Answer = Response<Body>;

async fn chat(State(worker): State<Arc<Worker>>, headers: HeaderMap, body: Bytes) -> Answer {
    write(&worker, Shape::Chat, &headers, &body).await
}

async fn complete(State(worker): State<Arc<Worker>>, headers: HeaderMap, body: Bytes) -> Answer {
    write(&worker, Shape::Completion, &headers, &body).await
}

/// What is wrong with a request, as an engine says it.
fn refused(status: StatusCode, message: &str, param: Option<&str>) -> Answer {
    let error = json!({ "error": {
        "message": message, "type": "invalid_request_error", "param": param, "code": null,
    } });
    whole(status, &error)
}

fn whole(status: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(Body::from(value.to_string()));
    *answer.status_mut() = status;
    let content = axum::http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert("content-type", content);
    answer
}

/// The body, with the model that it must name.
fn read(worker: &Worker, body: &[u8]) -> Result<Value, Box<Answer>> {
    let bad = |message: &str, param| Box::new(refused(StatusCode::BAD_REQUEST, message, param));
    let body: Value =
        serde_json::from_slice(body).map_err(|error| bad(&error.to_string(), None))?;
    match body.get("model").and_then(Value::as_str) {
        Some(model) if model == worker.model => Ok(body),
        Some(model) => {
            let message = format!("the model `{model}` does not exist");
            Err(Box::new(refused(StatusCode::NOT_FOUND, &message, Some("model"))))
        }
        None => Err(bad("`model` is missing", Some("model"))),
    }
}

/// All texts of a value, in order.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(list) => list.iter().for_each(|one| texts(one, found)),
        Value::Object(map) => map.values().for_each(|one| texts(one, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn tokens_of(value: Option<&Value>) -> u64 {
    let mut found = Vec::new();
    if let Some(value) = value {
        texts(value, &mut found);
    }
    let bytes: usize = found.iter().map(|text| text.len()).sum();
    bytes.div_ceil(BYTES_PER_TOKEN).max(1) as u64
}

/// What one answer needs to know of its request.
struct Told {
    id: String,
    created: u64,
    model: String,
    shape: Shape,
    prompt_tokens: u64,
    output_tokens: u64,
    with_usage: bool,
}

async fn write(worker: &Worker, shape: Shape, headers: &HeaderMap, body: &[u8]) -> Answer {
    let body = match read(worker, body) {
        Ok(body) => body,
        Err(refused) => return *refused,
    };
    let limit = ["max_completion_tokens", "max_tokens"].iter().find_map(|key| body.get(key));
    let output_tokens = match limit {
        None | Some(Value::Null) => TOKENS_USUAL,
        Some(limit) => match limit.as_u64().filter(|tokens| (1..=TOKENS_MAX).contains(tokens)) {
            Some(tokens) => tokens,
            None => {
                let message = format!("max_tokens: expected 1 to {TOKENS_MAX}, found {limit}");
                return refused(StatusCode::BAD_REQUEST, &message, Some("max_tokens"));
            }
        },
    };
    let prompt = match shape {
        Shape::Chat => body.get("messages"),
        Shape::Completion => body.get("prompt"),
    };
    let number = worker.asked.fetch_add(1, Ordering::Relaxed);
    // As engines do: the caller's id, if there is one, comes back in that of the answer.
    let callers_id = headers.get("x-request-id").and_then(|id| id.to_str().ok());
    let told = Told {
        id: callers_id.map_or_else(|| format!("mock-{number}"), |id| format!("mock-{id}")),
        created: now(),
        model: worker.model.clone(),
        shape,
        prompt_tokens: tokens_of(prompt),
        output_tokens,
        with_usage: body["stream_options"]["include_usage"] == true,
    };
    let asked = worker.orders.ask(Work {
        id: number,
        prompt_tokens: told.prompt_tokens,
        output_tokens,
        prefix: Blocks::default(),
    });
    if body["stream"] == true { stream(told, asked) } else { all(&told, asked).await }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn word(position: u64) -> String {
    let word = WORDS[usize::try_from(position).unwrap_or(0) % WORDS.len()];
    if position == 0 { word.to_owned() } else { format!(" {word}") }
}

impl Told {
    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.prompt_tokens + self.output_tokens,
        })
    }

    /// What an answer says that it is, whole and in pieces.
    fn objects(&self) -> [&'static str; 2] {
        match self.shape {
            Shape::Chat => ["chat.completion", "chat.completion.chunk"],
            Shape::Completion => ["text_completion", "text_completion"],
        }
    }

    fn answer(&self, object: &str, choices: &Value, usage: Option<Value>) -> Value {
        let mut answer = json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            answer["usage"] = usage;
        }
        answer
    }

    /// The event of a token; the last says that it is.
    fn event(&self, position: u64) -> String {
        let is_last = position + 1 == self.output_tokens;
        let reason = is_last.then_some("length");
        let text = word(position);
        let choice = match self.shape {
            Shape::Chat if position == 0 => json!({
                "index": 0, "finish_reason": reason,
                "delta": { "role": "assistant", "content": text },
            }),
            Shape::Chat => json!({
                "index": 0, "finish_reason": reason, "delta": { "content": text },
            }),
            Shape::Completion => json!({ "index": 0, "finish_reason": reason, "text": text }),
        };
        let usage = self.with_usage.then_some(Value::Null);
        let chunk = self.answer(self.objects()[1], &json!([choice]), usage);
        let mut event = format!("data: {chunk}\n\n");
        if is_last {
            if self.with_usage {
                let chunk = self.answer(self.objects()[1], &json!([]), Some(self.usage()));
                event += &format!("data: {chunk}\n\n");
            }
            event += "data: [DONE]\n\n";
        }
        event
    }
}

async fn all(told: &Told, mut asked: Asked) -> Answer {
    let mut text = String::new();
    let mut position = 0;
    while asked.tokens.recv().await.is_some() {
        text += &word(position);
        position += 1;
    }
    let choice = match told.shape {
        Shape::Chat => json!({
            "index": 0, "finish_reason": "length",
            "message": { "role": "assistant", "content": text },
        }),
        Shape::Completion => json!({ "index": 0, "finish_reason": "length", "text": text }),
    };
    whole(StatusCode::OK, &told.answer(told.objects()[0], &json!([choice]), Some(told.usage())))
}

fn stream(told: Told, asked: Asked) -> Answer {
    let events =
        futures::stream::unfold((told, asked, 0), |(told, mut asked, position)| async move {
            asked.tokens.recv().await?;
            let event = Ok::<_, std::convert::Infallible>(told.event(position));
            Some((event, (told, asked, position + 1)))
        });
    let mut answer = Response::new(Body::from_stream(events));
    let content = axum::http::HeaderValue::from_static("text/event-stream");
    answer.headers_mut().insert("content-type", content);
    answer
}

/// The same text has the same numbers, and they mean nothing.
async fn embed(State(worker): State<Arc<Worker>>, body: Bytes) -> Answer {
    let body = match read(&worker, &body) {
        Ok(body) => body,
        Err(refused) => return *refused,
    };
    let inputs = match body.get("input") {
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => list.clone(),
        Some(Value::String(text)) => vec![Value::String(text.clone())],
        _ => {
            let message = "input: expected a text or a list of texts";
            return refused(StatusCode::BAD_REQUEST, message, Some("input"));
        }
    };
    let tokens: u64 = inputs.iter().map(|input| tokens_of(Some(input))).sum();
    let data: Vec<Value> = inputs.iter().enumerate().map(|(index, input)| {
        json!({ "object": "embedding", "index": index, "embedding": numbers(input.as_str().unwrap_or_default()) })
    }).collect();
    whole(
        StatusCode::OK,
        &json!({
            "object": "list",
            "model": worker.model,
            "data": data,
            "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
        }),
    )
}

fn numbers(text: &str) -> Vec<f64> {
    let at = |position: usize| {
        let sum = text.bytes().skip(position).step_by(DIMENSIONS).map(u32::from).sum::<u32>();
        f64::from(sum % 1_000) / 1_000.0
    };
    (0..DIMENSIONS).map(at).collect()
}

/// The list of models in the shape of OpenAI's API.
async fn models(State(worker): State<Arc<Worker>>) -> Answer {
    let list = json!({
        "object": "list",
        "data": [{
            "id": worker.model, "object": "model", "created": 0, "owned_by": "berth-mock-worker",
        }],
    });
    whole(StatusCode::OK, &list)
}

/// By the names that vLLM gives them.
async fn metrics(State(worker): State<Arc<Worker>>) -> String {
    let shown = worker.orders.shown();
    let model = &worker.model;
    let lines = [
        ("num_requests_running", "gauge", shown.running as f64),
        ("num_requests_waiting", "gauge", shown.waiting as f64),
        ("kv_cache_usage_perc", "gauge", shown.held_milli as f64 / 1_000.0),
        ("prefix_cache_hits_total", "counter", shown.hit_tokens as f64),
        ("prefix_cache_queries_total", "counter", shown.prompt_tokens as f64),
        ("generation_tokens_total", "counter", shown.written_tokens as f64),
    ];
    let line = |(name, kind, value): &(&str, &str, f64)| {
        format!("# TYPE vllm:{name} {kind}\nvllm:{name}{{model_name=\"{model}\"}} {value}\n")
    };
    lines.iter().map(line).collect()
}
