//! From a connection and the headers of a call to who calls.

use std::net::SocketAddr;
use std::sync::Arc;

use berth_identity::tls::{PeerInfo, Standing};
use berth_identity::{Caller, Certified, MachineId, MachineProof, Person, PersonProof, Token};
use berth_model::{Grant, StateMs, TokenId};
use berth_state::ClusterState;
use tonic::Status;
use tonic::codegen::http::HeaderMap;
use tonic::metadata::{Ascii, MetadataValue};

use super::granted::{ON_BEHALF, REMOTE};
use crate::leader::clock::wall;
use crate::rpc::{Shared, status};

/// Proves callers against the state as this scheduler knows it.
#[derive(Clone)]
pub struct Authenticator {
    shared: Shared,
}

/// A caller, with what is needed to vouch for it to another scheduler.
#[derive(Debug)]
pub struct Authenticated {
    pub caller: Caller,
    pub token: Option<(TokenId, [u8; 32])>,
    /// The machine at the other end, unless it speaks for somebody else.
    pub proved: Option<Arc<Certified>>,
    pub on_behalf: Option<MetadataValue<Ascii>>,
    /// Where the call comes from, before any scheduler that forwarded it.
    pub remote: Option<SocketAddr>,
}

/// A machine as a connection shows it, before the state is asked.
#[derive(Clone, Debug)]
enum Shown {
    Nothing,
    Socket,
    Certificate { id: MachineId, times_revoked: u32, lapsed: Lapsed },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lapsed {
    No,
    Yes,
}

impl Authenticator {
    pub fn new(shared: Shared) -> Authenticator {
        Authenticator { shared }
    }

    /// Who calls.
    pub fn authenticate(&self, peer: Option<&PeerInfo>, headers: &HeaderMap) -> Authenticated {
        let plain = |caller| Authenticated {
            caller,
            token: None,
            proved: None,
            on_behalf: None,
            remote: peer.and_then(|peer| peer.remote),
        };
        let shown = match peer.map(|peer| &peer.standing) {
            Some(Standing::PlainText) => return plain(Caller::PlainText),
            Some(Standing::LocalSocket) => Shown::Socket,
            Some(Standing::Member(certified) | Standing::Lapsed(certified)) => Shown::Certificate {
                id: certified.id.clone(),
                times_revoked: certified.times_revoked,
                // By now: a connection may be older than the certificate's end.
                lapsed: if certified.expires < wall() { Lapsed::Yes } else { Lapsed::No },
            },
            Some(Standing::Stranger) | None => Shown::Nothing,
        };
        let view = self.shared.published.view();
        let direct = self.machine(&view, &shown);
        let behalf = headers.get(ON_BEHALF).and_then(|text| text.to_str().ok());
        let forwards = matches!(&direct, MachineProof::Good(id) if id.scheduler_id().is_some());
        let mut remote = peer.and_then(|peer| peer.remote);
        if behalf.is_some() && forwards {
            let told = headers.get(REMOTE).and_then(|text| text.to_str().ok());
            remote = told.and_then(|text| text.parse().ok());
        }
        let (shown, machine, proved) = match behalf.filter(|_| forwards).map(Shown::parse) {
            Some(meant) => {
                let machine = self.machine(&view, &meant);
                (meant, machine, None)
            }
            None => (shown, direct, peer.and_then(PeerInfo::certified)),
        };
        let on_behalf = shown.to_text().parse().ok();
        if matches!(shown, Shown::Socket) {
            let caller = Caller::LocalSocket;
            return Authenticated { caller, token: None, proved: None, on_behalf, remote };
        }
        let (person, token) = person(&view, headers, self.shared.published.now());
        Authenticated {
            caller: Caller::Known { machine, person },
            token,
            proved,
            on_behalf,
            remote,
        }
    }

    /// Waits until this replica knows what was committed before now.
    ///
    /// # Errors
    /// If it cannot be told in time.
    pub async fn catch_up(&self) -> Result<(), Status> {
        let read = self.shared.node.read_index().await;
        read.map(|_| ()).map_err(|error| status::from_read(&error))
    }

