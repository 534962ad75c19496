//! `berth sim replay` of what a gateway recorded: each decision made anew by this build, on this
//! machine, and compared.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _};
use std::path::Path;

use berth_decisions::{Ended, Event, ReadError, Reader};
use berth_routing::record::{Happening, Picked, Replay, Replayed};
use berth_routing::{Decision, NoReplica};
use serde_json::{Value, json};

use crate::error::{CliError, Exit, Fault};
use crate::output::{Answer, Piece, Table};
use crate::session::Session;

/// One pool of the record.
#[derive(Default)]
struct Pool {
    service: String,
    replay: Replay,
    /// Those that were compared, and those of them that found nobody.
    decisions: u64,
    nobody: u64,
    different: Option<Different>,
    /// Decisions behind the one that is different.
    left_out: u64,
}

/// The first decision that is another one now.
struct Different {
    decision: u64,
    line: u64,
    then: String,
    now: String,
}

/// All of a record.
#[derive(Default)]
struct Compared {
    writer: String,
    pools: BTreeMap<u64, Pool>,
    ended: Option<Ended>,
    /// The line that is not whole, if there is one.
    cut_short: Option<u64>,
}

/// Whether a file is a record of decisions, by its first byte.
pub(super) fn is_record(file: &Path) -> bool {
    let mut first = [0];
    File::open(file).and_then(|mut file| file.read_exact(&mut first)).is_ok() && first == *b"{"
}

pub(super) fn run(file: &Path, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let wrong = |problem: String| {
        let fault = Fault::new(format!("{}: {problem}", file.display()));
        CliError::BadInput(vec![fault.hint("one is made by `berth gateway --record FILE`")])
    };
    let mut source = File::open(file).map_err(|error| wrong(error.to_string()))?;
    source.rewind().map_err(|error| wrong(error.to_string()))?;
    let compared = compare(BufReader::new(source)).map_err(|error| match error {
        ReadError::Io(error) => wrong(error.to_string()),
        ReadError::NoRecord | ReadError::CutShort { .. } | ReadError::Line { .. } => {
            wrong(error.to_string())
        }
    })?;
    session.print(&answer(file, &compared))?;
    Ok(if compared.is_same() { Exit::Done } else { Exit::Different })
}

fn compare(source: impl std::io::BufRead) -> Result<Compared, ReadError> {
    let (mut reader, writer) = Reader::open(source)?;
    let mut compared = Compared { writer, ..Compared::default() };
    loop {
        let event = match reader.next() {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(compared),
            // It was being written when its gateway ended.
            Err(ReadError::CutShort { line }) => {
                compared.cut_short = Some(line);
                return Ok(compared);
            }
            Err(error) => return Err(error),
        };
        let line = reader.line;
        let problem = |problem: &str| ReadError::Line { line, problem: problem.to_owned() };
        match event {
            Event::Recording { .. } => return Err(problem("another record begins")),
            Event::Ended(ended) => compared.ended = Some(ended),
            Event::Service { pool, service } => {
                let before = compared.pools.insert(pool, Pool { service, ..Pool::default() });
                if before.is_some() {
                    return Err(problem("its pool begins a second time"));
                }
            }
            Event::Happened { pool, happening } => {
                let known = compared.pools.get_mut(&pool);
                let pool = known.ok_or_else(|| problem("its pool has not begun"))?;
                pool.happens(&happening, line)
                    .map_err(|()| problem("its request has not begun"))?;
            }
        }
    }
}

impl Pool {
    /// An error where the record has nothing of what it is about.
    fn happens(&mut self, happening: &Happening, line: u64) -> Result<(), ()> {
        if self.different.is_some() {
            self.left_out += u64::from(matches!(happening, Happening::Picked(_)));
            return Ok(());
        }
        let replayed = self.replay.step(happening);
        let Happening::Picked(Picked { answer, .. }) = happening else {
            return if replayed == Replayed::Unknown { Err(()) } else { Ok(()) };
        };
        self.decisions += 1;
        self.nobody += u64::from(answer.is_err());
        match replayed {
            Replayed::Unknown => Err(()),
            Replayed::Done | Replayed::Same => Ok(()),
            Replayed::Different(now) => {
                let then = told(answer.map(|(_, decision)| decision));
                let (decision, now) = (self.decisions, told(now));
                self.different = Some(Different { decision, line, then, now });
                Ok(())
            }
        }
    }
}

impl Compared {
    fn is_same(&self) -> bool {
        self.pools.values().all(|pool| pool.different.is_none())
    }
}

fn told(decided: Result<Decision, NoReplica>) -> String {
    let decision = match decided {
        Ok(decision) => decision,
        Err(none) => return format!("nobody ({none})"),
    };
    let scored = |score: berth_routing::Score| {
        let spared = if score.is_spared { ", spared" } else { "" };
        format!("costs {}{spared}", score.cost)
    };
    let runner_up = decision
        .runner_up
        .map_or_else(String::new, |(id, score)| format!("; else {id}, which {}", scored(score)));
    let (replica, reason) = (decision.replica, decision.reason.name());
    format!("{replica} ({reason}, {}{runner_up})", scored(decision.score))
}

fn answer(file: &Path, compared: &Compared) -> Answer {
    let mut table = Table::new(&["SERVICE", "POOL", "DECISIONS", "NOBODY", "REPLAYED"], &[]);
    let mut texts = Vec::new();
    for (number, pool) in &compared.pools {
        let Pool { service, decisions, nobody, left_out, .. } = pool;
        let replayed = if pool.different.is_none() { "the same" } else { "different" };
        table.row(vec![
            service.clone(),
            number.to_string(),
            decisions.to_string(),
            nobody.to_string(),
            replayed.to_owned(),
        ]);
        if let Some(Different { decision, line, then, now }) = &pool.different {
            texts.push(format!(
                "{service}, pool {number}: decision {decision} (line {line}) was {then}, and is \
                 {now}; the {left_out} after it depend on it and are not compared"
            ));
        }
    }
    texts.extend(compared.ended.map(|ended| format!("The record ends early: {}.", ended.told())));
    texts.extend(compared.cut_short.map(|line| {
        format!("Line {line} is not whole, as when a gateway is killed: the record ends before it.")
    }));
    let mut pieces = vec![Piece::Table(table)];
    pieces.extend(texts.into_iter().map(Piece::Text));
    let pools: Vec<Value> =
        compared.pools.iter().map(|(number, pool)| json_of(*number, pool)).collect();
    let json = json!({
        "file": file.to_string_lossy(),
        "version": compared.writer,
        "same": compared.is_same(),
        "ended": compared.ended.map(Ended::told),
        "cut_short_at_line": compared.cut_short,
        "pools": pools,
    });
    let ids = compared.pools.keys().map(u64::to_string).collect();
    Answer { json, pieces, ids }
}

fn json_of(number: u64, pool: &Pool) -> Value {
    let different = pool.different.as_ref().map(|different| {
        json!({
            "decision": different.decision,
            "line": different.line,
            "then": different.then,
            "now": different.now,
        })
    });
    json!({
        "pool": number,
        "service": pool.service,
        "decisions": pool.decisions,
        "nobody": pool.nobody,
        "same": pool.different.is_none(),
        "first_difference": different,
        "not_compared": pool.left_out,
    })
}
