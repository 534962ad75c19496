//! The one place that chooses a gRPC status. Every error names what was wrong
//! and, where there is one, the next step.

use std::collections::BTreeMap;
use std::error::Error as _;

use berth_identity::Denied;
use berth_model::{Name, Violation};
use berth_proto::v1;
use berth_raft::{ProposeError, ReadError};
use berth_state::{NewerCluster, Refusal};
use berth_wire::agent::OtherProtocol;
use prost::Message as _;
use tonic::{Code, ConnectError, Status};

use crate::events::Gone;
use crate::leader::{NotNow, TooFast};

/// When a client may try again after a passing trouble.
const RETRY_AFTER_MS: u64 = 40;

/// A status with its details.
pub fn status(code: Code, message: impl Into<String>, detail: &v1::ErrorDetail) -> Status {
    Status::with_details(code, message, detail.encode_to_vec().into())
}

fn with_hint(code: Code, message: impl Into<String>, hint: &str) -> Status {
    let detail = v1::ErrorDetail { hint: hint.to_owned(), ..v1::ErrorDetail::default() };
    status(code, message, &detail)
}

/// A request whose fields are wrong; every one is listed.
pub fn invalid(violations: Vec<Violation>) -> Status {
    let message = match violations.as_slice() {
        [] => "the request is not valid".to_owned(),
        [one] => format!("{}: {}", one.field, one.message),
        [first, rest @ ..] => {
            format!("{}: {} (and {} more problems)", first.field, first.message, rest.len())
        }
    };
    let violations = violations
        .into_iter()
        .map(|violation| v1::FieldViolation {
            field: violation.field,
            message: violation.message,
            hint: violation.hint.unwrap_or_default(),
        })
        .collect();
    let detail = v1::ErrorDetail { violations, ..v1::ErrorDetail::default() };
    status(Code::InvalidArgument, message, &detail)
}

/// One wrong field.
pub fn invalid_field(field: &str, message: impl Into<String>) -> Status {
    invalid(vec![Violation { field: field.to_owned(), message: message.into(), hint: None }])
}

/// This scheduler does not lead.
pub fn not_leader(leader: Option<&str>) -> Status {
    let detail = v1::ErrorDetail {
        leader_address: leader.unwrap_or_default().to_owned(),
        retry_after_ms: Some(RETRY_AFTER_MS),
        ..v1::ErrorDetail::default()
    };
    let message = match leader {
        Some(address) => format!("the leader is at {address}"),
        None => "no leader is known; an election may be under way".to_owned(),
    };
    status(Code::Unavailable, message, &detail)
}

/// What the log said.
pub fn from_propose(error: &ProposeError) -> Status {
    match error {
        ProposeError::NotLeader { leader } => {
            not_leader(leader.as_ref().map(|(_, address)| address.as_str()))
        }
        ProposeError::NoQuorum => no_quorum(),
        ProposeError::OutcomeUnknown => outcome_unknown("the leader changed"),
        ProposeError::TooLarge { bytes } => status(
            Code::InvalidArgument,
            format!("the request encodes to {bytes} bytes, more than a log entry holds"),
            &v1::ErrorDetail::default(),
        ),
        ProposeError::Stopped => stopping(),
    }
}

/// What came of a forwarded call: the leader's own words, or a connection that
/// failed here, of which a client could not tell that it was not its own.
pub fn from_forward(failed: Status) -> Status {
    let mut next = failed.source();
    if next.is_none() {
        return failed;
    }
    while let Some(error) = next {
        if error.is::<ConnectError>() {
            return not_leader(None);
        }
        next = error.source();
    }
    outcome_unknown("the connection to the leader was lost")
}

fn outcome_unknown(why: &str) -> Status {
    let detail = v1::ErrorDetail {
        hint: "repeat with the same key to find out".to_owned(),
        outcome_unknown: true,
        ..v1::ErrorDetail::default()
    };
    status(Code::Unavailable, format!("the outcome is unknown: {why}"), &detail)
}

/// What a linearizable read said.
pub fn from_read(error: &ReadError) -> Status {
    match error {
        ReadError::NoLeader { leader } => {
            not_leader(leader.as_ref().map(|(_, address)| address.as_str()))
        }
        ReadError::NoQuorum => no_quorum(),
        ReadError::Behind { .. } => with_hint(
            Code::Unavailable,
            "this scheduler is behind the leader",
            "ask again, ask another scheduler, or read with --stale",
        ),
        ReadError::Stopped => stopping(),
    }
}

