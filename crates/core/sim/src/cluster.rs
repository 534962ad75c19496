//! A cluster without schedulers and agents: its state, its planner and a clock that stands
//! still unless it is moved.

use std::sync::Arc;

use berth_model::{
    AllocationId, Constraints, EndCause, EndReport, JobId, JobKind, JobSpec, Name, NodeSpec,
    Policy, SpecDigest, StateMs, StopIntent, TaskSpec, WallMs,
};
use berth_placement::defragment::{Board, Move, Room, RoomLimits};
use berth_placement::{Budget, Mix, MixCounts, Planner, SoftView};
use berth_state::{
    ClusterState, Command, Entry, JobChange, Observation, Observed, Placement, Refusal, Reply,
    ScoreParts, SubmitJob,
};

/// The mix is reckoned anew when so much more, as a part of what it was made of, has been
/// asked for: often enough to follow, seldom enough that what is known of the nodes under the
/// mix before it stays good for a while.
const MIX_GROWTH: u64 = 8;
/// From so many tasks on.
const MIX_OF_MIN: u64 = 32;

/// For an answer of apply that belongs to another command.
fn answered_by(reply: &Reply) -> Refusal {
    Refusal::Invalid(format!("the command was answered by {reply:?}"))
}

/// The name of what needs one and is never asked for by it.
pub(crate) fn plain_name() -> Name {
    Name::new("default").expect("the word is a name")
}

/// What the simulated cluster is made of.
pub(crate) struct Cluster {
    pub state: ClusterState,
    planner: Planner,
    soft: SoftView,
    board: Board,
    counts: MixCounts,
    mixed_at: u64,
    /// The mix was given and stays as it is.
    mix_is_given: bool,
    now: StateMs,
}

impl Cluster {
    /// # Errors
    /// What apply refuses a machine with.
    pub fn new(nodes: Vec<(Name, NodeSpec)>, mix: Option<Mix>) -> Result<Cluster, Refusal> {
        let mut cluster = Cluster {
            state: ClusterState::default(),
            planner: Planner::default(),
            mix_is_given: mix.is_some(),
            soft: SoftView { mix: Arc::new(mix.unwrap_or_default()), ..SoftView::default() },
            board: Board::default(),
            counts: MixCounts::default(),
            mixed_at: 0,
            now: StateMs(0),
        };
        cluster.apply(Command::Found { cluster_id: [1; 16], security: None })?;
        for (position, (name, spec)) in nodes.into_iter().enumerate() {
            let mut instance_key = [0; 16];
            instance_key[..8].copy_from_slice(&(position as u64 + 1).to_le_bytes());
            let spec = Arc::new(spec);
            cluster.apply(Command::RegisterNode { name, instance_key, spec })?;
        }
        Ok(cluster)
    }

    /// Submits a job of one task.
    pub fn submit(&mut self, name: Name, policy: Policy, task: TaskSpec) -> Result<JobId, Refusal> {
        self.count(&task);
        let spec =
            JobSpec { policy, ..JobSpec::new(name, plain_name(), JobKind::Batch, vec![task]) };
        // Nothing here asks whether two jobs are alike.
        let digest = SpecDigest([0; 32]);
        let submit = SubmitJob { key: None, spec: Arc::new(spec), digest, if_version: None };
        let reply = self.apply(Command::Submit(submit))?;
        let Reply::Submitted { job, .. } = reply else { return Err(answered_by(&reply)) };
        Ok(job)
    }

    /// Plans the job and has the plan granted; what apply refuses is an error.
    pub fn place(&mut self, job: JobId) -> Result<Vec<Placement>, Refusal> {
        let budget = Budget::UNLIMITED;
        let plan = self.planner.plan_jobs(&self.state, &self.soft, self.now, budget, &[job]);
        let placements = plan.placements;
        if placements.is_empty() {
            return Ok(placements);
        }
        let reply = self.apply(Command::Place { placements: placements.clone() })?;
        let Reply::Placed { refused, .. } = reply else { return Err(answered_by(&reply)) };
        refused.into_iter().next().map_or(Ok(placements), Err)
    }

    /// Who would have to move so that a task fits that has no place now.
    pub fn make_room(&mut self, task: &TaskSpec, limits: RoomLimits) -> Option<Room> {
        // Whatever is in a list is alike: it runs for ever and may be moved at any time.
        self.board.observe(&self.state, &self.soft, self.now, &|_, _| Some(1));
        self.board.make_room(task, &Constraints::default(), self.now, limits)
    }

    /// Moves one allocation, as a drain of its node would.
    pub fn relocate(&mut self, moved: &Move) -> Result<(), Refusal> {
        let id = moved.allocation;
        let (allocations, reason) = (vec![id], String::new());
        self.apply(Command::StopAllocations { allocations, intent: StopIntent::Drain, reason })?;
        let observed = Observed::Ended(EndReport {
            cause: EndCause::Stopped,
            exit_code: None,
            signal: None,
            reason: String::new(),
            stderr_tail: String::new(),
            started_at: None,
            finished_at: WallMs(self.now.0),
        });
        let observations = vec![Observation { allocation: id, observed }];
        self.apply(Command::Observe { node: moved.from, observations })?;
        let task = self.state.tasks().get(&(id.job, id.task));
        let task = task.ok_or(Refusal::NoSuchAllocation(id))?;
        let attempt = self.state.next_attempt(id.job, task, id.instance.0);
        let (next, claim) = (AllocationId { attempt, ..id }, moved.claim.clone());
        let placement = Placement::new(next, moved.to, claim, ScoreParts::default());
        let reply = self.apply(Command::Place { placements: vec![placement] })?;
        let Reply::Placed { refused, .. } = reply else { return Err(answered_by(&reply)) };
        refused.into_iter().next().map_or(Ok(()), Err)
    }

    pub fn stop(&mut self, job: JobId) -> Result<(), Refusal> {
        let change = JobChange::Stop { reason: String::new() };
        self.apply(Command::ChangeJob { job, if_version: None, change }).map(|_| ())
    }

    fn count(&mut self, task: &TaskSpec) {
        self.counts.add(task, u64::from(task.count));
        let total = self.counts.total();
        let grown = total - self.mixed_at;
        let enough = total >= MIX_OF_MIN && grown * MIX_GROWTH > self.mixed_at;
        if !self.mix_is_given && enough {
            self.mixed_at = total;
            self.soft.mix = Arc::new(self.counts.mix());
        }
    }

    fn apply(&mut self, command: Command) -> Result<Reply, Refusal> {
        let entry = Entry {
            state_ms: self.now,
            wall_ms: WallMs(self.now.0),
            proposer: "sim".to_owned(),
            commands: vec![command],
        };
        let index = self.state.applied_index() + 1;
        self.state.apply(index, &entry).replies.pop().unwrap_or(Ok(Reply::Done))
    }
}
