//! `berth submit -- CMD…`: submits a command line as a batch job.

use std::collections::BTreeMap;

use berth_client::new_key;
use berth_model::{
    CpuMilli, Gang, GpuRequest, JobKind, JobSpec, LeftOut, MemoryBytes, Name, PolicyOrigin,
    TaskSpec,
};
use berth_proto::v1::{SubmitReply, SubmitRequest};
use clap::Args;
use serde_json::json;

use super::run::HowArgs;
use crate::error::{CliError, Exit};
use crate::interrupt::Doing;
use crate::output::{Answer, Piece, job_json};
use crate::session::Session;
use crate::values;
use crate::wait::{self, Target};

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// GPUs of each instance: a number, a part of one such as 0.5, or MODEL:COUNT such as A100:2
    #[arg(long, value_name = "N", value_parser = values::gpus, allow_hyphen_values = true)]
    pub gpus: Option<GpuRequest>,

    /// Instances
    #[arg(long, value_name = "N", value_parser = values::count, default_value = "1", allow_hyphen_values = true)]
    pub count: u32,

    /// All instances start together or not at all, and fail together
    #[arg(long)]
    pub gang: bool,

    /// CPU of each instance: cores, or thousandths such as 500m
    #[arg(long, value_name = "CORES", value_parser = values::cpu_milli, allow_hyphen_values = true)]
    pub cpus: Option<u64>,

    /// Memory of each instance, such as 4GiB
    #[arg(long, value_name = "SIZE", value_parser = values::size_bytes, allow_hyphen_values = true)]
    pub memory: Option<u64>,

    /// Name of the job; the program's unless given
    #[arg(long, value_name = "NAME", value_parser = values::name, allow_hyphen_values = true)]
    pub name: Option<Name>,

    #[command(flatten)]
    pub how: HowArgs,

    /// Program and arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// A job on its way to the cluster.
pub(crate) struct Submission {
    pub(crate) spec: JobSpec,
    pub(crate) how: HowArgs,
    pub(crate) if_version: Option<u32>,
}

pub(crate) async fn run(args: SubmitArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let spec = spec(&args, session)?;
    send(Submission { spec, how: args.how, if_version: None }, session).await
}

/// The job that a command line means. Of the caller's environment it takes the
/// working directory and PATH alone: the rest may hold secrets.
fn spec(args: &SubmitArgs, session: &Session<'_, '_>) -> Result<JobSpec, CliError> {
    let task_name = Name::new("main").expect("letters make a name");
    let mut task = TaskSpec::new(task_name, JobKind::Batch, args.command.clone());
    task.count = args.count;
    task.gang = args.gang.then(Gang::default);
    task.gpu = args.gpus.clone();
    task.left_out = LeftOut { cpu: args.cpus.is_none(), memory: args.memory.is_none() };
    task.cpu = args.cpus.map_or(task.cpu, CpuMilli);
    task.memory = args.memory.map_or(task.memory, MemoryBytes);
    if let Some(path) = session.host.variable("PATH") {
        task.env = BTreeMap::from([("PATH".to_owned(), path.to_owned())]);
    }
    let directory = session.host.working_directory.as_deref();
    let directory = directory.and_then(|path| path.to_str()).ok_or_else(|| {
        CliError::bad_input("the working directory is gone, or its path is not UTF-8")
    })?;
    task.workdir = Some(directory.to_owned());
    let program = args.command.first().map_or("", String::as_str);
    let name = args.name.clone().unwrap_or_else(|| name_of(program));
    let spec = JobSpec::new(name, session.namespace.clone(), JobKind::Batch, vec![task]);
    Ok(JobSpec { policy_origin: PolicyOrigin::LeftOut, ..spec })
}

/// A name like the program's: what no name may hold becomes a `-`.
fn name_of(program: &str) -> Name {
    let file = program.rsplit('/').next().unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let text: String = file.chars().map(|c| if allowed(c) { c } else { '-' }).take(63).collect();
    let text = text.trim_start_matches(['.', '_', '-']);
    Name::new(text).unwrap_or_else(|_| Name::new("job").expect("letters make a name"))
}

/// Submits, and waits if that is wanted.
pub(crate) async fn send(
    submission: Submission,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let Submission { spec, how, if_version } = submission;
    let key = how.key.unwrap_or_else(new_key);
    let request = SubmitRequest {
        spec: Some(berth_wire::spec::job_spec_to_proto(&spec)),
        key: key.clone(),
        if_version,
        strict: how.strict,
    };
    session.interrupt.set(Doing::Submitting { key });
    let reply = session.client.submit(request).await?;
    session.interrupt.set(Doing::Looking);
    for warning in &reply.warnings {
        session.note(&format!("warning: {warning}"));
    }
    if !how.wait {
        let answer = answer(&reply, &spec);
        session.print(&answer)?;
        return Ok(Exit::Done);
    }
    session.interrupt.set(Doing::Waiting { job_id: reply.job_id });
    let target = match spec.kind {
        JobKind::Batch => Target::Succeeded,
        JobKind::Service | JobKind::Daemon => Target::Running,
    };
    let job = wait::until(session, &reply.job_id.to_string(), target).await?;
    let answer = Answer {
        json: job_json(&job, &[]),
        pieces: vec![Piece::Text(format!("job {} ({}) {}", job.id, job.name, job.state))],
        ids: vec![job.id.to_string()],
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}

fn answer(reply: &SubmitReply, spec: &JobSpec) -> Answer {
    let (id, name, version) = (reply.job_id, &spec.name, reply.version);
    let text = if reply.existed {
        format!("job {id} ({name}) existed, version {version}")
    } else {
        format!("job {id} ({name}) submitted, version {version}")
    };
    Answer {
        json: json!({
            "id": id,
            "name": name.as_str(),
            "namespace": spec.namespace.as_str(),
            "version": version,
            "existed": reply.existed,
            "warnings": reply.warnings,
        }),
        pieces: vec![Piece::Text(text)],
        ids: vec![id.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn a_job_is_named_after_its_program() {
        for (program, name) in [
            ("/usr/bin/python3.12", "python3.12"),
            ("./train model.sh", "train-model.sh"),
            ("-rf", "rf"),
            ("", "job"),
            ("/", "job"),
            ("7", "job"),
            ("ünï", "n-"),
        ] {
            assert_eq!(name_of(program).as_str(), name, "{program}");
        }
        assert_eq!(name_of(&"x".repeat(300)).as_str().len(), 63);
    }
}