fn no_quorum() -> Status {
    let detail = v1::ErrorDetail {
        hint: "a majority of the schedulers must be reachable; --stale reads what this one knows"
            .to_owned(),
        retry_after_ms: Some(RETRY_AFTER_MS),
        ..v1::ErrorDetail::default()
    };
    status(Code::Unavailable, "no quorum: too few schedulers answer", &detail)
}

fn stopping() -> Status {
    status(Code::Unavailable, "this scheduler is stopping", &v1::ErrorDetail::default())
}

const OTHER_KEY: &str =
    "use another key, or submit exactly the spec that the key was first used with";
/// A quota is used up, and time alone may help.
const OVER_QUOTA: &str =
    "`berth quota show` says what is in use; wait until some of it ends, or have more allowed";
const LIST_TOKENS: &str = "list them with `berth token list`";
const OTHER_NAME: &str = "the kind of a job cannot change; give the new one another name";

/// What apply said.
pub fn from_refusal(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::NoSuchJob(_)
        | Refusal::NoSuchNode(_)
        | Refusal::NoSuchScheduler(_)
        | Refusal::NoSuchAllocation(_)
        | Refusal::NoSuchDevice { .. }
        | Refusal::NoSuchTask { .. }
        | Refusal::NoSuchVersion { .. }
        | Refusal::NoSuchNamespace(_)
        | Refusal::NoSuchNodeReservation(_) => Status::not_found(message),
        Refusal::KeyConflict { .. } => with_hint(Code::AlreadyExists, message, OTHER_KEY),
        Refusal::ScaledMeanwhile { .. }
        | Refusal::VersionConflict { .. }
        | Refusal::NothingToUpdate { .. }
        | Refusal::NamespaceConflict { .. }
        | Refusal::NodeReservationConflict { .. } => {
            with_hint(Code::Aborted, message, "look at the present version and decide again")
        }
        Refusal::KindChanged { .. } => unmet(message, OTHER_NAME),
        Refusal::JobNotEnded(_) => unmet(message, "stop the job first"),
        Refusal::NodeNameTaken { .. } => {
            unmet(message, "give this agent another --name, or its old data directory")
        }
        Refusal::DeviceElsewhere { .. } => unmet(
            message,
            "run one agent per host; a device that was moved is free once its old node is down",
        ),
        Refusal::Invalid(_) | Refusal::JoinTtl { .. } | Refusal::OutOfRange(_) => {
            Status::invalid_argument(message)
        }
        Refusal::NotSecured => not_secured(),
        Refusal::JoinTokenRefused => join_refused(),
        Refusal::UnknownToken(_) => with_hint(Code::NotFound, message, LIST_TOKENS),
        Refusal::TokenExists(_) => Status::already_exists(message),
        Refusal::TooManyTokens
        | Refusal::TooManyRevocations
        | Refusal::TooManyNamespaces
        | Refusal::TooManyNodeReservations
        | Refusal::TooManyPoolPolicies => Status::resource_exhausted(message),
        Refusal::OverQuota(_) => with_hint(Code::ResourceExhausted, message, OVER_QUOTA),
        Refusal::NamespaceInUse { .. } => unmet(message, "stop them first"),
        Refusal::ReservedTwice { .. } => {
            unmet(message, "end that one first, or leave the node out")
        }
        Refusal::NotFounded => Status::unavailable(message),
        Refusal::SchedulerRemoved(_) => {
            unmet(message, "start a new scheduler on an empty directory with --join")
        }
        Refusal::SchedulerElsewhere { .. } => unmet(
            message,
            "start it with --advertise of that address, or remove joining.json from its directory \
             to join as a new one",
        ),
        Refusal::LastVoter(_) => unmet(message, "add another scheduler first"),
        Refusal::AlreadyFounded
        | Refusal::ClusterVersion { .. }
        | Refusal::JobEnded(_)
        | Refusal::StaleSession { .. }
        | Refusal::NodeInUse { .. }
        | Refusal::NotPending(_)
        | Refusal::DoesNotFit { .. }
        | Refusal::NotAVictim { .. }
        | Refusal::GangIncomplete { .. }
        | Refusal::GangOrphans { .. }
        | Refusal::GangRefused { .. }
        | Refusal::StockNotTaken { .. }
        | Refusal::Awaiting { .. }
        | Refusal::TooEarly => Status::failed_precondition(message),
    }
}

