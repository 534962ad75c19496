use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use berth_model::{Machine, WallMs};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{Authority, Fingerprint, KeyMaterial, MachineId, Validity};

const CLUSTER: [u8; 16] = [7; 16];
const DAY_MS: u64 = 86_400_000;

fn now() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    WallMs(u64::try_from(since.as_millis()).unwrap())
}

/// A certificate that was signed so many days ago, for so many days.
fn credentials(
    authority: &Authority,
    id: &MachineId,
    age_days: u64,
    days: u32,
) -> Arc<Credentials> {
    let key = KeyMaterial::generate().unwrap();
    let validity = Validity { now: WallMs(now().0 - age_days * DAY_MS), days, times_revoked: 0 };
    let certificate = authority.sign(&key.request().unwrap(), id, validity).unwrap();
    let authorities = [authority.certificate().clone()];
    Arc::new(Credentials::new(certificate, &key.to_pem(), &authorities).unwrap())
}

fn machine(machine: Machine, name: &str) -> MachineId {
    MachineId { cluster_id: CLUSTER, machine, name: name.to_owned(), pool: None }
}

fn authority() -> Authority {
    Authority::create(CLUSTER, now()).unwrap()
}

/// Connects, says one byte, and tells what either side made of the other.
async fn meet(server: Arc<Credentials>, trust: Trust) -> Result<Standing, String> {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = server_config(server, Protocol::Grpc).unwrap();
    let address = socket.local_addr().unwrap();
    let mut listener = Listener::new(socket, Some(Arc::new(config)));
    let calling = async {
        let mut config = client_config(trust).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        let nobody = rustls::pki_types::ServerName::try_from("scheduler").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(nobody, stream).await.map_err(|e| e.to_string())?;
        stream.write_all(b"x").await.map_err(|e| e.to_string())?;
        // With TLS 1.3 a refused certificate is told after the handshake.
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.map_err(|e| e.to_string())?;
        Ok(())
    };
    let answering = async {
        let mut link = listener.accept().await.unwrap();
        let standing = link.peer().standing.clone();
        let mut byte = [0; 1];
        link.read_exact(&mut byte).await.unwrap();
        link.write_all(&byte).await.unwrap();
        link.flush().await.unwrap();
        standing
    };
    tokio::pin!(answering);
    tokio::pin!(calling);
    tokio::select! {
        standing = &mut answering => calling.await.map(|()| standing),
        called = &mut calling => match called {
            Ok(()) => Ok(answering.await),
            Err(error) => Err(error),
        },
    }
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let authority = authority();
    let scheduler = credentials(&authority, &MachineId::scheduler(CLUSTER, 3), 0, 30);
    let agent = machine(Machine::Agent, "gpu-7");
    let caller = credentials(&authority, &agent, 0, 30);
    let met = meet(scheduler.clone(), Trust::Member(caller)).await.unwrap();
    let Standing::Member(certified) = met else { panic!("{met:?}") };
    assert_eq!(certified.id, agent);
    assert!(now().0 - certified.issued.0 < DAY_MS);

    let pin = Trust::Pinned(authority.fingerprint());
    let met = meet(scheduler, pin).await.unwrap();
    assert!(matches!(met, Standing::Stranger), "{met:?}");
}

#[tokio::test]
async fn a_certificate_that_has_lapsed_is_seen_as_that_for_ninety_days() {
    let authority = authority();
    let scheduler = credentials(&authority, &MachineId::scheduler(CLUSTER, 3), 0, 30);
    let agent = machine(Machine::Agent, "gpu-7");
    for (age_days, wanted) in [(29, "Member"), (31, "Lapsed"), (119, "Lapsed"), (121, "refused")] {
        let caller = credentials(&authority, &agent, age_days, 30);
        let met = meet(scheduler.clone(), Trust::Member(caller)).await;
        let seen = match met {
            Ok(standing) => format!("{standing:?}"),
            Err(_) => "refused".to_owned(),
        };
        assert!(seen.starts_with(wanted), "{age_days} days: {seen}");
    }
}

