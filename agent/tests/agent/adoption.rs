//! What survives the death of an agent, of a shim, and of a cluster's state.

use std::collections::BTreeMap;

use crate::harness::agent::Agent;
use crate::harness::jobs::Job;
use crate::harness::scheduler::Scheduler;
use crate::harness::{cluster, until_file, within};
use berth_model::{AllocationId, JobKind};
use berth_proto::v1::observation::State;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_proto::v1::{EndCause, EndOrphans};
use berth_wire::agent::delta_to_proto;

/// Waits in a fifo of its task directory for a number and exits with it. By the time that
/// `waiting` is there, the shell is the only process: nothing else wrote it.
const EXITS_WHEN_TOLD: &str =
    "mkfifo told; echo x >> ../../../starts; : > waiting; read code < told; exit $code";

fn tell(agent: &Agent, id: AllocationId, code: u32) {
    std::fs::write(agent.task_dir(id).join("told"), format!("{code}\n")).unwrap();
}

async fn until_waiting(scheduler: &mut Scheduler, agent: &Agent, id: AllocationId) {
    scheduler.until_ready(id).await;
    let dir = agent.task_dir(id);
    let waiting = || dir.join("waiting").exists().then_some(());
    until_file("waits to be told", &dir, waiting).await;
}

fn start_count(agent: &Agent) -> usize {
    crate::harness::agent::text(&agent.data().join("starts")).lines().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f34_f35_workers_outlive_a_killed_agent_and_ends_of_its_absence_are_told() {
    let (mut scheduler, mut agent) = cluster(&[]).await;
    // Lanes and own directories both.
    let lane = Job::shell(1, EXITS_WHEN_TOLD);
    let mut own = Job::shell(2, EXITS_WHEN_TOLD);
    own.spec.kind = JobKind::Service;
    let ids: Vec<AllocationId> =
        (0..10).map(|n| lane.id(n)).chain((0..10).map(|n| own.id(n))).collect();
    scheduler.want(&lane, (0..10).map(|instance| lane.row(instance)).collect());
    scheduler.want(&own, (0..10).map(|instance| own.row(instance)).collect());
    let mut before = BTreeMap::new();
    for id in &ids {
        until_waiting(&mut scheduler, &agent, *id).await;
        before.insert(*id, agent.processes(*id));
    }
    agent.kill().await;
    let ending: Vec<AllocationId> = ids.iter().copied().step_by(4).collect();
    assert_eq!(ending.len(), 5);
    for (position, id) in ending.iter().enumerate() {
        let process = before[id][0].clone();
        let gone = process.open().unwrap().expect("it runs");
        tell(&agent, *id, 40 + u32::try_from(position).unwrap());
        let gone = tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(gone);
        // A process descriptor becomes readable at the process's end.
        within("the worker's end", async { gone.unwrap().readable().await.unwrap() }).await;
    }
    scheduler.seen.clear();
    agent.start_again();
    let hello = scheduler.session().await;
    assert_eq!((hello.incarnation, hello.generation), (1, scheduler.generation));
    for (position, id) in ending.iter().enumerate() {
        let ended = scheduler.until_ended(*id).await;
        assert_eq!(ended.cause, i32::from(EndCause::Exited), "{id}");
        assert_eq!(ended.exit_code, Some(40 + i32::try_from(position).unwrap()), "{id}");
    }
    for id in ids.iter().filter(|id| !ending.contains(id)) {
        scheduler.until_ready(*id).await;
        assert_eq!(agent.processes(*id), before[id], "the same process goes on");
    }
    // The whole state again, and one of the adopted ends as well.
    scheduler.send_full();
    tell(&agent, ids[1], 77);
    assert_eq!(scheduler.until_ended(ids[1]).await.exit_code, Some(77));
    assert_eq!(start_count(&agent), 20, "nothing was started twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_exclusive_work_ends_with_its_lease_while_the_agent_is_dead() {
    let (mut scheduler, mut agent) = cluster(&[]).await;
    let mut exclusive = Job::of(1, JobKind::Service, &["sleep", "600"]);
    exclusive.spec.exclusive = true;
    let other = Job::of(2, JobKind::Service, &["sleep", "600"]);
    scheduler.want(&exclusive, vec![exclusive.row(0)]);
    scheduler.want(&other, vec![other.row(0)]);
    for id in [exclusive.id(0), other.id(0)] {
        scheduler.until_ready(id).await;
    }
    // As long as the agent renews it, the worker outlives many leases.
    let before = agent.processes(exclusive.id(0));
    let longer = Job::shell(3, "sleep 2");
    scheduler.want(&longer, vec![longer.row(0)]);
    scheduler.until_ended(longer.id(0)).await;
    assert_eq!(agent.processes(exclusive.id(0)), before);
    agent.kill().await;
    let worker = before[0].open().unwrap().expect("it runs");
    let worker = tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(worker).unwrap();
    within("the end of the worker", async { worker.readable().await.unwrap() }).await;
    assert_eq!(agent.processes(other.id(0)).len(), 1, "other work goes on");
    scheduler.seen.clear();
    agent.start_again();
    scheduler.session().await;
    let ended = scheduler.until_ended(exclusive.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::Fenced), "{ended:?}");
    scheduler.until_ready(other.id(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_leaves_workers_and_the_next_agent_needs_no_scheduler_to_keep_them() {
    let (mut scheduler, mut agent) = cluster(&[]).await;
    let job = Job::shell(1, EXITS_WHEN_TOLD);
    scheduler.acknowledge_no_reports();
    scheduler.want(&job, vec![job.row(0), job.row(1)]);
    until_waiting(&mut scheduler, &agent, job.id(0)).await;
    until_waiting(&mut scheduler, &agent, job.id(1)).await;
    let before = agent.processes(job.id(0));
    // This end is told, never acknowledged, and must be told again.
    tell(&agent, job.id(1), 9);
    scheduler.until_ended(job.id(1)).await;
    assert_eq!(agent.terminate().await, Some(0));
    assert_eq!(agent.processes(job.id(0)), before);
    scheduler.seen.clear();
    scheduler.acknowledge_reports();
    agent.start_again();
    scheduler.session().await;
    scheduler.until_ready(job.id(0)).await;
    assert_eq!(scheduler.until_ended(job.id(1)).await.exit_code, Some(9));
    assert_eq!(agent.processes(job.id(0)), before);
    assert_eq!(start_count(&agent), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_incarnation_stops_nothing() {
    let (mut scheduler, agent) = cluster(&[]).await;
    let job = Job::of(1, JobKind::Batch, &["sleep", "600"]);
    scheduler.want(&job, vec![job.row(0), job.row(1)]);
    scheduler.until_ready(job.id(0)).await;
    scheduler.until_ready(job.id(1)).await;
    let before = (agent.processes(job.id(0)), agent.processes(job.id(1)));
    scheduler.hang_up();
    scheduler.become_incarnation(2);
    scheduler.session().await;
    scheduler.seen.clear();
    // The restored cluster knows one of them and wants a third.
    scheduler.know(&job);
    scheduler.send_full();
    scheduler.change(vec![job.row(0), job.row(2)], Vec::new());
    scheduler.until_ready(job.id(2)).await;
    assert_eq!((agent.processes(job.id(0)), agent.processes(job.id(1))), before);
    let last = scheduler.complete_reports.last().unwrap();
    assert_eq!(last.observations.len(), 2, "both are reported to the new incarnation");
    // What this incarnation wanted and takes back does stop.
    scheduler.change(Vec::new(), vec![job.id(0)]);
    scheduler.until_ended(job.id(0)).await;
    assert_eq!(agent.processes(job.id(1)), before.1, "an orphan is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_cluster_is_told_what_is_here_and_how_the_rest_ended() {
    let (mut scheduler, mut agent) = cluster(&[]).await;
    let job = Job::shell(1, "[ $BERTH_TASK_INDEX = 1 ] && exit 7; exec sleep 600");
    scheduler.want(&job, vec![job.row(0), job.row(1), job.row(2)]);
    scheduler.until_ready(job.id(0)).await;
    scheduler.until_ready(job.id(2)).await;
    assert_eq!(scheduler.until_ended(job.id(1)).await.exit_code, Some(7));
    // Everybody knows of its end, and the agent forgets it.
    scheduler.change(Vec::new(), vec![job.id(1)]);
    let before = agent.processes(job.id(0));
    scheduler.hang_up();
    scheduler.become_incarnation(2);
    scheduler.take_stock(&[job.id(1), job.id(2), job.id(9)]);
    // Twice: the second time by an agent that has only its records.
    for life in 0..2 {
        scheduler.session().await;
        scheduler.until_true("the stock is told", |scheduler| scheduler.stocks.len() > life).await;
        let told = &scheduler.stocks[life];
        let here: Vec<_> = told.here.iter().map(|worker| worker.allocation).collect();
        assert_eq!(here, [job.id(0), job.id(2)]);
        assert_eq!(told.here[0].job_name, job.spec.name.as_str());
        assert_eq!(told.here[0].spec_digest, job.digest());
        assert_eq!(told.here[0].claim.cpu, job.spec.tasks[0].cpu);
        let ended: Vec<_> = told.ended.iter().map(|(id, end)| (*id, end.exit_code)).collect();
        assert_eq!(ended, [(job.id(1), Some(7))], "and nothing is known of the last");
        scheduler.know(&job);
        scheduler.send_full();
        scheduler.change(vec![job.row(2)], Vec::new());
        if life == 0 {
            agent.kill().await;
            agent.start_again();
        }
    }
    assert_eq!(agent.processes(job.id(0)), before, "an orphan is kept");
    let orphans = vec![job.id(0).to_string()];
    scheduler.say(ToAgent::EndOrphans(EndOrphans { allocations: orphans }));
    scheduler.until_ended(job.id(0)).await;
    scheduler.until_ready(job.id(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shim_leaves_nothing_running_and_an_unseen_end() {
    let (mut scheduler, agent) = cluster(&[]).await;
    let job = Job::shell(1, "sleep 600 & : > both; wait");
    let id = job.id(0);
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(id).await;
    let dir = agent.task_dir(id);
    until_file("both processes", &dir, || dir.join("both").exists().then_some(())).await;
    let processes = agent.processes(id);
    assert_eq!(processes.len(), 2);
    let shim = processes
        .iter()
        .map(|process| agent.shim_of(process))
        .find(|pid| agent.shims().contains(pid))
        .unwrap();
    let shim = rustix::process::Pid::from_raw(i32::try_from(shim).unwrap()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let ended = scheduler.until_ended(id).await;
    assert_eq!(ended.cause, i32::from(EndCause::Unseen), "{ended:?}");
    assert_eq!((ended.exit_code, ended.signal), (None, None));
    assert_eq!(agent.processes(id), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_and_shim_killed_together_are_told_apart_from_an_end() {
    let (mut scheduler, mut agent) = cluster(&[]).await;
    let job = Job::shell(1, EXITS_WHEN_TOLD);
    let id = job.id(0);
    scheduler.want(&job, vec![job.row(0)]);
    until_waiting(&mut scheduler, &agent, id).await;
    agent.kill().await;
    for pid in agent.shims() {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    agent.start_again();
    scheduler.session().await;
    let ended = scheduler.until_ended(id).await;
    assert_eq!(ended.cause, i32::from(EndCause::Unseen), "{ended:?}");
    assert_eq!(agent.processes(id), []);
    assert_eq!(start_count(&agent), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbled_records_are_set_aside_and_reported() {
    let (mut scheduler, mut agent) = cluster(&[]).await;
    let mut job = Job::shell(1, EXITS_WHEN_TOLD);
    job.spec.kind = JobKind::Service;
    let (id, other) = (job.id(0), job.id(1));
    scheduler.acknowledge_no_reports();
    scheduler.want(&job, vec![job.row(0), job.row(1)]);
    for id in [id, other] {
        until_waiting(&mut scheduler, &agent, id).await;
        tell(&agent, id, 5);
        scheduler.until_ended(id).await;
    }
    agent.kill().await;
    // Without their shims only the files can tell.
    for pid in agent.shims() {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    std::fs::write(agent.allocation(id).join("exit"), "nonsense").unwrap();
    std::fs::write(agent.allocation(other).join("allocation"), "nonsense").unwrap();
    scheduler.seen.clear();
    agent.start_again();
    scheduler.session().await;
    let ended = scheduler.until_ended(id).await;
    assert_eq!(ended.cause, i32::from(EndCause::Unseen), "{ended:?}");
    assert!(ended.reason.contains("exit.garbled"), "{ended:?}");
    let aside = agent.allocation(id).join("exit.garbled");
    assert_eq!(std::fs::read(aside).unwrap(), b"nonsense");
    // The other one's end is on disk in spite of its record.
    assert_eq!(scheduler.until_ended(other).await.exit_code, Some(5));
    assert!(agent.allocation(other).join("allocation.garbled").exists());
    assert_eq!(start_count(&agent), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f32_old_repeated_and_unfitting_messages_change_nothing() {
    let (mut scheduler, agent) = cluster(&[]).await;
    let job = Job::shell(1, EXITS_WHEN_TOLD);
    scheduler.know(&job);
    let old_full = scheduler.full();
    let first = scheduler.change(vec![job.row(0)], Vec::new());
    until_waiting(&mut scheduler, &agent, job.id(0)).await;
    // Each of these once more, or too late.
    scheduler.say(ToAgent::Delta(delta_to_proto(&first)));
    scheduler.say(ToAgent::Full(berth_wire::agent::full_to_proto(&old_full)));
    let second = scheduler.change(vec![job.row(1)], Vec::new());
    until_waiting(&mut scheduler, &agent, job.id(1)).await;
    assert_eq!(scheduler.full_requests, 0);
    // A change that does not follow, and one that ends elsewhere than it says.
    let mut gap = second.clone();
    (gap.from, gap.to) = (second.to + 5, second.to + 6);
    scheduler.say(ToAgent::Delta(delta_to_proto(&gap)));
    scheduler.until_true("a request for everything", |heard| heard.full_requests == 1).await;
    scheduler.send_full();
    let mut wrong = second;
    (wrong.from, wrong.to) = (scheduler.generation, scheduler.generation + 1);
    wrong.digest = [0; 32];
    scheduler.say(ToAgent::Delta(delta_to_proto(&wrong)));
    scheduler.until_true("another request", |heard| heard.full_requests == 2).await;
    scheduler.send_full();
    tell(&agent, job.id(0), 0);
    assert_eq!(scheduler.until_ended(job.id(0)).await.exit_code, Some(0));
    assert_eq!(agent.processes(job.id(1)).len(), 1, "nothing was stopped");
    assert_eq!(start_count(&agent), 2, "nothing was started twice");
    let running = |state: &State| matches!(state, State::Running(_)).then_some(());
    scheduler.until("runs", job.id(1), running).await;
}
