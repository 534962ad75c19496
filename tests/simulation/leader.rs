//! What only a leader does, as the scheduler does it, around the same pure
//! functions: forming entries with placements in them, planning, the slow tick.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use berth_model::{NodeId, StateMs, WallMs};
use berth_placement::{Budget, PlanOutcome, Planner, SoftView};
use berth_raft::{Proposal, ProposeError, Runtime};
use berth_reconcile::SoftState;
use berth_state::{Applied, ClusterState, Command, Entry, EventKind, Refusal, Reply};
use berth_wire::log::v1 as log;
use openraft_rt_sim::SimRuntime;

use crate::effects::makes_work_or_room;
use crate::faults::Fault;
use crate::inbox::{SchedulerEvent, Signal};
use crate::oracle::entry_hash;
use crate::plan::{Plan, Wall};
use crate::rng::Rng;
use crate::scheduler::CLUSTER;
use crate::session::Served;
use crate::work;
use crate::world::{Event, MILLI, SECOND, World, now};

const TICK_US: u64 = 250 * MILLI;
/// A leader that did not run for so long heard nobody.
const PAUSE_MAX_US: u64 = SECOND;
const PLACEMENTS_IN_COMMAND_MAX: usize = 96;
const OLD_COMMANDS_MAX: usize = 64;
const REFUSED_WAIT_US: u64 = 20 * MILLI;

/// Who waits for an answer.
#[derive(Clone, Debug)]
pub enum Who {
    Client { client: usize, op: u64 },
    Register { session: u64 },
    Report { session: u64, sequence: u64 },
    Tick,
    Plan,
    Nobody,
}

pub type Answers = Result<Vec<Result<Reply, Refusal>>, ProposeError>;

/// What became of an entry.
pub struct Outcome {
    term: u64,
    waiting: Vec<(Who, usize)>,
    result: Result<Arc<Applied>, ProposeError>,
    entry: u64,
    /// Something is left to plan once it is applied.
    for_planner: bool,
}

pub struct Wish {
    pub who: Who,
    pub commands: Vec<Command>,
}

/// One term as leader.
pub struct Term {
    pub number: u64,
    base: StateMs,
    began: u64,
    drift_ppm: i64,
    pub heard: SoftState,
    wishes: VecDeque<Wish>,
    in_flight: bool,
    /// The sessions that this leader serves, by agent.
    pub sessions: BTreeMap<usize, Served>,
    ticked: u64,
    ticks_waiting: usize,
    plans_waiting: usize,
    granted: usize,
    /// Of the planner's own thread, and of the line of entries.
    planner: Planner,
    line_planner: Planner,
}

impl Term {
    pub fn clock(&self) -> StateMs {
        let elapsed = i128::from(now() - self.began);
        let skewed = elapsed + elapsed * i128::from(self.drift_ppm) / 1_000_000;
        StateMs(self.base.0 + u64::try_from(skewed / 1000).unwrap())
    }

    pub fn hear(&mut self, node: NodeId) {
        let now = self.clock();
        self.heard.hear(node, now);
    }
}

/// What the wall clock of a scheduler shows.
fn wall_clock(plan: &Plan, id: u64) -> WallMs {
    /// January 2027: as many digits as any time that is met.
    const BEGAN_MS: u64 = 1_800_000_000_000;
    const HOUR_MS: u64 = 3_600_000;
    let right = BEGAN_MS + now() / 1000;
    match plan.wall {
        Wall::Steady => WallMs(right),
        Wall::Steps => {
            // Not from the run's own chance: nothing else may depend on it.
            let mut chance = Rng::new(plan.seed ^ (id << 32) ^ (now() / (2 * SECOND)));
            WallMs(right - HOUR_MS + chance.range(0, 2 * HOUR_MS))
        }
    }
}

impl World {
    pub fn term(&mut self, id: u64) -> Option<&mut Term> {
        self.schedulers.get_mut(&id)?.term.as_mut()
    }

