//! The table of what GPU errors ask for, from text.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use berth_supervise::gpu::{FaultTable, Remedy};

/// As Berth has it.
const USUAL: &str = include_str!("xids.toml");

/// The table, with the lines of this file before all others.
///
/// # Errors
/// The file cannot be read, or a line of it says nothing.
pub fn table(file: Option<&Path>) -> anyhow::Result<FaultTable> {
    let mut table = parse(USUAL).context("read the table of GPU errors")?;
    if let Some(file) = file {
        let more = std::fs::read_to_string(file)
            .map_err(anyhow::Error::from)
            .and_then(|text| parse(&text))
            .with_context(|| format!("read {} (agent.gpus.xids)", file.display()))?;
        table.0.extend(more.0);
    }
    Ok(table)
}

fn parse(text: &str) -> anyhow::Result<FaultTable> {
    let lines: BTreeMap<String, String> = toml::from_str(text)?;
    let read = |(number, name): (String, String)| {
        let xid = number
            .parse()
            .map_err(|_| anyhow::anyhow!("`{number}` is no number of an error (XID)"))?;
        let remedy = Remedy::named(&name).with_context(|| {
            format!("{number}: expected one of {}, found `{name}`", Remedy::names())
        })?;
        Ok((xid, remedy))
    };
    lines.into_iter().map(read).collect::<anyhow::Result<_>>().map(FaultTable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_nvidias_catalogue_and_our_own_experience_have_it() {
        let table = table(None).unwrap();
        for (xid, remedy) in [
            (13, Remedy::Application),
            (45, Remedy::Application),
            (48, Remedy::Reset),
            (63, Remedy::Note),
            (74, Remedy::Link),
            (79, Remedy::Reboot),
            (94, Remedy::Application),
            (95, Remedy::Reset),
            (109, Remedy::ResetIfRepeated),
            (154, Remedy::Ask),
            (99_999, Remedy::Suspect),
        ] {
            assert_eq!(table.remedy(xid), remedy, "{xid}");
        }
    }

    #[test]
    fn a_file_has_the_last_word_and_is_told_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("xids.toml");
        std::fs::write(&file, "79 = \"note\"\n4711 = \"reset\"\n").unwrap();
        let table = super::table(Some(&file)).unwrap();
        let remedies = [79, 4_711, 48].map(|xid| table.remedy(xid));
        assert_eq!(remedies, [Remedy::Note, Remedy::Reset, Remedy::Reset]);
        for (text, part) in [
            ("79 = \"panic\"", "79: expected one of note, application,"),
            ("many = \"note\"", "`many` is no number"),
            ("79 = 3", "expected a string"),
            ("79", "line 1"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = format!("{:#}", super::table(Some(&file)).unwrap_err());
            assert!(error.contains(part) && error.contains("xids.toml (agent."), "{error}");
        }
        let error = format!("{:#}", super::table(Some(&folder.path().join("x"))).unwrap_err());
        assert!(error.contains("No such file"), "{error}");
    }
}
