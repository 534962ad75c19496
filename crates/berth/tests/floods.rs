//! Clients that misuse HTTP/2: streams that are opened and reset at once, frames
//! that carry nothing, answers that nobody reads. Each is bounded or cut off, and
//! whoever else calls meanwhile is answered.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use berth::local::LocalCluster;
use berth_client::Client;
use berth_proto::v1;

use support::processes;

/// Frames that one attacker sends at most.
const FRAMES_MAX: u32 = 200_000;
/// An attacker whose frames are not taken any more for so long is held back.
const HELD_BACK: Duration = Duration::from_secs(2);
/// What a scheduler may have grown by under all attacks together.
const GROWTH_KIB_MAX: u32 = 96 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What an attacker sends: the frames of one round.
type Round = fn(u32) -> Vec<u8>;

/// Too many frames of no use, as the library for HTTP/2 counts them.
const ENHANCE_YOUR_CALM: u32 = 11;

/// How an attack ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The connection was closed, with this error code if one was told.
    Cut(Option<u32>),
    /// Nothing more was taken from it.
    HeldBack,
    /// All of it was taken, and came to nothing.
    Borne,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a call, without any compression (RFC 7541, 6.2.2).
fn call(path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let literal = |name: &str, value: &str| [vec![0], text(name), text(value)].concat();
    // The first two are of the static table: POST, http.
    let mut block = vec![0x83, 0x86];
    block.extend(literal(":path", path));
    block.extend(literal(":authority", "x"));
    block.extend(literal("content-type", "application/grpc"));
    block.extend(literal("te", "trailers"));
    block
}

fn odd(round: u32) -> u32 {
    2 * round + 1
}

fn opened_and_reset(round: u32) -> Vec<u8> {
    let stream = odd(round);
    let list = call("/berth.v1.Jobs/List");
    let cancel = 8u32.to_be_bytes();
    [frame(HEADERS, END_HEADERS, stream, &list), frame(RST_STREAM, 0, stream, &cancel)].concat()
}

/// Each watches all events, and takes no byte of them.
fn watched_and_never_read(round: u32) -> Vec<u8> {
    let stream = odd(round);
    let watch = call("/berth.v1.Jobs/Events");
    // Uncompressed, two bytes long: follow = true.
    let message = [0, 0, 0, 0, 2, 3 << 3, 1];
    [frame(HEADERS, END_HEADERS, stream, &watch), frame(DATA, END_STREAM, stream, &message)]
        .concat()
}

fn empty_data(round: u32) -> Vec<u8> {
    match round {
        0 => frame(HEADERS, END_HEADERS, 1, &call("/berth.v1.Jobs/Submit")),
        _ => frame(DATA, 0, 1, &[]),
    }
}

fn headers_without_end(round: u32) -> Vec<u8> {
    match round {
        0 => frame(HEADERS, 0, 1, &call("/berth.v1.Jobs/Submit")),
        _ => frame(CONTINUATION, 0, 1, &[]),
    }
}

fn pings(_: u32) -> Vec<u8> {
    frame(PING, 0, 0, &[7; 8])
}

fn settings(_: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

/// Sends rounds until it is cut off, held back or through. Answers are read only
/// once nothing more can be sent.
fn attack(address: &str, round: Round) -> End {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_write_timeout(Some(HELD_BACK)).unwrap();
    stream.set_read_timeout(Some(HELD_BACK)).unwrap();
    let no_window = [0, 4, 0, 0, 0, 0];
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &no_window));
    for number in 0..FRAMES_MAX {
        bytes.extend(round(number));
        if bytes.len() < 16 << 10 {
            continue;
        }
        match stream.write_all(&bytes) {
            Ok(()) => bytes.clear(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return End::HeldBack,
            Err(_) => return End::Cut(why(&mut stream)),
        }
    }
    match stream.write_all(&bytes) {
        Ok(()) => match why(&mut stream) {
            None => End::Borne,
            code => End::Cut(code),
        },
        Err(_) => End::Cut(why(&mut stream)),
    }
}

/// The error code of the GOAWAY among what came.
fn why(stream: &mut TcpStream) -> Option<u32> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).ok()?;
        if head[3] == GOAWAY {
            return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
}

async fn is_answered(client: &Client) {
    let reply = client.list_nodes(v1::ListNodesRequest { consistency: 0 }).await;
    assert_eq!(reply.unwrap().nodes.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b51_floods_of_frames_are_bounded_and_others_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 0)).await.unwrap();
    let client = cluster.client();
    let pid = cluster.schedulers[0].child.pid;
    let before = processes::own_memory_kib(pid).unwrap();
    // Nobody hears of what is answered in kind, an answer at a time.
    let cut = Some(ENHANCE_YOUR_CALM);
    let attacks: [(&str, Round, Option<u32>); 6] = [
        ("opened and reset", opened_and_reset, cut),
        ("watched and never read", watched_and_never_read, cut),
        ("empty data", empty_data, cut),
        ("headers without end", headers_without_end, cut),
        ("pings", pings, None),
        ("settings", settings, None),
    ];
    for (name, round, cut) in attacks {
        let address = cluster.servers().remove(0);
        let attacker = tokio::task::spawn_blocking(move || attack(&address, round));
        let mut answered = 0;
        while !attacker.is_finished() {
            is_answered(&client).await;
            answered += 1;
        }
        let end = attacker.await.unwrap();
        let grown = processes::own_memory_kib(pid).unwrap().saturating_sub(before);
        let what = format!("{name}: {end:?}, {answered} calls of others, grown by {grown} KiB");
        match cut {
            Some(code) => assert_eq!(end, End::Cut(Some(code)), "{what}"),
            None => assert!(answered > 0, "{what}"),
        }
        assert!(grown <= GROWTH_KIB_MAX, "{what}");
    }
    is_answered(&client).await;
    cluster.stop().await;
}