    pub fn begin_term(&mut self, id: u64, number: u64) {
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        let still = scheduler.status.as_ref().is_some_and(|status| status.term == number);
        let leads = scheduler.node().is_some_and(|node| {
            let status = node.status();
            status.term == number && status.role == berth_raft::Role::Leader
        });
        if !still || !leads || scheduler.term.is_some() {
            return;
        }
        let view = scheduler.view();
        let base = view.cluster().state_ms;
        scheduler.term = Some(Term {
            number,
            base,
            began: now(),
            drift_ppm: scheduler.drift_ppm,
            heard: SoftState::new(base),
            wishes: VecDeque::new(),
            in_flight: false,
            sessions: BTreeMap::new(),
            ticked: now(),
            ticks_waiting: 0,
            plans_waiting: 0,
            planner: Planner::default(),
            line_planner: Planner::default(),
            granted: 0,
        });
        self.count("terms begun");
        self.note(|| format!("scheduler {id} leads term {number}"));
        if view.cluster().id == [0; 16] {
            let found = Command::Found { cluster_id: CLUSTER, security: None };
            let spec = Arc::new(work::guarantee(self.plan.agents));
            let commands = vec![found, Command::ApplyNamespace { spec, if_version: None }];
            self.wish(id, Wish { who: Who::Nobody, commands });
        }
        self.at(TICK_US, Event::Tick(id, number));
        self.at(0, Event::Planner(id, number));
    }

    pub fn end_term(&mut self, id: u64) {
        let Some(term) = self.schedulers.get_mut(&id).unwrap().term.take() else { return };
        self.note(|| format!("scheduler {id} leads no longer"));
        for wish in term.wishes {
            self.answer(id, wish.who, Err(ProposeError::NotLeader { leader: None }));
        }
        for served in term.sessions.into_values() {
            self.redirect(served.session);
        }
    }

    /// Puts a wish into the queue of a leader; whoever else is asked refuses.
    pub fn wish(&mut self, id: u64, wish: Wish) {
        match self.term(id) {
            Some(term) => {
                term.wishes.push_back(wish);
                self.pump(id);
            }
            None => {
                self.answer(id, wish.who, Err(ProposeError::NotLeader { leader: None }));
            }
        }
    }

    fn pump(&mut self, id: u64) {
        let commands_max = self.plan.commands_max;
        let Some(term) = self.term(id) else { return };
        if term.in_flight || term.wishes.is_empty() {
            return;
        }
        let (mut waiting, mut commands) = (Vec::new(), Vec::new());
        while let Some(wish) = term.wishes.pop_front() {
            if !waiting.is_empty() && commands.len() + wish.commands.len() > commands_max {
                term.wishes.push_front(wish);
                break;
            }
            waiting.push((wish.who, wish.commands.len()));
            commands.extend(wish.commands);
        }
        term.in_flight = true;
        let (state_ms, number) = (term.clock(), term.number);
        let wall_ms = wall_clock(&self.plan, id);
        self.entry_counter += 1;
        let mut entry = Entry {
            state_ms,
            wall_ms,
            // Makes every entry unlike every other.
            proposer: format!("simulation {}", self.entry_counter),
            commands,
        };
        let view = self.schedulers[&id].view();
        let Some(term) = self.term(id) else { return };
        let for_planner = add_placements(&mut term.line_planner, &view, &mut entry);
        if let Some(command @ Command::Place { .. }) = entry.commands.last() {
            self.remember(command);
        }
        let scheduler = &self.schedulers[&id];
        let Some(node) = scheduler.node().cloned() else { return };
        let (life, inbox, hash) = (scheduler.life, self.inbox.clone(), entry_hash(&entry));
        let proposal = Proposal::new(log::encode_entry(&entry), Arc::new(entry));
        drop(SimRuntime::spawn(async move {
            let result = node.propose(proposal).await;
            let event = SchedulerEvent::Committed(Outcome {
                term: number,
                waiting,
                result,
                entry: hash,
                for_planner,
            });
            inbox.push(Signal::Scheduler(id, life, event));
        }));
    }

