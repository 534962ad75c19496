use berth_placement::queue::{PACE, QUANTUM, WAIT_MAX};
use proptest::prelude::*;

use super::*;

const SECOND_MS: u64 = 1000;
const HOUR_MS: u64 = 3_600_000;

/// Submitted, takes, GPUs; in milliseconds.
fn job(submitted_ms: u64, duration_ms: u64, gpus: u32) -> TraceJob {
    TraceJob { submitted: StateMs(submitted_ms), duration: DurationMs(duration_ms), gpus, class: 0 }
}

fn options(gpus: u32, policy: QueuePolicy, restart_ms: u64) -> JobsOptions {
    JobsOptions { gpus, policy, without: BTreeSet::new(), restart: DurationMs(restart_ms) }
}

/// When each job ends, in units.
fn check(
    unit_ms: u64,
    jobs: &[(u64, u64, u32)],
    options: &JobsOptions,
    expected: &[u64],
) -> JobsReport {
    let scaled = |(submitted, takes, gpus): &(u64, u64, u32)| {
        job(submitted * unit_ms, takes * unit_ms, *gpus)
    };
    let list: Vec<TraceJob> = jobs.iter().map(scaled).collect();
    let report = run(&list, options).unwrap();
    let ends: Vec<u64> = report.outcomes.iter().map(|outcome| outcome.ended.0 / unit_ms).collect();
    assert_eq!(ends, expected, "{}: {jobs:?}", options.policy.name());
    report
}

#[test]
fn three_jobs_on_one_gpu_end_in_the_order_of_the_policy() {
    use QueuePolicy::{Backfill, Fifo, Las2d, Sjf, Srsf, Srtf};
    let jobs = [(0, 10, 1), (1, 2, 1), (2, 1, 1)];
    for (policy, restart_ms, expected) in [
        (Fifo, 1000, [10, 12, 13]),
        (Backfill, 1000, [10, 12, 13]),
        (Sjf, 1000, [10, 13, 11]),
        // The second has as much left as the third takes when that comes, and was first. The
        // first lost its GPU, and starts again for a second once it has it back.
        (Srtf, 0, [13, 3, 4]),
        (Srtf, 1000, [14, 3, 4]),
        (Srsf, 1000, [14, 3, 4]),
        // All have had next to nothing, and come as they were submitted.
        (Las2d, 1000, [10, 12, 13]),
    ] {
        check(SECOND_MS, &jobs, &options(1, policy, restart_ms), &expected);
    }
}

#[test]
fn gangs_wait_for_all_their_gpus() {
    use QueuePolicy::{Backfill, Fifo, Srsf, Srtf};
    let jobs = [(0, 10, 3), (1, 10, 4), (2, 5, 1)];
    check(SECOND_MS, &jobs, &options(4, Fifo, 0), &[10, 20, 25]);
    check(SECOND_MS, &jobs, &options(4, Backfill, 0), &[10, 20, 7]);
    // Three seconds on two GPUs are shorter than five on one, and more.
    let jobs = [(0, 3, 2), (0, 5, 1)];
    check(SECOND_MS, &jobs, &options(2, Srtf, 0), &[3, 8]);
    check(SECOND_MS, &jobs, &options(2, Srsf, 0), &[8, 5]);
}

#[test]
fn who_has_had_an_hour_gives_way_under_attained_service() {
    let minute_ms = 60 * SECOND_MS;
    let las2d = options(1, QueuePolicy::Las2d, minute_ms);
    // The first has had its hour at 60, the second comes and takes 30; starting again costs one.
    let report = check(minute_ms, &[(0, 120, 1), (30, 30, 1)], &las2d, &[151, 90]);
    assert_eq!((report.preemptions, report.gpu_ms_restarting), (1, u128::from(minute_ms)));
    // Both have had theirs at 90, and the first goes on until it has had ten.
    let two = options(2, QueuePolicy::Las2d, 0);
    check(minute_ms, &[(0, 720, 1), (30, 180, 2)], &two, &[900, 780]);
    // On two GPUs the hour is over after 30 minutes.
    check(minute_ms, &[(0, 60, 2), (10, 20, 1)], &two, &[80, 50]);
}

#[test]
fn berth_stops_a_long_job_for_a_new_one_but_not_at_once() {
    use QueuePolicy::Berth;
    // After half an hour the first is not expected to end soon, and one that has just come is.
    check(SECOND_MS, &[(0, 7200, 1), (1800, 60, 1)], &options(1, Berth, 30_000), &[7290, 1860]);
    // Before, the difference is not worth it; until the second has waited for some minutes.
    check(SECOND_MS, &[(0, 7200, 1), (120, 60, 1)], &options(1, Berth, 30_000), &[7290, 660]);
    // A job on one of eight GPUs, that would leave the others idle, is not worth much more than the
    // gang that has them, until that has worked for twenty minutes. For each GPU it is.
    let jobs = [(0, 7200, 8), (700, 60, 1)];
    check(SECOND_MS, &jobs, &options(8, Berth, 30_000), &[7290, 1260]);
    let without = BTreeSet::from([QueuePart::Exchange]);
    let in_order = JobsOptions { without, ..options(8, Berth, 30_000) };
    check(SECOND_MS, &jobs, &in_order, &[7290, 760]);
}

