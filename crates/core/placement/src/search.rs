//! Choosing among the nodes that fit. A search ranks them once; requests that are alike share
//! it, also from plan to plan, and a change of a node re-ranks that node alone, so the cost of
//! an instance does not grow with the number of nodes.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{
    AllocationId, Constraints, GpuRequest, JobId, JobKind, Name, Policy, StateMs, TaskSpec,
};
use berth_state::Permit;
use berth_state::decision::Seen;

use crate::budget::Meter;
use crate::filters::{Pass, Request};
use crate::kinds::Kinds;
use crate::policies::{Score, score, turn};
use crate::ranking::Ranking;
use crate::reckoned::Reckoned;
use crate::roster::{Census, Roster};
use crate::terms::{Look, Term, cost, terms_of};

/// Everything about a request that decides where it fits: requests with equal
/// keys fit the same nodes, whoever makes them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FitKey {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
    pub port_count: usize,
    pub in_container: bool,
    pub gpu: Option<GpuRequest>,
    pub constraints: Constraints,
    /// Of which nodes that are reserved it may be.
    pub permit: Permit,
}

/// A fit key with what else decides the ranking. Jobs share a search even under
/// `spread`, which looks at the job: what differs from one job to the next is
/// only the nodes where either has instances.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SearchKey {
    pub fit: FitKey,
    pub policy: Policy,
}

/// The nodes that fit one kind of request, best first.
pub(crate) struct Search {
    task: TaskSpec,
    constraints: Constraints,
    permit: Permit,
    policy: Policy,
    terms: &'static [Term],
    /// Whether the task accepts each kind of device.
    suits: Vec<bool>,
    /// What was found out about each position.
    standing: Vec<Standing>,
    /// Of so many positions that there were at first, the first that was looked at; the others
    /// of them follow, round and round, and then those that came later.
    first: usize,
    first_of: usize,
    /// How many positions were looked at.
    looked_at: usize,
    order: Order,
    /// Positions of the nodes whose turn comes, ascending; `None` when it has to be made anew.
    ring: Option<Vec<usize>>,
    /// The job whose instances the ranking counts, under `spread`.
    ranked_for: Option<JobId>,
    /// Positions that are ranked as having instances of it.
    homes: BTreeSet<usize>,
    /// Positions that lack nothing but ports.
    without_ports: BTreeSet<usize>,
    /// What an idle core cost when this was ranked.
    core_price: u32,
    /// Changes of the roster that this search has taken in.
    changes_seen: usize,
    /// And of the nodes' loads, where a term asks for them.
    loads_seen: usize,
    pub last_used: u64,
}

/// What a search knows of a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Unknown,
    /// It takes no work, or could not run this even if it were empty.
    Out,
    In,
}

/// Ranked positions.
enum Order {
    Plain(Ranking),
    /// By the roster's groups, where the kind of the devices has a price of its own that
    /// changes for all of them at once.
    ByKind(Vec<Ranking>),
    /// By zone, where the policy compares zones; and where each position stands.
    ByZone {
        zones: BTreeMap<Name, BTreeSet<(Score, usize)>>,
        ranked: BTreeMap<usize, (Name, Score)>,
    },
}

/// What a search sees of the plan around it.
#[derive(Clone, Copy)]
pub(crate) struct Surface<'p> {
    pub roster: &'p Roster,
    pub reckoned: &'p Reckoned,
    pub census: Option<&'p Census>,
    /// Where a search begins that the budget does not let see every node.
    pub first: usize,
}

impl FitKey {
    pub fn of(request: Request<'_>) -> FitKey {
        let Request { task, constraints, kind: _, pass } = request;
        FitKey {
            cpu_milli: task.cpu.0,
            memory_bytes: task.memory.0,
            port_count: task.ports.len(),
            in_container: task.driver.image().is_some(),
            gpu: task.gpu.clone(),
            constraints: constraints.clone(),
            permit: pass.permit,
        }
    }
}

impl Search {
    pub fn new(request: Request<'_>, policy: Policy, surface: Surface<'_>) -> Search {
        let task = request.task.clone();
        let terms = terms_of(policy, &task);
        let order = if terms.contains(&Term::InZone) {
            Order::ByZone { zones: BTreeMap::new(), ranked: BTreeMap::new() }
        } else if terms.contains(&Term::Cost) {
            Order::ByKind(Vec::new())
        } else {
            Order::Plain(Ranking::default())
        };
        Search {
            task,
            constraints: request.constraints.clone(),
            permit: request.pass.permit,
            policy,
            terms,
            suits: Vec::new(),
            standing: Vec::new(),
            first: surface.first % surface.roster.len().max(1),
            first_of: surface.roster.len(),
            looked_at: 0,
            order,
            ring: None,
            ranked_for: surface.census.map(|census| census.job),
            homes: BTreeSet::new(),
            without_ports: BTreeSet::new(),
            core_price: surface.reckoned.prices().of_core(),
            changes_seen: surface.roster.changes.seen(),
            loads_seen: surface.roster.load_changes.seen(),
            last_used: 0,
        }
    }

