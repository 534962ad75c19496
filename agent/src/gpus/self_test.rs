//! The agent's own test of a GPU that comes back: its memory is written, copied and read by CUDA's
//! driver interface. It runs no program on the GPU's cores, and it tests a piece of the memory,
//! not all of it; whoever wants more names a program of their own.
//!
//! It is a process of its own, since a driver's call may never return, and sees one GPU alone.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use berth_nvml_sim::SCRIPT_VARIABLE;
use tokio::process::Command;

use super::nvml;
use crate::options::Program;
use crate::sys::cuda::{Context, Cuda, Failed, Memory, Uuid};

/// The most memory that is tested: with less a broken chip may stay unseen, and more takes longer
/// without finding much that the errors which GPUs count themselves do not tell.
const TESTED_BYTES_MAX: usize = 256 << 20;
/// Of the memory that is free no more than this part is taken: somebody may be about to use it.
const FREE_PART: usize = 2;
/// With less than this nothing is tested.
const TESTED_BYTES_MIN: usize = 1 << 20;
const WORD_BYTES: usize = size_of::<u32>();
/// So many words are read back at a time.
const CHUNK_WORDS: usize = (4 << 20) / WORD_BYTES;
/// Each bit is both, and neighbours are the same and differ.
const PATTERNS: [u32; 4] = [0, u32::MAX, 0x5555_5555, 0xaaaa_aaaa];
/// Errors that say nothing of the GPU, by their numbers in `cuda.h`: it is used by somebody (2, 46),
/// or the host, its driver or this library is not up to it (34, 100, 304, 800 to 804).
const OF_THE_HOST: [i32; 10] = [2, 34, 46, 100, 304, 800, 801, 802, 803, 804];
/// What the loader looks for.
const USUAL: &str = "libcuda.so.1";

/// Which library the test loads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CudaLibrary {
    /// The driver's, where the loader finds it.
    Usual,
    /// The one in this file.
    At(PathBuf),
    /// The simulated one, with these scripts.
    Simulated(Vec<PathBuf>),
}

/// How the process that tests ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Fine = 0,
    Wrong = 1,
    /// It could not be tested now.
    Undone = 3,
    /// There is no library to test it with.
    NoLibrary = 4,
}

impl Ended {
    pub fn of(code: Option<i32>) -> Ended {
        let all = [Ended::Fine, Ended::Wrong, Ended::NoLibrary];
        // Whatever else it ended by says nothing of the GPU.
        all.into_iter().find(|ended| code == Some(*ended as i32)).unwrap_or(Ended::Undone)
    }
}

/// What is not well, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Problem {
    Wrong(String),
    Undone(String),
    NoLibrary(String),
}

/// The process that tests the GPU with this uuid.
pub fn command(program: &Program, library: &CudaLibrary, uuid: &str) -> Command {
    let mut command = Command::new(&program.exe);
    command.args(&program.arguments);
    // Of several GPUs each would be woken, and one that is not well would hold up the test of
    // another.
    command.env("CUDA_VISIBLE_DEVICES", uuid).env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    match library {
        CudaLibrary::Usual => command.arg("usual"),
        CudaLibrary::At(path) => command.arg("at").arg(path),
        CudaLibrary::Simulated(scripts) => {
            let scripts: Vec<OsString> = scripts.iter().map(|path| path.clone().into()).collect();
            command.env(SCRIPT_VARIABLE, scripts.join(OsStr::new("\n"))).arg("simulated")
        }
    };
    command.arg(uuid);
    command
}

fn from_arguments(mut given: impl Iterator<Item = String>) -> Option<(CudaLibrary, String)> {
    let library = match given.next()?.as_str() {
        "usual" => CudaLibrary::Usual,
        "at" => CudaLibrary::At(given.next()?.into()),
        // Its scripts are named in the environment.
        "simulated" => CudaLibrary::Simulated(Vec::new()),
        _ => return None,
    };
    let uuid = given.next()?;
    given.next().is_none().then_some((library, uuid))
}

