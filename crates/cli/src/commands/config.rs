//! `berth config check|show`: what is in force, and why.

use serde_json::{Value, json};

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, Table};
use crate::session::{Session, faults};

pub(crate) fn check(session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    berth_config::load(&session.inputs).map_err(|refused| faults(&refused.problems))?;
    let answer = Answer {
        json: json!({ "valid": true }),
        pieces: vec![Piece::Text("the configuration is valid".to_owned())],
        ids: Vec::new(),
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}

pub(crate) fn show(session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let loaded =
        berth_config::load(&session.inputs).map_err(|refused| faults(&refused.problems))?;
    let mut table = Table::new(&["KEY", "VALUE", "SOURCE"], &[]);
    for row in &loaded.rows {
        let value = row.value.clone().unwrap_or_default();
        table.row(vec![row.key.clone(), value, row.source.to_string()]);
    }
    let json: Value = loaded
        .rows
        .iter()
        .map(|row| json!({ "key": row.key, "value": row.value, "source": row.source.to_string() }))
        .collect();
    let ids = loaded.rows.iter().map(|row| row.key.clone()).collect();
    session.print(&Answer { json, pieces: vec![Piece::Table(table)], ids })?;
    Ok(Exit::Done)
}
