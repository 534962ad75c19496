//! The prober: a process that looks at the GPUs all the time and writes what it sees
//! to its standard output. It decides nothing, and ends when nobody holds the other
//! end of its standard input any more.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nvml_wrapper::{EventSet, Nvml};

use super::listed::{self, Lister};
use super::nvml::{self, Known};
use super::said::{Frame, Happened, Look, Said, Unavailable};
use super::topology::topology;
use super::{Library, Pace};

/// How long one wait for an event takes at most; the library wants a limit.
const EVENT_WAIT_MS: u32 = 500;
/// How the GPUs reach each other is asked again after so many looks that were due: NVLinks come up when the
/// fabric manager does, and go down with a fault. It takes some hundred calls.
const TOPOLOGY_LOOKS: u32 = 60;

/// What the arguments of `gpu-prober` say, as [`arguments`] makes them.
fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Option<(Library, Pace)> {
    let mut milliseconds = || arguments.next()?.parse().ok().map(Duration::from_millis);
    let (every, retry) = (milliseconds()?, milliseconds()?);
    let pace = Pace { every, retry, ..Pace::default() };
    let library = match (arguments.next()?.as_str(), arguments.next()) {
        ("usual", None) => Library::Usual,
        ("at", Some(path)) => Library::At(PathBuf::from(path)),
        // Its scripts are named in the environment.
        ("simulated", None) => Library::Simulated(Vec::new()),
        ("listed", Some(deadline)) => {
            let deadline = Duration::from_millis(deadline.parse().ok()?);
            Library::Listed(Lister { command: arguments.collect(), deadline })
        }
        _ => return None,
    };
    Some((library, pace))
}

/// How the prober is told what to do.
pub(super) fn arguments(library: &Library, pace: Pace) -> Vec<std::ffi::OsString> {
    let mut arguments =
        vec![pace.every.as_millis().to_string().into(), pace.retry.as_millis().to_string().into()];
    match library {
        Library::Usual => arguments.push("usual".into()),
        Library::At(path) => arguments.extend(["at".into(), path.clone().into()]),
        Library::Simulated(_) => arguments.push("simulated".into()),
        Library::Listed(Lister { command, deadline }) => {
            arguments.extend(["listed".into(), deadline.as_millis().to_string().into()]);
            arguments.extend(command.iter().map(Into::into));
        }
    }
    arguments
}

/// Runs the prober; its arguments are the agent's own affair.
pub fn probe(given: impl Iterator<Item = String>) -> ExitCode {
    let Some((library, pace)) = from_arguments(given) else { return ExitCode::from(2) };
    // The library may hang in any thread; this one never calls it.
    let (ask, asked) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while io::stdin().read(&mut bytes).is_ok_and(|read| read > 0) {
            // Whatever is said, it means: look now. One that waits is enough.
            let _ = ask.try_send(());
        }
        end();
    });
    let out = Out(Mutex::new(io::stdout()));
    if let Library::Listed(lister) = &library {
        list(lister, &out, pace.every, &asked);
    }
    loop {
        let reason = match nvml::open(&library) {
            Ok(nvml) => watch(&nvml, &out, pace.every, &asked),
            Err(reason) => reason,
        };
        // Said again all the time: who is silent hangs.
        let begun = Instant::now();
        while begun.elapsed() < pace.retry {
            let reason = reason.clone();
            out.say(Said::Unavailable(Unavailable { reason, is_asked_for: false }));
            std::thread::sleep(pace.every.min(pace.retry));
        }
    }
}

/// Has the command list the devices again and again.
fn list(lister: &Lister, out: &Out, every: Duration, asked: &mpsc::Receiver<()>) -> ! {
    loop {
        out.say(match listed::look(lister) {
            Ok(look) => Said::Look(look),
            Err(reason) => Said::Unavailable(Unavailable { reason, is_asked_for: true }),
        });
        let _ = asked.recv_timeout(every);
        while asked.try_recv().is_ok() {}
    }
}

/// At once: the library would be unloaded in order otherwise, beside a call of it that
/// may hang.
fn end() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// The pipe to the agent. The lock guards one frame each.
struct Out(Mutex<io::Stdout>);