    pub fn committed(&mut self, id: u64, outcome: Outcome) {
        let Outcome { term, waiting, result, entry, for_planner } = outcome;
        if let Some(current) = self.term(id).filter(|current| current.number == term) {
            current.in_flight = false;
        }
        match result {
            Ok(applied) => {
                let mut replies = applied.replies.iter().cloned();
                for (who, count) in waiting {
                    let answers = replies.by_ref().take(count).collect();
                    self.answer(id, who, Ok(answers));
                }
                if for_planner {
                    self.at(0, Event::Planner(id, term));
                }
            }
            Err(error) => {
                self.note(|| format!("entry of scheduler {id} fails: {error}"));
                match &error {
                    ProposeError::NotLeader { .. } | ProposeError::NoQuorum => {
                        self.oracle.lock().unwrap().refused(entry);
                        self.count("proposals refused");
                    }
                    ProposeError::OutcomeUnknown => self.count("outcomes unknown"),
                    ProposeError::Stopped => {}
                    ProposeError::TooLarge { bytes } => {
                        self.violated(format!("an entry has {bytes} bytes"));
                    }
                }
                for (who, _) in waiting {
                    self.answer(id, who, Err(error.clone()));
                }
            }
        }
        self.pump(id);
    }

    fn answer(&mut self, id: u64, who: Who, answers: Answers) {
        match who {
            Who::Client { client, op } => self.answer_client(id, client, op, answers),
            Who::Register { session } => self.registered(id, session, answers),
            Who::Report { session, sequence } => match answers {
                Ok(_) => self.acknowledge_report(id, session, sequence),
                Err(_) => self.break_session(id, session),
            },
            Who::Tick => {
                if let Some(term) = self.term(id) {
                    term.ticks_waiting = term.ticks_waiting.saturating_sub(1);
                    term.ticked = now();
                }
            }
            Who::Plan => self.planned(id, answers),
            Who::Nobody => {}
        }
    }

    pub fn tick(&mut self, id: u64, number: u64) {
        let rules = self.plan.rules;
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        let view = scheduler.view();
        let Some(term) = scheduler.term.as_mut().filter(|term| term.number == number) else {
            return;
        };
        let clock = term.clock();
        if now() - term.ticked > PAUSE_MAX_US {
            term.heard.restart_windows(clock);
        }
        term.ticked = now();
        let commands = if term.ticks_waiting == 0 {
            let soft = berth_placement::SoftView::default();
            let mut elsewhere = berth_placement::Elsewhere::new(&view, &soft, clock);
            let mut has_place = |id| elsewhere.take(id).may_move();
            berth_reconcile::tick(&view, &term.heard, &rules, &mut has_place, clock)
        } else {
            Vec::new()
        };
        term.ticks_waiting += commands.len();
        for command in commands {
            self.note(|| format!("tick of scheduler {id}: {}", command.name()));
            let about_silence = matches!(
                command,
                Command::DisconnectNode { .. }
                    | Command::DownNode { .. }
                    | Command::LoseAllocations { .. }
                    | Command::Unreserve { .. }
            );
            if about_silence {
                self.remember(&command);
            }
            self.wish(id, Wish { who: Who::Tick, commands: vec![command] });
        }
        self.at(TICK_US, Event::Tick(id, number));
    }

    pub fn run_planner(&mut self, id: u64, number: u64) {
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        let view = scheduler.view();
        let Some(term) = scheduler.term.as_mut().filter(|term| term.number == number) else {
            return;
        };
        if term.plans_waiting > 0 {
            return;
        }
        let clock = term.clock();
        let soft = SoftView::default();
        let outcome = term.planner.plan(&view, &soft, clock, Budget::UNLIMITED);
        term.granted = 0;
        if outcome.placements.is_empty() && outcome.reservations.is_empty() {
            if let Some(at) = outcome.next_wakeup {
                let wait = (at.since(clock).0.max(1)) * MILLI;
                self.at(wait, Event::Planner(id, number));
            }
            return;
        }
        // Planning takes time of its own, in which other entries go in.
        term.plans_waiting = 1;
        let takes = self.rng.range(0, 40) * MILLI;
        let commands = commands_of(outcome);
        self.at(takes, Event::Plan(id, number, commands));
    }

    pub fn propose_plan(&mut self, id: u64, number: u64, commands: Vec<Command>) {
        let Some(term) = self.term(id).filter(|term| term.number == number) else { return };
        term.plans_waiting = commands.len();
        for command in commands {
            self.remember(&command);
            self.wish(id, Wish { who: Who::Plan, commands: vec![command] });
        }
    }