    /// Whether what is asked for elsewhere decides as well.
    pub fn asks_mix(&self) -> bool {
        self.terms.contains(&Term::Fragmentation) || self.terms.contains(&Term::Cost)
    }

    fn asks_load(&self) -> bool {
        self.terms.contains(&Term::GpuLoad) || self.terms.contains(&Term::HostLoad)
    }

    /// Whether it can be brought up to date rather than begun anew.
    pub fn is_usable(&self, surface: Surface<'_>) -> bool {
        let asks_cores = self.terms.contains(&Term::Cost) && self.task.gpu.is_none();
        let same_price = self.core_price == surface.reckoned.prices().of_core();
        let roster = surface.roster;
        roster.changes.after(self.changes_seen).is_some()
            && (!self.asks_load() || roster.load_changes.after(self.loads_seen).is_some())
            && (same_price || !asks_cores)
    }

    /// The best node for an instance, after taking in what has changed; `None`
    /// when nothing fits.
    pub fn best(
        &mut self,
        allocation: AllocationId,
        surface: Surface<'_>,
        meter: &mut Meter,
    ) -> Option<(usize, Score)> {
        match meter.begin_choice() {
            None => {
                self.learn_kinds(&surface.roster.kinds);
                self.catch_up(surface, meter);
                self.look_at_the_rest(surface, meter);
            }
            Some(seen) => {
                self.look_at(seen, surface);
                meter.stop();
            }
        }
        meter.end_choice(self.seen());
        if self.terms.contains(&Term::Turn) {
            return self.next_in_turn(allocation, surface);
        }
        match &self.order {
            Order::Plain(ranking) => ranking.first(),
            Order::ByKind(groups) => self.best_of_kinds(groups, surface),
            Order::ByZone { zones, .. } => self.best_of_zones(zones, surface),
        }
    }

    pub fn look<'l>(&'l self, position: usize, surface: Surface<'l>) -> Look<'l> {
        let host = surface.roster.host(position);
        let on_node = surface.census.map_or(0, |census| census.on_node(host.row.id));
        Look {
            host,
            task: &self.task,
            suits: &self.suits,
            inputs: surface.reckoned.inputs(),
            on_node,
        }
    }

    /// When a port that stands in the way is no longer blocked.
    pub fn port_wakeup(&self, surface: Surface<'_>, now: StateMs) -> Option<StateMs> {
        let rows = self.without_ports.iter().map(|at| &surface.roster.host(*at).row);
        rows.flat_map(|row| row.blocked_ports.values()).copied().filter(|until| *until > now).min()
    }

    fn learn_kinds(&mut self, kinds: &Kinds) {
        if let Some(gpu) = self.task.gpu.as_ref().filter(|_| self.suits.len() < kinds.len()) {
            self.suits = kinds.suiting(gpu);
        }
    }

    fn catch_up(&mut self, surface: Surface<'_>, meter: &mut Meter) {
        let roster = surface.roster;
        let mut missed = roster.changes.after(self.changes_seen).unwrap_or_default().to_vec();
        self.changes_seen = roster.changes.seen();
        if self.asks_load() {
            missed.extend(roster.load_changes.after(self.loads_seen).unwrap_or_default());
            self.loads_seen = roster.load_changes.seen();
        }
        let job = surface.census.map(|census| census.job);
        if self.terms.contains(&Term::OnNode) && job != self.ranked_for {
            missed.extend(std::mem::take(&mut self.homes));
            let homes = surface.census.into_iter().flat_map(Census::nodes);
            missed.extend(homes.filter_map(|node| roster.position_of(node)));
            self.ranked_for = job;
        }
        missed.sort_unstable();
        missed.dedup();
        for position in missed {
            let known = self.standing.get(position).copied().unwrap_or(Standing::Unknown);
            if known != Standing::Unknown {
                // Exhaustion shows at the next choice: a ranking half brought
                // up to date could hand out what is no longer there.
                meter.spend_on_look();
                self.rank(position, surface);
            }
        }
    }

    /// Looks at every node that it has not seen yet, or as many as the budget allows: what it
    /// found of a part is good for a choice, and the next use goes on where this one ends. The
    /// start moves on with each view, so that no node is left out for ever.
    fn look_at_the_rest(&mut self, surface: Surface<'_>, meter: &mut Meter) {
        let count = surface.roster.len();
        if self.standing.len() < count {
            self.standing.resize(count, Standing::Unknown);
        }
        if self.looked_at == 0 && meter.left() >= count as u64 {
            self.first = 0;
        }
        while self.looked_at < count && meter.spend_on_look() {
            self.look_at_next(surface);
        }
    }

    fn look_at_next(&mut self, surface: Surface<'_>) {
        let position = match self.looked_at {
            looked_at if looked_at < self.first_of => (self.first + looked_at) % self.first_of,
            later => later,
        };
        self.looked_at += 1;
        self.rank(position, surface);
    }

