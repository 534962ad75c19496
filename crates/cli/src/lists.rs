//! Lists in CSV that the simulator reads and writes: columns by their names in the first line,
//! in any order. What is wrong is said with file, line and column.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::str::FromStr;

use berth_model::{CpuMilli, DurationMs, MemoryBytes, Name, ShareMilli, StateMs};
use berth_sim::jobs::TraceJob;
use berth_sim::place::{Arrival, Moved, NodeShape, Placed};
use berth_sim::serve::{Blocks, GatewayUs, ServeArrival};
use csv::{Reader, StringRecord, Writer};

use crate::error::{CliError, Fault};

/// Rows that are read of one list: far more than any trace has, and bounded memory.
const ROWS_MAX: usize = 10_000_000;

/// The latest time in a list, in seconds: three hundred years.
const SECONDS_MAX: u64 = 10_000_000_000;

/// An open list.
struct List {
    reader: Reader<File>,
    columns: Vec<String>,
}

/// One line of it.
struct Row<'a> {
    list: &'a Path,
    columns: &'a [String],
    line: u64,
    record: &'a StringRecord,
}

/// `sn,cpu_milli,memory_mib,gpu,model`: the nodes of a cluster.
pub(crate) fn read_nodes(path: &Path) -> Result<Vec<NodeShape>, CliError> {
    read(path, &["sn", "cpu_milli", "memory_mib", "gpu", "model"], |row| {
        Ok(NodeShape {
            name: row.name("sn")?,
            cpu: CpuMilli(row.number("cpu_milli")?),
            memory: row.memory("memory_mib")?,
            gpus: row.number_within("gpu", 0, 64)?,
            model: row.text("model").to_owned(),
        })
    })
}

/// `seq,name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec`: tasks in the order in which
/// they arrive, each with what `seq` says of it. A list without `seq` is numbered from 0, and
/// one without `gpu_spec` asks for no models.
pub(crate) fn read_arrivals(path: &Path) -> Result<Vec<(String, Arrival)>, CliError> {
    let mut position = 0_u64;
    read(path, &["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"], |row| {
        let gpus = row.number_within("num_gpu", 0, 64)?;
        let share = row.number_within("gpu_milli", 0, 1000)?;
        if gpus > 0 && share == 0 {
            return Err(row.wrong("gpu_milli", "expected 1 to 1000 thousandths of each GPU"));
        }
        if gpus > 1 && share != 1000 {
            return Err(row.wrong("gpu_milli", "expected 1000 where several GPUs are asked for"));
        }
        let models = row.text("gpu_spec").split('|').filter(|model| !model.is_empty());
        let seq = match row.text("seq") {
            "" => position.to_string(),
            seq => seq.to_owned(),
        };
        position += 1;
        let arrival = Arrival {
            name: row.name("name")?,
            cpu: CpuMilli(row.number("cpu_milli")?),
            memory: row.memory("memory_mib")?,
            gpus,
            share: if gpus == 0 { ShareMilli::WHOLE } else { ShareMilli(share) },
            models: models.map(str::to_owned).collect(),
        };
        Ok((seq, arrival))
    })
}

/// `submit_s,duration_s,num_gpus`: jobs for a pool of so many GPUs, each with the line that it
/// stands in. Whose a job is says the first of the columns `user`, `vc` and `model` that
/// there is; others are passed over.
pub(crate) fn read_jobs(path: &Path, gpus: u32) -> Result<Vec<(u64, TraceJob)>, CliError> {
    if path.extension().is_some_and(|extension| extension == "gz") {
        let message = format!("{} is compressed", path.display());
        let fault = Fault::new(message).hint("expand it first: gunzip --keep");
        return Err(CliError::BadInput(vec![fault]));
    }
    let mut classes: BTreeMap<String, u32> = BTreeMap::new();
    read(path, &["submit_s", "duration_s", "num_gpus"], |row| {
        let duration = row.milliseconds("duration_s")?;
        if duration == 0 {
            return Err(row.wrong("duration_s", "expected at least 0.001 seconds"));
        }
        let asked: u32 = row.number_within("num_gpus", 1, u32::MAX)?;
        if asked > gpus {
            let what =
                format!("expected at most the {gpus} of the pool, as it would wait for ever");
            return Err(row.wrong("num_gpus", &what));
        }
        let class = row.text(row.first_of(&["user", "vc", "model"]));
        let next = u32::try_from(classes.len()).unwrap_or(u32::MAX);
        let job = TraceJob {
            submitted: StateMs(row.milliseconds("submit_s")?),
            duration: DurationMs(duration),
            gpus: asked,
            class: *classes.entry(class.to_owned()).or_insert(next),
        };
        Ok((row.line, job))
    })
}

