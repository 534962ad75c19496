//! What a call behind the gate may know of its caller.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use berth_identity::{Caller, Certified, Denied, MachineProof, PersonProof};
use berth_model::{Machine, Name, Role, Scope, StateMs};
use berth_state::ClusterState;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

use super::audit::{Audit, Record};
use super::caller::Authenticated;
use crate::leader::clock::wall;
use crate::rpc::status;

/// The machine on whose behalf a scheduler forwards a call. Believed only of a
/// scheduler of this cluster.
pub const ON_BEHALF: &str = "berth-on-behalf";
/// Where such a call comes from.
pub const REMOTE: &str = "berth-remote";
pub const REQUEST_ID: &str = "x-request-id";

/// Proof that a call went through the gate. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Granted(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    who: Authenticated,
    circumstances: Circumstances,
    /// What the call is about, for the audit; the lock guards the text alone.
    about: Mutex<String>,
    forwarded: AtomicBool,
    /// Drawn when it is needed: most calls leave no record.
    drawn_id: OnceLock<String>,
}

impl Granted {
    pub(super) fn new(who: Authenticated, circumstances: Circumstances) -> Granted {
        let (about, forwarded) = (Mutex::default(), AtomicBool::new(false));
        let drawn_id = OnceLock::new();
        Granted(Arc::new(Inner { who, circumstances, about, forwarded, drawn_id }))
    }

    /// What the gate left with the request.
    ///
    /// # Errors
    /// If it never went through one, which only a defect can bring about.
    pub fn of<T>(request: &Request<T>) -> Result<Granted, Status> {
        let granted = request.extensions().get::<Granted>().cloned();
        granted.ok_or_else(|| Status::internal("the call did not come through the gate"))
    }

    /// Whether the caller may see and touch what is in a namespace.
    pub fn sees(&self, namespace: &Name) -> bool {
        match self.scope() {
            Some(scope) => scope.allows(namespace),
            None => true,
        }
    }

    /// The same of a namespace by its text; nobody sees what is none.
    pub fn sees_namespace(&self, namespace: &str) -> bool {
        Name::new(namespace).is_ok_and(|namespace| self.sees(&namespace))
    }

    /// # Errors
    /// A refusal that tells nothing of what is in the namespace.
    pub fn check(&self, namespace: &Name) -> Result<(), Status> {
        if self.sees(namespace) { Ok(()) } else { Err(status::other_namespace(namespace)) }
    }

    /// Whether the caller may act as this node.
    ///
    /// # Errors
    /// If its certificate is another node's.
    pub fn check_node(&self, node: &str) -> Result<(), Status> {
        match &self.0.who.caller {
            Caller::Known { machine: MachineProof::Good(id), .. }
                if id.machine == Machine::Agent && id.name == node =>
            {
                Ok(())
            }
            Caller::Known { machine: MachineProof::Good(id), .. } => {
                Err(status::other_node(node, &id.to_string()))
            }
            Caller::Known { .. } | Caller::LocalSocket => Err(status::other_node(node, "nobody")),
            Caller::PlainText => Ok(()),
        }
    }

    pub fn caller(&self) -> &Caller {
        &self.0.who.caller
    }