    fn machine(&self, view: &ClusterState, shown: &Shown) -> MachineProof {
        let Shown::Certificate { id, times_revoked, lapsed } = shown else {
            return MachineProof::None;
        };
        if id.cluster_id != self.shared.cluster_id {
            return MachineProof::None;
        }
        let gone = id.scheduler_id().is_some_and(|id| self.has_left(view, id));
        if gone || view.is_revoked(id.machine, &id.name, *times_revoked) {
            return MachineProof::Revoked(id.clone());
        }
        match lapsed {
            Lapsed::No => MachineProof::Good(id.clone()),
            Lapsed::Yes => MachineProof::Lapsed(id.clone()),
        }
    }

    /// Whether a scheduler was removed and Raft needs it no more. Until then the
    /// others may need its vote, and it may have to hand over first.
    fn has_left(&self, view: &ClusterState, id: u64) -> bool {
        let row = view.cluster().schedulers.get(&id);
        row.is_some_and(|row| row.seat.is_none())
            && !self.shared.node.status().members.iter().any(|member| member.id == id)
    }
}

fn person(
    view: &ClusterState,
    headers: &HeaderMap,
    now: StateMs,
) -> (PersonProof, Option<(TokenId, [u8; 32])>) {
    let Some(text) = headers.get("authorization") else { return (PersonProof::None, None) };
    let token = text.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
    let Some(token) = token.and_then(|text| text.parse::<Token>().ok()) else {
        return (PersonProof::Refused, None);
    };
    let secret_hash = token.secret.hash();
    let Some(row) = view.token(token.id, &secret_hash, now) else {
        return (PersonProof::Refused, None);
    };
    let Grant::Person { role, scope } = &row.grant else { return (PersonProof::Refused, None) };
    let person =
        Person { token: row.id, label: row.label.clone(), role: *role, scope: scope.clone() };
    (PersonProof::Good(person), Some((token.id, secret_hash)))
}

impl Shown {
    /// For the next scheduler.
    fn to_text(&self) -> String {
        match self {
            Shown::Nothing => "stranger".to_owned(),
            Shown::Socket => "socket".to_owned(),
            Shown::Certificate { id, times_revoked, lapsed: Lapsed::No } => {
                format!("good {times_revoked} {id}")
            }
            Shown::Certificate { id, times_revoked, lapsed: Lapsed::Yes } => {
                format!("lapsed {times_revoked} {id}")
            }
        }
    }

    /// What cannot be read is nobody.
    fn parse(text: &str) -> Shown {
        let mut words = text.split(' ');
        let lapsed = match words.next() {
            Some("socket") => return Shown::Socket,
            Some("good") => Lapsed::No,
            Some("lapsed") => Lapsed::Yes,
            Some(_) | None => return Shown::Nothing,
        };
        let times_revoked = words.next().and_then(|word| word.parse().ok());
        let id = words.next().and_then(|word| word.parse().ok());
        match (times_revoked, id, words.next()) {
            (Some(times_revoked), Some(id), None) => {
                Shown::Certificate { id, times_revoked, lapsed }
            }
            (_, _, _) => Shown::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_vouched_for_as_it_was_shown() {
        let id = MachineId::scheduler([3; 16], 12);
        for shown in [
            Shown::Nothing,
            Shown::Socket,
            Shown::Certificate { id: id.clone(), times_revoked: 77, lapsed: Lapsed::No },
            Shown::Certificate { id, times_revoked: 0, lapsed: Lapsed::Yes },
        ] {
            assert_eq!(format!("{:?}", Shown::parse(&shown.to_text())), format!("{shown:?}"));
        }
        for garbled in ["", "good", "good 1", "good x spiffe://a/b/c", "good 1 nonsense", "root"] {
            assert!(matches!(Shown::parse(garbled), Shown::Nothing), "{garbled}");
        }
    }
}
