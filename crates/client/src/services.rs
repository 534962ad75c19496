//! The calls of the Services service.

use berth_proto::v1::services_client::ServicesClient;
use berth_proto::v1::{GetServiceRequest, ListServicesReply, ListServicesRequest, Service};

use crate::cluster::{Client, Repeat};
use crate::error::ClientError;
use crate::jobs::calls;

calls! {
    list_services(ListServicesRequest) -> ListServicesReply = ServicesClient.list, Read;
    get_service(GetServiceRequest) -> Service = ServicesClient.get, Read;
}