/// Runs the test; its arguments are the agent's own affair. Each call is named on standard output
/// before it is made, so that whoever ends this process knows in which it hangs; what is wrong is
/// the last line on standard error.
pub fn self_test(given: impl Iterator<Item = String>) -> ExitCode {
    let Some((library, uuid)) = from_arguments(given) else { return ExitCode::from(2) };
    let (ended, said) = match load(&library).and_then(|cuda| test(&cuda, &uuid)) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Problem::Wrong(said)) => (Ended::Wrong, said),
        Err(Problem::Undone(said)) => (Ended::Undone, said),
        Err(Problem::NoLibrary(said)) => (Ended::NoLibrary, said),
    };
    // Without anybody who hears it the status says enough.
    let _ = writeln!(io::stderr(), "{said}");
    ExitCode::from(ended as u8)
}

fn announce(call: &'static str) {
    let _ = writeln!(io::stdout(), "{call}");
}

fn load(library: &CudaLibrary) -> Result<Cuda, Problem> {
    let none = |error: &dyn std::fmt::Display| {
        Problem::NoLibrary(format!("NVIDIA's library for computing is not here: {error}"))
    };
    let loaded = match library {
        CudaLibrary::Usual => Cuda::load(OsStr::new(USUAL), announce),
        CudaLibrary::At(path) => Cuda::load(path.as_os_str(), announce),
        CudaLibrary::Simulated(_) => {
            let file = nvml::in_memory(berth_nvml_sim::library()).map_err(|error| none(&error))?;
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            // Once loaded it needs its file no more.
            Cuda::load(OsStr::new(&path), announce)
        }
    };
    loaded.map_err(|error| none(&error))
}

fn test(cuda: &Cuda, uuid: &str) -> Result<(), Problem> {
    // It wakes the driver, which is the same for every GPU.
    cuda.init().map_err(|failed| Problem::Undone(in_words(cuda, failed)))?;
    let of_gpu = |failed: Failed| match OF_THE_HOST.contains(&failed.code) {
        true => Problem::Undone(in_words(cuda, failed)),
        false => Problem::Wrong(in_words(cuda, failed)),
    };
    let count = cuda.device_count().map_err(of_gpu)?;
    let device = cuda.first_device().map_err(of_gpu)?;
    let other = bytes_of(uuid).map(|wanted| cuda.uuid(device).map(|found| found != wanted));
    if count != 1 || other.transpose().map_err(of_gpu)?.unwrap_or(false) {
        return Err(Problem::Undone("CUDA shows other GPUs than the one to test".to_owned()));
    }
    let context = cuda.create_context(device).map_err(of_gpu)?;
    let free_bytes = context.free_bytes().map_err(of_gpu)?;
    let tested_bytes = (free_bytes / FREE_PART).min(TESTED_BYTES_MAX);
    if tested_bytes < TESTED_BYTES_MIN {
        return Err(Problem::Undone("too little of its memory is free".to_owned()));
    }
    test_memory(&context, tested_bytes / WORD_BYTES / 2).map_err(|found| match found {
        Found::Failed(failed) => of_gpu(failed),
        Found::Other(said) => Problem::Wrong(said),
    })?;
    context.destroy().map_err(of_gpu)
}

fn in_words(cuda: &Cuda, failed: Failed) -> String {
    format!("{}: {}", failed.call, cuda.name_of(failed.code))
}

/// The bytes of a uuid, where it is one of the usual form. A list of one uuid may mean another GPU
/// to whoever takes it for the beginning of one.
fn bytes_of(uuid: &str) -> Option<Uuid> {
    let digits = uuid.strip_prefix("GPU-")?.replace('-', "");
    let number = u128::from_str_radix(&digits, 16).ok()?;
    let bytes = number.to_be_bytes();
    (digits.len() == 2 * bytes.len()).then_some(bytes)
}

enum Found {
    Failed(Failed),
    /// Not what was written.
    Other(String),
}

impl From<Failed> for Found {
    fn from(failed: Failed) -> Found {
        Found::Failed(failed)
    }
}

