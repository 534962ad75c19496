//! A store made from a state alone: whole, refused where something lies
//! already, and led by its only member, who goes on from it.

use std::sync::Arc;
use std::time::Duration;

use berth_raft::device::sled::{Directory, SledDevice, verify};
use berth_raft::transport::grpc::GrpcTransport;
use berth_raft::{FoundingError, ProductionNode, RaftOptions, Role, found_store};

use crate::model::{IDENTITY, options};
use crate::register::{Register, State, add, show};

const ADDRESS: &str = "127.0.0.1:1";
/// Beyond what could be counted up to.
const INDEX: u64 = 40_000_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_store_made_from_a_state_is_led_by_its_only_member() {
    let folder = tempfile::tempdir().unwrap();
    let state = State { values: Arc::new(vec![1, 2, 3]), hash: 77 };
    let make = |directory| {
        let device = SledDevice::new(options(folder.path(), directory));
        found_store::<Register, _>(&device, IDENTITY, ADDRESS, INDEX, &state)
    };
    make(Directory::MayCreate).unwrap();
    assert_eq!(verify(folder.path()).unwrap(), []);
    let again = make(Directory::MayCreate).unwrap_err();
    assert!(matches!(again, FoundingError::NotEmpty), "{again}");
    for life in 1..3_u64 {
        let (app, shown) = Register::new();
        let node = ProductionNode::start(
            RaftOptions::new(IDENTITY.node_id, IDENTITY.cluster_id, ADDRESS),
            app,
            SledDevice::new(options(folder.path(), Directory::MustExist)),
            GrpcTransport::plain(),
        )
        .await
        .unwrap();
        let mut changes = node.status_changes();
        let leads = changes.wait_for(|status| status.role == Role::Leader);
        let status = tokio::time::timeout(Duration::from_secs(20), leads).await.unwrap().unwrap();
        assert_eq!(status.members.len(), 1);
        assert!(status.term > life, "the term that the state stands in has no leader");
        node.propose(add(3 + life)).await.unwrap();
        assert_eq!(*show(&shown).values, (1..=3 + life).collect::<Vec<_>>());
        // The status follows what was applied.
        let beyond = changes.wait_for(|status| status.applied_index > Some(INDEX));
        tokio::time::timeout(Duration::from_secs(20), beyond).await.unwrap().unwrap();
        node.shutdown().await;
    }
}