    /// Whether the caller may act for a node in this pool.
    ///
    /// # Errors
    /// If its certificate is for another pool.
    pub fn check_pool(&self, pool: &Name) -> Result<(), Status> {
        let only = self.0.who.proved.as_ref().and_then(|proved| proved.id.pool.as_ref());
        match only {
            Some(only) if only != pool => Err(status::other_pool(pool, only)),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the caller may know who else has access.
    pub fn is_admin(&self) -> bool {
        match &self.0.who.caller {
            Caller::Known { person: PersonProof::Good(person), .. } => person.role == Role::Admin,
            Caller::PlainText => true,
            Caller::Known { .. } | Caller::LocalSocket => false,
        }
    }

    /// Whoever asks, for rows and audit: the token's label, else the machine.
    pub fn who(&self) -> String {
        match &self.0.who.caller {
            Caller::PlainText => "plain text".to_owned(),
            Caller::LocalSocket => "local socket".to_owned(),
            Caller::Known { person: PersonProof::Good(person), .. } => {
                format!("{} ({})", person.label, person.token)
            }
            Caller::Known { machine: MachineProof::None, .. } => "stranger".to_owned(),
            Caller::Known {
                machine:
                    MachineProof::Good(id) | MachineProof::Lapsed(id) | MachineProof::Revoked(id),
                ..
            } => format!("{} {}", id.machine.as_str(), id.name),
        }
    }

    /// Whether the caller may see what belongs to no namespace any more.
    pub fn sees_all(&self) -> bool {
        self.scope().is_none_or(|scope| *scope == Scope::All)
    }

    /// The machine at the other end of the connection; none where another
    /// scheduler vouches for it.
    pub fn certified(&self) -> Option<&Certified> {
        self.0.who.proved.as_deref()
    }

    /// The caller's certificate must still count at `view`, and now.
    ///
    /// # Errors
    /// If it was revoked, or has expired.
    pub fn still_certified(&self, view: &ClusterState) -> Result<(), Status> {
        let Some(proved) = &self.0.who.proved else { return Ok(()) };
        if view.is_revoked(proved.id.machine, &proved.id.name, proved.times_revoked) {
            return Err(status::denied(&Denied::Revoked(proved.id.to_string())));
        }
        if proved.expires < wall() {
            return Err(status::denied(&Denied::Lapsed(proved.id.to_string())));
        }
        Ok(())
    }

    /// The caller's token and certificate must still count at `view`: one that
    /// is newer than what the gate saw may know of a revocation.
    ///
    /// # Errors
    /// If one of them counts no more.
    pub fn still(&self, view: &ClusterState, now: StateMs) -> Result<(), Status> {
        if !matches!(&self.0.who.caller, Caller::Known { machine: MachineProof::Lapsed(_), .. }) {
            self.still_certified(view)?;
        }
        let Some((id, secret_hash)) = &self.0.who.token else { return Ok(()) };
        match view.token(*id, secret_hash, now) {
            Some(_) => Ok(()),
            None => Err(status::denied(&Denied::BadToken)),
        }
    }

    /// Notes what the call is about: the audit has no other way to know.
    pub fn about(&self, what: impl Into<String>) {
        *self.0.about.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }

    /// Records that a right was refused.
    pub fn refused(&self, refused: &Status) {
        metrics::counter!("berth_access_refused_total").increment(1);
        self.record(refused.message(), Audit::refuse);
    }

    /// A record that is written even if the caller goes away before the answer:
    /// what it asked for may be done all the same.
    pub(super) fn pending(&self) -> Pending {
        Pending { granted: Some(self.clone()) }
    }

    /// Records what came of the call; not if another scheduler answered it,
    /// which has its own record.
    pub(super) fn done(&self, result: &str) {
        if !self.0.forwarded.load(Ordering::Relaxed) {
            self.record(result, Audit::write);
        }
    }

    fn record(&self, result: &str, write: fn(&Audit, &Record<'_>)) {
        let Circumstances { call, audit, .. } = &self.0.circumstances;
        let about = self.0.about.lock().unwrap_or_else(PoisonError::into_inner);
        let record = Record {
            who: &self.who(),
            call,
            about: &about,
            result,
            remote: self.0.who.remote,
            request_id: self.request_id(),
        };
        write(audit, &record);
    }

    fn request_id(&self) -> &str {
        let draw = || format!("{:016x}", getrandom::u64().unwrap_or_default());
        let given = self.0.circumstances.request_id.as_deref();
        given.unwrap_or_else(|| self.0.drawn_id.get_or_init(draw))
    }

    fn scope(&self) -> Option<&Scope> {
        match &self.0.who.caller {
            Caller::Known { person: PersonProof::Good(person), .. } => Some(&person.scope),
            Caller::Known { .. } | Caller::PlainText | Caller::LocalSocket => None,
        }
    }
}

/// Whether a call may speak for this scheduler: a scheduler for itself alone.
pub fn may_speak(extensions: &Extensions, scheduler: u64) -> bool {
    let Some(granted) = extensions.get::<Granted>() else { return false };
    match granted.caller() {
        Caller::PlainText => true,
        Caller::Known { machine: MachineProof::Good(id), .. } => {
            id.scheduler_id() == Some(scheduler)
        }
        Caller::Known { .. } | Caller::LocalSocket => false,
    }
}

/// What else is known of a call.
#[derive(Debug)]
pub struct Circumstances {
    /// As in the request line.
    pub call: &'static str,
    /// What the caller calls the call.
    pub request_id: Option<String>,
    pub audit: Audit,
}

/// A call that is on its way, whose result is to be recorded.
pub struct Pending {
    granted: Option<Granted>,
}

impl Pending {
    /// What came of it.
    pub(super) fn done(mut self, result: &str) {
        if let Some(granted) = self.granted.take() {
            granted.done(result);
        }
    }

    /// It needs no record of its own.
    pub(super) fn forget(mut self) {
        self.granted = None;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(granted) = self.granted.take() {
            granted.done("the caller went away before the answer");
        }
    }
}

/// Marks a request that is forwarded with whom it comes from.
pub fn mark<T>(from: &Request<T>, to: &mut MetadataMap) {
    let Some(granted) = from.extensions().get::<Granted>() else { return };
    granted.0.forwarded.store(true, Ordering::Relaxed);
    if let Some(on_behalf) = &granted.0.who.on_behalf {
        to.insert(ON_BEHALF, on_behalf.clone());
        let remote = granted.0.who.remote.and_then(|remote| remote.to_string().parse().ok());
        remote.and_then(|remote| to.insert(REMOTE, remote));
    }
    if let Some(authorization) = from.metadata().get("authorization") {
        to.insert("authorization", authorization.clone());
    }
    if let Ok(request_id) = granted.request_id().parse() {
        to.insert(REQUEST_ID, request_id);
    }
}
