//! Files that are there before a worker starts, from a server that behaves badly.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use berth_model::{Artifact, Checksum, JobKind};
use berth_proto::v1::observation::State;
use berth_proto::v1::{EndCause, Ended, StartPhase};

use crate::harness::agent::{text, until_gone};
use crate::harness::jobs::Job;
use crate::harness::origin::{How, Origin};
use crate::harness::scheduler::Scheduler;
use crate::harness::{cluster, skip, until_file, within};

/// The server of the tests is on this host.
const HERE: [&str; 2] = ["--artifacts-allow", "http,loopback"];

pub fn job(number: u64, source: &str, to: &str) -> Job {
    let mut job = Job::shell(number, &format!("cat {to}"));
    job.task().artifacts =
        vec![Artifact { source: source.to_owned(), checksum: None, to: to.to_owned() }];
    job
}

pub fn with_checksum(mut job: Job, body: &[u8]) -> Job {
    use sha2::Digest as _;
    job.task().artifacts[0].checksum = Some(Checksum(sha2::Sha256::digest(body).into()));
    job
}

pub async fn run(scheduler: &mut Scheduler, job: &Job) -> Ended {
    scheduler.want(job, vec![job.row(0)]);
    scheduler.until_ended(job.id(0)).await
}

fn fetching(state: &State) -> Option<()> {
    let State::Starting(starting) = state else { return None };
    (starting.phase == i32::from(StartPhase::Fetch)).then_some(())
}

