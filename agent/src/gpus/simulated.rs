//! The script of GPUs that are only pretended: what they are, and how much memory the
//! work that was placed on them uses, which is what was claimed for it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use berth_config::units::{CPU_MILLI_PER_GPU, MEMORY_BYTES_PER_GPU, SimulatedGpus};
use berth_model::{CpuMilli, MemoryBytes, Name};
use berth_nvml_sim::{Ancestor, Gpu, Script};
use tokio::sync::watch;
use tracing::warn;

/// The version that a simulated driver says it has.
const DRIVER: &str = "simulated";
/// In the agent's data directory.
pub const FOLDER: &str = "simulated";
const HOST_FILE: &str = "host";
const CLAIMS_FILE: &str = "claims";
/// Whoever tries things out writes this one.
const FAULTS_FILE: &str = "faults";

/// How much of each GPU's memory is claimed, by its index.
pub type Claims = BTreeMap<u32, MemoryBytes>;

const GPUS_PER_NUMA_NODE: u32 = 4;
/// How many NVLinks to switches each GPU has, where a model's usual hosts have every GPU
/// reach every other over them.
const SWITCH_NVLINKS: [(&str, u32); 6] =
    [("A100", 12), ("H100", 18), ("H200", 18), ("B200", 18), ("B300", 18), ("GB200", 18)];

/// Cores that a host with such GPUs offers to workers.
pub fn host_cpu(gpus: &SimulatedGpus) -> CpuMilli {
    CpuMilli(CPU_MILLI_PER_GPU * u64::from(gpus.count))
}

/// Memory that a host with such GPUs offers to workers.
pub fn host_memory(gpus: &SimulatedGpus) -> MemoryBytes {
    MemoryBytes(MEMORY_BYTES_PER_GPU * u64::from(gpus.count))
}

/// The uuids of the GPUs of the node `name`.
pub fn uuids(gpus: &SimulatedGpus, name: &Name) -> Vec<String> {
    (0..gpus.count).map(|index| uuid(name, index)).collect()
}

fn uuid(name: &Name, index: u32) -> String {
    format!("GPU-sim-{name}-{index}")
}

/// Writes what the GPUs of the node `name` are to a folder, and says which files are
/// their script. A GPU keeps its uuid over restarts and differs from those of every
/// other node.
///
/// # Errors
/// The folder cannot be written.
pub fn write_host(folder: &Path, gpus: &SimulatedGpus, name: &Name) -> io::Result<Vec<PathBuf>> {
    let gpu = |index: u32| Gpu {
        uuid: Some(uuid(name, index)),
        name: Some(gpus.model.clone()),
        bus: Some(format!("00000000:{:02X}:00.0", index + 1)),
        // It has no device node.
        minor: None,
        memory_total_bytes: Some(gpus.memory_bytes),
        memory_used_bytes: Some(0),
        numa: Some(index / GPUS_PER_NUMA_NODE),
        ancestors: (0..index).map(|other| (other, ancestor(index, other))).collect(),
        switch_nvlinks: switch_nvlinks(&gpus.model),
        ..Gpu::default()
    };
    let script = Script {
        driver: Some(DRIVER.to_owned()),
        gpus: (0..gpus.count).map(|index| (index, gpu(index))).collect(),
        ..Script::default()
    };
    fs::create_dir_all(folder)?;
    replace(&folder.join(HOST_FILE), &script.to_string())?;
    // Of a time that is over.
    replace(&folder.join(CLAIMS_FILE), "")?;
    Ok([HOST_FILE, CLAIMS_FILE, FAULTS_FILE].map(|file| folder.join(file)).to_vec())
}

/// How many NVLinks to switches each GPU of an eight-GPU host of this model has.
fn switch_nvlinks(model: &str) -> u32 {
    let family = SWITCH_NVLINKS.iter().find(|(family, _)| model.starts_with(family));
    family.map_or(0, |(_, count)| *count)
}

/// Two share a switch, and there are two sockets of four GPUs each.
fn ancestor(one: u32, other: u32) -> Ancestor {
    if one / 2 == other / 2 {
        Ancestor::Switch
    } else if one / GPUS_PER_NUMA_NODE == other / GPUS_PER_NUMA_NODE {
        Ancestor::NumaNode
    } else {
        Ancestor::System
    }
}

