//! Taking connections in, encrypted or not, with what is known of who is at the
//! other end. A slow handshake holds up nobody else.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tracing::debug;

use crate::certificate::{self, Certified};
use crate::renewal::wall_ms;

/// A handshake that takes longer is given up.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Connections at one time that are in their handshake, or were made without a
/// certificate: in all, and from one address. One more is closed at once, so
/// that whoever says nothing holds up nobody else. Of members there is no limit.
const STRANGERS_MAX: usize = 4096;
pub(super) const STRANGERS_OF_ONE_MAX: usize = 128;
/// After an error of accept itself, mostly too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that was taken in.
pub struct Link {
    stream: Stream,
    peer: PeerInfo,
    /// Counts while a connection is a stranger's.
    _place: Option<Place>,
}

enum Stream {
    Plain(TcpStream),
    Local(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Who is at the other end, as far as the connection proves it.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// None through a socket file.
    pub remote: Option<SocketAddr>,
    pub standing: Standing,
}

impl PeerInfo {
    /// What the certificate says, if there is one.
    #[must_use]
    pub fn certified(&self) -> Option<Arc<Certified>> {
        match &self.standing {
            Standing::Member(certified) | Standing::Lapsed(certified) => Some(certified.clone()),
            Standing::PlainText | Standing::LocalSocket | Standing::Stranger => None,
        }
    }
}

/// What the connection proves of its other end.
#[derive(Clone, Debug)]
pub enum Standing {
    /// Nothing is asked on a listener in plain text.
    PlainText,
    /// Through a socket file, which the file system says who may open.
    LocalSocket,
    /// Encrypted, and no certificate shown.
    Stranger,
    /// Encrypted, with a certificate that was good when the connection was made.
    Member(Arc<Certified>),
    /// As before, but it had expired a while ago.
    Lapsed(Arc<Certified>),
}

/// Takes connections in until it is dropped.
pub struct Listener {
    links: mpsc::Receiver<Link>,
    accepting: JoinHandle<()>,
}

impl Listener {
    /// On a bound socket; in plain text where there is no configuration of TLS.
    #[must_use]
    pub fn new(listener: TcpListener, tls: Option<Arc<ServerConfig>>) -> Listener {
        let (sender, links) = mpsc::channel(1);
        let accepting = tokio::spawn(accept(listener, tls.map(TlsAcceptor::from), sender));
        Listener { links, accepting }
    }

    /// On a bound socket file.
    #[must_use]
    pub fn local(listener: UnixListener) -> Listener {
        let (sender, links) = mpsc::channel(1);
        let accepting = tokio::spawn(accept_local(listener, sender));
        Listener { links, accepting }
    }

    /// The next connection; `None` never comes while the listener is alive.
    pub async fn accept(&mut self) -> Option<Link> {
        self.links.recv().await
    }

    /// For a server that polls.
    pub fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<Option<Link>> {
        self.links.poll_recv(context)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, links: mpsc::Sender<Link>) {
    let strangers = Arc::new(Strangers::default());
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Without it answers wait for the peer's delayed acknowledgement, about
        // 40 ms on Linux.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let Some(tls) = &tls else {
            let peer = PeerInfo { remote: Some(remote), standing: Standing::PlainText };
            let link = Link { stream: Stream::Plain(stream), peer, _place: None };
            if links.send(link).await.is_err() {
                return;
            }
            continue;
        };
        let Some(place) = strangers.clone().enter(remote.ip()) else {
            debug!(%remote, "too many strangers");
            continue;
        };
        tokio::spawn(shake_hands(tls.clone(), stream, remote, place, links.clone()));
    }
}

async fn shake_hands(
    tls: TlsAcceptor,
    stream: TcpStream,
    remote: SocketAddr,
    place: Place,
    links: mpsc::Sender<Link>,
) {
    match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let standing = standing(&stream);
            let place = matches!(standing, Standing::Stranger).then_some(place);
            let peer = PeerInfo { remote: Some(remote), standing };
            let stream = Stream::Tls(Box::new(stream));
            let _ = links.send(Link { stream, peer, _place: place }).await;
        }
        Ok(Err(error)) => debug!(%remote, %error, "handshake failed"),
        Err(_) => debug!(%remote, "handshake took too long"),
    }
}

/// Connections of nobody that is known yet, by address.
#[derive(Debug, Default)]
struct Strangers(Mutex<BTreeMap<IpAddr, usize>>);

/// A stranger's connection, counted until this is dropped.
#[derive(Debug)]
struct Place {
    strangers: Arc<Strangers>,
    address: IpAddr,
}

impl Strangers {
    fn enter(self: Arc<Strangers>, address: IpAddr) -> Option<Place> {
        let mut present = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = present.get(&address).copied().unwrap_or(0);
        let all: usize = present.values().sum();
        if own >= STRANGERS_OF_ONE_MAX || all >= STRANGERS_MAX {
            return None;
        }
        present.insert(address, own + 1);
        drop(present);
        Some(Place { strangers: self, address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut present = self.strangers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = present.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                present.remove(&self.address);
            }
        }
    }
}

async fn accept_local(listener: UnixListener, links: mpsc::Sender<Link>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let peer = PeerInfo { remote: None, standing: Standing::LocalSocket };
                if links
                    .send(Link { stream: Stream::Local(stream), peer, _place: None })
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) => {
                debug!(%error, "local connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn standing(stream: &TlsStream<TcpStream>) -> Standing {
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(|chain| chain.first());
    // The chain was proved, but only our own authority's names count.
    let certified = shown.and_then(|shown| certificate::read(shown).ok()).map(Arc::new);
    match certified {
        None => Standing::Stranger,
        Some(certified) if certified.expires.0 < wall_ms() => Standing::Lapsed(certified),
        Some(certified) => Standing::Member(certified),
    }
}

impl Link {
    #[must_use]
    pub fn peer(&self) -> &PeerInfo {
        &self.peer
    }
}

impl Connected for Link {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Local(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Local(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Local(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Local(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Local(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Local(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
