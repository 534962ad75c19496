//! The calls of the Access service.

use berth_proto::v1::access_client::AccessClient;
use berth_proto::v1::{
    CertificateReply, CreateTokenReply, CreateTokenRequest, IssueRequest, ListTokensReply,
    ListTokensRequest, RecoverAdminReply, RecoverAdminRequest, RevokeCertificatesReply,
    RevokeCertificatesRequest, RevokeTokenReply, RevokeTokenRequest,
};

use crate::cluster::{Client, Repeat};
use crate::error::ClientError;
use crate::jobs::calls;

calls! {
    /// The caller made id and secret: a repeat makes the same token.
    create_token(CreateTokenRequest) -> CreateTokenReply = AccessClient.create_token, Harmless;
    list_tokens(ListTokensRequest) -> ListTokensReply = AccessClient.list_tokens, Read;
    /// What is revoked stays so; a repeat may be told that there is no such token.
    revoke_token(RevokeTokenRequest) -> RevokeTokenReply = AccessClient.revoke_token, Harmless;
    /// A repeat signs once more, for the same key.
    issue_certificate(IssueRequest) -> CertificateReply = AccessClient.issue, Harmless;
    revoke_certificates(RevokeCertificatesRequest) -> RevokeCertificatesReply
        = AccessClient.revoke_certificates, Harmless;
    recover_admin(RecoverAdminRequest) -> RecoverAdminReply = AccessClient.recover_admin, Harmless;
}
