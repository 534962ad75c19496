//! What the simulated GPUs are, as text: a line for each fact, the last one about a
//! thing counts.
//!
//! ```text
//! # a comment
//! driver 570.86.15
//! init mismatch
//! hang nvmlDeviceGetUtilizationRates
//! gpu 0 uuid GPU-5b1c
//! gpu 0 name NVIDIA H100 80GB HBM3
//! gpu 0 memory_total 85899345920
//! gpu 0 memory_used 1073741824
//! gpu 0 utilization 87
//! gpu 0 process 4711 1073741824
//! gpu 0 xid 79 1
//! gpu 0 recovery reset
//! gpu 0 remap pending
//! gpu 0 needs_reset yes
//! gpu 0 ecc_corrected 5 120
//! gpu 0 ecc_uncorrected 0 1
//! gpu 0 rows_remapped 1 0
//! gpu 1 lost yes
//! gpu 1 bad_memory yes
//! gpu 0 numa 0
//! gpu 0 ancestor 1 switch
//! gpu 0 nvlinks 1 4
//! gpu 0 switch_nvlinks 18
//! gpu 2 mig on
//! gpu 2 slice 0 MIG-77aa 1g.10gb 10737418240
//! gpu 2 slice_used 0 1073741824
//! ```
//!
//! What is not said of a GPU is not supported by it, as with many real ones. This
//! file is part of the shared library too, and needs nothing but the standard library.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

/// What the library answers from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Script {
    /// Version of the driver, as it is shown.
    pub driver: Option<String>,
    pub init: Init,
    /// C names of the functions that do not return for now.
    pub hanging: BTreeSet<String>,
    /// Functions that answer that something unknown went wrong.
    pub failing: BTreeSet<String>,
    /// By the index that NVML gives them; without gaps.
    pub gpus: BTreeMap<u32, Gpu>,
}

/// How the library's initialisation ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Init {
    #[default]
    Works,
    /// No driver runs.
    NoDriver,
    /// The driver is another version than the library, as after an upgrade.
    Mismatch,
}

/// One GPU. What is `None` is not supported.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Gpu {
    pub uuid: Option<String>,
    pub name: Option<String>,
    /// Such as `00000000:1B:00.0`.
    pub bus: Option<String>,
    pub minor: Option<u32>,
    pub memory_total_bytes: Option<u64>,
    pub memory_used_bytes: Option<u64>,
    pub utilization_percent: Option<u32>,
    pub temperature_celsius: Option<u32>,
    pub power_milliwatts: Option<u32>,
    /// Of the streaming multiprocessors.
    pub clock_mhz: Option<u32>,
    /// By pid.
    pub processes: BTreeMap<u32, Process>,
    /// In the order of their numbers; each is told once.
    pub xids: Vec<Xid>,
    /// It has fallen off the bus.
    pub is_lost: bool,
    /// It answers nothing but that it has to be reset, and who it is.
    pub needs_reset: bool,
    /// It does not keep what is written to it, for whoever computes on it.
    pub has_bad_memory: bool,
    /// What the driver says that it needs.
    pub recovery: Option<Recovery>,
    /// Whether rows of its memory are to be exchanged.
    pub remap: Option<Remap>,
    /// How many were, for corrected errors and for others.
    pub rows_remapped: Option<(u32, u32)>,
    /// Since the driver was loaded, and in its life.
    pub ecc_corrected: Option<(u64, u64)>,
    /// As before.
    pub ecc_uncorrected: Option<(u64, u64)>,
    /// Why its clocks are low.
    pub slowdown: Option<Slowdown>,
    /// The node of the host's memory that is nearest.
    pub numa: Option<u32>,
    /// What the way over PCIe to another one leads through, by its index. Said of one of
    /// the two, it is so of both; and so it is with `nvlinks`.
    pub ancestors: BTreeMap<u32, Ancestor>,
    /// How many NVLinks lead straight to another one, by its index.
    pub nvlinks: BTreeMap<u32, u32>,
    /// How many NVLinks lead to switches, through which it reaches whoever has such ones too.
    pub switch_nvlinks: u32,
    /// Whether it is cut up, where it can be.
    pub mig: Option<Mig>,
    /// Its parts while it is, by their number.
    pub slices: BTreeMap<u32, Slice>,
    /// How much of their memory is used, likewise.
    pub slices_used_bytes: BTreeMap<u32, u64>,
}

