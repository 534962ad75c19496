//! One shim as the agent's loop sees it: requests go in, news come out, and
//! nothing waits.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use berth_shim::protocol::{
    AllocationState, Refusal, Request, RequestBody, ServerBody, ServerMessage, encode_frame,
};
use berth_shim::{ShimError, ShimHandle};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::options::Program;

/// Request ids above those that the handle used for itself.
const FIRST_REQUEST: u64 = 1 << 32;

/// What a shim says.
#[derive(Debug)]
pub enum ShimNews {
    /// The state of what it holds, asked for or not.
    State(Box<AllocationState>),
    /// It did not do what was asked for this allocation.
    Refused { asked: Asked, allocation_id: String, refusal: Refusal },
    /// The connection ended.
    Gone,
}

/// The kind of a request, for understanding its refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    Start,
    Other,
}

/// A greeted shim that pushes its events, and what it held then.
#[derive(Debug)]
pub struct Connected {
    pub handle: ShimHandle,
    pub state: AllocationState,
}

/// The sending side. Dropping it closes the connection and harms nobody.
#[derive(Debug)]
pub struct ShimLink {
    requests: mpsc::UnboundedSender<RequestBody>,
}

impl ShimLink {
    /// Takes over a connection; `report` is called for all that it says.
    pub fn start(
        connected: ShimHandle,
        report: impl Fn(ShimNews) + Send + Sync + 'static,
    ) -> ShimLink {
        // Bounded by the agent's own loop: a start, a stop and a retire for
        // each allocation.
        let (requests, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            // An error ends the connection, which is all that can be said.
            let _ = serve(connected, received, &report).await;
            report(ShimNews::Gone);
        });
        ShimLink { requests }
    }

    /// Asks; what becomes of it is news.
    pub fn ask(&self, request: RequestBody) {
        // A closed channel means that `Gone` was or will be reported.
        let _ = self.requests.send(request);
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.requests.closed().await;
    }
}

/// Starts a shim in `dir` and connects to it. Blocks.
///
/// # Errors
/// Those of the shim, in its words.
pub fn spawn(program: &Program, dir: &Path) -> Result<Connected, ShimError> {
    let mut arguments = program.arguments.clone();
    arguments.extend(["--dir".into(), dir.as_os_str().to_owned()]);
    let handle = ShimHandle::spawn(&program.exe, arguments, dir)?;
    attach(handle)
}

/// Connects to the shim in `dir` again. Blocks.
///
/// # Errors
/// Those of the shim.
pub fn reconnect(dir: &Path) -> Result<Connected, ShimError> {
    attach(ShimHandle::connect(dir)?)
}

/// Subscribes to all that the shim will say. Blocks.
///
/// # Errors
/// Those of the shim.
pub fn attach(mut handle: ShimHandle) -> Result<Connected, ShimError> {
    let state = handle.attach("")?;
    Ok(Connected { handle, state })
}

async fn serve(
    mut handle: ShimHandle,
    mut requests: mpsc::UnboundedReceiver<RequestBody>,
    report: &(impl Fn(ShimNews) + Sync),
) -> Result<(), ShimError> {
    // What was pushed while the connection was being made.
    while let Some(event) = handle.next_event(Some(std::time::Duration::ZERO))? {
        use berth_shim::client::Event;
        let (Event::Started(state) | Event::Changed(state) | Event::Ended(state)) = event;
        report(ShimNews::State(Box::new(state)));
    }
    let mut asked: BTreeMap<u64, (Asked, String)> = BTreeMap::new();
    // The same socket twice: the handle takes messages apart, and this one
    // waits and sends without blocking.
    let socket = std::os::unix::net::UnixStream::from(handle.as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let mut socket = UnixStream::from_std(socket)?;
    let mut last_id = FIRST_REQUEST;
    loop {
        tokio::select! {
            biased;
            ready = socket.readable() => {
                ready?;
                while let Some(message) = receive(&mut handle, &socket)? {
                    understand(message, &mut asked, report);
                }
            }
            request = requests.recv() => {
                let Some(request) = request else { return Ok(()) };
                last_id += 1;
                asked.insert(last_id, about(&request));
                let mut frame = Vec::new();
                encode_frame(&Request { id: last_id, body: Some(request) }, &mut frame)?;
                socket.write_all(&frame).await?;
            }
        }
    }
}

/// The next message if it is there; otherwise the socket waits for more.
fn receive(
    handle: &mut ShimHandle,
    socket: &UnixStream,
) -> Result<Option<ServerMessage>, ShimError> {
    let mut failure = None;
    let received = socket.try_io(Interest::READABLE, || match handle.try_receive() {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => {
            failure = Some(error);
            Err(io::Error::other("see above"))
        }
    });
    match (received, failure) {
        (Ok(message), _) => Ok(Some(message)),
        (Err(_), Some(error)) => Err(error),
        (Err(_), None) => Ok(None),
    }
}

fn about(request: &RequestBody) -> (Asked, String) {
    match request {
        RequestBody::Start(start) => (Asked::Start, start.allocation_id.clone()),
        RequestBody::Stop(stop) => (Asked::Other, stop.allocation_id.clone()),
        RequestBody::Signal(signal) => (Asked::Other, signal.allocation_id.clone()),
        RequestBody::Retire(retire) => (Asked::Other, retire.allocation_id.clone()),
        RequestBody::Lease(lease) => (Asked::Other, lease.allocation_id.clone()),
        RequestBody::Hello(_)
        | RequestBody::Stats(_)
        | RequestBody::Attach(_)
        | RequestBody::Wait(_)
        | RequestBody::Exit(_) => (Asked::Other, String::new()),
    }
}

fn understand(
    message: ServerMessage,
    asked: &mut BTreeMap<u64, (Asked, String)>,
    report: &impl Fn(ShimNews),
) {
    let about = asked.remove(&message.reply_to);
    match message.body {
        Some(
            ServerBody::State(state)
            | ServerBody::Started(state)
            | ServerBody::Changed(state)
            | ServerBody::Ended(state),
        ) => report(ShimNews::State(Box::new(state))),
        Some(ServerBody::Refused(refusal)) => {
            let (asked, allocation_id) = about.unwrap_or((Asked::Other, String::new()));
            report(ShimNews::Refused { asked, allocation_id, refusal });
        }
        // Answers that say no more than "done", and events of a newer shim.
        Some(ServerBody::Hello(_) | ServerBody::Stats(_) | ServerBody::Done(_)) | None => {}
    }
}