pub fn weights() -> Vec<u8> {
    (0..300_000_u32).map(|number| b'a' + u8::try_from(number % 23).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_download_that_is_cut_is_gone_on_with() {
    let (mut scheduler, agent) = cluster(&HERE).await;
    let (origin, body) = (Origin::start().await, weights());
    origin.serve("/w", &body, &[How::CutAfter(100_000), How::CutAfter(50_000), How::Well]);
    let job = with_checksum(job(1, &origin.url("/w?sig=secret"), "models/w.bin"), &body);
    let ended = run(&mut scheduler, &job).await;
    assert_eq!(ended.exit_code, Some(0), "{ended:?}");
    assert_eq!(agent.stdout(job.id(0)).as_bytes(), body);
    let asked = origin.asked("/w");
    let ranges: Vec<Option<&str>> =
        asked.iter().map(|asked| asked.headers.get("range").map(String::as_str)).collect();
    assert_eq!(ranges, [None, Some("bytes=99999-"), Some("bytes=149998-")]);
    assert_eq!(asked.iter().map(|asked| asked.status).collect::<Vec<_>>(), [200, 206, 206]);
    assert_eq!(fs::read(agent.task_dir(job.id(0)).join("models/w.bin")).unwrap(), body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_server_without_ranges_is_asked_for_all_of_it() {
    let (mut scheduler, agent) = cluster(&HERE).await;
    let (origin, body) = (Origin::start().await, weights());
    origin.serve("/w", &body, &[How::CutAfter(100_000), How::Whole]);
    let job = job(1, &origin.url("/w"), "w");
    assert_eq!(run(&mut scheduler, &job).await.exit_code, Some(0));
    assert_eq!(agent.stdout(job.id(0)).as_bytes(), body);
    // Another content under the same name is not put behind the beginning of the first.
    let other: Vec<u8> = body.iter().rev().copied().collect();
    // Nor by a server that gives a part of whatever it has.
    for (number, how) in [(2, How::Well), (3, How::AnyRange)] {
        let path = format!("/{number}");
        origin.serve(&path, &body, &[How::CutAfter(100_000)]);
        let job = self::job(number, &origin.url(&path), "x");
        scheduler.want(&job, vec![job.row(0)]);
        origin.until_asked(&path, 1).await;
        origin.serve(&path, &other, &[how]);
        let ended = scheduler.until_ended(job.id(0)).await;
        assert_eq!(ended.exit_code, Some(0), "{ended:?}");
        assert_eq!(agent.stdout(job.id(0)).as_bytes(), other);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_download_that_stalls_is_given_up_and_told() {
    let more = [&HERE[..], &["--artifacts-stall-ms", "300"]].concat();
    let (mut scheduler, agent) = cluster(&more).await;
    let (origin, body) = (Origin::start().await, weights());
    // It comes in the end, piece by piece, though never all of it in time.
    origin.serve("/w", &body, &[How::HoldAfter(100_000), How::HoldAfter(50_000), How::Well]);
    let first = job(1, &origin.url("/w"), "w");
    assert_eq!(run(&mut scheduler, &first).await.exit_code, Some(0));
    assert_eq!(agent.stdout(first.id(0)).as_bytes(), body);
    origin.serve("/never", &body, &[How::HoldAfter(0)]);
    let job = job(2, &origin.url("/never?sig=secret"), "w");
    let ended = run(&mut scheduler, &job).await;
    assert_eq!(ended.cause, i32::from(EndCause::Exited), "{ended:?}");
    let expected = format!("artifact {}: no byte came for 300ms (5 tries)", origin.url("/never"));
    assert_eq!(ended.reason, expected);
    assert_eq!(origin.asked("/never").len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_wrong_checksum_is_never_used() {
    let (mut scheduler, agent) = cluster(&HERE).await;
    let (origin, body) = (Origin::start().await, weights());
    origin.serve("/w", &body, &[How::Well]);
    let job = with_checksum(job(1, &origin.url("/w?sig=secret"), "w"), b"something else");
    let ended = run(&mut scheduler, &job).await;
    assert_eq!(ended.cause, i32::from(EndCause::CannotStart), "{ended:?}");
    let expected = format!("artifact {}: wrong checksum: expected sha256:", origin.url("/w"));
    assert!(ended.reason.starts_with(&expected), "{ended:?}");
    assert!(!agent.task_dir(job.id(0)).join("w").exists());
    assert_eq!(fs::read_dir(agent.data().join("artifacts")).unwrap().count(), 0);
    let missing = self::job(2, &origin.url("/missing"), "w");
    let ended = run(&mut scheduler, &missing).await;
    assert_eq!(ended.cause, i32::from(EndCause::CannotStart), "{ended:?}");
    assert!(ended.reason.contains("/missing: the server answers 404"), "{ended:?}");
    assert_eq!(origin.asked("/missing").len(), 1, "nothing is tried in vain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_many_that_start_together_fetch_once() {
    const MANY: u32 = 500;
    let (mut scheduler, agent) = cluster(&HERE).await;
    let (origin, body) = (Origin::start().await, weights());
    origin.serve("/w", &body, &[How::HoldAfter(1000), How::Well]);
    let mut job = with_checksum(job(1, &origin.url("/w"), "w"), &body);
    job.task().command = ["sh", "-c", "cmp w w && wc -c < w"].map(str::to_owned).into();
    scheduler.want(&job, (0..MANY).map(|instance| job.row(instance)).collect());
    for instance in 0..MANY {
        scheduler.until("is fetched for", job.id(instance), fetching).await;
    }
    assert_eq!(agent.fetchers().len(), 1);
    origin.go_on();
    for instance in 0..MANY {
        let ended = scheduler.until_ended(job.id(instance)).await;
        assert_eq!(ended.exit_code, Some(0), "{ended:?}");
        assert_eq!(agent.stdout(job.id(instance)).trim(), "300000");
    }
    assert_eq!(origin.asked("/w").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_redirect_to_a_forbidden_address_is_refused() {
    let origin = Origin::start().await;
    let named = origin.url("/");
    let (mut scheduler, _agent) = cluster(&["--artifacts-allow", &format!("http,{named}")]).await;
    origin.serve("/ok", b"fine", &[How::Well]);
    let elsewhere = Origin::start().await;
    for (number, to, expected) in [
        (1, "http://169.254.169.254/latest/meta-data/?token=secret", "169.254.169.254"),
        (2, "http://[fd00:ec2::254]/latest", "fd00:ec2::254"),
        (3, "http://10.0.0.1/a", "10.0.0.1"),
        (4, "http://localhost:1/a", "127.0.0.1"),
        (5, &elsewhere.url("/other"), "127.0.0.1"),
        (6, "file:///etc/passwd", "does not name it"),
        (7, "https://h.example/a", "does not name it"),
    ] {
        origin.serve("/away", b"", &[How::To(to.to_owned())]);
        let ended = run(&mut scheduler, &job(number, &origin.url("/away"), "a")).await;
        assert_eq!(ended.cause, i32::from(EndCause::CannotStart), "{to}: {ended:?}");
        assert!(ended.reason.contains(expected), "{to}: {ended:?}");
        assert!(!ended.reason.contains("secret"), "{ended:?}");
    }
    assert_eq!(elsewhere.asked("/other").len(), 0);
    // One that is allowed is followed.
    origin.serve("/here", b"", &[How::To("/ok".to_owned())]);
    let last = job(9, &origin.url("/here"), "a");
    assert_eq!(run(&mut scheduler, &last).await.exit_code, Some(0));
    origin.serve("/round", b"", &[How::To("/round".to_owned())]);
    let ended = run(&mut scheduler, &job(10, &origin.url("/round"), "a")).await;
    assert!(ended.reason.contains("leads elsewhere more than 10 times"), "{ended:?}");
}

/// What is allowed where nobody says anything: public hosts, and over TLS alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_host_that_is_not_public_is_refused_unless_it_is_named() {
    let (mut scheduler, _agent) = cluster(&[]).await;
    let origin = Origin::start().await;
    let port = origin.address.rsplit(':').next().unwrap();
    for (number, source) in [
        (1, origin.url("/a")),
        (2, format!("https://127.0.0.1:{port}/a")),
        (3, format!("https://localhost:{port}/a")),
        (4, "s3://bucket/a".to_owned()),
        (5, "file:///etc/passwd".to_owned()),
    ] {
        let ended = run(&mut scheduler, &job(number, &source, "a")).await;
        assert_eq!(ended.cause, i32::from(EndCause::CannotStart), "{source}: {ended:?}");
        assert!(ended.reason.contains("agent.artifacts.allow"), "{ended:?}");
    }
    assert_eq!(origin.asked("/a").len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_link_in_the_way_is_not_followed() {
    let (mut scheduler, agent) = cluster(&HERE).await;
    let origin = Origin::start().await;
    origin.serve("/w", b"weights", &[How::HoldAfter(1)]);
    let outside = tempfile::tempdir().unwrap();
    let job = job(1, &origin.url("/w"), "models/w");
    scheduler.want(&job, vec![job.row(0)]);
    origin.until_asked("/w", 1).await;
    symlink(outside.path(), agent.task_dir(job.id(0)).join("models")).unwrap();
    origin.go_on();
    let ended = scheduler.until_ended(job.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::CannotStart), "{ended:?}");
    assert!(ended.reason.ends_with("something is in the way of `models/w`"), "{ended:?}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_file_outside_the_allowed_place_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (models, secret) = (dir.path().join("models"), dir.path().join("secret"));
    fs::create_dir(&models).unwrap();
    fs::write(&secret, "secret").unwrap();
    fs::write(models.join("w"), "weights").unwrap();
    symlink("w", models.join("same")).unwrap();
    symlink(&secret, models.join("out")).unwrap();
    symlink("../secret", models.join("up")).unwrap();
    let models = models.to_str().unwrap();
    let (mut scheduler, agent) = cluster(&["--artifacts-allow", &format!("file://{models}")]).await;
    for (number, path) in [(1, "w"), (2, "same")] {
        let job = job(number, &format!("file://{models}/{path}"), "w");
        assert_eq!(run(&mut scheduler, &job).await.exit_code, Some(0), "{path}");
        assert_eq!(agent.stdout(job.id(0)), "weights");
    }
    for (number, path) in
        [(3, "out"), (4, "up"), (5, "../secret"), (6, "%2e%2e/secret"), (7, "none"), (8, ".")]
    {
        let job = job(number, &format!("file://{models}/{path}"), "w");
        let ended = run(&mut scheduler, &job).await;
        assert_eq!(ended.cause, i32::from(EndCause::CannotStart), "{path}: {ended:?}");
    }
    // A file that has changed is not taken from the cache.
    fs::write(Path::new(models).join("w"), "new weights").unwrap();
    let job = job(9, &format!("file://{models}/w"), "w");
    assert_eq!(run(&mut scheduler, &job).await.exit_code, Some(0));
    assert_eq!(agent.stdout(job.id(0)), "new weights");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_stop_ends_the_fetch() {
    // Or it would end by itself while the test waits.
    let more = [&HERE[..], &["--artifacts-stall-ms", "600000"]].concat();
    let (mut scheduler, agent) = cluster(&more).await;
    let (origin, body) = (Origin::start().await, weights());
    origin.serve("/w", &body, &[How::HoldAfter(100_000), How::Well]);
    let (first, second) = (job(1, &origin.url("/w"), "w"), job(2, &origin.url("/w"), "w"));
    for job in [&first, &second] {
        scheduler.want(job, vec![job.row(0)]);
        scheduler.until("is fetched for", job.id(0), fetching).await;
    }
    origin.until_asked("/w", 1).await;
    let fetcher = agent.fetchers()[0];
    scheduler.stop(first.id(0));
    let ended = scheduler.until_ended(first.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::Stopped), "{ended:?}");
    assert_eq!(agent.fetchers(), [fetcher], "somebody still waits");
    scheduler.stop(second.id(0));
    let ended = scheduler.until_ended(second.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::Stopped), "{ended:?}");
    until_gone(fetcher).await;
    // What had come is not lost.
    let third = job(3, &origin.url("/w"), "w");
    assert_eq!(run(&mut scheduler, &third).await.exit_code, Some(0));
    assert_eq!(origin.asked("/w")[1].status, 206);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_the_next_agent_goes_on_and_uses_what_is_kept() {
    let (mut scheduler, mut agent) = cluster(&HERE).await;
    let (origin, body) = (Origin::start().await, weights());
    origin.serve("/kept", &body, &[How::Well]);
    let kept = with_checksum(job(1, &origin.url("/kept"), "w"), &body);
    assert_eq!(run(&mut scheduler, &kept).await.exit_code, Some(0));
    origin.serve("/half", &body, &[How::HoldAfter(100_000), How::Well]);
    let half = job(2, &origin.url("/half"), "w");
    scheduler.want(&half, vec![half.row(0)]);
    scheduler.until("is fetched for", half.id(0), fetching).await;
    let artifacts = agent.data().join("artifacts");
    let come = || {
        let files = fs::read_dir(&artifacts).unwrap().flatten();
        let part = files.filter(|file| file.path().extension().is_some_and(|end| end == "part"));
        let begun = fs::read_dir(&artifacts).unwrap().flatten();
        let begun = begun.filter(|file| file.path().extension().is_some_and(|end| end == "begun"));
        let long = part.filter(|file| file.metadata().is_ok_and(|part| part.len() == 100_000));
        (long.count() == 1 && begun.count() == 1).then_some(())
    };
    until_file("what is sent", &artifacts, come).await;
    let fetcher = agent.fetchers()[0];
    agent.kill().await;
    until_gone(fetcher).await;
    agent.start_again();
    scheduler.session().await;
    let ended = scheduler.until_ended(half.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::Fenced), "{ended:?}");
    assert_eq!(ended.reason, "the agent ended while files were fetched");
    let again = job(3, &origin.url("/half"), "w");
    assert_eq!(run(&mut scheduler, &again).await.exit_code, Some(0));
    assert_eq!(agent.stdout(again.id(0)).as_bytes(), body);
    assert_eq!(origin.asked("/half")[1].status, 206);
    let later = with_checksum(job(4, &origin.url("/kept"), "w"), &body);
    assert_eq!(run(&mut scheduler, &later).await.exit_code, Some(0));
    assert_eq!(origin.asked("/kept").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_without_a_checksum_the_origin_is_asked_whether_it_changed() {
    let (mut scheduler, agent) = cluster(&HERE).await;
    let origin = Origin::start().await;
    origin.serve("/w", b"first", &[How::Well]);
    for (number, body, status) in [(1, "first", 200), (2, "first", 304), (3, "other one", 200)] {
        if status == 200 {
            origin.serve("/w", body.as_bytes(), &[How::Well]);
        }
        let job = job(number, &origin.url("/w"), "w");
        assert_eq!(run(&mut scheduler, &job).await.exit_code, Some(0));
        assert_eq!(agent.stdout(job.id(0)), body);
        assert_eq!(origin.asked("/w").last().unwrap().status, status);
    }
}

/// Any process of the same user can do so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_a_fetcher_that_is_stopped_holds_nobody_up() {
    let more = [&HERE[..], &["--artifacts-stall-ms", "2000"]].concat();
    let (mut scheduler, agent) = cluster(&more).await;
    let origin = Origin::start().await;
    origin.serve("/w", b"weights", &[How::HoldAfter(2), How::Well]);
    let job = job(1, &origin.url("/w"), "w");
    scheduler.want(&job, vec![job.row(0)]);
    origin.until_asked("/w", 1).await;
    let fetcher = agent.fetchers()[0];
    let pid = rustix::process::Pid::from_raw(i32::try_from(fetcher).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let ended = scheduler.until_ended(job.id(0)).await;
    assert_eq!((ended.exit_code, &*agent.stdout(job.id(0))), (Some(0), "weights"), "{ended:?}");
    until_gone(fetcher).await;
}

/// Whoever the worker runs as reads what is kept, and changes nothing for the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_no_worker_changes_what_another_gets() {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || !text(Path::new("/etc/passwd")).contains("\nnobody:") {
        skip("root", "workers get another user only from an agent that is root");
        return;
    }
    let more = [&HERE[..], &["--worker-user", "nobody"]].concat();
    let (mut scheduler, agent) = cluster(&more).await;
    let origin = Origin::start().await;
    origin.serve("/w", b"weights", &[How::Well]);
    let script = "id -u; cat d/w; echo x > d/w; echo x > ../../../artifacts/y; \
                  ls ../../../artifacts; touch d/mine && echo ' mine'";
    let mut job = with_checksum(job(1, &origin.url("/w"), "d/w"), b"weights");
    job.task().command = ["sh", "-c", script].map(str::to_owned).into();
    scheduler.want(&job, vec![job.row(0), job.row(1)]);
    for instance in [0, 1] {
        let ended = scheduler.until_ended(job.id(instance)).await;
        let output = agent.stdout(job.id(instance));
        assert_eq!(output, "65534\nweights mine\n", "{ended:?}");
    }
    let file = fs::metadata(agent.task_dir(job.id(0)).join("d/w")).unwrap();
    assert_eq!((file.uid(), file.mode() & 0o777, file.nlink()), (0, 0o444, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f43_what_was_used_least_recently_makes_room() {
    let more = [&HERE[..], &["--artifacts-keep", "700000"]].concat();
    let (mut scheduler, agent) = cluster(&more).await;
    let (origin, body) = (Origin::start().await, weights());
    for number in 1..=4 {
        let path = format!("/{number}");
        origin.serve(&path, &body, &[How::Well]);
        let job = with_checksum(job(number, &origin.url(&path), "w"), &body);
        assert_eq!(run(&mut scheduler, &job).await.exit_code, Some(0));
    }
    let artifacts = agent.data().join("artifacts");
    let kept = || {
        let names = fs::read_dir(&artifacts).unwrap().flatten();
        let whole = names.filter(|file| file.path().extension().is_none());
        (whole.count() == 2).then_some(())
    };
    // It makes room by itself, after it has said that the file is there.
    within("room", async {
        while kept().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (number, count) in [(4, 1), (1, 2)] {
        let path = format!("/{number}");
        let job = with_checksum(job(number + 10, &origin.url(&path), "w"), &body);
        assert_eq!(run(&mut scheduler, &job).await.exit_code, Some(0));
        assert_eq!(origin.asked(&path).len(), count, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_with_files_runs_like_any_other() {
    let (mut scheduler, agent) = cluster(&HERE).await;
    let origin = Origin::start().await;
    origin.serve("/a", b"a", &[How::Well]);
    origin.serve("/b", b"b", &[How::Well]);
    let mut job = Job::of(1, JobKind::Service, &["sh", "-c", "cat a x/b > both; sleep 600"]);
    job.task().artifacts = [("/a", "a"), ("/b", "x/b")]
        .map(|(path, to)| Artifact { source: origin.url(path), checksum: None, to: to.to_owned() })
        .into();
    scheduler.want(&job, vec![job.row(0)]);
    scheduler.until_ready(job.id(0)).await;
    let dir = agent.task_dir(job.id(0));
    let both = || Some(text(&dir.join("both"))).filter(|both| both.len() == 2);
    assert_eq!(until_file("both", &dir, both).await, "ab");
    let said = &scheduler.history[&job.id(0)];
    assert!(said.iter().any(|state| fetching(state).is_some()), "{said:?}");
    scheduler.stop(job.id(0));
    let ended = scheduler.until_ended(job.id(0)).await;
    assert_eq!(ended.cause, i32::from(EndCause::Stopped), "{ended:?}");
}