/// Whether a GPU is cut up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mig {
    Off,
    On,
}

/// A part of a GPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slice {
    pub uuid: String,
    /// Such as `1g.10gb`.
    pub profile: String,
    pub memory_bytes: u64,
}

/// What two GPUs have in common, with the numbers of NVML.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ancestor {
    Board = 0,
    Switch = 10,
    Switches = 20,
    HostBridge = 30,
    NumaNode = 40,
    System = 50,
}

/// Why a GPU runs slower than it could.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slowdown {
    Nothing,
    Heat,
    Power,
    /// The driver keeps within the power limit, as with every GPU at work.
    Limit,
}

/// What a driver says that a GPU needs, with the numbers of NVML.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovery {
    Nothing = 0,
    Reset = 1,
    Reboot = 2,
    DrainPeers = 3,
    DrainAndReset = 4,
}

/// Whether rows of memory are to be exchanged for spare ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remap {
    Done,
    /// At the next reset.
    Pending,
    /// There are no spare ones.
    Failed,
}

/// A process that uses a GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    pub memory_bytes: u64,
}

/// An error that the driver reports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Xid {
    /// Counts the errors of all GPUs; a larger one is a later one.
    pub number: u64,
    /// As in NVIDIA's catalogue.
    pub code: u64,
}

/// A line that says nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScriptError {
    /// From 1.
    pub line: usize,
    pub problem: String,
}

impl Display for ScriptError {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}: {}", self.line, self.problem)
    }
}

impl std::error::Error for ScriptError {}

impl Script {
    /// Reads a script, or several one after the other.
    ///
    /// # Errors
    /// The first line that cannot be understood.
    pub fn parse(text: &str) -> Result<Script, ScriptError> {
        let mut script = Script::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refused = |problem| ScriptError { line: number + 1, problem };
            script.take(line).map_err(refused)?;
        }
        if let Some(missing) = (0..).zip(script.gpus.keys()).find(|(at, index)| at != *index) {
            let problem = format!("there is no GPU {}", missing.0);
            return Err(ScriptError { line: text.lines().count(), problem });
        }
        Ok(script)
    }

    fn take(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = split(line)?;
        match word {
            "driver" => self.driver = Some(rest.to_owned()),
            "hang" => {
                self.hanging.insert(rest.to_owned());
            }
            "fail" => {
                self.failing.insert(rest.to_owned());
            }
            "init" => {
                self.init = match rest {
                    "works" => Init::Works,
                    "no-driver" => Init::NoDriver,
                    "mismatch" => Init::Mismatch,
                    other => return Err(format!("`{other}` is no way to begin")),
                };
            }
            "gpu" => {
                let (index, fact) = split(rest)?;
                let (key, value) = split(fact)?;
                self.gpus.entry(number(index)?).or_default().take(key, value)?;
            }
            other => return Err(format!("unknown word `{other}`")),
        }
        Ok(())
    }
}

