//! The decision for each allocation. Called after every change; costs one look
//! at each row and each allocation.

use std::collections::BTreeSet;

use berth_model::{AllocationId, StopPolicy};

use crate::clock::AgentMs;
use crate::desired::{Desired, DesiredRow, Order};
use crate::observed::{Allocation, Link, Observed, Worker};

/// One thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WorkerAction {
    /// Launch it. Asked for once: from then on it is in the observed state.
    Start(AllocationId),
    /// It is to end before it ever began: record that, launch nothing.
    EndUnstarted(AllocationId),
    /// Ask it to end.
    Stop {
        allocation: AllocationId,
        /// `None`: as was said when it was started.
        policy: Option<StopPolicy>,
        reason: StopReason,
    },
    /// End processes that nothing supervises any more.
    Sweep(AllocationId),
    /// Say what is observed of it.
    Report(AllocationId),
    /// Nobody asks for it any more: forget it.
    Retire(AllocationId),
}

/// Why a worker is asked to end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StopReason {
    /// Desired state says so, or no longer holds it.
    Desired,
    /// The lease ran out.
    Fenced,
}

/// What is to become of one allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    Start,
    EndUnstarted,
    Stop { policy: Option<StopPolicy>, reason: StopReason },
    Sweep,
    Retire,
    Keep(KeepReason),
}

/// Why nothing is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum KeepReason {
    /// The wish for it is not on disk yet.
    NotDurable,
    /// It is exclusive and the agent holds no lease.
    NoLease,
    /// Something that has not ended holds a device of it.
    Occupied,
    /// It is as it should be.
    AsWanted,
    /// It is on its way to its end.
    Ending,
    /// The present incarnation of the cluster does not know it: an operator
    /// decides.
    Orphan,
    /// A later incarnation of the cluster has asked what is here.
    Superseded,
    /// The cluster has not acknowledged its end, or still holds its row.
    EndKnown,
}

/// Everything to do now, by allocation.
#[must_use]
pub fn step<T>(desired: &Desired<T>, observed: &Observed, now: AgentMs) -> Vec<WorkerAction> {
    let mut actions = Vec::new();
    let ids: BTreeSet<AllocationId> =
        desired.rows.keys().chain(observed.allocations.keys()).copied().collect();
    for id in ids {
        match decide(desired, observed, id, now) {
            Decision::Start => actions.push(WorkerAction::Start(id)),
            Decision::EndUnstarted => actions.push(WorkerAction::EndUnstarted(id)),
            Decision::Stop { policy, reason } => {
                actions.push(WorkerAction::Stop { allocation: id, policy, reason });
            }
            Decision::Sweep => actions.push(WorkerAction::Sweep(id)),
            Decision::Retire => actions.push(WorkerAction::Retire(id)),
            Decision::Keep(_) => {}
        }
        let to_say = observed.allocations.get(&id).is_some_and(must_report);
        if to_say && observed.link == Link::Up {
            actions.push(WorkerAction::Report(id));
        }
    }
    actions
}

/// What is to become of allocation `id`, reports aside.
#[must_use]
pub fn decide<T>(
    desired: &Desired<T>,
    observed: &Observed,
    id: AllocationId,
    now: AgentMs,
) -> Decision {
    let row = desired.rows.get(&id);
    let Some(allocation) = observed.allocations.get(&id) else {
        // What was not here when the cluster asked must not come to be here
        // before it has said what it wants now.
        if observed.told_incarnation > desired.version.incarnation {
            return Decision::Keep(KeepReason::Superseded);
        }
        return row.map_or(Decision::Keep(KeepReason::Orphan), |row| begin(row, observed, id, now));
    };
    match allocation.worker {
        Worker::Abandoned => Decision::Sweep,
        Worker::Stopping | Worker::Unkillable => Decision::Keep(KeepReason::Ending),
        Worker::Ended if row.is_none() && allocation.is_acknowledged() => Decision::Retire,
        Worker::Ended => Decision::Keep(KeepReason::EndKnown),
        Worker::Preparing => match reason_to_stop(desired, observed, id, now) {
            Ok(_) => Decision::EndUnstarted,
            Err(keep) => Decision::Keep(keep),
        },
        Worker::Launching | Worker::Running => match reason_to_stop(desired, observed, id, now) {
            Ok(reason) => Decision::Stop { policy: row.map(|row| row.stop), reason },
            Err(keep) => Decision::Keep(keep),
        },
    }
}

fn begin<T>(row: &DesiredRow<T>, observed: &Observed, id: AllocationId, now: AgentMs) -> Decision {
    // Not even an end: after a crash an older wish could come to life again.
    if observed.not_durable.contains(&id) {
        return Decision::Keep(KeepReason::NotDurable);
    }
    match row.order {
        Order::Stop => Decision::EndUnstarted,
        Order::Run if is_fenced(row, observed, now) => Decision::Keep(KeepReason::NoLease),
        Order::Run if observed.occupied.contains(&id) => Decision::Keep(KeepReason::Occupied),
        Order::Run => Decision::Start,
    }
}

fn reason_to_stop<T>(
    desired: &Desired<T>,
    observed: &Observed,
    id: AllocationId,
    now: AgentMs,
) -> Result<StopReason, KeepReason> {
    let wanted_in = observed.allocations.get(&id).map_or(0, |allocation| allocation.wanted_in);
    match desired.rows.get(&id) {
        Some(row) if row.order == Order::Stop => Ok(StopReason::Desired),
        Some(row) if is_fenced(row, observed, now) => Ok(StopReason::Fenced),
        Some(_) => Err(KeepReason::AsWanted),
        None if observed.lease.silence_is_over(now) => Ok(StopReason::Fenced),
        // A restored cluster has lost what happened after its backup: that it
        // does not know a worker is no order to end it.
        None if wanted_in < desired.version.incarnation => {
            let ended = observed.orphans_to_end.contains(&id);
            if ended { Ok(StopReason::Desired) } else { Err(KeepReason::Orphan) }
        }
        // No desired state at all says nothing about anything.
        None if desired.version.incarnation == 0 => Err(KeepReason::Orphan),
        None => Ok(StopReason::Desired),
    }
}

fn is_fenced<T>(row: &DesiredRow<T>, observed: &Observed, now: AgentMs) -> bool {
    observed.lease.silence_is_over(now) || (row.exclusive && !observed.lease.holds(now))
}

fn must_report(allocation: &Allocation) -> bool {
    !allocation.is_acknowledged() && allocation.sent != Some(allocation.revision)
}

#[cfg(test)]
mod tests;
