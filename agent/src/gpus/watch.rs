//! The agent's end of the prober: starts it, hears it, and notices when it says
//! nothing. A prober that hangs in a driver cannot be ended, so no second one is
//! started beside it.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use berth_nvml_sim::SCRIPT_VARIABLE;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

use super::said::{Frame, Happened, Said};
use super::seen::{Probing, Seen};
use super::workshop::{Reset, Resetting};
use super::{Library, Pace, prober};
use crate::options::Program;

/// A prober that is to end before a reset ends within this, or hangs.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// Before another prober is started in place of one that ended.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// How a prober is started, and a GPU reset.
#[derive(Clone, Debug)]
pub struct Prober {
    pub program: Program,
    pub library: Library,
    pub pace: Pace,
    pub resetting: Resetting,
}

/// Who is told of GPUs, and who asks for something.
pub struct Watch {
    pub seen: watch::Sender<Seen>,
    /// Errors, as they come.
    pub happened: mpsc::Sender<Happened>,
    pub resets: mpsc::Receiver<Reset>,
    /// Somebody waits for a look.
    pub look_now: Arc<Notify>,
}

impl Prober {
    fn start(&self) -> io::Result<(Child, ChildStdout)> {
        let mut command = Command::new(&self.program.exe);
        command.args(&self.program.arguments).args(prober::arguments(&self.library, self.pace));
        if let Library::Simulated(scripts) = &self.library {
            let scripts: Vec<OsString> = scripts.iter().map(|path| path.clone().into()).collect();
            command.env(SCRIPT_VARIABLE, scripts.join(&OsString::from("\n")));
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let said = child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
        Ok((child, said))
    }
}

/// Watches the GPUs for as long as anybody looks at what is seen.
pub async fn watch(prober: Prober, watch: Watch) {
    let Watch { seen, happened, mut resets, look_now } = watch;
    let heard = async {
        loop {
            match prober.start() {
                Ok((mut child, said)) => {
                    let mut hearing =
                        std::pin::pin!(hear(said, prober.pace.silent_after, &seen, &happened));
                    let mut words = child.stdin.take();
                    let asked = loop {
                        tokio::select! {
                            () = &mut hearing => break None,
                            Some(asked) = resets.recv() => break Some(asked),
                            () = look_now.notified() => ask_to_look(&mut words).await,
                        }
                    };
                    if let Some(asked) = asked {
                        reset(&prober, &mut child, &seen, asked).await;
                        continue;
                    }
                    fall_silent(&seen);
                    // It ends, or has ended; one that hangs in the kernel never does, and
                    // then nothing else may ask the driver either.
                    let _ = child.start_kill();
                    let ended = child.wait().await;
                    warn!(?ended, "prober of GPUs has ended");
                }
                Err(error) => warn!(%error, "prober of GPUs cannot be started"),
            }
            fall_silent(&seen);
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    };
    tokio::select! {
        () = heard => {}
        () = seen.closed() => {}
    }
}

/// One that does not read any more ends, or hangs: then it is noticed where it is heard.
async fn ask_to_look(words: &mut Option<ChildStdin>) {
    if let Some(words) = words {
        let _ = tokio::time::timeout(Duration::from_millis(10), words.write_all(b"look")).await;
    }
}

/// Resets a GPU while no prober holds the driver: it is not reset under one. The others
/// are taken to be as they were.
async fn reset(prober: &Prober, child: &mut Child, seen: &watch::Sender<Seen>, asked: Reset) {
    let Reset { uuid, answer } = asked;
    let index = seen.borrow().index_of(&uuid);
    let _ = child.start_kill();
    let outcome = match (tokio::time::timeout(END_PATIENCE, child.wait()).await, index) {
        (Err(_), _) => {
            fall_silent(seen);
            Err("the driver does not answer".to_owned())
        }
        (Ok(_), None) => Err("it is not known any more".to_owned()),
        (Ok(_), Some(index)) => {
            seen.send_modify(Seen::pause);
            info!(uuid, "GPU is reset");
            let resetting = prober.resetting.reset(&uuid, index);
            let mut resetting = std::pin::pin!(resetting);
            match tokio::time::timeout(prober.pace.silent_after, &mut resetting).await {
                Ok(outcome) => outcome,
                // Nobody has seen the others for too long by now.
                Err(_) => {
                    fall_silent(seen);
                    resetting.await
                }
            }
        }
    };
    if let Err(problem) = &outcome {
        warn!(uuid, problem, "GPU was not reset");
    }
    // Whoever asked may be gone.
    let _ = answer.send(outcome);
    // One that hangs is waited for: nothing else may ask the driver meanwhile.
    let _ = child.wait().await;
}

/// Takes in what is said, to its end.
async fn hear(
    mut said: ChildStdout,
    silent_after: Duration,
    seen: &watch::Sender<Seen>,
    happened: &mpsc::Sender<Happened>,
) {
    let mut silent_at = Instant::now() + silent_after;
    loop {
        // A frame that comes in pieces over a pause is not lost: the reading goes on.
        let mut reading = std::pin::pin!(Frame::read(&mut said));
        let frame = match timeout_at(silent_at, &mut reading).await {
            Ok(frame) => frame,
            Err(_) => {
                fall_silent(seen);
                reading.await
            }
        };
        match frame {
            Ok(Some(Frame { said: Some(said) })) => {
                // An error that is reported says nothing of the calls that look.
                if !matches!(said, Said::Happened(_)) {
                    silent_at = Instant::now() + silent_after;
                }
                take(said, seen, happened);
            }
            Ok(Some(Frame { said: None })) => {}
            Ok(None) => return,
            Err(error) => return warn!(%error, "prober of GPUs is not understood"),
        }
    }
}

fn take(said: Said, seen: &watch::Sender<Seen>, happened: &mpsc::Sender<Happened>) {
    if let Said::Happened(error) = said {
        let Happened { uuid, xid } = &error;
        warn!(uuid, xid, "GPU reports an error");
        // A flood of them says no more than its beginning.
        let _ = happened.try_send(error);
        return;
    }
    let is_asked_for = matches!(&said, Said::Unavailable(unavailable) if unavailable.is_asked_for);
    seen.send_if_modified(|seen| {
        let before = seen.clone();
        seen.hear(said);
        tell(&before, seen);
        // Else nobody would notice that there could be devices.
        if let Probing::Unavailable { reason } = &seen.probing
            && is_asked_for
            && before.probing != seen.probing
            && seen.devices().is_empty()
        {
            warn!(reason, "the command that lists devices is of no use");
        }
        before != *seen
    });
}

fn fall_silent(seen: &watch::Sender<Seen>) {
    seen.send_if_modified(|seen| {
        let before = seen.clone();
        seen.fall_silent();
        tell(&before, seen);
        before != *seen
    });
}

/// One line for each change.
fn tell(before: &Seen, now: &Seen) {
    if before.probing == now.probing {
        return;
    }
    match &now.probing {
        Probing::Starting | Probing::Paused => {}
        Probing::Live => {
            let count = now.devices().len();
            info!(driver = %now.driver, gpu_count = count, "GPUs are watched");
        }
        Probing::Silent if now.devices().is_empty() => info!("no GPUs are watched"),
        Probing::Silent => error!("GPUs do not answer: nothing new is placed on them"),
        // Most hosts of this kind have no GPU at all.
        Probing::Unavailable { reason } if now.devices().is_empty() => {
            info!(reason, "no GPUs are watched");
        }
        Probing::Unavailable { reason } => {
            error!(reason, "GPUs cannot be watched: nothing new is placed on them");
        }
    }
}
