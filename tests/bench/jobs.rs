//! The jobs that are submitted, and reading them back.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_client::Client;
use berth_proto::v1;

/// A batch job of one task with a core for each instance.
pub fn batch(name: &str, count: u32, command: Vec<String>) -> v1::JobSpec {
    let task = v1::TaskSpec {
        name: "main".to_owned(),
        command,
        count,
        cpu_milli: 1_000,
        memory_bytes: 16 << 20,
        stop: Some(v1::StopPolicy { signal: v1::Signal::Term.into(), grace_ms: 10_000 }),
        restart: Some(v1::RestartPolicy {
            attempts: Some(0),
            backoff_ms: 1_000,
            backoff_max_ms: 60_000,
        }),
        ..Default::default()
    };
    v1::JobSpec {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        kind: v1::JobKind::Batch.into(),
        priority: 50,
        policy: v1::Policy::LeastLoaded.into(),
        tasks: vec![task],
        max_disconnect_ms: 300_000,
        ..Default::default()
    }
}

/// A job that no node can hold, so that its submit is all that happens. Name,
/// key and command are its own.
pub fn waiting(name: &str, count: u32) -> v1::JobSpec {
    let command = ["/bin/true", "--of", name].map(str::to_owned).to_vec();
    let labels = BTreeMap::from([("bench".to_owned(), "no-such-node".to_owned())]);
    let constraints = v1::Constraints { labels, ..Default::default() };
    v1::JobSpec { constraints: Some(constraints), ..batch(name, count, command) }
}

/// The submit of a job; its name is its key.
pub fn submit(spec: v1::JobSpec) -> v1::SubmitRequest {
    let key = spec.name.clone();
    v1::SubmitRequest { spec: Some(spec), key, if_version: None, strict: false }
}

/// A linearizable read of a job.
pub fn get(job: u64) -> v1::GetJobRequest {
    let job = v1::JobRef { namespace: "default".to_owned(), job: job.to_string() };
    v1::GetJobRequest { job: Some(job), consistency: 0, with_spec: false }
}

/// Instances of a job that succeeded.
pub fn succeeded(job: &v1::Job) -> u64 {
    job.tasks.iter().map(|task| task.succeeded).sum()
}

/// Asks again and again until the job has finished or `limit` has passed.
pub async fn finished(client: &Client, job: u64, limit: Duration) -> anyhow::Result<v1::Job> {
    let waited = async {
        let mut pause = tokio::time::interval(Duration::from_millis(10));
        loop {
            pause.tick().await;
            // No answer is no news: a leader may just have been killed.
            if let Ok(shown) = client.get_job(get(job)).await
                && shown.finished_at_ms.is_some()
            {
                return shown;
            }
        }
    };
    match tokio::time::timeout(limit, waited).await {
        Ok(shown) => Ok(shown),
        Err(_) => anyhow::bail!("job {job} did not finish in {} s", limit.as_secs()),
    }
}
