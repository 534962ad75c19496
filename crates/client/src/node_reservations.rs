//! The calls of the NodeReservations service. Who repeats a change is answered like the first time.

use berth_proto::v1::node_reservations_client::NodeReservationsClient;
use berth_proto::v1::{
    GetNodeReservationRequest, ListNodeReservationsReply, ListNodeReservationsRequest,
    NodeReservation, RemoveNodeReservationReply, RemoveNodeReservationRequest,
    SetNodeReservationReply, SetNodeReservationRequest,
};

use crate::cluster::{Client, Repeat};
use crate::error::ClientError;
use crate::jobs::calls;

calls! {
    set_node_reservation(SetNodeReservationRequest) -> SetNodeReservationReply
        = NodeReservationsClient.set, Harmless;
    get_node_reservation(GetNodeReservationRequest) -> NodeReservation
        = NodeReservationsClient.get, Read;
    list_node_reservations(ListNodeReservationsRequest) -> ListNodeReservationsReply
        = NodeReservationsClient.list, Read;
    /// What is ended stays so; a repeat may be told that there is none.
    remove_node_reservation(RemoveNodeReservationRequest) -> RemoveNodeReservationReply
        = NodeReservationsClient.remove, Harmless;
}