/// `arrival_s,context_tokens,generated_tokens`: requests, each with the line that it stands in.
pub(crate) fn read_requests(path: &Path) -> Result<Vec<(u64, ServeArrival)>, CliError> {
    read(path, &["arrival_s", "context_tokens", "generated_tokens"], |row| {
        let arrival = ServeArrival {
            at: GatewayUs(row.milliseconds("arrival_s")?.saturating_mul(1_000)),
            prompt_tokens: row.number_within("context_tokens", 1, u32::MAX)?,
            output_tokens: row.number_within("generated_tokens", 1, u32::MAX)?,
            prefix: Blocks::default(),
        };
        Ok((row.line, arrival))
    })
}

/// A list that is written row after row.
struct Output<'a> {
    path: &'a Path,
    writer: Writer<File>,
}

impl<'a> Output<'a> {
    fn create(path: &'a Path, columns: &[&str]) -> Result<Output<'a>, CliError> {
        let writer = Writer::from_path(path).map_err(|error| cannot("write", path, &error))?;
        let mut output = Output { path, writer };
        output.write(columns)?;
        Ok(output)
    }

    fn write(&mut self, fields: &[&str]) -> Result<(), CliError> {
        self.writer.write_record(fields).map_err(|error| cannot("write", self.path, &error))
    }

    fn finish(mut self) -> Result<(), CliError> {
        self.writer.flush().map_err(|error| cannot("write", self.path, &error))
    }
}

fn joined(gpus: &[u32]) -> String {
    gpus.iter().map(u32::to_string).collect::<Vec<String>>().join("-")
}

/// `seq,node,gpus`: where each went first; the node is empty for what had no place.
pub(crate) struct Placements<'a>(Output<'a>);

impl<'a> Placements<'a> {
    pub(crate) fn create(path: &'a Path) -> Result<Placements<'a>, CliError> {
        Output::create(path, &["seq", "node", "gpus"]).map(Placements)
    }

    pub(crate) fn add(&mut self, seq: &str, placed: Option<&Placed>) -> Result<(), CliError> {
        let node = placed.map_or("", |placed| placed.node.as_str());
        let gpus = placed.map_or(String::new(), |placed| joined(&placed.gpus));
        self.0.write(&[seq, node, &gpus])
    }

    pub(crate) fn finish(self) -> Result<(), CliError> {
        self.0.finish()
    }
}

/// `seq,name,from,to,gpus`: who was moved, in the order in which they were.
pub(crate) struct Moves<'a>(Output<'a>);

