//! Rows of the state as records, one arm per table.

use std::sync::Arc;

use berth_proto::log::v1::snapshot_record::Record;
use berth_state::Stored;

use super::{access, allocation, cluster, job, namespace, node, node_reservation, task};
use crate::problem::{Cause, Field, Problems};

pub(crate) fn to_proto(stored: &Stored) -> Record {
    match stored {
        Stored::Cluster(row) => Record::Cluster(cluster::cluster_to_proto(row)),
        Stored::Job(row) => Record::Job(job::to_proto(row)),
        Stored::Task(job, index, row) => Record::Task(task::to_proto(*job, *index, row)),
        Stored::Allocation(row) => Record::Allocation(allocation::to_proto(row)),
        Stored::Node(row) => Record::Node(node::to_proto(row)),
        Stored::Key(namespace, key, row) => Record::Key(cluster::key_to_proto(namespace, key, row)),
        Stored::Token(row) => Record::Token(access::token_to_proto(row)),
        Stored::Revocation(row) => Record::Revocation(access::revocation_to_proto(row)),
        Stored::Namespace(row) => Record::Namespace(namespace::to_proto(row)),
        Stored::Average(name, row) => Record::Average(namespace::average_to_proto(name, row)),
        Stored::NodeReservation(row) => Record::NodeReservation(node_reservation::to_proto(row)),
    }
}

pub(crate) fn read(at: Field<'_>, record: Record, problems: &mut Problems) -> Option<Stored> {
    match record {
        Record::Header(_) | Record::End(_) => {
            problems.add(at.named("record"), Cause::Contradiction("is no row"));
            None
        }
        Record::Cluster(row) => {
            cluster::read_cluster(at.named("cluster"), row, problems).map(Stored::Cluster)
        }
        Record::Job(row) => {
            let row = job::read(at.named("job"), row, problems)?;
            Some(Stored::Job(Arc::new(row)))
        }
        Record::Task(row) => {
            let (job, index, row) = task::read(at.named("task"), row, problems)?;
            Some(Stored::Task(job, index, Arc::new(row)))
        }
        Record::Allocation(row) => {
            let row = allocation::read(at.named("allocation"), row, problems)?;
            Some(Stored::Allocation(Arc::new(row)))
        }
        Record::Node(row) => {
            let row = node::read(at.named("node"), row, problems)?;
            Some(Stored::Node(Arc::new(row)))
        }
        Record::Key(row) => {
            let (namespace, key, row) = cluster::read_key(at.named("key"), row, problems)?;
            Some(Stored::Key(namespace, key, Arc::new(row)))
        }
        Record::Token(row) => {
            let row = access::read_token(at.named("token"), row, problems)?;
            Some(Stored::Token(Arc::new(row)))
        }
        Record::Revocation(row) => {
            let row = access::read_revocation(at.named("revocation"), row, problems)?;
            Some(Stored::Revocation(Arc::new(row)))
        }
        Record::Namespace(row) => {
            let row = namespace::read(at.named("namespace"), row, problems)?;
            Some(Stored::Namespace(Arc::new(row)))
        }
        Record::Average(row) => {
            let (name, row) = namespace::read_average(at.named("average"), row, problems)?;
            Some(Stored::Average(name, Arc::new(row)))
        }
        Record::NodeReservation(row) => {
            let row = node_reservation::read(at.named("node_reservation"), row, problems)?;
            Some(Stored::NodeReservation(Arc::new(row)))
        }
    }
}
