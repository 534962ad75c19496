//! What a node does by itself beside consensus: report its status, take
//! snapshots when due, stop when something failed for good, and give
//! leadership away when its disk stalls.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::{Watch, WatchReceiver, WatchSender};
use openraft::{AsyncRuntime, RaftMetrics};

use super::Core;
use crate::app::App;
use crate::device::sled::process_ms;
use crate::device::{Device, DiskHealth, Place};
use crate::fatal::FatalReason;
use crate::machine::Shared;
use crate::status::{RaftStatus, Role};
use crate::types::Types;

/// A leader whose sync takes longer gives leadership away.
const STALL_MS: u64 = 2000;

type StatusSender<RT> = <<RT as AsyncRuntime>::Watch as Watch>::Sender<RaftStatus>;

pub(super) fn spawn_all<A: App, RT: AsyncRuntime, D: Device>(
    raft: &Core<A, RT, D>,
    shared: &Arc<Shared>,
    health: &Arc<DiskHealth>,
    status: StatusSender<RT>,
) {
    drop(RT::spawn(follow_status::<A, RT>(raft.metrics(), shared.clone(), status)));
    drop(RT::spawn(stop_when_failed::<A, RT, D>(raft.clone(), shared.clone())));
    drop(RT::spawn(take_snapshots::<A, RT, D>(raft.clone(), shared.clone())));
    if D::PLACE == Place::Threads {
        drop(RT::spawn(hand_over_when_stalled::<A, RT, D>(
            raft.clone(),
            shared.clone(),
            health.clone(),
        )));
    }
}

type MetricsReceiver<A, RT> =
    <<RT as AsyncRuntime>::Watch as Watch>::Receiver<RaftMetrics<Types<A, RT>>>;

async fn follow_status<A: App, RT: AsyncRuntime>(
    mut metrics: MetricsReceiver<A, RT>,
    shared: Arc<Shared>,
    status: StatusSender<RT>,
) {
    let reason = loop {
        // Cloned at once: a reference held here would block the core.
        let current = metrics.borrow_and_update().clone();
        let unwatched = status.send(RaftStatus::read(&current)).is_err();
        if let Err(error) = current.running_state {
            break error.to_string();
        }
        if unwatched && shared.fatal.get().is_some() {
            return;
        }
        if metrics.changed().await.is_err() {
            break "its task ended".to_owned();
        }
    };
    shared.fatal.set(FatalReason::Core(reason));
}

async fn stop_when_failed<A: App, RT: AsyncRuntime, D: Device>(
    raft: Core<A, RT, D>,
    shared: Arc<Shared>,
) {
    shared.fatal.wait().await;
    // A node that failed must neither vote nor lead while its process ends.
    let _ended_already = raft.shutdown().await;
    shared.snapshot_due.notify_one();
}

async fn take_snapshots<A: App, RT: AsyncRuntime, D: Device>(
    raft: Core<A, RT, D>,
    shared: Arc<Shared>,
) {
    loop {
        shared.snapshot_due.notified().await;
        if shared.fatal.get().is_some() || raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

async fn hand_over_when_stalled<A: App, RT: AsyncRuntime, D: Device>(
    raft: Core<A, RT, D>,
    shared: Arc<Shared>,
    health: Arc<DiskHealth>,
) {
    const PERIOD: Duration = Duration::from_millis(500);
    while shared.fatal.get().is_none() {
        RT::sleep(PERIOD).await;
        let since = health.busy_since_ms();
        if since == 0 || process_ms().saturating_sub(since) < STALL_MS {
            continue;
        }
        let metrics = raft.metrics().borrow_watched().clone();
        let status = RaftStatus::read(&metrics);
        if status.role != Role::Leader {
            continue;
        }
        if let Some(heir) = status.heir() {
            tracing::warn!(to_node = heir, "disk stalls, handing leadership over");
            if raft.trigger().transfer_leader(heir).await.is_err() {
                return;
            }
        }
    }
}