#[test]
fn berth_learns_which_jobs_are_short() {
    // Of two kinds of jobs, one takes a minute and one six hours. Once that is known, one of the
    // short kind is let in at once, where nobody knows it has to wait first.
    let kinds = [(1, 60 * SECOND_MS), (2, 6 * HOUR_MS)];
    let mut jobs: Vec<TraceJob> = Vec::new();
    for number in 0..60 {
        for (class, duration_ms) in kinds {
            jobs.push(TraceJob { class, ..job(number * 7 * HOUR_MS, duration_ms, 1) });
        }
    }
    let last = jobs.len() - 2;
    jobs[last].submitted = StateMs(59 * 7 * HOUR_MS + 400 * SECOND_MS);
    let waited = |without: &[QueuePart]| {
        let without = without.iter().copied().collect();
        let options = JobsOptions { without, ..options(1, QueuePolicy::Berth, 30_000) };
        let report = run(&jobs, &options).unwrap();
        report.outcomes[last].ended.since(jobs[last].submitted).0 / SECOND_MS - 60
    };
    assert_eq!(waited(&[]), 0);
    assert!(waited(&[QueuePart::Learning]) > 100);
}

/// One that always comes last is served within the bound that `Line` proves.
#[test]
fn nobody_starves_under_a_stream_of_better_ones() {
    let stream_ms = 420 * HOUR_MS;
    let mut jobs: Vec<TraceJob> = (0..3).map(|number| job(number * 1000 + 1, HOUR_MS, 4)).collect();
    // More small ones than the pool can take, for as long as the stream lasts.
    let every_ms = 140 * SECOND_MS;
    jobs.extend((0..stream_ms / every_ms).map(|number| job(number * every_ms, 560 * SECOND_MS, 1)));
    let ends = |without: &[QueuePart]| {
        let without = without.iter().copied().collect();
        let options = JobsOptions { without, ..options(4, QueuePolicy::Berth, 30_000) };
        let report = run(&jobs, &options).unwrap();
        report.outcomes[..3].iter().map(|outcome| outcome.ended.0).collect::<Vec<u64>>()
    };
    let starved = ends(&[QueuePart::Line]);
    assert!(starved.iter().all(|ended| *ended > stream_ms), "{starved:?}");
    let minimum_run_ms = 300 * SECOND_MS;
    let turn_ms = PACE * QUANTUM.0 + QUANTUM.0 + minimum_run_ms + 60 * SECOND_MS;
    for (before, ended) in ends(&[]).into_iter().enumerate() {
        let bound_ms = WAIT_MAX.0 + (before as u64 + 1) * turn_ms;
        assert!(ended <= bound_ms + HOUR_MS + 3000, "{before}: {ended}");
        assert!(ended < stream_ms, "{before}: {ended}");
    }
}

#[test]
fn what_cannot_be_run_is_refused() {
    let refused = |jobs: &[TraceJob]| run(jobs, &options(4, QueuePolicy::Fifo, 0)).unwrap_err();
    let error = refused(&[job(0, 1, 4), job(0, 1, 5)]);
    assert_eq!(error.to_string(), "job 1 wants 5 GPUs of 4: it would wait for ever");
    assert_eq!(refused(&[job(0, 0, 1)]), JobsError::Empty { job_index: 0 });
    assert_eq!(refused(&[job(0, 1, 0)]), JobsError::Empty { job_index: 0 });
    assert_eq!(refused(&[job(0, 1, 1), job(u64::MAX, 1, 1)]), JobsError::TooLate { job_index: 1 });
    let report = run(&[], &options(4, QueuePolicy::Berth, 0)).unwrap();
    assert_eq!((report.makespan_ms, report.queueing), (0, Figures::default()));
}

const GPUS: u32 = 16;

fn some_jobs() -> impl Strategy<Value = Vec<TraceJob>> {
    let duration = prop_oneof![
        1..2_000_u64,
        1..20 * 60 * SECOND_MS,
        10 * 60 * SECOND_MS..3 * HOUR_MS,
        20 * HOUR_MS..60 * HOUR_MS,
    ];
    let one = (0..12 * HOUR_MS, duration, prop_oneof![1..=4_u32, 1..=GPUS], 0..3_u32);
    let job = one.prop_map(|(submitted, duration, gpus, class)| TraceJob {
        class,
        ..job(submitted, duration, gpus)
    });
    prop::collection::vec(job, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn all_work_is_done_once_on_the_gpus_that_there_are(
        jobs in some_jobs(),
        restart_ms in prop_oneof![Just(0), 1..1_000_000_u64],
        left_out in prop::sample::subsequence(QueuePart::ALL.to_vec(), 0..=QueuePart::ALL.len()),
    ) {
        for policy in QueuePolicy::ALL {
            let without = left_out.iter().copied().collect();
            let options = JobsOptions { without, ..options(GPUS, policy, restart_ms) };
            let report = run(&jobs, &options).unwrap();
            prop_assert!(report.gpus_used_max <= u64::from(GPUS));
            prop_assert_eq!(report.gpu_ms_held, report.gpu_ms_worked + report.gpu_ms_restarting);
            for (job, outcome) in jobs.iter().zip(&report.outcomes) {
                let spent = job.duration.0 + outcome.restarting.0 + outcome.waited.0;
                prop_assert_eq!(outcome.ended.since(job.submitted).0, spent);
                prop_assert!(outcome.starts >= 1);
                prop_assert!(outcome.restarting.0 <= (outcome.starts - 1) * restart_ms);
            }
            let preempts = match policy {
                QueuePolicy::Fifo | QueuePolicy::Backfill | QueuePolicy::Sjf => false,
                QueuePolicy::Srtf | QueuePolicy::Srsf | QueuePolicy::Las2d | QueuePolicy::Berth => true,
            };
            prop_assert!(preempts || report.preemptions == 0);
            prop_assert_eq!(run(&jobs, &options).unwrap(), report);
        }
    }
}