    /// Keeps what may come again when it is no longer true.
    fn remember(&mut self, command: &Command) {
        if self.old_commands.len() >= OLD_COMMANDS_MAX {
            self.old_commands.pop_front();
        }
        self.old_commands.push_back(command.clone());
    }

    /// A command that was right once is proposed again: apply must refuse
    /// whatever of it is no longer right.
    pub fn propose_again(&mut self) {
        let leader = self.schedulers.values().find(|one| one.term.is_some()).map(|one| one.id);
        let (Some(id), false) = (leader, self.old_commands.is_empty()) else { return };
        let position = self.rng.index(self.old_commands.len());
        let overtaken = self.overtaken(id);
        if let Some((due, command)) = overtaken.filter(|_| self.rng.chance(700)) {
            self.count("old placements when a later attempt is due");
            return self.at(due, Event::Fault(Fault::Propose(id, Box::new(command))));
        }
        let command = self.old_commands[position].clone();
        self.propose_old(id, command);
    }

    /// A placement of which a later attempt waits by now, and how long until
    /// that one is due.
    fn overtaken(&self, id: u64) -> Option<(u64, Command)> {
        let scheduler = &self.schedulers[&id];
        let (view, clock) = (scheduler.view(), scheduler.term.as_ref()?.clock());
        self.old_commands.iter().rev().find_map(|command| {
            let Command::Place { placements } = command else { return None };
            let due = placements.iter().find_map(|placement| {
                let instance = placement.instance.0;
                let task = view.tasks().get(&(placement.job, placement.task))?;
                let retry = task.retries.get(&instance)?;
                let waits = task.pending.contains(instance) && retry.attempt > placement.attempt;
                waits.then(|| retry.not_before.since(clock).0 * MILLI)
            });
            Some((due?, command.clone()))
        })
    }

    pub fn propose_old(&mut self, id: u64, command: Command) {
        self.count("old commands proposed again");
        self.note(|| format!("scheduler {id} proposes an old {} again", command.name()));
        self.wish(id, Wish { who: Who::Nobody, commands: vec![command] });
    }

    fn planned(&mut self, id: u64, answers: Answers) {
        let Some(term) = self.term(id) else { return };
        term.plans_waiting = term.plans_waiting.saturating_sub(1);
        if let Ok(answers) = &answers
            && let Some(Ok(Reply::Placed { granted, .. })) = answers.first()
        {
            term.granted += granted.len();
        }
        if term.plans_waiting == 0 {
            let wait = if term.granted == 0 { REFUSED_WAIT_US } else { MILLI };
            let number = term.number;
            self.at(wait, Event::Planner(id, number));
        }
    }
}

/// Plans on the state that the entry will meet and appends the plan; true if
/// something is left to plan after it.
fn add_placements(planner: &mut Planner, view: &ClusterState, entry: &mut Entry) -> bool {
    if !makes_work_or_room(view, &entry.commands) {
        return false;
    }
    let mut imagined = view.clone();
    let applied = imagined.apply(view.applied_index() + 1, entry);
    let retries =
        applied.events.iter().any(|event| matches!(event.kind, EventKind::RetryScheduled { .. }));
    if imagined.queue_is_empty() && imagined.daemons().next().is_none() {
        return retries;
    }
    let soft = SoftView::default();
    let outcome = planner.plan(&imagined, &soft, entry.state_ms, Budget::INLINE);
    if !outcome.placements.is_empty() {
        entry.commands.push(Command::Place { placements: outcome.placements });
    }
    outcome.exhausted || outcome.held_back || outcome.next_wakeup.is_some() || retries
}

/// A plan as the leader proposes it, the places that are kept before the placements.
fn commands_of(outcome: PlanOutcome) -> Vec<Command> {
    let chunks = outcome.placements.chunks(PLACEMENTS_IN_COMMAND_MAX);
    let place = |placements: &[_]| Command::Place { placements: placements.to_vec() };
    let reservations = outcome.reservations;
    let kept = (!reservations.is_empty()).then_some(Command::Reserve { reservations });
    kept.into_iter().chain(chunks.map(place)).collect()
}