impl<'a> Moves<'a> {
    pub(crate) fn create(path: &'a Path) -> Result<Moves<'a>, CliError> {
        Output::create(path, &["seq", "name", "from", "to", "gpus"]).map(Moves)
    }

    /// The tasks are those that were offered.
    pub(crate) fn add(
        &mut self,
        tasks: &[(String, Arrival)],
        moved: &Moved,
    ) -> Result<(), CliError> {
        let position = usize::try_from(moved.position).ok();
        let task = position.and_then(|position| tasks.get(position));
        let (seq, name) = task.map_or(("", ""), |(seq, task)| (seq, task.name.as_str()));
        let (from, to) = (moved.from.as_str(), moved.to.as_str());
        self.0.write(&[seq, name, from, to, &joined(&moved.gpus)])
    }

    pub(crate) fn finish(self) -> Result<(), CliError> {
        self.0.finish()
    }
}

fn read<T>(
    path: &Path,
    needed: &[&str],
    mut of_row: impl FnMut(&Row<'_>) -> Result<T, CliError>,
) -> Result<Vec<T>, CliError> {
    let mut list = List::open(path, needed)?;
    let mut rows = Vec::new();
    let mut record = StringRecord::new();
    while list.reader.read_record(&mut record).map_err(|error| cannot("read", path, &error))? {
        let line = record.position().map_or(0, csv::Position::line);
        let row = Row { list: path, columns: &list.columns, line, record: &record };
        if rows.len() == ROWS_MAX {
            return Err(CliError::bad_input(format!(
                "{}:{line}: more than {ROWS_MAX} rows",
                path.display()
            )));
        }
        rows.push(of_row(&row)?);
    }
    if rows.is_empty() {
        return Err(CliError::bad_input(format!("{}: the list has no rows", path.display())));
    }
    Ok(rows)
}

fn cannot(what: &str, path: &Path, error: &dyn std::fmt::Display) -> CliError {
    CliError::bad_input(format!("cannot {what} {}: {error}", path.display()))
}

impl List {
    fn open(path: &Path, needed: &[&str]) -> Result<List, CliError> {
        let mut reader = csv::ReaderBuilder::new()
            .from_path(path)
            .map_err(|error| cannot("read", path, &error))?;
        let header = reader.headers().map_err(|error| cannot("read", path, &error))?;
        let columns: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
        let missing = needed.iter().find(|name| !columns.iter().any(|column| column == *name));
        if let Some(missing) = missing {
            return Err(CliError::bad_input(format!(
                "{}:1: no column `{missing}`; expected at least {}",
                path.display(),
                needed.join(", ")
            )));
        }
        Ok(List { reader, columns })
    }
}

impl Row<'_> {
    /// What stands in a column, nothing if there is none of this name.
    fn text(&self, column: &str) -> &str {
        let position = self.columns.iter().position(|name| name == column);
        position.and_then(|position| self.record.get(position)).unwrap_or("").trim()
    }

    /// The first of these columns that there is, else the last.
    fn first_of<'b>(&self, columns: &[&'b str]) -> &'b str {
        let found = columns.iter().find(|name| self.columns.iter().any(|column| column == *name));
        found.or(columns.last()).copied().unwrap_or("")
    }

    fn wrong(&self, column: &str, what: &str) -> CliError {
        let (list, line, found) = (self.list.display(), self.line, self.text(column));
        let found: String = found.chars().take(40).collect();
        CliError::bad_input(format!("{list}:{line}: {column}: {what}, found `{found}`"))
    }

    fn name(&self, column: &str) -> Result<Name, CliError> {
        Name::new(self.text(column)).map_err(|error| self.wrong(column, &error.to_string()))
    }

    fn number<T: FromStr>(&self, column: &str) -> Result<T, CliError> {
        self.text(column).parse().map_err(|_| self.wrong(column, "expected a whole number"))
    }

    /// Seconds, with or without a point. What is less than a millisecond is cut off.
    fn milliseconds(&self, column: &str) -> Result<u64, CliError> {
        let wrong = || self.wrong(column, "expected seconds such as 90 or 3.25");
        let (whole, part) = self.text(column).split_once('.').unwrap_or((self.text(column), "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(part) {
            return Err(wrong());
        }
        let seconds = whole.parse::<u64>().ok().filter(|seconds| *seconds <= SECONDS_MAX);
        let Some(seconds) = seconds else {
            return Err(self.wrong(column, &format!("expected at most {SECONDS_MAX} seconds")));
        };
        let milliseconds: u64 = format!("{part:0<3}")[..3].parse().map_err(|_| wrong())?;
        Ok(seconds * 1000 + milliseconds)
    }

    fn number_within(&self, column: &str, least: u32, most: u32) -> Result<u32, CliError> {
        let number: u32 = self.number(column)?;
        if (least..=most).contains(&number) {
            return Ok(number);
        }
        Err(self.wrong(column, &format!("expected {least} to {most}")))
    }

    fn memory(&self, column: &str) -> Result<MemoryBytes, CliError> {
        let mib: u64 = self.number(column)?;
        mib.checked_mul(1 << 20)
            .map(MemoryBytes)
            .ok_or_else(|| self.wrong(column, "expected fewer MiB"))
    }
}