/// Keeps the claimed memory in the script, until nobody claims any more.
pub async fn keep_claims(folder: PathBuf, mut claims: watch::Receiver<Claims>) {
    while claims.changed().await.is_ok() {
        let lines: Vec<String> = claims
            .borrow_and_update()
            .iter()
            .map(|(index, memory)| format!("gpu {index} memory_used {}\n", memory.0))
            .collect();
        let file = folder.join(CLAIMS_FILE);
        let written = tokio::task::spawn_blocking(move || replace(&file, &lines.concat())).await;
        if let Ok(Err(error)) = written {
            warn!(%error, "simulated GPUs do not learn what is claimed of them");
        }
    }
}

/// Takes away what a reset mends of one GPU, in the file of faults. What has happened stays
/// there: it is told once.
///
/// # Errors
/// The file cannot be read or written.
pub(super) fn reset(faults: &Path, index: u32) -> io::Result<()> {
    let mended = without(&read_or_empty(faults)?, |gpu, fact| {
        gpu == index.to_string() && ["lost", "needs_reset", "recovery", "remap"].contains(&fact)
    });
    replace(faults, &mended)
}

/// What simulated GPUs of an agent are told to do from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pretence {
    /// An error of the driver's, as in NVIDIA's catalogue.
    Xid(u64),
    /// A fact of a script, such as `lost yes`.
    Fact(String),
    /// Nothing of what was pretended of it is so any more. Errors that were told stay told.
    Nothing,
}

/// What is pretended cannot be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadPretence(String);

impl std::fmt::Display for BadPretence {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for BadPretence {}

/// Has a simulated GPU of the agent with this data directory do these, one after the other;
/// all of them or none.
///
/// # Errors
/// [`BadPretence`]: there is no such GPU, or the fact says nothing. Others: the agent has
/// no simulated GPUs, or the file cannot be read or written.
pub fn pretend(data_dir: &Path, gpu: u32, pretences: &[Pretence]) -> anyhow::Result<()> {
    let folder = data_dir.join(FOLDER);
    let host = fs::read_to_string(folder.join(HOST_FILE))
        .with_context(|| format!("{} has no simulated GPUs", data_dir.display()))?;
    let faults = faults_file(&folder);
    let before = read_or_empty(&faults).with_context(|| format!("read {}", faults.display()))?;
    let script = Script::parse(&format!("{host}\n{before}"))
        .map_err(|error| anyhow!("{} cannot be understood: {error}", faults.display()))?;
    let count = script.gpus.len();
    if !script.gpus.contains_key(&gpu) {
        let last = count.saturating_sub(1);
        bail!(BadPretence(format!("there is no GPU {gpu}: expected 0 to {last}")));
    }
    let mut after = before;
    let numbers = script.gpus.values().flat_map(|gpu| &gpu.xids).map(|xid| xid.number);
    let mut last = numbers.max().unwrap_or(0);
    for pretence in pretences {
        after = match pretence {
            Pretence::Nothing => {
                without(&after, |index, fact| index == gpu.to_string() && fact != "xid")
            }
            Pretence::Fact(fact) => format!("{after}gpu {gpu} {fact}\n"),
            Pretence::Xid(code) => {
                last += 1;
                format!("{after}gpu {gpu} xid {code} {last}\n")
            }
        };
    }
    Script::parse(&format!("{host}\n{after}")).map_err(|error| BadPretence(error.problem))?;
    replace(&faults, &after).with_context(|| format!("write {}", faults.display()))
}

/// A script without the facts of GPUs that are meant, by index and fact.
fn without(text: &str, is_meant: impl Fn(&str, &str) -> bool) -> String {
    let stays = |line: &&str| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("gpu"), Some(index), Some(fact)) => !is_meant(index, fact),
            _ => true,
        }
    };
    text.lines().filter(stays).map(|line| format!("{line}\n")).collect()
}

/// The file that whoever tries things out writes to.
pub fn faults_file(folder: &Path) -> PathBuf {
    folder.join(FAULTS_FILE)
}

