//! The leader's slow look at everything: what nobody else's event would bring
//! about, such as silence, passed limits and retention.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_model::DurationMs;
use berth_placement::Elsewhere;
use berth_reconcile::{COMMANDS_MAX, HostWatch, LivenessRules, reliefs};
use berth_state::{ClusterState, Command};
use tracing::warn;

use super::Leader;
use super::guarding::{self, Guarding};

/// Often enough for limits given in seconds.
const TICK: Duration = Duration::from_millis(250);
/// A leader that did not run for this long heard nobody: silence in that time
/// proves nothing.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The log says the time at least so often while anything depends on it.
const CLOCK_BEHIND_MS_MAX: u64 = 10_000;

pub async fn run(leader: Arc<Leader>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = Instant::now();
    let mut lateness = Lateness::new(Instant::now());
    let mut fruitless = None;
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = leader.ended.cancelled() => return,
        }
        let pause = last.elapsed();
        if pause > PAUSE_MAX {
            let pause_ms = pause.as_millis();
            warn!(pause_ms, "the leader did not run for a while; every node's time begins again");
            let now = leader.clock.now();
            let mut soft = leader.soft();
            soft.heard.restart_windows(now);
            soft.hosts = HostWatch::new(now);
        }
        let rules = leader
            .rules
            .heard_late(lateness.allowance(leader.published.pulse.late(), Instant::now()));
        let view = leader.published.view();
        let look = look(&leader, view.clone(), rules, fruitless).await;
        fruitless = look.fruitless;
        guarding::propose(&leader, look.guarding).await;
        // Heartbeats were heard all the while.
        last = Instant::now();
        if clock_is_behind(&leader, &view) {
            // An entry without commands carries the clocks alone.
            let _ = leader.propose_all(Vec::new(), 0).await;
        }
        for command in look.commands {
            let name = command.name();
            match leader.propose(command).await {
                Ok(Ok(_)) => {}
                Ok(Err(refusal)) => warn!(command = name, %refusal, "order refused"),
                Err(_) => break,
            }
            last = Instant::now();
        }
    }
}

/// What one look came to.
#[derive(Default)]
struct Look {
    commands: Vec<Command>,
    guarding: Guarding,
    /// The turn in which something asked for a place and nothing had one: until the next
    /// nobody asks again, for each question costs a search among all nodes.
    fruitless: Option<u64>,
}

/// On a thread of its own and with a copy of what was heard: what is to leave its node may take
/// long to ask for places, and neither a heartbeat nor a call waits for that.
async fn look(
    leader: &Arc<Leader>,
    view: ClusterState,
    rules: LivenessRules,
    fruitless: Option<u64>,
) -> Look {
    let leader = leader.clone();
    let looking = move || {
        let now = leader.clock.now();
        let (heard, hosts) = {
            let mut soft = leader.soft();
            soft.hosts.look(&view, now);
            (soft.heard.clone(), soft.hosts.clone())
        };
        let turn = berth_reconcile::turn_of(now);
        let may_ask = fruitless != Some(turn);
        // Mostly nobody asks.
        let loads = OnceCell::new();
        let mut elsewhere = None;
        let (mut asked, mut found) = (0, 0);
        let mut has_place = |id| {
            if !may_ask {
                return false;
            }
            let loads = loads.get_or_init(|| leader.loads());
            let elsewhere = elsewhere.get_or_insert_with(|| Elsewhere::new(&view, loads, now));
            asked += 1;
            let may_move = elsewhere.take(id).may_move();
            found += u32::from(may_move);
            may_move
        };
        let mut commands = berth_reconcile::tick(&view, &heard, &rules, &mut has_place, now);
        let going = berth_reconcile::ordered(&commands);
        let reliefs = reliefs(&view, &hosts, &leader.guards, &going, &mut has_place, now);
        let guarding = Guarding { changes: hosts.commands(&view, &leader.guards, now), reliefs };
        commands.extend(leader.scale(&view, now).into_iter().take(COMMANDS_MAX));
        let had_none = !may_ask || (asked > 0 && found == 0);
        Look { commands, guarding, fruitless: had_none.then_some(turn) }
    };
    let looked = tokio::task::spawn_blocking(looking).await;
    looked.inspect_err(|error| warn!(%error, "a look did not finish")).unwrap_or_default()
}

/// How late calls were served of late: a beat that comes is in time, however late the one
/// before it was.
struct Lateness {
    /// The worst of this window and of the one before it.
    worst: [Duration; 2],
    began: Instant,
}

/// What waited in the window before last is heard by now.
const LATENESS_WINDOW: Duration = Duration::from_secs(10);
/// A call that waits this long is late enough to tell an operator.
const LATE: Duration = Duration::from_secs(1);
/// A heartbeat waits for its turn where its connection is read, where its session is, and
/// behind others of both.
const TURNS_OF_HEARTBEAT: u32 = 4;

impl Lateness {
    fn new(now: Instant) -> Lateness {
        Lateness { worst: [Duration::ZERO; 2], began: now }
    }

    /// How much later than it was sent a heartbeat may be heard.
    fn allowance(&mut self, late: Duration, now: Instant) -> DurationMs {
        let before = self.worst[0].max(self.worst[1]);
        if now.duration_since(self.began) >= LATENESS_WINDOW {
            (self.worst, self.began) = ([Duration::ZERO, self.worst[0]], now);
        }
        self.worst[0] = self.worst[0].max(late);
        if late > LATE && before <= LATE {
            let late_ms = late.as_millis();
            warn!(late_ms, "calls are served late; nodes may be silent for that much longer");
        }
        let allowance = self.worst[0].max(self.worst[1]) * TURNS_OF_HEARTBEAT;
        DurationMs(u64::try_from(allowance.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Whether the state's clock should be moved on: the next leader continues from
/// what the log says, and time limits, deadlines and backoff with it.
fn clock_is_behind(leader: &Leader, view: &ClusterState) -> bool {
    let behind = leader.clock.now().since(view.cluster().state_ms);
    let timed = !view.allocations().is_empty() || !view.queue_is_empty();
    timed && behind.0 >= CLOCK_BEHIND_MS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_beat_in_time_between_late_ones_takes_nothing_back() {
        let begin = Instant::now();
        let mut lateness = Lateness::new(begin);
        let mut allowance = |at_ms: u64, late_ms: u64| {
            let now = begin + Duration::from_millis(at_ms);
            lateness.allowance(Duration::from_millis(late_ms), now).0
        };
        assert_eq!(allowance(0, 5), 20);
        assert_eq!(allowance(250, 3_000), 12_000);
        for at_ms in (500..20_000).step_by(500) {
            let late_ms = if at_ms % 1_000 == 0 { 2_500 } else { 0 };
            assert!(allowance(at_ms, late_ms) >= 10_000, "{at_ms}");
        }
        assert_eq!(allowance(30_100, 0), 10_000);
        assert_eq!(allowance(40_200, 0), 0);
    }
}
