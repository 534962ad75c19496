//! The calls of the Namespaces service. Who repeats a change is answered like the first time.

use berth_proto::v1::namespaces_client::NamespacesClient;
use berth_proto::v1::{
    ApplyNamespaceReply, ApplyNamespaceRequest, DeleteNamespaceReply, DeleteNamespaceRequest,
    GetNamespaceRequest, ListNamespacesReply, ListNamespacesRequest, Namespace,
};

use crate::cluster::{Client, Repeat};
use crate::error::ClientError;
use crate::jobs::calls;

calls! {
    apply_namespace(ApplyNamespaceRequest) -> ApplyNamespaceReply
        = NamespacesClient.apply, Harmless;
    get_namespace(GetNamespaceRequest) -> Namespace = NamespacesClient.get, Read;
    list_namespaces(ListNamespacesRequest) -> ListNamespacesReply = NamespacesClient.list, Read;
    /// What is deleted stays so; a repeat may be told that nothing is set.
    delete_namespace(DeleteNamespaceRequest) -> DeleteNamespaceReply
        = NamespacesClient.delete, Harmless;
}
