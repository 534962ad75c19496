//! The Access service: tokens, and certificates for machines.

use std::sync::Arc;

use berth_identity::{CERTIFICATE_DAYS, Denied, MachineId, Token, requested_key};
use berth_model::{Grant, Machine, Role, Scope, TokenId};
use berth_proto::v1;
use berth_proto::v1::access_client::AccessClient;
use berth_state::{Command, JoinProof, NewToken, Reply};
use berth_wire::access as wire;
use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::route::at_leader;
use super::{Shared, settle, status};
use crate::access::{Granted, Security, Term};
use crate::leader::Leader;

/// The longest life of a certificate that an administrator may ask for: what
/// the web's browsers took for long enough.
const ISSUED_DAYS_MAX: u32 = 825;

pub struct AccessService(pub Shared);

#[tonic::async_trait]
impl v1::access_server::Access for AccessService {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenReply>, Status> {
        at_leader!(self.0, request, AccessClient::create_token, |leader, granted, asked| async {
            granted.about(format!("token {}", TokenId(asked.id)));
            let token =
                wire::new_token_from_proto(asked, granted.who()).map_err(status::invalid)?;
            self.create(&leader, token).await
        })
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensReply>, Status> {
        let granted = Granted::of(&request)?;
        let view = self.0.read(&granted, 0).await?.state;
        let now = self.0.published.now();
        let live = view.tokens().values().filter(|row| !row.is_over(now));
        let tokens = live.map(|row| wire::token_info(row)).collect();
        Ok(Response::new(v1::ListTokensReply { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenReply>, Status> {
        at_leader!(self.0, request, AccessClient::revoke_token, |leader, granted, asked| async {
            let token = TokenId(asked.id);
            granted.about(format!("token {token}"));
            settle(&leader, Command::RevokeToken { token }).await?;
            Ok(v1::RevokeTokenReply {})
        })
    }

    async fn enrol(
        &self,
        request: Request<v1::EnrolRequest>,
    ) -> Result<Response<v1::CertificateReply>, Status> {
        at_leader!(self.0, request, AccessClient::enrol, |leader, granted, asked| {
            self.admit(granted, leader, asked)
        })
    }

    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::CertificateReply>, Status> {
        let granted = Granted::of(&request)?;
        // The key must be the one that the caller proved, which only the
        // scheduler that it is connected to has seen: so it answers itself.
        let view = self.0.read(&granted, 0).await?.state;
        let shown = granted.certified().ok_or_else(status::not_secured)?;
        granted.about(shown.id.to_string());
        let request = request.into_inner().request;
        if requested_key(&request).ok() != Some(shown.key_hash) {
            return Err(status::invalid_field(
                "request",
                "expected a request for the key of the certificate that is shown",
            ));
        }
        // By the view that is signed on: the gate's may have been older.
        if view.is_revoked(shown.id.machine, &shown.id.name, shown.times_revoked) {
            return Err(status::denied(&Denied::Revoked(shown.id.to_string())));
        }
        let term = Term { days: CERTIFICATE_DAYS, times_revoked: shown.times_revoked };
        let signed = self.security()?.sign(&view, &request, &shown.id, term);
        signed.map(reply).map_err(|error| status::not_signed(&error))
    }

    async fn issue(
        &self,
        request: Request<v1::IssueRequest>,
    ) -> Result<Response<v1::CertificateReply>, Status> {
        let granted = Granted::of(&request)?;
        let view = self.0.read(&granted, 0).await?.state;
        let asked = request.into_inner();
        let applicant = wire::applicant_from_issue(&asked).map_err(status::invalid)?;
        if applicant.machine == Machine::Server {
            return Err(status::invalid_field(
                "machine",
                "a scheduler gets its certificate when it joins",
            ));
        }
        let days = asked.days.unwrap_or(CERTIFICATE_DAYS);
        if !(1..=ISSUED_DAYS_MAX).contains(&days) {
            let message = format!("expected 1 to {ISSUED_DAYS_MAX} days, found {days}");
            return Err(status::invalid_field("days", message));
        }
        let id = MachineId::named(self.0.cluster_id, applicant.machine, &applicant.name);
        granted.about(id.to_string());
        requested_key(&applicant.request)
            .map_err(|error| status::invalid_field("request", error.to_string()))?;
        let times_revoked = view.times_revoked(id.machine, &id.name);
        let term = Term { days, times_revoked };
        let signed = self.security()?.sign(&view, &applicant.request, &id, term);
        signed.map(reply).map_err(|error| status::not_signed(&error))
    }

    async fn revoke_certificates(
        &self,
        request: Request<v1::RevokeCertificatesRequest>,
    ) -> Result<Response<v1::RevokeCertificatesReply>, Status> {
        at_leader!(
            self.0,
            request,
            AccessClient::revoke_certificates,
            |leader, granted, asked| async {
                let (machine, name) =
                    wire::revoked_machine_from_proto(&asked).map_err(status::invalid)?;
                granted.about(format!("{} {name}", machine.as_str()));
                self.check_left(machine, &name)?;
                settle(&leader, Command::RevokeMachine { machine, name }).await?;
                Ok(v1::RevokeCertificatesReply {})
            }
        )
    }

    async fn recover_admin(
        &self,
        request: Request<v1::RecoverAdminRequest>,
    ) -> Result<Response<v1::RecoverAdminReply>, Status> {
        at_leader!(self.0, request, AccessClient::recover_admin, |leader, granted, asked| async {
            let Ok(secret_hash) = <[u8; 32]>::try_from(asked.secret_hash.as_ref()) else {
                return Err(status::invalid_field("secret_hash", "expected 32 bytes"));
            };
            let id = TokenId(asked.id);
            granted.about(format!("token {id}"));
            let token = NewToken {
                id,
                secret_hash,
                label: "recovered admin".to_owned(),
                grant: Grant::Person { role: Role::Admin, scope: Scope::All },
                ttl: None,
                created_by: granted.who(),
            };
            self.create(&leader, token).await?;
            let view = self.0.published.view();
            let authority = view.cluster().authority.as_ref().ok_or_else(status::not_secured)?;
            let authority = Bytes::copy_from_slice(&berth_identity::digest(&authority.certificate));
            Ok(v1::RecoverAdminReply { authority })
        })
    }
}

impl AccessService {
    async fn create(
        &self,
        leader: &Leader,
        token: NewToken,
    ) -> Result<v1::CreateTokenReply, Status> {
        let id = token.id;
        settle(leader, Command::CreateToken(token)).await?;
        let view = self.0.published.view();
        let expires = view.tokens().get(&id).and_then(|row| row.expires);
        Ok(v1::CreateTokenReply { expires_at_ms: expires.map(|expires| expires.wall.0) })
    }

    /// A scheduler is shut out by its removal, which sees to the majority and
    /// takes its signing key into account; what is left to revoke is its name.
    fn check_left(&self, machine: Machine, name: &str) -> Result<(), Status> {
        let Some(id) = name.parse::<u64>().ok().filter(|_| machine == Machine::Server) else {
            return Ok(());
        };
        let seat = self.0.published.view().cluster().seat(id);
        if seat.is_ok() { Err(status::still_seated(id)) } else { Ok(()) }
    }

    /// Lets an agent or a gateway in. The state is asked before anything is
    /// proposed: a guess never reaches the log.
    async fn admit(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
        asked: v1::EnrolRequest,
    ) -> Result<v1::CertificateReply, Status> {
        let applicant = wire::applicant_from_enrol(&asked).map_err(status::invalid)?;
        let security = self.security()?;
        granted.about(format!("{} {}", applicant.machine.as_str(), applicant.name));
        let key_hash = requested_key(&applicant.request)
            .map_err(|error| status::invalid_field("request", error.to_string()))?;
        let proof = proof(&asked.token, key_hash).ok_or_else(status::join_refused)?;
        let wire::Applicant { machine, name, pool, request } = applicant;
        let view = self.0.published.view();
        let opens =
            view.join_token_opens(&proof, machine, &name, pool.as_ref(), leader.clock.now());
        if !opens {
            return Err(status::join_refused());
        }
        // A token for one pool makes a certificate for that pool alone.
        let bound = view.tokens().get(&proof.token).and_then(|row| match &row.grant {
            Grant::Join(grant) => grant.pool.clone(),
            Grant::Person { .. } => None,
        });
        let id = MachineId { pool: bound, ..MachineId::named(self.0.cluster_id, machine, &name) };
        let reply_in_log =
            settle(&leader, Command::UseJoinToken { proof, machine, name, pool }).await?;
        let Reply::LetIn { times_revoked } = reply_in_log else {
            return Err(Status::internal(format!("unexpected answer {reply_in_log:?}")));
        };
        let term = Term { days: CERTIFICATE_DAYS, times_revoked };
        let signed = security.sign(&view, &request, &id, term);
        signed.map(|signed| reply(signed).into_inner()).map_err(|error| status::not_signed(&error))
    }

    fn security(&self) -> Result<&Arc<Security>, Status> {
        self.0.security.as_ref().ok_or_else(status::not_secured)
    }
}

/// What a join token's text proves, together with the key that it is shown for.
pub fn proof(text: &str, key_hash: [u8; 32]) -> Option<JoinProof> {
    let token = text.parse::<Token>().ok()?;
    Some(JoinProof { token: token.id, secret_hash: token.secret.hash(), key_hash })
}

fn reply(signed: crate::access::Signed) -> Response<v1::CertificateReply> {
    let (certificate, authority) = (signed.certificate.into(), signed.authority.into());
    Response::new(v1::CertificateReply { certificate, authority })
}