/// Two pieces of memory of so many words each: what is written to one is copied to the other, and
/// read there.
fn test_memory(context: &Context<'_>, word_count: usize) -> Result<(), Found> {
    let (first, second) = (context.allocate(word_count)?, context.allocate(word_count)?);
    for pattern in PATTERNS {
        first.set(pattern)?;
        second.copy_from(&first)?;
        read_back(&second, word_count, |_| pattern)?;
    }
    // Each word is another, so that one that is written elsewhere is noticed.
    let mut words = Vec::with_capacity(CHUNK_WORDS);
    for begin in (0..word_count).step_by(CHUNK_WORDS) {
        words.clear();
        words.extend((begin..word_count.min(begin + CHUNK_WORDS)).map(numbered));
        first.write(begin, &words)?;
    }
    second.copy_from(&first)?;
    read_back(&second, word_count, numbered)?;
    context.synchronize()?;
    first.free()?;
    Ok(second.free()?)
}

/// Another value for each place: there are fewer places than values.
fn numbered(place: usize) -> u32 {
    // Odd, so that it leads from each value to another one; its bits change all of them.
    u32::try_from(place).unwrap_or(u32::MAX).wrapping_mul(0x9e37_79b1)
}

fn read_back(
    memory: &Memory<'_>,
    word_count: usize,
    expected: impl Fn(usize) -> u32,
) -> Result<(), Found> {
    let mut words = vec![0; CHUNK_WORDS.min(word_count)];
    for begin in (0..word_count).step_by(CHUNK_WORDS) {
        let count = CHUNK_WORDS.min(word_count - begin);
        // What nobody writes there is not what is expected.
        words.iter_mut().zip(begin..).for_each(|(word, place)| *word = !expected(place));
        memory.read(begin, &mut words[..count])?;
        let mut read = words[..count].iter().zip(begin..);
        if let Some((found, place)) = read.find(|(found, place)| **found != expected(*place)) {
            let written = expected(place);
            let said = format!("its memory holds {found:#010x} where {written:#010x} was written");
            return Err(Found::Other(said));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_test_is_told_it_understands() {
        let program = Program { exe: "berth".into(), arguments: vec!["gpu-self-test".into()] };
        for library in [
            CudaLibrary::Usual,
            CudaLibrary::At("/lib/libcuda.so.1".into()),
            CudaLibrary::Simulated(Vec::new()),
        ] {
            let command = command(&program, &library, "GPU-a");
            let told = command.as_std().get_args().skip(1);
            let told = told.map(|argument| argument.to_string_lossy().into_owned());
            assert_eq!(from_arguments(told), Some((library, "GPU-a".to_owned())));
        }
        for wrong in [&["usual"][..], &["at", "x"], &["usual", "a", "b"], &["other", "a"], &[]] {
            assert_eq!(from_arguments(wrong.iter().map(|word| (*word).to_owned())), None);
        }
    }

    #[test]
    fn only_an_end_that_says_so_says_something_of_the_gpu() {
        for (code, expected) in [
            (Some(0), Ended::Fine),
            (Some(1), Ended::Wrong),
            (Some(2), Ended::Undone),
            (Some(3), Ended::Undone),
            (Some(4), Ended::NoLibrary),
            (Some(101), Ended::Undone),
            (None, Ended::Undone),
        ] {
            assert_eq!(Ended::of(code), expected, "{code:?}");
        }
    }

    #[test]
    fn a_uuid_of_the_usual_form_is_sixteen_bytes() {
        let usual = "GPU-00112233-4455-6677-8899-aabbccddeeff";
        let bytes = bytes_of(usual).unwrap();
        assert_eq!((bytes[0], bytes[1], bytes[15]), (0x00, 0x11, 0xff));
        for other in ["GPU-sim-node-a-0", "GPU-0011", "MIG-00112233-4455-6677-8899-aabbccddeeff"] {
            assert_eq!(bytes_of(other), None, "{other}");
        }
    }

    #[test]
    fn neighbouring_places_differ_in_value() {
        let some: std::collections::BTreeSet<u32> = (0..100_000).map(numbered).collect();
        assert_eq!(some.len(), 100_000);
    }
}