impl Out {
    fn say(&self, said: Said) {
        let bytes = Frame::of(said).to_bytes();
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
            // Nobody listens.
            end();
        }
    }
}

/// Looks and listens until the library cannot be asked any more; why. A look that is asked
/// for is not waited for.
fn watch(nvml: &Nvml, out: &Out, every: Duration, asked: &mpsc::Receiver<()>) -> String {
    let listeners = Listeners::default();
    std::thread::scope(|threads| {
        let mut known = Known::new();
        let mut mapped = Mapped::default();
        let mut due_at = Instant::now();
        loop {
            let is_extra = Instant::now() < due_at;
            match nvml::look(nvml, &mut known) {
                Ok(mut look) => {
                    look.is_extra = is_extra;
                    mapped.renew(nvml, &mut look);
                    for gpu in &look.gpus {
                        if !listeners.begin(&gpu.uuid) {
                            continue;
                        }
                        // Before anybody hears that the GPU is there.
                        match nvml::listen(nvml, gpu.index) {
                            Ok(Some(set)) => {
                                let (uuid, listeners) = (gpu.uuid.clone(), &listeners);
                                threads.spawn(move || listen(&set, out, uuid, listeners));
                            }
                            Ok(None) => {}
                            Err(_) => listeners.end(&gpu.uuid),
                        }
                    }
                    out.say(Said::Look(look));
                }
                Err(error) => {
                    listeners.over.store(true, Ordering::Relaxed);
                    return nvml::in_words(&error);
                }
            }
            if !is_extra {
                due_at = Instant::now() + every;
            }
            let _ = asked.recv_timeout(due_at.saturating_duration_since(Instant::now()));
            // Those that came together.
            while asked.try_recv().is_ok() {}
        }
    })
}

/// When it was last asked how the GPUs reach each other.
#[derive(Default)]
struct Mapped {
    uuids: Vec<String>,
    looks: u32,
}

impl Mapped {
    /// Has a look say it, if it is another inventory or was not said for long.
    fn renew(&mut self, nvml: &Nvml, look: &mut Look) {
        let uuids: Vec<String> = look.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        self.looks += u32::from(!look.is_extra);
        if uuids != self.uuids || self.looks >= TOPOLOGY_LOOKS {
            look.topology = Some(topology(nvml, &look.gpus));
            *self = Mapped { uuids, looks: 0 };
        }
    }
}

/// Whose errors are listened for.
#[derive(Default)]
struct Listeners {
    /// The lock guards single changes.
    of: Mutex<BTreeSet<String>>,
    over: AtomicBool,
}

impl Listeners {
    /// Whether nobody listens to this GPU yet. One that has no errors to tell keeps its place,
    /// so that it is not asked again.
    fn begin(&self, uuid: &str) -> bool {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).insert(uuid.to_owned())
    }

    fn end(&self, uuid: &str) {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).remove(uuid);
    }
}

/// Tells of the errors of one GPU for as long as it can be listened to.
fn listen(set: &EventSet<'_>, out: &Out, uuid: String, listeners: &Listeners) {
    while !listeners.over.load(Ordering::Relaxed) {
        match nvml::next_xid(set, EVENT_WAIT_MS) {
            Ok(Some(xid)) => out.say(Said::Happened(Happened { uuid: uuid.clone(), xid })),
            Ok(None) => {}
            Err(_) => return listeners.end(&uuid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_prober_is_told_it_understands() {
        let pace = Pace {
            every: Duration::from_millis(70),
            retry: Duration::from_secs(3),
            ..Pace::default()
        };
        let lister = Lister {
            command: ["list", "--json"].map(str::to_owned).to_vec(),
            deadline: Duration::from_millis(5),
        };
        for library in [
            Library::Usual,
            Library::At("/lib/nvml.so".into()),
            Library::Simulated(Vec::new()),
            Library::Listed(lister),
        ] {
            let told = arguments(&library, pace).into_iter();
            let told = told.map(|argument| argument.into_string().unwrap());
            assert_eq!(from_arguments(told), Some((library, pace)));
        }
        for wrong in [&["1"][..], &["1", "2"], &["1", "2", "at"], &["x", "2", "usual"]] {
            assert_eq!(from_arguments(wrong.iter().map(|word| (*word).to_owned())), None);
        }
    }
}
