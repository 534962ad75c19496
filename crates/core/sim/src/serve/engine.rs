//! One replica: an inference engine with continuous batching, chunked reading of prompts and a cache
//! of their prefixes. A step takes a fixed time, more for each answer that is being written, and the
//! time to read its part of the prompts; each answer being written grows by a token a step.
//!
//! It is a model, not a measurement. Its parts are those of vLLM's and SGLang's schedulers, and its
//! figures those that other simulators of them use ([`EngineShape::default`]).

use std::collections::VecDeque;

use berth_model::AllocationId;
use berth_routing::{Blocks, GatewayUs, PrefixIndex, SpanUs};

/// How fast a replica is, and how much it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineShape {
    /// Tokens of prompts that are read in a second.
    pub prefill_per_second: u32,
    /// Of a step.
    pub step: SpanUs,
    /// Of a step, for each answer that is being written.
    pub step_each: SpanUs,
    /// Tokens of prompts that are read in one step, at most.
    pub chunk_tokens: u32,
    /// Tokens of prompts and answers that it holds at once.
    pub kv_tokens: u64,
    /// Requests that it works on at once.
    pub batch_max: usize,
    /// 1,000 is as fast as the figures above say; 500 takes twice as long.
    pub speed_milli: u32,
}

impl Default for EngineShape {
    /// A model of eight billion parameters on one H100, as in the simulator of SGLang's gateway.
    fn default() -> EngineShape {
        EngineShape {
            prefill_per_second: 8_000,
            step: SpanUs(6_000),
            step_each: SpanUs(350),
            chunk_tokens: 2_048,
            kv_tokens: 524_288,
            batch_max: 256,
            speed_milli: 1_000,
        }
    }
}

impl EngineShape {
    /// How long a request keeps a full engine of speed 1,000 busy: reading its prompt, and its part
    /// of the steps that write its answer.
    pub fn work(&self, prompt_tokens: u64, output_tokens: u64) -> SpanUs {
        let reading = prompt_tokens * 1_000_000 / u64::from(self.prefill_per_second.max(1));
        let each = self.step.0 / (self.batch_max as u64).max(1) + self.step_each.0;
        SpanUs(reading + output_tokens * each)
    }

    fn span(&self, at_full_speed: u64) -> u64 {
        (at_full_speed * 1_000).div_ceil(u64::from(self.speed_milli.max(1))).max(1)
    }

    fn steps_time(&self, writing: usize, read_tokens: u64) -> u64 {
        let reading = read_tokens * 1_000_000 / u64::from(self.prefill_per_second.max(1));
        self.span(self.step.0 + self.step_each.0 * writing as u64 + reading)
    }
}

/// A request as the engine sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Work {
    /// The caller's own.
    pub id: u64,
    pub prompt_tokens: u64,
    /// At least 1.
    pub output_tokens: u64,
    pub prefix: Blocks,
}

/// What became of a request at the end of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    FirstToken {
        id: u64,
    },
    /// One more, between the first and the last; said where steps are told one by one.
    Token {
        id: u64,
    },
    /// The last token; of an answer of one token this alone is said.
    All {
        id: u64,
    },
}

/// The state of one replica.
#[derive(Clone, Debug)]
pub struct Engine {
    shape: EngineShape,
    waiting: VecDeque<Work>,
    reading: VecDeque<Reading>,
    writing: Vec<Writing>,
    held_tokens: u64,
    cache: PrefixIndex,
    block_tokens: u32,
    /// Tokens of prompts that were in the cache, and all.
    hit: (u64, u64),
    steps: Option<Steps>,
    tells: Tells,
}

/// Which tokens are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tells {
    /// The first and the last of each answer: steps that are alike are taken together.
    Ends,
    Each,
}

#[derive(Clone, Debug)]
struct Reading {
    id: u64,
    left_tokens: u64,
    output_tokens: u64,
    held_tokens: u64,
}

#[derive(Clone, Debug)]
struct Writing {
    id: u64,
    left_tokens: u64,
    held_tokens: u64,
}

/// Steps of the same length that run now: several only while nothing is read.
#[derive(Clone, Copy, Debug)]
struct Steps {
    began: GatewayUs,
    each_us: u64,
    count: u64,
    read_tokens: u64,
}

impl Engine {
    pub fn new(shape: EngineShape, block_tokens: u32) -> Engine {
        let blocks = shape.kv_tokens / u64::from(block_tokens.max(1));
        Engine {
            shape,
            waiting: VecDeque::new(),
            reading: VecDeque::new(),
            writing: Vec::new(),
            held_tokens: 0,
            cache: PrefixIndex::new(usize::try_from(blocks).unwrap_or(usize::MAX)),
            block_tokens,
            hit: (0, 0),
            steps: None,
            tells: Tells::Ends,
        }
    }

    /// One that tells every token, for those who stand in for an engine.
    pub fn stepwise(shape: EngineShape, block_tokens: u32) -> Engine {
        Engine { tells: Tells::Each, ..Engine::new(shape, block_tokens) }
    }

