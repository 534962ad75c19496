use super::*;

const SECOND_MS: u64 = 1000;
const HOUR: DurationMs = DurationMs::from_secs(3_600);

fn waiting(id: u64, gpus: u32, waited: DurationMs) -> QueueJob {
    QueueJob {
        id: JobId(id),
        gpus,
        submitted: StateMs(id),
        class: 0,
        attained: DurationMs(0),
        waited,
        phase: QueuePhase::Waiting,
        remaining: None,
    }
}

fn running(id: u64, gpus: u32, attained: DurationMs, since: StateMs) -> QueueJob {
    let phase = QueuePhase::Running { since, works_from: since };
    QueueJob { attained, phase, ..waiting(id, gpus, DurationMs(0)) }
}

fn berth(gpus: u32, without: &[QueuePart]) -> Queue {
    Queue::new(QueuePolicy::Berth, gpus, &without.iter().copied().collect())
}

#[test]
fn names_are_read_as_they_are_written() {
    for policy in QueuePolicy::ALL {
        assert_eq!(policy.name().parse(), Ok(policy));
    }
    for part in QueuePart::ALL {
        assert_eq!(part.name().parse(), Ok(part));
    }
    assert!("Berth".parse::<QueuePolicy>().is_err() && "".parse::<QueuePart>().is_err());
}

#[test]
fn nothing_is_asked_again_for_while_nobody_waits() {
    let jobs = [running(1, 4, HOUR, StateMs(0)), running(2, 4, HOUR, StateMs(0))];
    for policy in QueuePolicy::ALL {
        let mut queue = Queue::new(policy, 8, &BTreeSet::new());
        let decision = queue.decide(StateMs(HOUR.0), &jobs);
        assert_eq!(decision, QueueDecision { runs: vec![true, true], wake: None });
        assert_eq!(queue.decide(StateMs(0), &[]).runs, Vec::<bool>::new());
    }
}

#[test]
fn who_has_started_stays_for_the_minimum() {
    let now = StateMs(HOUR.0);
    let since = StateMs(HOUR.0 - 100 * SECOND_MS);
    // It has worked for an hour before, and has its GPU again for a hundred seconds.
    let jobs = [running(1, 1, HOUR, since), waiting(2, 1, DurationMs(0))];
    let decision = berth(1, &[]).decide(now, &jobs);
    assert_eq!(decision.runs, [true, false]);
    assert_eq!(decision.wake, Some(StateMs(now.0 + 200 * SECOND_MS)));
    assert_eq!(berth(1, &[QueuePart::MinimumRun]).decide(now, &jobs).runs, [false, true]);
    assert_eq!(berth(1, &[]).decide(StateMs(now.0 + 200 * SECOND_MS), &jobs).runs, [false, true]);
}

#[test]
fn patience_goes_before_others_that_wait_and_stops_nobody() {
    let now = StateMs(20 * HOUR.0);
    let patient = waiting(3, 2, HOUR);
    let jobs = [waiting(1, 2, DurationMs(0)), waiting(2, 2, DurationMs(0)), patient.clone()];
    assert_eq!(berth(2, &[]).decide(now, &jobs).runs, [false, false, true]);
    let without = [QueuePart::Patience];
    assert_eq!(berth(2, &without).decide(now, &jobs).runs, [true, false, false]);
    // Of one that may be stopped and is its equal but for that.
    let equal = running(1, 2, DurationMs(0), StateMs(0));
    assert_eq!(berth(2, &[]).decide(now, &[equal, patient]).runs, [true, false]);
}

