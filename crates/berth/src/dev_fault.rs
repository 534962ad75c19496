//! `berth dev fault`: a simulated GPU of a local cluster shows a fault, or a host is short of
//! something.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use berth_agent::{Pretence, pretend, pretend_host, pretend_nothing_of_host};

use crate::arguments::DevFaultArguments;
use crate::settings::BadSettings;

/// Where the local cluster keeps its data, unless an option says so.
const VARIABLE: &str = "BERTH_DEV_DATA_DIR";

pub fn run(arguments: &DevFaultArguments) -> anyhow::Result<ExitCode> {
    let told = arguments.data_dir.clone();
    let told = told.or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    let Some(cluster) = told else {
        let problem = format!("expected --data-dir, or {VARIABLE}: `berth dev` says which");
        return Err(BadSettings(problem).into());
    };
    let data_dir = cluster.join(&arguments.agent);
    if !data_dir.is_dir() {
        let (agent, cluster) = (&arguments.agent, cluster.display());
        let problem = format!("--agent: there is no agent {agent} in {cluster}");
        return Err(BadSettings(problem).into());
    }
    if arguments.clear_host {
        pretend_nothing_of_host(&data_dir)?;
    }
    if arguments.cpu.or(arguments.memory).is_some() {
        pretend_host(&data_dir, arguments.cpu, arguments.memory)?;
    }
    if let Some(gpu) = arguments.gpu {
        pretend(&data_dir, gpu, &pretences(arguments))
            .with_context(|| format!("GPU {gpu} of {}", arguments.agent))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn pretences(arguments: &DevFaultArguments) -> Vec<Pretence> {
    let fact = |text: String| Some(Pretence::Fact(text));
    let told = [
        arguments.clear.then_some(Pretence::Nothing),
        arguments.lost.then(|| Pretence::Fact("lost yes".to_owned())),
        arguments.back.then(|| Pretence::Fact("lost no".to_owned())),
        arguments.recovery.as_ref().and_then(|action| fact(format!("recovery {action}"))),
        arguments.remap.as_ref().and_then(|state| fact(format!("remap {state}"))),
        arguments.utilization.and_then(|percent| fact(format!("utilization {percent}"))),
        arguments.temperature.and_then(|celsius| fact(format!("temperature {celsius}"))),
        arguments.xid.map(Pretence::Xid),
    ];
    told.into_iter().flatten().collect()
}