    /// Begins anew and looks at what another search had seen where its plan ended.
    fn look_at(&mut self, seen: Seen, surface: Surface<'_>) {
        let (task, constraints) = (&self.task.clone(), &self.constraints.clone());
        // Daemons, of which guards ask nothing, are not searched for.
        let pass = Pass { permit: self.permit, view: None };
        let request = Request { task, constraints, kind: JobKind::Batch, pass };
        *self = Search { last_used: self.last_used, ..Search::new(request, self.policy, surface) };
        self.learn_kinds(&surface.roster.kinds);
        let nodes = surface.roster.len();
        let position = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).min(nodes);
        self.standing.resize(nodes, Standing::Unknown);
        (self.first, self.first_of) = (position(seen.first), position(seen.of));
        while self.looked_at < position(seen.count) {
            self.look_at_next(surface);
        }
    }

    fn seen(&self) -> Seen {
        let number = |position| u64::try_from(position).unwrap_or(u64::MAX);
        let (first, of) = (number(self.first), number(self.first_of));
        Seen { first, of, count: number(self.looked_at) }
    }

    /// Ranks one node anew.
    fn rank(&mut self, position: usize, surface: Surface<'_>) {
        let host = surface.roster.host(position);
        let pass = Pass { permit: self.permit, view: None };
        let (task, constraints) = (&self.task, &self.constraints);
        let is_in = host.takes(Request { task, constraints, kind: JobKind::Batch, pass });
        let standing = if is_in { Standing::In } else { Standing::Out };
        if std::mem::replace(&mut self.standing[position], standing) != standing {
            self.ring = None;
        }
        let room = is_in && host.has_room(&self.task, &self.suits);
        let look = self.look(position, surface);
        let on_node = look.on_node;
        let score = room.then(|| score(self.terms, look));
        if room && on_node > 0 {
            self.homes.insert(position);
        }
        let lacks_ports = is_in && self.task.ports.len() > host.ports_free;
        if lacks_ports {
            self.without_ports.insert(position);
        } else {
            self.without_ports.remove(&position);
        }
        match &mut self.order {
            Order::Plain(ranking) => ranking.set(position, score),
            Order::ByKind(groups) => {
                let (group, place) = surface.roster.place(position);
                if groups.len() <= group {
                    groups.resize(group + 1, Ranking::default());
                }
                groups[group].set(place, score);
            }
            Order::ByZone { zones, ranked } => {
                if let Some((zone, old)) = ranked.remove(&position)
                    && let Some(zone) = zones.get_mut(&zone)
                {
                    zone.remove(&(old, position));
                }
                if let Some(score) = score {
                    let zone = host.row.spec.zone.clone();
                    zones.entry(zone.clone()).or_default().insert((score, position));
                    ranked.insert(position, (zone, score));
                }
            }
        }
    }

    fn next_in_turn(
        &mut self,
        allocation: AllocationId,
        surface: Surface<'_>,
    ) -> Option<(usize, Score)> {
        let standing = &self.standing;
        let ring = self.ring.get_or_insert_with(|| {
            let all = 0..surface.roster.len();
            all.filter(|at| standing.get(*at) == Some(&Standing::In)).collect()
        });
        let Order::Plain(ranking) = &self.order else { return None };
        let start = turn(allocation, ring.len());
        let whose = *ring.get(start)?;
        let position = ranking.first_from(whose).or_else(|| ranking.first_from(0))?;
        let rank = ring.binary_search(&position).ok()?;
        let passed_over = (rank + ring.len() - start) % ring.len();
        let passed_over = u32::try_from(passed_over).unwrap_or(u32::MAX);
        Some((position, Score::default().with(self.terms, Term::Turn, passed_over)))
    }

    /// The price of a kind is the same for all nodes with it, so the best of all is the best
    /// of the best of each kind.
    fn best_of_kinds(&self, groups: &[Ranking], surface: Surface<'_>) -> Option<(usize, Score)> {
        let positions = surface.roster.groups();
        let best_of = |(group, ranking): (usize, &Ranking)| {
            let (place, score) = ranking.first()?;
            let price = |kind| surface.reckoned.prices().of(kind);
            let steps = group
                .checked_sub(1)
                .map_or(0, |kind| cost::price_steps(self.task.gpu.as_ref(), price(kind)));
            let all = score.0[0].saturating_add(steps);
            let position = *positions.get(group)?.get(place)?;
            Some((score.with(self.terms, Term::Cost, all), position))
        };
        let (score, position) = groups.iter().enumerate().filter_map(best_of).min()?;
        Some((position, score))
    }

    /// The zones' counts decide between zones and not within one, so the best
    /// of all is the best of the best of each.
    fn best_of_zones(
        &self,
        zones: &BTreeMap<Name, BTreeSet<(Score, usize)>>,
        surface: Surface<'_>,
    ) -> Option<(usize, Score)> {
        let best_of = |(zone, ranked): (&Name, &BTreeSet<(Score, usize)>)| {
            let (score, position) = *ranked.first()?;
            let in_zone = surface.census.map_or(0, |census| census.in_zone(zone));
            Some((score.with(self.terms, Term::InZone, in_zone), position))
        };
        let (score, position) = zones.iter().filter_map(best_of).min()?;
        Some((position, score))
    }
}