/// It could be so once something else is as the hint says.
fn unmet(message: String, hint: &str) -> Status {
    with_hint(Code::FailedPrecondition, message, hint)
}

/// The caller may not do this.
pub fn denied(denied: &Denied) -> Status {
    let code =
        if denied.is_unauthenticated() { Code::Unauthenticated } else { Code::PermissionDenied };
    let hint = match denied {
        Denied::NoCertificate => {
            "give the folder of a client's certificate with --tls-dir or BERTH_TLS_DIR"
        }
        Denied::NoToken => "give a token with --token or BERTH_TOKEN",
        Denied::BadToken => "ask an administrator for another (`berth token create`)",
        Denied::RoleTooLow { .. } => "ask an administrator for a token with that role",
        Denied::Lapsed(_) => "an agent renews it by itself; other machines get a new one",
        Denied::Revoked(_) => "it joins again with a new join token, if it may",
        Denied::OtherMachine { .. } => "",
        Denied::LocalOnly => "run `berth operator recover-admin` on the scheduler's own machine",
    };
    refused(code, denied.to_string(), hint, denied.code())
}

fn refused(code: Code, message: String, hint: &str, refused: &str) -> Status {
    let detail = v1::ErrorDetail {
        hint: hint.to_owned(),
        refused: refused.to_owned(),
        ..v1::ErrorDetail::default()
    };
    status(code, message, &detail)
}

/// Whether another scheduler refused a call because this one's certificate
/// counts no more.
pub fn says_revoked(status: &Status) -> bool {
    let detail = v1::ErrorDetail::decode(status.details()).unwrap_or_default();
    detail.refused == Denied::Revoked(String::new()).code()
}

/// The token is for other namespaces. Whether anything is there is not said.
pub fn other_namespace(namespace: &Name) -> Status {
    refused(
        Code::PermissionDenied,
        format!("the token is not for namespace `{namespace}`"),
        "choose another --namespace, or ask an administrator for a token of this one",
        "namespace",
    )
}

/// An agent speaks for a node that its certificate is not of.
pub fn other_node(node: &str, certified: &str) -> Status {
    let message = format!("node `{node}` is not the one of this certificate, {certified}");
    refused(Code::PermissionDenied, message, "", "node")
}

/// An agent whose token was for one pool declares another.
pub fn other_pool(pool: &Name, only: &Name) -> Status {
    let message = format!("the certificate is for pool `{only}`, and the node declares `{pool}`");
    refused(Code::PermissionDenied, message, "start the agent with that --pool", "pool")
}

/// A scheduler that is to be revoked is still one of the cluster's.
pub fn still_seated(id: u64) -> Status {
    with_hint(
        Code::FailedPrecondition,
        format!("scheduler {id} is a member; its removal shuts it out"),
        "`berth operator remove` it; it knew the signing key, so if it was stolen, restore under \
         --new-authority",
    )
}

/// One wording for every token that does not let its holder in.
pub fn join_refused() -> Status {
    refused(
        Code::Unauthenticated,
        Refusal::JoinTokenRefused.to_string(),
        "a join token works once, for 15 minutes at most; \
         make a new one with `berth token create --join`",
        "join",
    )
}

/// The cluster speaks plain text.
pub fn not_secured() -> Status {
    with_hint(
        Code::FailedPrecondition,
        Refusal::NotSecured.to_string(),
        "tokens and certificates belong to a cluster that was founded with TLS",
    )
}

/// The authority did not sign; the reason is for operators alone.
pub fn not_signed(error: &anyhow::Error) -> Status {
    tracing::warn!(error = format!("{error:#}"), "certificate not signed");
    Status::unavailable("this scheduler cannot sign certificates now")
}

/// The others would be no majority.
pub fn needed_for_majority(scheduler: u64) -> Status {
    with_hint(
        Code::FailedPrecondition,
        format!("without scheduler {scheduler} too few of the others answer to go on"),
        "bring the others back, or remove those that are gone first; \
         `berth operator status` shows who answers",
    )
}

/// This leader is too new to know who answers.
pub fn not_heard_yet() -> Status {
    let detail =
        v1::ErrorDetail { retry_after_ms: Some(RETRY_AFTER_MS), ..v1::ErrorDetail::default() };
    status(Code::Unavailable, "a leader was just elected and has not heard everybody yet", &detail)
}