impl Gpu {
    fn take(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "uuid" => self.uuid = Some(value.to_owned()),
            "name" => self.name = Some(value.to_owned()),
            "bus" => self.bus = Some(value.to_owned()),
            "minor" => self.minor = Some(number(value)?),
            "memory_total" => self.memory_total_bytes = Some(number(value)?),
            "memory_used" => self.memory_used_bytes = Some(number(value)?),
            "utilization" => self.utilization_percent = Some(number(value)?),
            "temperature" => self.temperature_celsius = Some(number(value)?),
            "power" => self.power_milliwatts = Some(number(value)?),
            "clock" => self.clock_mhz = Some(number(value)?),
            "process" => {
                let (pid, memory_bytes) = split(value)?;
                let process = Process { memory_bytes: number(memory_bytes)? };
                self.processes.insert(number(pid)?, process);
            }
            "xid" => {
                let (code, count) = split(value)?;
                self.xids.push(Xid { number: number(count)?, code: number(code)? });
                self.xids.sort_unstable();
                self.xids.dedup();
            }
            "lost" => self.is_lost = yes_or_no(value)?,
            "needs_reset" => self.needs_reset = yes_or_no(value)?,
            "bad_memory" => self.has_bad_memory = yes_or_no(value)?,
            "recovery" => self.recovery = Some(named(&RECOVERIES, value)?),
            "slowdown" => self.slowdown = Some(named(&SLOWDOWNS, value)?),
            "remap" => self.remap = Some(named(&REMAPS, value)?),
            "rows_remapped" => self.rows_remapped = Some(two_numbers(value)?),
            "ecc_corrected" => self.ecc_corrected = Some(two_numbers(value)?),
            "ecc_uncorrected" => self.ecc_uncorrected = Some(two_numbers(value)?),
            "mig" => self.mig = Some(named(&MIGS, value)?),
            "slice" => {
                let (index, rest) = split(value)?;
                let (uuid, rest) = split(rest)?;
                let (profile, memory_bytes) = split(rest)?;
                let slice = Slice {
                    uuid: uuid.to_owned(),
                    profile: profile.to_owned(),
                    memory_bytes: number(memory_bytes)?,
                };
                self.slices.insert(number(index)?, slice);
            }
            "slice_used" => {
                let (index, used_bytes) = split(value)?;
                self.slices_used_bytes.insert(number(index)?, number(used_bytes)?);
            }
            "numa" => self.numa = Some(number(value)?),
            "switch_nvlinks" => self.switch_nvlinks = number(value)?,
            "nvlinks" => {
                let (other, count) = split(value)?;
                self.nvlinks.insert(number(other)?, number(count)?);
            }
            "ancestor" => {
                let (other, ancestor) = split(value)?;
                self.ancestors.insert(number(other)?, named(&ANCESTORS, ancestor)?);
            }
            other => return Err(format!("unknown word `{other}` of a GPU")),
        }
        Ok(())
    }
}

const RECOVERIES: [(&str, Recovery); 5] = [
    ("nothing", Recovery::Nothing),
    ("reset", Recovery::Reset),
    ("reboot", Recovery::Reboot),
    ("drain-peers", Recovery::DrainPeers),
    ("drain-and-reset", Recovery::DrainAndReset),
];

const REMAPS: [(&str, Remap); 3] =
    [("done", Remap::Done), ("pending", Remap::Pending), ("failed", Remap::Failed)];

const MIGS: [(&str, Mig); 2] = [("off", Mig::Off), ("on", Mig::On)];

const ANCESTORS: [(&str, Ancestor); 6] = [
    ("board", Ancestor::Board),
    ("switch", Ancestor::Switch),
    ("switches", Ancestor::Switches),
    ("host-bridge", Ancestor::HostBridge),
    ("numa-node", Ancestor::NumaNode),
    ("system", Ancestor::System),
];

const SLOWDOWNS: [(&str, Slowdown); 4] = [
    ("nothing", Slowdown::Nothing),
    ("heat", Slowdown::Heat),
    ("power", Slowdown::Power),
    ("limit", Slowdown::Limit),
];

fn named<T: Copy>(names: &[(&str, T)], text: &str) -> Result<T, String> {
    let found = names.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        format!("expected one of {}, found `{text}`", names.join(", "))
    })
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> Option<String> {
    names.iter().find(|(_, named)| named == value).map(|(name, _)| (*name).to_owned())
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => Err(format!("expected yes or no, found `{other}`")),
    }
}

