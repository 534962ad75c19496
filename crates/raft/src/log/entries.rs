//! Log entries as records of a device. Old logs are inputs for ever: a kind
//! is never reused.

use std::io;

use bytes::Bytes;
use openraft::EntryPayload;

use crate::app::{App, Proposal};
use crate::device::{Position, Record, VoteRecord};
use crate::types::{Committed, Entry, LeaderId, LogId, Vote};

const KIND_BLANK: u8 = 0;
const KIND_PROPOSAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

pub(crate) fn to_record<A: App>(entry: &Entry<A>) -> io::Result<Record> {
    let (kind, body) = match &entry.payload {
        EntryPayload::Blank => (KIND_BLANK, Bytes::new()),
        EntryPayload::Normal(proposal) => (KIND_PROPOSAL, proposal.bytes.clone()),
        EntryPayload::Membership(membership) => {
            let encoded = postcard::to_stdvec(membership).map_err(io::Error::other)?;
            (KIND_MEMBERSHIP, encoded.into())
        }
    };
    Ok(Record { index: entry.log_id.index, term: *entry.log_id.leader_id, kind, body })
}

pub(crate) fn from_record<A: App>(record: Record) -> io::Result<Entry<A>> {
    let log_id = to_log_id(record.position());
    let payload = match record.kind {
        KIND_BLANK => EntryPayload::Blank,
        KIND_PROPOSAL => EntryPayload::Normal(Proposal::encoded(record.body)),
        KIND_MEMBERSHIP => {
            let membership = postcard::from_bytes(&record.body).map_err(|error| {
                let what = format!("membership at index {}: {error}", record.index);
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?;
            EntryPayload::Membership(membership)
        }
        kind => {
            let what = format!(
                "entry {} is of kind {kind}, which this build does not know; a newer build is needed",
                record.index
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
    };
    Ok(Entry::<A> { log_id, payload })
}

pub(crate) fn to_log_id(position: Position) -> LogId {
    LogId::new(Committed::new(position.term), position.index)
}

pub(crate) fn to_position(log_id: &LogId) -> Position {
    Position { term: *log_id.leader_id, index: log_id.index }
}

pub(crate) fn to_vote(record: VoteRecord) -> Vote {
    Vote {
        leader_id: LeaderId { term: record.term, voted_for: record.node_id },
        committed: record.committed,
    }
}

pub(crate) fn to_vote_record(vote: &Vote) -> VoteRecord {
    VoteRecord {
        term: vote.leader_id.term,
        node_id: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}