/// More submits are on their way than the log can take.
pub fn not_now(refused: NotNow) -> Status {
    metrics::counter!("berth_submits_refused_total").increment(1);
    let (message, retry_after_ms) = match refused {
        NotNow::Crowded { retry_after_ms } => {
            ("the cluster has more submits to take than it can".to_owned(), retry_after_ms)
        }
        NotNow::TooFast(TooFast { namespace, per_second, retry_after_ms }) => (
            format!("namespace `{namespace}` submits more than {per_second} jobs a second"),
            retry_after_ms,
        ),
    };
    let detail = v1::ErrorDetail {
        hint: "try again in a moment; `berth` does so by itself".to_owned(),
        retry_after_ms: Some(retry_after_ms),
        ..v1::ErrorDetail::default()
    };
    status(Code::ResourceExhausted, message, &detail)
}

/// A watcher did not take what it asked for.
pub fn too_slow() -> Status {
    with_hint(
        Code::ResourceExhausted,
        "the events were not read for half a minute",
        "watch again from the token of the last event that was read",
    )
}

/// What comes after a token that names no event here.
const WATCH_ANEW: &str = "list again, then watch from the newest event";

/// The events after a token are no longer all here.
pub fn events_gone(gone: Gone) -> Status {
    let message = format!("events up to {} are no longer kept here", gone.oldest);
    with_hint(Code::OutOfRange, message, WATCH_ANEW)
}

/// A token that no event has: of another cluster, or from before a restore.
pub fn no_such_event_yet(newest: u64) -> Status {
    let message = format!("no event has this token yet; the newest entry here is {newest}");
    with_hint(Code::OutOfRange, message, WATCH_ANEW)
}

/// As many watch as this scheduler has room for.
pub fn too_many_gateways() -> Status {
    with_hint(
        Code::ResourceExhausted,
        "the leader hears of as many gateways as it can",
        "stop some of them",
    )
}

pub fn too_many_watchers() -> Status {
    with_hint(
        Code::ResourceExhausted,
        "too many watch this scheduler's events",
        "ask another scheduler",
    )
}

/// The disk of this scheduler is nearly full.
pub fn disk_low(free_bytes: u64) -> Status {
    with_hint(
        Code::ResourceExhausted,
        format!("the scheduler's disk has only {} MiB left; submits are refused", free_bytes >> 20),
        "free space on the data directory's disk; running jobs go on and can be stopped",
    )
}

/// No node, or no quota, could ever hold the job, and the caller asked to be told.
pub fn never_fits(what: String) -> Status {
    with_hint(
        Code::OutOfRange,
        what,
        "without --strict the job would wait until such a node joins, or its quota is raised",
    )
}

/// A status as a problem of one item of many.
pub fn problem(status: &Status) -> v1::Problem {
    let detail = v1::ErrorDetail::decode(status.details()).unwrap_or_default();
    v1::Problem {
        code: u32::try_from(status.code() as i32).unwrap_or_default(),
        message: status.message().to_owned(),
        violations: detail.violations,
    }
}

/// Nobody knows what these schedulers are able to: by id, with the reason.
pub fn silent_schedulers(silent: &BTreeMap<u64, String>) -> Status {
    let listed: Vec<String> = silent.iter().map(|(id, why)| format!("{id} ({why})")).collect();
    with_hint(
        Code::FailedPrecondition,
        format!("these schedulers do not say what they know: {}", listed.join(", ")),
        "every scheduler must answer before the cluster version is raised; bring them back, or \
         remove those that are gone",
    )
}

/// A scheduler that would not understand the cluster that it is to join.
pub fn too_old_to_join(newer: &NewerCluster) -> Status {
    with_hint(
        Code::FailedPrecondition,
        newer.to_string(),
        "`berth operator status` shows the version that the other schedulers run",
    )
}

/// Another call is just about to begin moves.
pub fn other_defrag() -> Status {
    with_hint(
        Code::Aborted,
        "somebody else is beginning moves at this moment".to_owned(),
        "try again when they have been made; `berth node defrag --plan` shows what is left",
    )
}

/// An agent of another time.
pub fn other_protocol(other: &OtherProtocol) -> Status {
    let hint = match other.is_newer() {
        true => "upgrade the schedulers before the agents, or give this agent an older release",
        false => "upgrade the agent; what it runs goes on meanwhile",
    };
    with_hint(Code::FailedPrecondition, other.to_string(), hint)
}
