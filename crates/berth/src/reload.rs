//! SIGHUP: a daemon's settings are read again. How much the log says changes at
//! once; of everything else that differs it is said that it waits for a restart.
//! Settings that are wrong change nothing. Credentials need no signal: their files
//! are watched.

use std::collections::BTreeMap;

use anyhow::Context as _;
use berth_config::{Inputs, Loaded, Row};
use berth_telemetry::LogFilter;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::settings::log_filter;

/// The one setting that needs no restart.
const LOG_LEVEL: &str = "log.level";

/// What a daemon runs with, and where that came from.
pub struct Reload {
    /// `scheduler` or `agent`; the settings of others are not this process's.
    pub section: &'static str,
    pub inputs: Inputs,
    pub in_force: Vec<Row>,
    pub filter: LogFilter,
}

impl Reload {
    /// From now on SIGHUP no longer ends the process, as long as the runtime lives.
    pub fn listen(self, runtime: &Runtime) -> anyhow::Result<()> {
        let _entered = runtime.enter();
        let hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
        runtime.spawn(self.hear(hangup));
        Ok(())
    }

    async fn hear(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            let inputs = self.inputs.clone();
            match tokio::task::spawn_blocking(move || berth_config::load(&inputs)).await {
                Ok(Ok(loaded)) => self.take_over(&loaded),
                Ok(Err(refused)) => {
                    for problem in &refused.problems {
                        warn!(%problem, "settings not read again");
                    }
                }
                Err(error) => warn!(%error, "settings not read again"),
            }
        }
    }

    fn take_over(&mut self, loaded: &Loaded) {
        for warning in &loaded.warnings {
            warn!(%warning, "odd setting");
        }
        let differing = differing(self.section, &self.in_force, &loaded.rows);
        if differing.is_empty() {
            info!("settings read again: nothing differs");
        }
        for Difference { key, in_force, wanted } in differing {
            let level = &loaded.config.log.level.value;
            let set = key == LOG_LEVEL && self.filter.set(&log_filter(level)).is_ok();
            if set {
                // Said under the new level, so that it may not be heard.
                info!(key, from = in_force, to = wanted, "setting changed");
                self.in_force.retain(|row| row.key != LOG_LEVEL);
                self.in_force.extend(loaded.rows.iter().find(|row| row.key == LOG_LEVEL).cloned());
            } else {
                warn!(key, in_force, wanted, "setting needs a restart");
            }
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
struct Difference {
    key: String,
    in_force: String,
    wanted: String,
}

/// What is wanted otherwise than it is, by key.
fn differing(section: &str, in_force: &[Row], wanted: &[Row]) -> Vec<Difference> {
    let concerns = |key: &str| {
        let own = key.split('.').next();
        own == Some(section) || own == Some("log")
    };
    let value = |row: &Row| row.value.clone().unwrap_or_else(|| "unset".to_owned());
    let in_force: BTreeMap<&str, String> =
        in_force.iter().map(|row| (row.key.as_str(), value(row))).collect();
    let differs = wanted.iter().filter(|row| concerns(&row.key)).filter_map(|row| {
        let (in_force, wanted) = (in_force.get(row.key.as_str())?, value(row));
        (*in_force != wanted).then(|| Difference {
            key: row.key.clone(),
            in_force: in_force.clone(),
            wanted,
        })
    });
    differs.collect()
}

#[cfg(test)]
mod tests {
    use berth_config::Source;

    use super::*;

    #[test]
    fn only_what_concerns_the_daemon_and_differs_is_named() {
        let rows = |values: [(&str, Option<&str>); 4]| {
            values.map(|(key, value)| Row {
                key: key.to_owned(),
                value: value.map(str::to_owned),
                source: Source::Default,
            })
        };
        let in_force = rows([
            ("agent.pool", Some("a")),
            ("log.level", Some("info")),
            ("scheduler.http", Some("127.0.0.1:7071")),
            ("scheduler.tls_dir", None),
        ]);
        let wanted = rows([
            ("agent.pool", Some("b")),
            ("log.level", Some("debug")),
            ("scheduler.http", Some("127.0.0.1:7071")),
            ("scheduler.tls_dir", Some("/tls")),
        ]);
        let found = differing("scheduler", &in_force, &wanted);
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.key.as_str(), one.in_force.as_str(), one.wanted.as_str()))
            .collect();
        assert_eq!(found, [("log.level", "info", "debug"), ("scheduler.tls_dir", "unset", "/tls")]);
        assert_eq!(differing("scheduler", &wanted, &wanted), []);
    }
}