#[tokio::test]
async fn nobody_talks_to_a_stranger_of_another_authority() {
    let (ours, theirs) = (authority(), authority());
    let id = MachineId::scheduler(CLUSTER, 3);
    let agent = machine(Machine::Agent, "gpu-7");
    let scheduler = credentials(&ours, &id, 0, 30);
    let stranger = credentials(&theirs, &agent, 0, 30);
    let impostor = credentials(&theirs, &id, 0, 30);
    let member = credentials(&ours, &agent, 0, 30);
    let not_a_scheduler = credentials(&ours, &agent, 0, 30);
    let lapsed = credentials(&ours, &id, 31, 30);
    let pin = Trust::Pinned(Fingerprint::of(ours.certificate()));
    let cases = [
        ("a caller of another authority", scheduler, Trust::Member(stranger)),
        ("a scheduler of another authority", impostor.clone(), Trust::Member(member.clone())),
        ("a scheduler that the token does not mean", impostor, pin.clone()),
        ("an agent in a scheduler's place", not_a_scheduler.clone(), Trust::Member(member.clone())),
        ("an agent in a scheduler's place, pinned", not_a_scheduler, pin),
        ("a scheduler that has lapsed", lapsed, Trust::Member(member)),
    ];
    for (what, server, trust) in cases {
        assert!(meet(server, trust).await.is_err(), "{what} was accepted");
    }
}

#[tokio::test]
async fn credentials_change_between_two_handshakes() {
    let authority = authority();
    let scheduler = credentials(&authority, &MachineId::scheduler(CLUSTER, 3), 0, 30);
    let id = machine(Machine::Agent, "gpu-7");
    let caller = credentials(&authority, &id, 31, 30);
    let met = meet(scheduler.clone(), Trust::Member(caller.clone())).await.unwrap();
    assert!(matches!(met, Standing::Lapsed(_)), "{met:?}");

    let key = KeyMaterial::generate().unwrap();
    let request = key.request().unwrap();
    let renewed =
        authority.sign(&request, &id, Validity { now: now(), days: 30, times_revoked: 0 }).unwrap();
    let authorities = [authority.certificate().clone()];
    caller.replace(renewed, &key.to_pem(), &authorities).unwrap();
    let met = meet(scheduler, Trust::Member(caller)).await.unwrap();
    assert!(matches!(met, Standing::Member(_)), "{met:?}");
}

#[test]
fn credentials_that_do_not_belong_together_are_refused() {
    let (ours, theirs) = (authority(), authority());
    let key = KeyMaterial::generate().unwrap();
    let other = KeyMaterial::generate().unwrap();
    let validity = Validity { now: now(), days: 30, times_revoked: 0 };
    let id = machine(Machine::Client, "alice");
    let certificate = ours.sign(&key.request().unwrap(), &id, validity).unwrap();
    let (own, foreign) = ([ours.certificate().clone()], [theirs.certificate().clone()]);
    let cases = [
        (Credentials::new(certificate.clone(), &other.to_pem(), &own), "does not belong"),
        (Credentials::new(certificate.clone(), "nonsense", &own), "cannot be read"),
        (Credentials::new(certificate.clone(), &key.to_pem(), &foreign), "not signed by"),
        (Credentials::new(certificate.clone(), &key.to_pem(), &[]), "no certificate"),
        (Credentials::new(own[0].clone(), &key.to_pem(), &own), "not ours"),
    ];
    for (answer, complaint) in cases {
        let error = answer.err().unwrap().to_string();
        assert!(error.contains(complaint), "{error}");
    }
    assert!(Credentials::new(certificate, &key.to_pem(), &own).is_ok());
}

/// Whoever connects and says nothing holds up nobody at another address.
#[tokio::test]
async fn silent_strangers_hold_up_nobody_else() {
    let authority = authority();
    let scheduler = credentials(&authority, &MachineId::scheduler(CLUSTER, 3), 0, 30);
    let caller = credentials(&authority, &machine(Machine::Agent, "gpu-7"), 0, 30);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let config = server_config(scheduler, Protocol::Grpc).unwrap();
    let mut listener = Listener::new(socket, Some(Arc::new(config)));
    let from = |source: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
        socket.connect(address)
    };
    let mut silent = Vec::new();
    for _ in 0..accept::STRANGERS_OF_ONE_MAX {
        silent.push(from("127.0.0.1").await.unwrap());
    }
    // One more is closed; those before it are not.
    let mut more = from("127.0.0.1").await.unwrap();
    let mut byte = [0; 1];
    assert!(more.read_exact(&mut byte).await.is_err());
    let first = tokio::select! {
        biased;
        read = silent[0].read(&mut byte) => Some(read),
        () = std::future::ready(()) => None,
    };
    assert!(first.is_none(), "{first:?}");

    let config = client_config(Trust::Member(caller)).unwrap();
    let nobody = rustls::pki_types::ServerName::try_from("scheduler").unwrap();
    let meeting = async {
        let stream = from("127.0.0.2").await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(nobody, stream).await
    };
    let (met, link) = tokio::join!(meeting, listener.accept());
    met.unwrap();
    assert!(matches!(link.unwrap().peer().standing, Standing::Member(_)));
}
