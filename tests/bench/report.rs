//! What is printed: Markdown, so that a run can be kept as it is.

use std::fmt::Write as _;

use crate::series::Series;

/// What a row must reach.
#[derive(Clone, Copy)]
pub enum Target {
    /// At most this, in the row's unit.
    AtMost(f64),
    /// At least this, in the row's unit.
    AtLeast(f64),
    /// The largest run, at most this.
    WorstAtMost(f64),
    /// The ratio to the peer, at most this.
    RatioAtMost(f64),
    /// The ratio to the peer, at least this.
    RatioAtLeast(f64),
    /// Recorded, not judged.
    None,
}

/// A figure of the cluster beside its peer's.
pub struct Row {
    pub what: String,
    pub unit: &'static str,
    pub ours: Series,
    /// The peer's name and its figures of the same runs.
    pub peer: Option<(&'static str, Series)>,
    pub target: Target,
}

/// A figure of the machine.
pub struct Limit {
    pub what: &'static str,
    pub unit: &'static str,
    pub series: Series,
}

/// Everything of one run of the harness.
#[derive(Default)]
pub struct Report {
    /// Lines that say on what and with what was measured.
    pub head: Vec<String>,
    pub limits: Vec<Limit>,
    pub rows: Vec<Row>,
    /// What guards saw, what is missing, and tables of single rows.
    pub notes: Vec<String>,
    /// Rows that are void, and why. Any makes the run fail.
    pub void: Vec<String>,
}

impl Target {
    fn text(self, unit: &str) -> String {
        match self {
            Target::AtMost(bound) => format!("at most {} {unit}", figure(bound)),
            Target::AtLeast(bound) => format!("at least {} {unit}", figure(bound)),
            Target::WorstAtMost(bound) => format!("worst at most {} {unit}", figure(bound)),
            Target::RatioAtMost(bound) => format!("at most {bound} × the peer"),
            Target::RatioAtLeast(bound) => format!("at least {bound} × the peer"),
            Target::None => "none".to_owned(),
        }
    }

    /// Whether it is reached, and if not how far off it is.
    fn verdict(self, row: &Row) -> String {
        let ratio = || row.peer.as_ref().and_then(|(_, peer)| row.ours.over(peer).median());
        let (found, bound, side) = match self {
            Target::None => return "not judged".to_owned(),
            Target::AtMost(bound) => (row.ours.median(), bound, Side::Below),
            Target::AtLeast(bound) => (row.ours.median(), bound, Side::Above),
            Target::WorstAtMost(bound) => (row.ours.max(), bound, Side::Below),
            Target::RatioAtMost(bound) => (ratio(), bound, Side::Below),
            Target::RatioAtLeast(bound) => (ratio(), bound, Side::Above),
        };
        let Some(found) = found else { return "not judged: no peer".to_owned() };
        match side {
            Side::Below if found <= bound => "holds".to_owned(),
            Side::Above if found >= bound => "holds".to_owned(),
            Side::Below => format!("falls short: {:.3} × the most allowed", found / bound),
            Side::Above => format!("falls short: {:.3} × the least wanted", found / bound),
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Below,
    Above,
}

impl Report {
    /// Adds a row and says it at once: a run takes long.
    pub fn add(&mut self, row: Row) {
        eprintln!("{}", line(&row));
        self.rows.push(row);
    }

    pub fn note(&mut self, note: String) {
        eprintln!("{note}");
        self.notes.push(note);
    }

    #[expect(clippy::print_stdout, reason = "the report is the program's output")]
    pub fn print(&self) {
        println!("{}", self.text());
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.head {
            let _ = writeln!(text, "- {line}");
        }
        text.push_str(
            "\n| limit of the machine | unit | min | median | max |\n|---|---|---|---|---|\n",
        );
        for limit in &self.limits {
            let _ =
                writeln!(text, "| {} | {} | {} |", limit.what, limit.unit, spread(&limit.series));
        }
        text.push_str(
            "\n| row | unit | min | median | max | peer | min | median | max | ratio | target | |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let _ = writeln!(text, "{}", line(row));
        }
        text.push('\n');
        for note in &self.notes {
            let _ = writeln!(text, "{note}");
        }
        for void in &self.void {
            let _ = writeln!(text, "VOID: {void}");
        }
        text
    }
}

fn line(row: &Row) -> String {
    let (peer, ratio) = match &row.peer {
        Some((name, figures)) => {
            let ratio = row.ours.over(figures).median();
            let ratio = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.3}"));
            (format!("{name} | {}", spread(figures)), ratio)
        }
        None => ("– | – | – | –".to_owned(), "–".to_owned()),
    };
    format!(
        "| {} | {} | {} | {peer} | {ratio} | {} | {} |",
        row.what,
        row.unit,
        spread(&row.ours),
        row.target.text(row.unit),
        row.target.verdict(row),
    )
}

fn spread(series: &Series) -> String {
    let cell = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), figure);
    format!("{} | {} | {}", cell(series.min()), cell(series.median()), cell(series.max()))
}

/// Three digits of what is below a hundred; whole numbers above.
fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => grouped(value),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

/// A whole number with its thousands set apart.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