    /// A request arrives.
    pub fn submit(&mut self, work: Work, now: GatewayUs) {
        self.waiting.push_back(work);
        match &mut self.steps {
            // It is looked at when the step that runs now ends.
            Some(steps) if steps.count > 1 => {
                let run = now.since(steps.began).0 / steps.each_us + 1;
                steps.count = steps.count.min(run);
            }
            Some(_) => {}
            None => self.begin(now),
        }
    }

    /// When something may come of it.
    pub fn next(&self) -> Option<GatewayUs> {
        let steps = self.steps?;
        Some(steps.began.after(SpanUs(steps.each_us.saturating_mul(steps.count))))
    }

    /// Ends the steps that end now, and begins the next.
    pub fn advance(&mut self, now: GatewayUs) -> Vec<Done> {
        let Some(steps) = self.steps.filter(|_| self.next() <= Some(now)) else {
            return Vec::new();
        };
        let mut done = Vec::new();
        self.writing.retain_mut(|one| {
            one.left_tokens = one.left_tokens.saturating_sub(steps.count);
            if one.left_tokens == 0 {
                self.held_tokens -= one.held_tokens;
                done.push(Done::All { id: one.id });
            } else if self.tells == Tells::Each {
                done.push(Done::Token { id: one.id });
            }
            one.left_tokens > 0
        });
        let mut read = steps.read_tokens;
        while let Some(first) = self.reading.front_mut() {
            let part = first.left_tokens.min(read);
            first.left_tokens -= part;
            read -= part;
            if first.left_tokens > 0 {
                break;
            }
            let Some(Reading { id, output_tokens, held_tokens, .. }) = self.reading.pop_front()
            else {
                break;
            };
            if output_tokens <= 1 {
                self.held_tokens -= held_tokens;
                done.push(Done::All { id });
            } else {
                self.writing.push(Writing { id, left_tokens: output_tokens - 1, held_tokens });
                done.push(Done::FirstToken { id });
            }
        }
        self.steps = None;
        self.begin(now);
        done
    }

    /// Nobody waits for the answer any more.
    pub fn cancel(&mut self, id: u64) {
        self.waiting.retain(|one| one.id != id);
        let held = &mut self.held_tokens;
        self.reading.retain(|one| {
            let stays = one.id != id;
            *held -= if stays { 0 } else { one.held_tokens };
            stays
        });
        self.writing.retain(|one| {
            let stays = one.id != id;
            *held -= if stays { 0 } else { one.held_tokens };
            stays
        });
    }

    /// It fails: all that it had is gone, its cache too.
    pub fn fail(&mut self) {
        let (hit, tells) = (self.hit, self.tells);
        *self = Engine { hit, tells, ..Engine::new(self.shape, self.block_tokens) };
    }

    /// Tokens of prompts that it had in its cache when they came, of all that came.
    pub fn hit(&self) -> (u64, u64) {
        self.hit
    }

    /// Requests that are worked on, and those that wait for room.
    pub fn requests(&self) -> (usize, usize) {
        (self.reading.len() + self.writing.len(), self.waiting.len())
    }

    /// The part of its memory for prompts and answers that is taken, from 0 to 1,000.
    pub fn held_milli(&self) -> u64 {
        (self.held_tokens * 1_000).checked_div(self.shape.kv_tokens).unwrap_or(1_000)
    }

    fn begin(&mut self, now: GatewayUs) {
        self.admit();
        let chunk = u64::from(self.shape.chunk_tokens.max(1));
        let to_read: u64 = self.reading.iter().map(|one| one.left_tokens).sum();
        let read_tokens = to_read.min(chunk);
        if read_tokens == 0 && self.writing.is_empty() {
            return;
        }
        let each_us = self.shape.steps_time(self.writing.len(), read_tokens);
        let shortest = self.writing.iter().map(|one| one.left_tokens).min().unwrap_or(1);
        let is_same =
            self.reading.is_empty() && self.waiting.is_empty() && self.tells == Tells::Ends;
        let count = if is_same { shortest.max(1) } else { 1 };
        self.steps = Some(Steps { began: now, each_us, count, read_tokens });
    }

    /// In the order in which they came, as long as there is room.
    fn admit(&mut self) {
        while let Some(first) = self.waiting.front() {
            let held = first.prompt_tokens + first.output_tokens;
            let is_alone = self.reading.is_empty() && self.writing.is_empty();
            let has_room = self.held_tokens + held <= self.shape.kv_tokens
                && self.reading.len() + self.writing.len() < self.shape.batch_max;
            if !has_room && !is_alone {
                return;
            }
            let Some(work) = self.waiting.pop_front() else { return };
            let owner = AllocationId::default();
            let cached = work.prefix.tokens(self.cache.held_by(owner, &work.prefix));
            // Of what is all there the last token is read again.
            let cached = cached.min(work.prompt_tokens.saturating_sub(1));
            self.cache.used(owner, &work.prefix);
            self.hit = (self.hit.0 + cached, self.hit.1 + work.prompt_tokens);
            self.held_tokens += held;
            self.reading.push_back(Reading {
                id: work.id,
                left_tokens: (work.prompt_tokens - cached).max(1),
                output_tokens: work.output_tokens,
                held_tokens: held,
            });
        }
    }
}
