//! The calls of the Nodes service. All of its changes set a state, so that a
//! repeat is harmless.

use berth_proto::v1::nodes_client::NodesClient;
use berth_proto::v1::{
    DrainRequest, GetNodeRequest, ListNodesReply, ListNodesRequest, ListOrphansReply,
    ListOrphansRequest, Node, NodeRef, StopOrphansReply, StopOrphansRequest,
};

use crate::cluster::{Client, Repeat};
use crate::error::ClientError;
use crate::jobs::calls;

calls! {
    list_nodes(ListNodesRequest) -> ListNodesReply = NodesClient.list, Read;
    get_node(GetNodeRequest) -> Node = NodesClient.get, Read;
    cordon_node(NodeRef) -> Node = NodesClient.cordon, Harmless;
    uncordon_node(NodeRef) -> Node = NodesClient.uncordon, Harmless;
    drain_node(DrainRequest) -> Node = NodesClient.drain, Harmless;
    list_orphans(ListOrphansRequest) -> ListOrphansReply = NodesClient.list_orphans, Read;
    stop_orphans(StopOrphansRequest) -> StopOrphansReply = NodesClient.stop_orphans, Harmless;
}
