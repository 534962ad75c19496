//! A cluster without schedulers and agents: its state, its planner and a clock that stands
//! still unless it is moved.

use std::sync::Arc;

use berth_model::{
    JobId, JobKind, JobSpec, Name, NodeSpec, Policy, SpecDigest, StateMs, TaskSpec, WallMs,
};
use berth_placement::{Budget, Mix, MixCounts, Planner, SoftView};
use berth_state::{ClusterState, Command, Entry, JobChange, Placement, Refusal, Reply, SubmitJob};

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