#[test]
fn a_turn_comes_after_the_longest_wait_and_nobody_takes_it() {
    let mut queue = berth(4, &[]);
    let start = StateMs(100 * HOUR.0);
    let other = || running(1, 4, DurationMs(0), StateMs(0));
    let gang = |waited| waiting(2, 4, waited);
    // A millisecond before, it waits, and the queue wants to be asked then.
    let before = StateMs(start.0 - 1);
    let decision = queue.decide(before, &[other(), gang(DurationMs(WAIT_MAX.0 - 1))]);
    assert_eq!(decision, QueueDecision { runs: vec![true, false], wake: Some(start) });
    let decision = queue.decide(start, &[other(), gang(WAIT_MAX)]);
    assert_eq!(decision.runs, [false, true]);
    // It stays until its quantum is worked, whatever comes; then there is a pause.
    let in_turn = QueueJob {
        attained: DurationMs(QUANTUM.0 - 1),
        phase: QueuePhase::Running { since: start, works_from: start },
        ..gang(WAIT_MAX)
    };
    let small = |id| waiting(id, 1, DurationMs(0));
    let late = waiting(7, 4, WAIT_MAX);
    let jobs = [in_turn.clone(), small(3), small(4), small(5), small(6), late.clone()];
    let almost = StateMs(start.0 + QUANTUM.0 - 1);
    assert_eq!(queue.decide(almost, &jobs).runs, [true, false, false, false, false, false]);
    let over = StateMs(almost.0 + 1);
    assert_eq!(queue.decide(over, &jobs).runs, [false, true, true, true, true, false]);
    let next = StateMs(start.0 + PACE * QUANTUM.0);
    let worked = |id| running(id, 1, DurationMs(0), StateMs(0));
    let had_turn = QueueJob { phase: QueuePhase::Waiting, ..in_turn };
    let jobs = [had_turn, worked(3), worked(4), worked(5), worked(6), late];
    // Who has had a turn has none again for what it waited before, even if nobody else is in line.
    assert!(!queue.clone().decide(next, &jobs[..5]).runs[0]);
    let runs = queue.decide(StateMs(next.0 - 1), &jobs).runs;
    assert!(!runs[5], "{runs:?}");
    let runs = queue.decide(next, &jobs).runs;
    assert_eq!(runs, [false, false, false, false, false, true]);
}

#[test]
fn turns_come_one_at_a_time_however_small() {
    // Without patience, so that only the line gives anybody room.
    let mut queue = berth(2 * u32::try_from(PACE).unwrap(), &[QueuePart::Patience]);
    let start = StateMs(100 * HOUR.0);
    let others = || running(1, 127, DurationMs(0), StateMs(0));
    let small = |id| waiting(id, 1, WAIT_MAX);
    // One GPU is free, and goes to the first in line; the other one needs somebody to make room.
    let runs = queue.decide(start, &[others(), small(2), small(3)]).runs;
    assert_eq!(runs, [true, true, false]);
    // Its turn is half over when the next would be due by the size of this one.
    let quantum_half = StateMs(start.0 + QUANTUM.0 / 2);
    let phase = QueuePhase::Running { since: start, works_from: start };
    let in_turn = QueueJob { attained: DurationMs(QUANTUM.0 / 2), phase, ..small(2) };
    let runs = queue.decide(quantum_half, &[others(), in_turn, small(3)]).runs;
    assert_eq!(runs, [true, true, false]);
    // It ends, and the next has its turn.
    let runs = queue.decide(quantum_half, &[others(), waiting(3, 2, WAIT_MAX)]).runs;
    assert_eq!(runs, [false, true]);
}

#[test]
fn while_a_turn_is_due_nobody_else_starts() {
    let mut queue = berth(4, &[]);
    let start = StateMs(100 * HOUR.0);
    // One that has only just started holds the turn up; another could start beside it.
    let fresh = running(1, 2, DurationMs(0), start);
    let old = running(2, 1, HOUR, StateMs(0));
    let jobs = [fresh, old, waiting(3, 4, WAIT_MAX), waiting(4, 1, DurationMs(0))];
    let decision = queue.decide(start, &jobs);
    assert_eq!(decision.runs, [true, true, false, false]);
    let free = decision.wake.unwrap();
    assert_eq!(free, StateMs(start.0 + 300 * SECOND_MS));
    assert_eq!(queue.decide(free, &jobs).runs, [false, false, true, false]);
}
