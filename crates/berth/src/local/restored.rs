//! A local cluster whose schedulers are gone, restored from a backup as an
//! operator does it: one new scheduler from the file, the others join it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::{Child, LocalCluster, LocalScheduler, Plan, scheduler_arguments};

impl LocalCluster {
    /// Starts the first scheduler of the next incarnation where the first of
    /// the old ones was; all of those must be dead. Their data is left alone.
    ///
    /// # Errors
    /// The backup is not restored, or the scheduler not started.
    pub fn restore(&mut self, backup: &Path, scheduler_id: u64) -> anyhow::Result<()> {
        let first = self.schedulers.first().context("no scheduler")?;
        let (grpc, http) = (first.grpc.clone(), first.http.clone());
        let Plan { program, data_dir, .. } = &self.plan;
        let data_dir = data_dir.join(format!("scheduler-{scheduler_id}"));
        let output = Command::new(program)
            .args(["operator", "snapshot", "restore"])
            .arg(backup)
            .arg("--data-dir")
            .arg(&data_dir)
            .args(["--advertise", &grpc, "--await-at-least", "1ms"])
            .output()
            .context("run the restore")?;
        if !output.status.success() {
            bail!("restore: {}", String::from_utf8_lossy(&output.stderr));
        }
        let arguments = scheduler_arguments(&self.plan, scheduler_id, &grpc, &http);
        let child = Child::spawn(program, &format!("scheduler {scheduler_id}"), &arguments)?;
        self.schedulers = vec![LocalScheduler { id: scheduler_id, grpc, http, data_dir, child }];
        self.last_number = scheduler_id;
        Ok(())
    }
}
