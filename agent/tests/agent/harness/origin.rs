//! A small server of files, which can behave badly.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::within;

/// How one request is answered; the last of a page's goes on for ever.
#[derive(Clone, Debug)]
pub enum How {
    /// As it should be, ranges and conditions included.
    Well,
    /// The connection ends after so many bytes.
    CutAfter(usize),
    /// Nothing comes after so many bytes, until [`Origin::go_on`].
    HoldAfter(usize),
    /// Ranges mean nothing.
    Whole,
    /// What they are said to depend on means nothing.
    AnyRange,
    Status(u16),
    /// Elsewhere.
    To(String),
}

#[derive(Clone, Debug, Default)]
pub struct Page {
    pub body: Vec<u8>,
    pub tag: String,
    pub hows: VecDeque<How>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    /// What was answered.
    pub status: u16,
}

pub struct Origin {
    pub address: String,
    pages: Arc<Mutex<BTreeMap<String, Page>>>,
    asked: watch::Sender<Vec<Asked>>,
    held: watch::Sender<bool>,
}

impl Origin {
    pub async fn start() -> Origin {
        Origin::start_with(None).await
    }

    /// Over TLS, and the certificate by which it is known.
    pub async fn start_tls() -> (Origin, String) {
        let names = ["127.0.0.1", "localhost"].map(str::to_owned);
        let certified = rcgen::generate_simple_self_signed(names).unwrap();
        let key = certified.signing_key.serialize_der().try_into().unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        (Origin::start_with(Some(acceptor)).await, certified.cert.pem())
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let pages = Arc::new(Mutex::new(BTreeMap::new()));
        let (asked, held) = (watch::channel(Vec::new()).0, watch::channel(true).0);
        let origin = Origin { address, pages: Arc::clone(&pages), asked, held };
        let (asked, held) = (origin.asked.clone(), origin.held.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (pages, asked, held) = (Arc::clone(&pages), asked.clone(), held.subscribe());
                let tls = tls.clone();
                tokio::spawn(async move {
                    // A client may go away at any time.
                    let _ = match tls {
                        None => answer(stream, &pages, &asked, held).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => answer(stream, &pages, &asked, held).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        origin
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn serve(&self, path: &str, body: &[u8], hows: &[How]) {
        let tag = format!("\"{}-{:?}\"", body.len(), body.first());
        let page = Page { body: body.to_vec(), tag, hows: hows.iter().cloned().collect() };
        self.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    /// What was held comes.
    pub fn go_on(&self) {
        self.held.send_replace(false);
    }

    /// The requests for a path, without what follows a `?`.
    pub fn asked(&self, path: &str) -> Vec<Asked> {
        let of = |asked: &&Asked| asked.path.split('?').next() == Some(path);
        self.asked.borrow().iter().filter(of).cloned().collect()
    }

    pub async fn until_asked(&self, path: &str, count: usize) {
        let mut asked = self.asked.subscribe();
        within(&format!("{count} requests for {path}"), async {
            while self.asked(path).len() < count {
                asked.changed().await.unwrap();
            }
        })
        .await;
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    pages: &Mutex<BTreeMap<String, Page>>,
    asked: &watch::Sender<Vec<Asked>>,
    mut held: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let mut lines = request.lines();
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("/").to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let (page, how) = {
        let mut pages = pages.lock().unwrap();
        match pages.get_mut(path.split('?').next().unwrap_or("/")) {
            None => (Page::default(), How::Status(404)),
            Some(page) if page.hows.len() > 1 => {
                let how = page.hows.pop_front().unwrap();
                (page.clone(), how)
            }
            Some(page) => (page.clone(), page.hows.front().cloned().unwrap_or(How::Well)),
        }
    };
    let (status, head, body) = say(&page, &how, &headers);
    asked.send_modify(|all| all.push(Asked { path, headers, status }));
    let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{head}\r\n");
    stream.write_all(head.as_bytes()).await?;
    match how {
        How::CutAfter(bytes) => stream.write_all(&body[..bytes.min(body.len())]).await,
        How::HoldAfter(bytes) => {
            let bytes = bytes.min(body.len());
            stream.write_all(&body[..bytes]).await?;
            stream.flush().await?;
            let _ = held.wait_for(|held| !held).await;
            stream.write_all(&body[bytes..]).await
        }
        How::Well | How::Whole | How::AnyRange | How::Status(_) | How::To(_) => {
            stream.write_all(&body).await?;
            stream.shutdown().await
        }
    }
}

fn say(page: &Page, how: &How, headers: &BTreeMap<String, String>) -> (u16, String, Vec<u8>) {
    match how {
        How::Status(status) => return (*status, "Content-Length: 0\r\n".to_owned(), Vec::new()),
        How::To(to) => {
            let head = format!("Location: {to}\r\nContent-Length: 0\r\n");
            return (302, head, Vec::new());
        }
        How::Well | How::Whole | How::AnyRange | How::CutAfter(_) | How::HoldAfter(_) => {}
    }
    let same = |name: &str| headers.get(name).map(|tag| *tag == page.tag);
    let stamp = format!("ETag: {}\r\nLast-Modified: Sat, 21 Nov 2026 10:00:00 GMT\r\n", page.tag);
    if same("if-none-match") == Some(true) {
        return (304, stamp, Vec::new());
    }
    let range = headers.get("range").and_then(|range| range.strip_prefix("bytes="));
    let first = range.and_then(|range| range.split('-').next()?.parse::<usize>().ok());
    let first = first.filter(|_| !matches!(how, How::Whole));
    let is_met = same("if-range") != Some(false) && same("if-match") != Some(false);
    let first = first.filter(|_| is_met || matches!(how, How::AnyRange));
    let total = page.body.len();
    match first {
        Some(first) if first < total => {
            let body = page.body[first..].to_vec();
            let range = format!("Content-Range: bytes {first}-{}/{total}\r\n", total - 1);
            (206, format!("{stamp}{range}Content-Length: {}\r\n", body.len()), body)
        }
        Some(_) => (416, format!("{stamp}Content-Length: 0\r\n"), Vec::new()),
        None => (200, format!("{stamp}Content-Length: {total}\r\n"), page.body.clone()),
    }
}
