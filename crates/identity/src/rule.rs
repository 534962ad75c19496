//! What each call asks of its caller. The tables are matches without a
//! catch-all: a call or a page without a rule does not compile.

use berth_model::{Machine, Role, Scope, TokenId};
use berth_proto::Call;
use thiserror::Error;

use crate::machine::MachineId;

/// What a call asks of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Health, for whoever watches over a host.
    Anyone,
    /// A scheduler of this cluster.
    Server,
    /// An agent, which then acts for its own node only.
    Agent,
    /// A gateway.
    Gateway,
    /// Any machine of this cluster, itself.
    Member,
    /// A person with this role or a higher one, at a machine with a client's
    /// certificate.
    Person(Role),
    /// Whoever has a join token; the call itself carries it.
    Joining,
    /// An agent or a gateway, whose certificate may have lapsed.
    Renewal,
    /// Whoever may open the scheduler's socket file.
    LocalSocket,
}

/// A person, as the token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Person {
    pub token: TokenId,
    pub label: String,
    pub role: Role,
    pub scope: Scope,
}

/// What a call shows of its caller, already proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Caller {
    /// Plain text, on loopback or where it was asked for by name: nobody is
    /// asked who they are.
    PlainText,
    /// Through the scheduler's socket file.
    LocalSocket,
    /// Through TLS.
    Known { machine: MachineProof, person: PersonProof },
}

/// What a caller proved of its machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MachineProof {
    None,
    Good(MachineId),
    /// Expired a while ago.
    Lapsed(MachineId),
    /// Revoked, or a scheduler that was removed.
    Revoked(MachineId),
}

/// What a caller proved of the person behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PersonProof {
    None,
    /// A token that opens nothing: unknown, revoked, expired or garbled.
    Refused,
    Good(Person),
}

/// Why a caller may not do something.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Denied {
    #[error("this needs a certificate of the cluster")]
    NoCertificate,
    #[error("the certificate of {0} has expired; it can only be renewed")]
    Lapsed(String),
    #[error("the certificate of {0} was revoked")]
    Revoked(String),
    #[error("this needs the certificate of {needed}, and this is that of {found}")]
    OtherMachine { needed: &'static str, found: String },
    #[error("this needs a token")]
    NoToken,
    #[error("the token opens nothing: it is unknown, expired or revoked")]
    BadToken,
    #[error("this needs the role `{needed}`, and the token has `{found}`")]
    RoleTooLow { needed: &'static str, found: &'static str },
    #[error("this is answered on the scheduler's own socket file only")]
    LocalOnly,
}

impl Denied {
    /// Whether another certificate or token is all that is missing, as opposed
    /// to a right that the caller, well known, does not have.
    #[must_use]
    pub fn is_unauthenticated(&self) -> bool {
        match self {
            Denied::NoCertificate
            | Denied::Lapsed(_)
            | Denied::Revoked(_)
            | Denied::NoToken
            | Denied::BadToken => true,
            Denied::OtherMachine { .. } | Denied::RoleTooLow { .. } | Denied::LocalOnly => false,
        }
    }

    /// One word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Denied::NoCertificate => "no-certificate",
            Denied::Lapsed(_) => "lapsed",
            Denied::Revoked(_) => "revoked",
            Denied::OtherMachine { .. } => "other-machine",
            Denied::NoToken => "no-token",
            Denied::BadToken => "bad-token",
            Denied::RoleTooLow { .. } => "role",
            Denied::LocalOnly => "local-only",
        }
    }
}

/// The rule of a call.
#[must_use]
pub fn rule_of(call: Call) -> Rule {
    match call {
        Call::PeerCall | Call::PeerSnapshot => Rule::Server,
        Call::AgentsSession | Call::AgentsPushLogs | Call::AgentsExec => Rule::Agent,
        Call::GatewaysWatchRoutes | Call::GatewaysReport => Rule::Gateway,
        Call::OperatorJoin | Call::AccessEnrol => Rule::Joining,
        Call::AccessRenew => Rule::Renewal,
        Call::AccessRecoverAdmin => Rule::LocalSocket,
        Call::JobsGet
        | Call::JobsList
        | Call::JobsListAllocations
        | Call::JobsExplain
        | Call::JobsHistory
        | Call::JobsEvents
        | Call::JobsLogs
        | Call::NodesList
        | Call::NodesGet
        | Call::NodesGetDevice
        | Call::NodesListOrphans
        | Call::NamespacesGet
        | Call::NamespacesList
        | Call::NodeReservationsGet
        | Call::NodeReservationsList
        | Call::ServicesList
        | Call::ServicesGet
        | Call::OperatorListPolicyDefaults
        | Call::OperatorStatus => Rule::Person(Role::Read),
        Call::JobsSubmit
        | Call::JobsSubmitMany
        | Call::JobsPlan
        | Call::JobsStop
        | Call::JobsRestart
        | Call::JobsHold
        | Call::JobsRelease
        | Call::JobsPurge
        | Call::JobsScale
        | Call::JobsRollback
        // Who may have a command run there may run one beside it, and see what it sees.
        | Call::JobsExec
        | Call::JobsFiles => Rule::Person(Role::Submit),
        Call::NodesCordon
        | Call::NodesUncordon
        | Call::NodesCordonDevice
        | Call::NodesUncordonDevice
        | Call::NodesDrain
        | Call::NodesStopOrphans
        | Call::NodesPlanDefrag
        | Call::NodesDefrag
        | Call::NodeReservationsSet
        | Call::NodeReservationsRemove
        | Call::OperatorPromote
        | Call::OperatorRemove
        | Call::OperatorTransfer
        | Call::OperatorSnapshot
        | Call::OperatorResume
        | Call::OperatorFinalize
        | Call::OperatorSetPolicyDefault
        | Call::OperatorStateHash => Rule::Person(Role::Operate),
        // A backup holds the environment of every job.
        Call::OperatorBackup
        // And a capture the names of all that waits and runs, whosoever it is.
        | Call::OperatorCapture
        | Call::AccessCreateToken
        | Call::AccessListTokens
        | Call::AccessRevokeToken
        | Call::AccessIssue
        | Call::NamespacesApply
        | Call::NamespacesDelete
        | Call::AccessRevokeCertificates => Rule::Person(Role::Admin),
    }
}

