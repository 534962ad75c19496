//! Connections that say anything: requests that are nearly right, and bytes that are none.

use std::sync::Arc;
use std::time::Duration;

use berth_gateway::{GatewayOptions, Patience};
use berth_routing::chance::Dice;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::rig::{PATIENCE, Rig, chat};
use crate::worker::{json, worker};

/// How many are tried unless `BERTH_ANYTHING_CONNECTIONS` says otherwise.
const CONNECTIONS: u64 = 1_000;
const AT_ONCE: usize = 32;

/// The beginning of HTTP/2, and after it settings, a ping and headers with little in them.
const FRAMES: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x08\x06\0\0\0\0\0abcdefgh\0\0\x03\x01\x05\0\0\0\x01\x82\x87\x84";

/// What is put into a connection where it does not belong.
const ODD: [&[u8]; 18] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\0",
    b" ",
    b": x\r\n",
    b"\r\n folded",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Host: other\r\n",
    b"Connection: x-request-id, close\r\n",
    b"Expect: 100-continue\r\n",
    b"HTTP/9.9",
    b"\xff\xfe",
    b"ffffffffffffffff\r\n",
    FRAMES,
];

fn right(dice: &mut Dice) -> Vec<u8> {
    let body = r#"{"model": "chat", "messages": [{"role": "user", "content": "hi"}]}"#;
    let length = body.len();
    let chat = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n";
    let all = [
        format!("{chat}Content-Length: {length}\r\n\r\n{body}"),
        format!("{chat}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
        "GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /v1/models/chat HTTP/1.0\r\nHost: a\r\n\r\n".to_owned(),
        format!(
            "PUT /invoke/chat/any HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
        ),
    ];
    match dice.below(all.len() + 1) {
        place if place < all.len() => all[place].clone().into_bytes(),
        _ => FRAMES.to_vec(),
    }
}

/// A place in it, its end among them.
fn place(bytes: &[u8], dice: &mut Dice) -> usize {
    dice.below(bytes.len() + 1)
}

/// Up to four things go wrong with it.
fn harmed(mut bytes: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
    for _ in 0..dice.below(5) {
        let (one, other) = (place(&bytes, dice), place(&bytes, dice));
        let (from, to) = (one.min(other), one.max(other));
        match dice.below(6) {
            0 if from < bytes.len() => bytes[from] = dice.draw().to_le_bytes()[0],
            1 => bytes.truncate(from),
            2 => drop(bytes.drain(from..to)),
            3 => {
                let again = bytes[from..to].to_vec();
                bytes.splice(to..to, again);
            }
            4 => bytes = [bytes.as_slice(), &right(dice)].concat(),
            _ => {
                let odd = ODD[dice.below(ODD.len())];
                bytes.splice(from..from, odd.iter().copied());
            }
        }
    }
    bytes
}

/// Says all of it, and gives back all that came.
async fn said(rig: &Rig, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    // The gateway may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.unwrap_or_else(|_| panic!("neither answered nor closed: {}", shown(bytes)));
    answer
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Nothing came, or an answer of HTTP/1 with a status that there is, or frames of HTTP/2.
fn is_answer(answer: &[u8]) -> bool {
    let status = answer.strip_prefix(b"HTTP/1.1 ").or_else(|| answer.strip_prefix(b"HTTP/1.0 "));
    let status = status.and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok());
    // Settings come first: their kind stands behind their length.
    answer.is_empty()
        || status.is_some_and(|status| (100..=504_u16).contains(&status))
        || answer.get(3) == Some(&4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_said_is_answered_or_closed_and_others_are_served() {
    let count = std::env::var("BERTH_ANYTHING_CONNECTIONS");
    let count = count.map_or(CONNECTIONS, |count| count.parse().unwrap());
    let mut worker = worker(json("{}")).await;
    worker.requests.close();
    let patience = Patience {
        headers: Duration::from_secs(2),
        body: Duration::from_secs(2),
        ..Patience::default()
    };
    let options = GatewayOptions { patience, ..GatewayOptions::default() };
    let rig = Arc::new(Rig::with(vec![chat(&[&worker.address])], options).await);
    let mut callers = JoinSet::new();
    for seed in 0..count {
        if callers.len() == AT_ONCE {
            callers.join_next().await.unwrap().unwrap();
        }
        let rig = Arc::clone(&rig);
        callers.spawn(async move {
            let mut dice = Dice::new(seed);
            let bytes = right(&mut dice);
            let bytes = harmed(bytes, &mut dice);
            let answer = said(&rig, &bytes).await;
            let told = format!("seed {seed}: {} got {}", shown(&bytes), shown(&answer));
            assert!(is_answer(&answer), "{told}");
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let answer = rig.chat(r#"{"model": "chat", "messages": []}"#).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"{}"[..]));
    rig.await_idle().await;
}
