//! One service: its replicas as the policy sees them, and where they are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use berth_model::{AllocationId, Name};
use berth_routing::record::{Recorder, Tell};
use berth_routing::retry::{Attempt, Budget, Retry};
use berth_routing::{GatewayUs, Member, NoReplica, Outcome, Reason, Request, Signals, SpanUs};
use http::uri::Authority;
use metrics::Counter;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::room::{Room, RoomFull};
use crate::routes::ServiceRoute;
use crate::view::{ReplicaState, ReplicaView, ServiceView};

mod charge;

pub(crate) use charge::{Charge, Picked, Seat, Unasked};

/// Who answers callers is not gone, however busy it is with whoever looks at it.
const HEARD_LATELY: SpanUs = SpanUs::from_secs(3);

/// A service that can be asked.
pub(crate) struct Service {
    pub id: String,
    /// Requests that were sent to a replica, by why it was that one.
    sent: [Counter; Reason::ALL.len()],
    pub retries: Counter,
    clock: Arc<Clock>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    route: ServiceRoute,
    pool: Recorder,
    budget: Budget,
    places: BTreeMap<AllocationId, Place>,
    /// Sent to a replica, and of those again.
    requests: u64,
    retries: u64,
    room: Room,
    /// Among so many a replica's limit is divided.
    gateways: u32,
}

/// Where a replica is, and whether it is there.
#[derive(Clone, Debug)]
struct Place {
    authority: Authority,
    /// Cancelled when it was found to be gone; what waits for it ends then.
    gone: CancellationToken,
    /// It has refused a connection, and has not taken one since.
    refuses: bool,
    /// When it last said anything to a caller, in the gateway's microseconds.
    heard: Arc<AtomicU64>,
    /// Cancelled when it is no longer of the service: nobody looks at it any more.
    left: CancellationToken,
    /// The metrics by which it last said something of itself.
    names: Vec<&'static str>,
}

impl Place {
    fn is_there(&self) -> bool {
        !self.refuses && !self.gone.is_cancelled()
    }
}

/// What came of looking at a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    There,
    Gone,
}

/// A replica that is asked no more. It may still answer what it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Leaver {
    pub id: AllocationId,
    /// The namespace and the name of its service.
    pub service: (Name, Name),
    under_way: Weak<AtomicU64>,
}

impl Leaver {
    /// Whether it still answers something.
    pub fn is_busy(&self) -> bool {
        self.under_way.strong_count() > 0
    }

    /// What is known of it.
    pub fn view(&self) -> ReplicaView {
        ReplicaView {
            id: self.id,
            state: ReplicaState::Left,
            in_flight: u32::try_from(self.under_way.strong_count()).unwrap_or(u32::MAX),
            waiting_tokens: 0,
            answers: 0,
            answer_time: None,
            signals: None,
        }
    }
}

/// What is new of a service's replicas.
#[derive(Default)]
pub(crate) struct Changes {
    pub newcomers: Vec<Newcomer>,
    pub leavers: Vec<Leaver>,
}

/// A replica to look at from now on.
pub(crate) struct Newcomer {
    pub id: AllocationId,
    pub authority: Authority,
    /// Where it tells that it is well.
    pub health: Option<String>,
    /// Where it may tell more of itself.
    pub metrics: Option<String>,
    pub left: CancellationToken,
}

impl Service {
    pub fn new(id: String, route: ServiceRoute, clock: Arc<Clock>, tell: Option<Tell>) -> Service {
        let sent = Reason::ALL.map(|reason| {
            let labels = [("service", id.clone()), ("reason", reason.name().to_owned())];
            metrics::counter!("berth_gateway_requests_total", &labels)
        });
        let retries = metrics::counter!("berth_gateway_retries_total", "service" => id.clone());
        let pool = Recorder::new(route.policy, tell);
        let route = ServiceRoute { replicas: Vec::new(), ..route };
        let (budget, places) = (Budget::default(), BTreeMap::new());
        let (room, gateways) = (Room::default(), 1);
        let inner = Inner { route, pool, budget, places, requests: 0, retries: 0, room, gateways };
        Service { id, sent, retries, clock, inner: Mutex::new(inner) }
    }