/// Calls of services that are not our own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StandardCall {
    HealthCheck,
    HealthWatch,
    Reflection,
}

impl StandardCall {
    pub const ALL: [StandardCall; 3] =
        [StandardCall::HealthCheck, StandardCall::HealthWatch, StandardCall::Reflection];

    /// As in the request line.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            StandardCall::HealthCheck => "/grpc.health.v1.Health/Check",
            StandardCall::HealthWatch => "/grpc.health.v1.Health/Watch",
            StandardCall::Reflection => "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        }
    }
}

/// The rule of a call of a service that is not our own.
#[must_use]
pub fn rule_of_standard(call: StandardCall) -> Rule {
    match call {
        StandardCall::HealthCheck | StandardCall::HealthWatch => Rule::Anyone,
        StandardCall::Reflection => Rule::Person(Role::Read),
    }
}

/// What is served over HTTP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Page {
    Live,
    Ready,
    Metrics,
}

impl Page {
    pub const ALL: [Page; 3] = [Page::Live, Page::Ready, Page::Metrics];

    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Page::Live => "/livez",
            Page::Ready => "/readyz",
            Page::Metrics => "/metrics",
        }
    }
}

/// The rule of a page.
#[must_use]
pub fn rule_of_page(page: Page) -> Rule {
    match page {
        Page::Live | Page::Ready => Rule::Anyone,
        // Names of nothing that a tenant owns are in them; whoever scrapes them
        // is a machine without a person.
        Page::Metrics => Rule::Member,
    }
}

/// Whether a caller may do what has this rule.
///
/// # Errors
/// Why it may not.
pub fn decide(rule: Rule, caller: &Caller) -> Result<(), Denied> {
    let (machine, person) = match caller {
        Caller::PlainText => {
            return if rule == Rule::LocalSocket { Err(Denied::LocalOnly) } else { Ok(()) };
        }
        Caller::LocalSocket => {
            return match rule {
                Rule::LocalSocket | Rule::Anyone => Ok(()),
                Rule::Server
                | Rule::Agent
                | Rule::Gateway
                | Rule::Member
                | Rule::Person(_)
                | Rule::Joining
                | Rule::Renewal => Err(Denied::NoCertificate),
            };
        }
        Caller::Known { machine, person } => (machine, person),
    };
    match rule {
        // Whether the token opens is seen where it is used.
        Rule::Anyone | Rule::Joining => Ok(()),
        Rule::Server => certified(machine, Machine::Server),
        Rule::Agent => certified(machine, Machine::Agent),
        Rule::Gateway => certified(machine, Machine::Gateway),
        Rule::Member => good(machine).map(|_| ()),
        Rule::Renewal => match machine {
            MachineProof::Lapsed(id) => renews(id),
            MachineProof::None | MachineProof::Good(_) | MachineProof::Revoked(_) => {
                renews(good(machine)?)
            }
        },
        Rule::Person(needed) => {
            certified(machine, Machine::Client)?;
            allowed(needed, person)
        }
        Rule::LocalSocket => Err(Denied::LocalOnly),
    }
}

/// A scheduler signs its own, and a client's ends when it was told to.
fn renews(id: &MachineId) -> Result<(), Denied> {
    match id.machine {
        Machine::Agent | Machine::Gateway => Ok(()),
        Machine::Server | Machine::Client => {
            Err(Denied::OtherMachine { needed: "an agent or a gateway", found: id.to_string() })
        }
    }
}

fn good(machine: &MachineProof) -> Result<&MachineId, Denied> {
    match machine {
        MachineProof::None => Err(Denied::NoCertificate),
        MachineProof::Good(id) => Ok(id),
        MachineProof::Lapsed(id) => Err(Denied::Lapsed(id.to_string())),
        MachineProof::Revoked(id) => Err(Denied::Revoked(id.to_string())),
    }
}

fn certified(machine: &MachineProof, needed: Machine) -> Result<(), Denied> {
    let id = good(machine)?;
    if id.machine == needed {
        return Ok(());
    }
    let needed = match needed {
        Machine::Server => "a scheduler",
        Machine::Agent => "an agent",
        Machine::Gateway => "a gateway",
        Machine::Client => "a client",
    };
    Err(Denied::OtherMachine { needed, found: id.to_string() })
}

fn allowed(needed: Role, person: &PersonProof) -> Result<(), Denied> {
    match person {
        PersonProof::None => Err(Denied::NoToken),
        PersonProof::Refused => Err(Denied::BadToken),
        PersonProof::Good(person) if person.role >= needed => Ok(()),
        PersonProof::Good(person) => {
            Err(Denied::RoleTooLow { needed: needed.as_str(), found: person.role.as_str() })
        }
    }
}