fn split(text: &str) -> Result<(&str, &str), String> {
    let (word, rest) =
        text.split_once(' ').ok_or_else(|| format!("something is missing behind `{text}`"))?;
    Ok((word, rest.trim()))
}

fn two_numbers<T: std::str::FromStr>(text: &str) -> Result<(T, T), String> {
    let (first, second) = split(text)?;
    Ok((number(first)?, number(second)?))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is no number that fits"))
}

/// The text of a script; [`Script::parse`] reads the same from it.
impl Display for Script {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        if let Some(driver) = &self.driver {
            writeln!(formatter, "driver {driver}")?;
        }
        match self.init {
            Init::Works => {}
            Init::NoDriver => writeln!(formatter, "init no-driver")?,
            Init::Mismatch => writeln!(formatter, "init mismatch")?,
        }
        for function in &self.hanging {
            writeln!(formatter, "hang {function}")?;
        }
        for function in &self.failing {
            writeln!(formatter, "fail {function}")?;
        }
        for (index, gpu) in &self.gpus {
            for (key, value) in gpu.facts() {
                writeln!(formatter, "gpu {index} {key} {value}")?;
            }
        }
        Ok(())
    }
}

impl Gpu {
    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        let mut say = |key, value: Option<String>| facts.extend(value.map(|value| (key, value)));
        say("uuid", self.uuid.clone());
        say("name", self.name.clone());
        say("bus", self.bus.clone());
        say("minor", self.minor.map(|value| value.to_string()));
        say("memory_total", self.memory_total_bytes.map(|value| value.to_string()));
        say("memory_used", self.memory_used_bytes.map(|value| value.to_string()));
        say("utilization", self.utilization_percent.map(|value| value.to_string()));
        say("temperature", self.temperature_celsius.map(|value| value.to_string()));
        say("power", self.power_milliwatts.map(|value| value.to_string()));
        say("clock", self.clock_mhz.map(|value| value.to_string()));
        say("lost", self.is_lost.then(|| "yes".to_owned()));
        say("needs_reset", self.needs_reset.then(|| "yes".to_owned()));
        say("bad_memory", self.has_bad_memory.then(|| "yes".to_owned()));
        say("recovery", self.recovery.and_then(|value| name_of(&RECOVERIES, &value)));
        say("remap", self.remap.and_then(|value| name_of(&REMAPS, &value)));
        say("slowdown", self.slowdown.and_then(|value| name_of(&SLOWDOWNS, &value)));
        let two = |(first, second): (u64, u64)| format!("{first} {second}");
        let rows = self.rows_remapped.map(|(first, second)| (first.into(), second.into()));
        say("rows_remapped", rows.map(two));
        say("ecc_corrected", self.ecc_corrected.map(two));
        say("ecc_uncorrected", self.ecc_uncorrected.map(two));
        say("numa", self.numa.map(|value| value.to_string()));
        let switched = (self.switch_nvlinks > 0).then(|| self.switch_nvlinks.to_string());
        say("switch_nvlinks", switched);
        say("mig", self.mig.and_then(|value| name_of(&MIGS, &value)));
        for (index, Slice { uuid, profile, memory_bytes }) in &self.slices {
            facts.push(("slice", format!("{index} {uuid} {profile} {memory_bytes}")));
        }
        for (index, used_bytes) in &self.slices_used_bytes {
            facts.push(("slice_used", format!("{index} {used_bytes}")));
        }
        for (other, count) in &self.nvlinks {
            facts.push(("nvlinks", format!("{other} {count}")));
        }
        for (other, ancestor) in &self.ancestors {
            let ancestor = name_of(&ANCESTORS, ancestor).unwrap_or_default();
            facts.push(("ancestor", format!("{other} {ancestor}")));
        }
        for (pid, process) in &self.processes {
            facts.push(("process", format!("{pid} {}", process.memory_bytes)));
        }
        for xid in &self.xids {
            facts.push(("xid", format!("{} {}", xid.code, xid.number)));
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_reads_as_it_was_written_and_the_last_word_counts() {
        let mut script = Script { driver: Some("570.86.15".to_owned()), ..Script::default() };
        script.init = Init::Mismatch;
        script.hanging.insert("nvmlDeviceGetName".to_owned());
        script.failing.insert("nvmlDeviceGetUUID".to_owned());
        let gpu = Gpu {
            uuid: Some("GPU-a".to_owned()),
            name: Some("NVIDIA H100 80GB HBM3".to_owned()),
            bus: Some("00000000:1B:00.0".to_owned()),
            minor: Some(3),
            memory_total_bytes: Some(80 << 30),
            memory_used_bytes: Some(1),
            utilization_percent: Some(87),
            temperature_celsius: Some(61),
            power_milliwatts: Some(350_000),
            clock_mhz: Some(1980),
            processes: [(4711, Process { memory_bytes: 9 })].into(),
            xids: vec![Xid { number: 1, code: 79 }, Xid { number: 4, code: 13 }],
            is_lost: true,
            needs_reset: true,
            has_bad_memory: true,
            recovery: Some(Recovery::DrainAndReset),
            remap: Some(Remap::Pending),
            rows_remapped: Some((1, 0)),
            ecc_corrected: Some((5, 120)),
            ecc_uncorrected: Some((0, 1)),
            slowdown: Some(Slowdown::Heat),
            numa: Some(1),
            ancestors: [(1, Ancestor::NumaNode)].into(),
            nvlinks: [(1, 4)].into(),
            switch_nvlinks: 18,
            mig: Some(Mig::On),
            slices: [(
                3,
                Slice {
                    uuid: "MIG-a".to_owned(),
                    profile: "1g.10gb".to_owned(),
                    memory_bytes: 10 << 30,
                },
            )]
            .into(),
            slices_used_bytes: [(3, 1 << 30)].into(),
        };
        script.gpus = [(0, gpu), (1, Gpu::default())].into();
        script.gpus.get_mut(&1).unwrap().minor = Some(0);
        let text = script.to_string();
        assert_eq!(Script::parse(&text), Ok(script.clone()));

        let more = "\n# behind it\ngpu 0 memory_used 7\ngpu 0 lost no\ninit works\n";
        let after = Script::parse(&(text + more)).unwrap();
        script.gpus.get_mut(&0).unwrap().memory_used_bytes = Some(7);
        script.gpus.get_mut(&0).unwrap().is_lost = false;
        script.init = Init::Works;
        assert_eq!(after, script);
    }

    #[test]
    fn what_says_nothing_is_named_with_its_line() {
        for (text, line, part) in [
            ("driver", 1, "behind `driver`"),
            ("\nfoo bar", 2, "unknown word `foo`"),
            ("gpu 0 colour red", 1, "`colour` of a GPU"),
            ("gpu x uuid a", 1, "`x` is no number"),
            ("gpu 0 utilization -1", 1, "`-1` is no number"),
            ("gpu 0 lost maybe", 1, "found `maybe`"),
            ("gpu 0 remap perhaps", 1, "one of done, pending, failed, found `perhaps`"),
            ("gpu 0 ancestor 1 none", 1, "one of board, switch, switches, host-bridge,"),
            ("gpu 0 nvlinks 1", 1, "behind `1`"),
            ("gpu 0 mig perhaps", 1, "one of off, on, found `perhaps`"),
            ("gpu 0 slice 0 MIG-a 1g.10gb", 1, "behind `1g.10gb`"),
            ("gpu 0 ecc_corrected 1 many", 1, "`many` is no number"),
            ("gpu 0 process 12", 1, "behind `12`"),
            ("init perhaps", 1, "`perhaps` is no way"),
            ("gpu 0 uuid a\ngpu 2 uuid b", 2, "there is no GPU 1"),
        ] {
            let refused = Script::parse(text).unwrap_err();
            assert_eq!(refused.line, line, "{text}: {refused}");
            assert!(refused.problem.contains(part), "{text}: {refused}");
        }
    }
}