    /// Who is there from now on; those who are new are returned to be looked at, and those who
    /// left to be waited for.
    pub fn update(&self, route: &ServiceRoute, gateways: u32) -> Changes {
        let mut inner = self.inner();
        inner.pool.set_policy(route.policy);
        let mut places = BTreeMap::new();
        let mut newcomers = Vec::new();
        for endpoint in &route.replicas {
            let id = endpoint.member.id;
            let Ok(authority) = endpoint.address.parse::<Authority>() else {
                tracing::warn!(address = %endpoint.address, "a replica's address is none");
                continue;
            };
            let known = inner.places.remove(&id);
            let place = match known {
                Some(place) if place.authority == authority => place,
                replaced => {
                    if let Some(replaced) = replaced {
                        replaced.left.cancel();
                    }
                    let (gone, left) = (CancellationToken::new(), CancellationToken::new());
                    newcomers.push(Newcomer {
                        id,
                        authority: authority.clone(),
                        health: route.health_path.clone(),
                        metrics: route.metrics_path.clone(),
                        left: left.clone(),
                    });
                    Place {
                        authority,
                        gone,
                        refuses: false,
                        heard: Arc::default(),
                        left,
                        names: Vec::new(),
                    }
                }
            };
            places.insert(id, place);
        }
        let left = std::mem::replace(&mut inner.places, places);
        let leavers = leave(left, &inner.route);
        inner.route = route.clone();
        inner.gateways = gateways;
        self.set_members(&mut inner);
        Changes { newcomers, leavers }
    }

    /// Nobody serves it any more.
    pub fn end(&self) -> Vec<Leaver> {
        let mut inner = self.inner();
        // Whoever waits for it hears that at once.
        inner.route.wait = Duration::ZERO;
        inner.room.call_all();
        let left = std::mem::take(&mut inner.places);
        leave(left, &inner.route)
    }

    /// A replica was found to be gone, or to be back.
    pub fn found(&self, id: AllocationId, found: Found) {
        let mut inner = self.inner();
        let Some(place) = inner.places.get_mut(&id) else { return };
        let heard = GatewayUs(place.heard.load(Ordering::Relaxed));
        let is_heard = heard > GatewayUs(0) && self.clock.now().since(heard) < HEARD_LATELY;
        if found == Found::Gone && is_heard {
            return;
        }
        match (found, place.gone.is_cancelled()) {
            (Found::There, true) => place.gone = CancellationToken::new(),
            (Found::Gone, false) => place.gone.cancel(),
            (Found::There, false) | (Found::Gone, true) => return,
        }
        let service = self.id.as_str();
        tracing::info!(service, replica = %id, ?found, "a replica was looked at");
        self.set_members(&mut inner);
    }

    /// A replica has refused a connection. Until it leaves that matters; `None` if it is known.
    fn refuses(&self, id: AllocationId) -> Option<CancellationToken> {
        let mut inner = self.inner();
        let place = inner.places.get_mut(&id).filter(|place| !place.refuses)?;
        place.refuses = true;
        let left = place.left.clone();
        self.set_members(&mut inner);
        Some(left)
    }

    /// It takes connections again.
    pub fn takes(&self, id: AllocationId) {
        let mut inner = self.inner();
        if let Some(place) = inner.places.get_mut(&id) {
            place.refuses = false;
            self.set_members(&mut inner);
        }
    }

    /// What a replica says of itself, and by which metrics.
    pub fn heard_of(&self, id: AllocationId, signals: Signals, names: Vec<&'static str>) {
        let now = self.clock.now();
        let mut inner = self.inner();
        let Some(place) = inner.places.get_mut(&id) else { return };
        place.names = names;
        inner.pool.report(id, signals, now);
    }

    fn set_members(&self, inner: &mut Inner) {
        let mut members: Vec<Member> = Vec::new();
        for endpoint in &inner.route.replicas {
            let id = endpoint.member.id;
            let Some(place) = inner.places.get(&id) else { continue };
            let weight = if place.is_there() { endpoint.member.weight_milli } else { 0 };
            // Rounded down: together they stay within it, wherever each can have one.
            let share = |limit: u32| (limit / inner.gateways.max(1)).max(limit.min(1));
            let limit = endpoint.member.limit.map(share);
            members.push(Member { weight_milli: weight, limit, ..endpoint.member.clone() });
        }
        inner.pool.set_members(&members, self.clock.now());
        inner.room.call();
    }

    /// So many gateways ask its replicas, this one among them.
    pub fn set_gateways(&self, gateways: u32) {
        let mut inner = self.inner();
        if inner.gateways != gateways {
            inner.gateways = gateways;
            self.set_members(&mut inner);
        }
    }

    /// Who answers, or a place among those who wait for somebody. The first time that a request is
    /// sent counts for what may be sent again.
    pub fn ask(
        self: &Arc<Service>,
        request: &Request,
        tried: &[AllocationId],
        bytes: u64,
    ) -> Result<Picked, Unasked> {
        let mut inner = self.inner();
        if tried.is_empty() {
            inner.budget.request(self.clock.now());
        }
        let may_wait = !inner.route.wait.is_zero();
        // Those who wait were there first.
        if !may_wait || inner.room.count() == 0 {
            match self.pick(&mut inner, request, tried) {
                Ok(charge) => return Ok(Picked::Charge(charge)),
                Err(none) if !may_wait => return Err(Unasked::None(none)),
                Err(_) => {}
            }
        }
        let count_max = inner.route.waiting_max;
        let entered = inner.room.enter(bytes, count_max);
        let (number, bell) = entered.map_err(|RoomFull| Unasked::RoomFull)?;
        Ok(Picked::Seat(Seat { number, bell, service: Arc::clone(self) }))
    }