/// The content of a file; nothing if there is none.
fn read_or_empty(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// Gives a file another content at once, so that no reader sees half of it.
fn replace(file: &Path, content: &str) -> io::Result<()> {
    let aside = file.with_extension("new");
    fs::write(&aside, content)?;
    fs::rename(&aside, file)
}

#[cfg(test)]
mod tests {
    use berth_config::units::simulated_gpus;

    use super::*;

    #[test]
    fn whoever_pretends_is_told_what_cannot_be() {
        let data = tempfile::tempdir().unwrap();
        let problem =
            |gpu, pretence| format!("{:#}", pretend(data.path(), gpu, &[pretence]).unwrap_err());
        assert!(problem(0, Pretence::Nothing).contains("has no simulated GPUs"));
        let gpus = simulated_gpus("2xH100-80GB").unwrap();
        let folder = data.path().join(FOLDER);
        write_host(&folder, &gpus, &"node-a".parse().unwrap()).unwrap();
        assert_eq!(problem(2, Pretence::Xid(79)), "there is no GPU 2: expected 0 to 1");
        let wrong = Pretence::Fact("lost maybe".to_owned());
        assert_eq!(problem(1, wrong), "expected yes or no, found `maybe`");
        for pretence in [
            Pretence::Xid(79),
            Pretence::Fact("lost yes".to_owned()),
            Pretence::Xid(79),
            Pretence::Fact("utilization 7".to_owned()),
        ] {
            pretend(data.path(), 1, &[pretence]).unwrap();
        }
        pretend(data.path(), 0, &[Pretence::Xid(48)]).unwrap();
        let faults = faults_file(&folder);
        let lines = "gpu 1 xid 79 1\ngpu 1 lost yes\ngpu 1 xid 79 2\ngpu 1 utilization 7\n";
        assert_eq!(fs::read_to_string(&faults).unwrap(), format!("{lines}gpu 0 xid 48 3\n"));
        let all_or_none = [Pretence::Nothing, Pretence::Fact("lost maybe".to_owned())];
        pretend(data.path(), 1, &all_or_none).unwrap_err();
        pretend(data.path(), 1, &[Pretence::Nothing, Pretence::Xid(74)]).unwrap();
        let left = "gpu 1 xid 79 1\ngpu 1 xid 79 2\ngpu 0 xid 48 3\ngpu 1 xid 74 4\n";
        assert_eq!(fs::read_to_string(&faults).unwrap(), left);
        fs::write(&faults, "nonsense").unwrap();
        assert!(problem(0, Pretence::Xid(1)).contains("faults cannot be understood: line"));
    }

    #[tokio::test]
    async fn simulated_gpus_are_stable_and_use_what_is_claimed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("gpus");
        let gpus = simulated_gpus("2xH100-80GB").unwrap();
        let name: Name = "node-a".parse().unwrap();
        let files = write_host(&folder, &gpus, &name).unwrap();
        let script = || {
            let texts = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default());
            Script::parse(&texts.collect::<Vec<_>>().join("\n")).unwrap()
        };
        let before = script();
        let uuids: Vec<_> = before.gpus.values().map(|gpu| gpu.uuid.clone().unwrap()).collect();
        assert_eq!(uuids, ["GPU-sim-node-a-0", "GPU-sim-node-a-1"]);
        let used = |script: &Script| -> Vec<_> {
            script.gpus.values().map(|gpu| gpu.memory_used_bytes).collect()
        };
        assert_eq!(used(&before), [Some(0), Some(0)]);

        let (claim, claims) = watch::channel(Claims::new());
        claim.send([(1, MemoryBytes(7))].into()).unwrap();
        let keeping = keep_claims(folder.clone(), claims);
        drop(claim);
        keeping.await;
        assert_eq!(used(&script()), [Some(0), Some(7)]);
        write_host(&folder, &gpus, &name).unwrap();
        assert_eq!(script(), before);

        let faults = faults_file(&folder);
        reset(&faults, 1).unwrap();
        let text = "gpu 0 lost yes\n gpu 1  lost yes\ngpu 1 remap pending\ngpu 1 xid 79 1\n";
        fs::write(&faults, text).unwrap();
        reset(&faults, 1).unwrap();
        assert_eq!(fs::read_to_string(&faults).unwrap(), "gpu 0 lost yes\ngpu 1 xid 79 1\n");
    }
}
