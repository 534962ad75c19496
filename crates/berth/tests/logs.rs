//! The output of attempts: followed over restarts of worker and agent, asked for by number, and
//! what is left of it when its node is gone.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use berth::local::LocalCluster;
use berth_client::{Client, ClientError, LogStream};
use berth_model::{DurationMs, JobSpec};
use berth_proto::v1;

fn request(job: u64, attempt: u32) -> v1::LogsRequest {
    let job = support::reference(&job.to_string());
    v1::LogsRequest { job, attempt, ..v1::LogsRequest::default() }
}

/// Reads on until all that was read is this.
async fn until_read(logs: &mut LogStream, so_far: &mut String, expected: &str) {
    while so_far != expected {
        assert!(expected.starts_with(so_far.as_str()), "{so_far:?}");
        let chunk = logs.next().await.unwrap();
        let chunk = chunk.unwrap_or_else(|| panic!("it ended after {so_far:?}"));
        so_far.push_str(std::str::from_utf8(&chunk.data).unwrap());
    }
}

/// All of it, and the last remark.
async fn whole(client: &Client, request: v1::LogsRequest) -> Result<(String, String), ClientError> {
    let mut logs = client.logs(request);
    let (mut text, mut note) = (String::new(), String::new());
    while let Some(chunk) = logs.next().await? {
        text.push_str(std::str::from_utf8(&chunk.data).unwrap());
        note = chunk.note;
    }
    Ok((text, note))
}

#[tokio::test]
async fn logs_go_on_over_restarts_and_last_words_outlive_their_node() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let client = cluster.client();
    // Either attempt ends when its file is there.
    let script = format!(
        "echo attempt $BERTH_ATTEMPT; echo words of $BERTH_ATTEMPT >&2
         until [ -e {}/end.$BERTH_ATTEMPT ]; do sleep 0.05; done
         test $BERTH_ATTEMPT = 2 || exit 3; echo more",
        folder.path().display()
    );
    let end = |attempt: u32| std::fs::write(folder.path().join(format!("end.{attempt}")), "");
    let mut spec = JobSpec {
        max_disconnect: DurationMs::from_secs(120),
        ..support::batch("speaker", 1, support::shell(&script))
    };
    spec.tasks[0].restart.attempts = Some(3);
    spec.tasks[0].restart.backoff = DurationMs(100);
    let job = support::submit(&client, &spec).await;
    support::job_when(&client, job, "runs", |job| job.tasks[0].running == 1).await;

    let follow = v1::LogsRequest { follow: true, ..request(job, 0) };
    let (mut logs, mut read) = (client.logs(follow), String::new());
    until_read(&mut logs, &mut read, "attempt 1\n").await;
    end(1).unwrap();
    until_read(&mut logs, &mut read, "attempt 1\nattempt 2\n").await;

    // Its agent is away for a while, and nothing comes twice.
    cluster.agents[0].child.kill().await.unwrap();
    end(2).unwrap();
    cluster.restart_agent("node-1").unwrap();
    until_read(&mut logs, &mut read, "attempt 1\nattempt 2\nmore\n").await;
    assert!(logs.next().await.unwrap().is_none(), "there is no third attempt");

    let stderr = |attempt| v1::LogsRequest { stderr: true, ..request(job, attempt) };
    for (request, expected) in [
        (request(job, 1), "attempt 1\n"),
        (request(job, 2), "attempt 2\nmore\n"),
        // The newest, also when all of it has ended.
        (request(job, 0), "attempt 2\nmore\n"),
        (stderr(1), "words of 1\n"),
        (stderr(2), "words of 2\n"),
    ] {
        assert_eq!(whole(&client, request).await.unwrap().0, expected);
    }

    cluster.agents[0].child.kill().await.unwrap();
    support::until("the cluster to miss the agent", || async {
        (support::node_state(&client, "node-1").await? == "disconnected").then_some(())
    })
    .await;
    let (words, note) = whole(&client, stderr(1)).await.unwrap();
    assert_eq!(words, "words of 1\n");
    assert!(note.contains("node-1") && note.contains("not connected"), "{note}");
    for (request, hint) in [(request(job, 1), "--stderr"), (stderr(2), "its logs are there")] {
        let Err(ClientError::Refused(refusal)) = whole(&client, request).await else {
            panic!("nothing of it is left");
        };
        assert!(refusal.message.contains(hint), "{}", refusal.message);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn logs_go_on_elsewhere_when_a_node_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 1, 2)).await.unwrap();
    let client = cluster.client();
    let script = format!(
        "echo attempt $BERTH_ATTEMPT
         until [ -e {}/end.$BERTH_ATTEMPT ]; do sleep 0.05; done; echo more",
        folder.path().display()
    );
    let job = support::submit(&client, &support::batch("walker", 1, support::shell(&script))).await;
    support::job_when(&client, job, "runs", |job| job.tasks[0].running == 1).await;
    let follow = v1::LogsRequest { follow: true, ..request(job, 0) };
    let (mut logs, mut read) = (client.logs(follow), String::new());
    let first = v1::LogsRequest { follow: true, ..request(job, 1) };
    let (mut of_first, mut read_of_first) = (client.logs(first), String::new());
    until_read(&mut logs, &mut read, "attempt 1\n").await;
    until_read(&mut of_first, &mut read_of_first, "attempt 1\n").await;
    let node = support::allocations(&client, job).await.remove(0).node;
    let agent = cluster.agents.iter_mut().find(|agent| agent.name == node).unwrap();
    agent.child.kill().await.unwrap();

    std::fs::write(folder.path().join("end.2"), "").unwrap();
    until_read(&mut logs, &mut read, "attempt 1\nattempt 2\nmore\n").await;
    assert!(logs.next().await.unwrap().is_none(), "there is no third attempt");
    // Whoever asked for one attempt is told that there is no more of it.
    let gone = of_first.next().await.unwrap_err();
    assert!(gone.to_string().contains(&node), "{gone}");
    cluster.restart_agent(&node).unwrap();
    cluster.stop().await;
}