    /// Who answers one that was called; it waits on where there is nobody.
    pub fn ask_again(
        self: &Arc<Service>,
        seat: &Seat,
        request: &Request,
        tried: &[AllocationId],
    ) -> Result<Charge, NoReplica> {
        let mut inner = self.inner();
        let picked = self.pick(&mut inner, request, tried);
        if picked.is_err() {
            inner.room.wait_on(seat.number);
        }
        picked
    }

    /// Requests that wait for a replica.
    pub fn waiting(&self) -> usize {
        self.inner().room.count()
    }

    /// How long one waits that finds nobody.
    pub fn wait(&self) -> Duration {
        self.inner().route.wait
    }

    /// Who answers; counted there until the charge has ended.
    fn pick(
        self: &Arc<Service>,
        inner: &mut Inner,
        request: &Request,
        tried: &[AllocationId],
    ) -> Result<Charge, NoReplica> {
        let (chance, now) = (self.clock.chance(), self.clock.now());
        let (ticket, decision) = inner.pool.pick(request, tried, chance, now)?;
        let silence_max = inner.route.silence_max;
        let place = inner.places.get(&decision.replica);
        let place = place
            .map(|place| (place.authority.clone(), place.gone.clone(), Arc::clone(&place.heard)));
        let Some((authority, gone, heard)) = place else {
            inner.pool.finish(ticket, Outcome::Left, now);
            return Err(NoReplica::NoneReady);
        };
        inner.requests += 1;
        inner.retries += u64::from(!tried.is_empty());
        let mut counters = Reason::ALL.iter().zip(&self.sent);
        if let Some((_, counter)) = counters.find(|(reason, _)| **reason == decision.reason) {
            counter.increment(1);
        }
        let service = Arc::clone(self);
        let (replica, ticket) = (decision.replica, Some(ticket));
        Ok(Charge { replica, authority, gone, heard, silence_max, service, ticket })
    }

    pub fn decide(&self, attempt: Attempt) -> Retry {
        let (chance, now) = (self.clock.chance(), self.clock.now());
        self.inner().budget.decide(attempt, chance, now)
    }

    /// For those who look on.
    pub fn view(&self) -> ServiceView {
        let now = self.clock.now();
        let inner = self.inner();
        let replica = |(id, place): (&AllocationId, &Place)| {
            let load = inner.pool.load(*id)?;
            let state = if !place.is_there() {
                ReplicaState::Gone
            } else if inner.pool.is_broken(*id) {
                ReplicaState::Broken
            } else if load.is_spared(now) {
                ReplicaState::Spared
            } else {
                ReplicaState::Asked
            };
            Some(ReplicaView {
                id: *id,
                state,
                in_flight: load.in_flight(),
                waiting_tokens: load.waiting_tokens(),
                answers: load.answers(),
                answer_time: load.has_answered().then(|| load.answer_time()),
                signals: load.signals(now).map(|signals| (signals, place.names.clone())),
            })
        };
        ServiceView {
            namespace: inner.route.namespace.clone(),
            name: inner.route.name.clone(),
            waiting: inner.room.count(),
            requests: inner.requests,
            retries: inner.retries,
            replicas: inner.places.iter().filter_map(replica).collect(),
        }
    }

    /// Replicas that are told of, and how many of them are not gone.
    pub fn replicas(&self) -> (usize, usize) {
        let inner = self.inner();
        let there = inner.places.values().filter(|place| place.is_there()).count();
        (inner.places.len(), there)
    }

    pub fn route(&self) -> ServiceRoute {
        self.inner().route.clone()
    }

    /// Requests that are counted at any replica.
    pub fn in_flight(&self) -> u64 {
        self.inner().pool.in_flight()
    }

    /// What panicked under the lock left nothing half done that matters more than going on.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// They end what they have, and nobody looks at them any more.
fn leave(places: BTreeMap<AllocationId, Place>, route: &ServiceRoute) -> Vec<Leaver> {
    let leave = |(id, place): (AllocationId, Place)| {
        place.left.cancel();
        // What is under way there holds the other ends of this.
        let service = (route.namespace.clone(), route.name.clone());
        Leaver { id, service, under_way: Arc::downgrade(&place.heard) }
    };
    places.into_iter().map(leave).collect()
}
