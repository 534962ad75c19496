//! Which commands let a leader plan anew, as the scheduler has it.

use berth_model::{EndCause, JobKind};
use berth_state::{ClusterState, Command, Observation, Observed};

pub fn makes_work_or_room(view: &ClusterState, commands: &[Command]) -> bool {
    let waits = !view.queue_is_empty() || view.daemons().next().is_some();
    commands.iter().any(|command| match command {
        Command::Submit(_)
        | Command::ChangeJob { .. }
        | Command::Scale { .. }
        | Command::FailUpdate { .. }
        | Command::RegisterNode { .. }
        | Command::DownNode { .. }
        | Command::LoseAllocations { .. }
        | Command::TakeStock { .. }
        | Command::ForgetOrphans { .. }
        | Command::StopAwaiting
        | Command::Unreserve { .. }
        | Command::SetSchedulable { .. }
        | Command::SetGuards { .. }
        | Command::SetDevicePurpose { .. }
        | Command::ApplyNamespace { .. }
        | Command::DeleteNamespace { .. }
        | Command::ReserveNodes { .. }
        | Command::FreeNodes { .. }
        | Command::TurnNodeReservation { .. } => true,
        Command::Observe { observations, .. } => observations.iter().any(|observation| {
            let ended = matches!(observation.observed, Observed::Ended(_));
            ended && (waits || !is_clean_batch_end(view, observation))
        }),
        Command::Found { .. }
        | Command::AdmitScheduler { .. }
        | Command::PromoteScheduler { .. }
        | Command::RemoveScheduler { .. }
        | Command::RaiseClusterVersion { .. }
        | Command::StopOrphans { .. }
        | Command::DisconnectNode { .. }
        | Command::Place { .. }
        | Command::Reserve { .. }
        | Command::StopAllocations { .. }
        | Command::LetGo { .. }
        | Command::ExpireJob { .. }
        | Command::Reap { .. }
        | Command::CreateToken(_)
        | Command::RevokeToken { .. }
        | Command::UseJoinToken { .. }
        | Command::RevokeMachine { .. }
        | Command::SetPolicyDefault { .. } => false,
    })
}

fn is_clean_batch_end(view: &ClusterState, observation: &Observation) -> bool {
    let Some(job) = view.jobs().get(&observation.allocation.job) else { return false };
    let task = job.spec.tasks.get(usize::from(observation.allocation.task.0));
    let Observed::Ended(report) = &observation.observed else { return false };
    let is_done = report.cause == EndCause::Exited && report.exit_code == Some(0);
    job.kind() == JobKind::Batch && is_done && task.is_some_and(|task| task.gang.is_none())
}
