//! The calls of the Nodes service. All of its changes set a state, so that a
//! repeat is harmless.

use berth_proto::v1::nodes_client::NodesClient;
use berth_proto::v1::{
    DefragReply, DefragRequest, DeviceRef, DrainRequest, GetDeviceReply, GetDeviceRequest,
    GetNodeRequest, ListNodesReply, ListNodesRequest, ListOrphansReply, ListOrphansRequest, Node,
    NodeRef, PlanDefragReply, PlanDefragRequest, StopOrphansReply, StopOrphansRequest,
};

use crate::cluster::{Client, Repeat};
use crate::error::ClientError;
use crate::jobs::calls;

calls! {
    list_nodes(ListNodesRequest) -> ListNodesReply = NodesClient.list, Read;
    get_node(GetNodeRequest) -> Node = NodesClient.get, Read;
    get_device(GetDeviceRequest) -> GetDeviceReply = NodesClient.get_device, Read;
    cordon_node(NodeRef) -> Node = NodesClient.cordon, Harmless;
    uncordon_node(NodeRef) -> Node = NodesClient.uncordon, Harmless;
    cordon_device(DeviceRef) -> Node = NodesClient.cordon_device, Harmless;
    uncordon_device(DeviceRef) -> Node = NodesClient.uncordon_device, Harmless;
    drain_node(DrainRequest) -> Node = NodesClient.drain, Harmless;
    list_orphans(ListOrphansRequest) -> ListOrphansReply = NodesClient.list_orphans, Read;
    /// No more than may be under way is begun, however often it is asked.
    defrag(DefragRequest) -> DefragReply = NodesClient.defrag, Harmless;
    plan_defrag(PlanDefragRequest) -> PlanDefragReply = NodesClient.plan_defrag, Read;
    stop_orphans(StopOrphansRequest) -> StopOrphansReply = NodesClient.stop_orphans, Harmless;
}
