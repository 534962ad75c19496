//! The table of faults tells the truth: what it names is there, and what is
//! named after a fault stands in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::source::{root, rust_files};

const FAULTS: u32 = 26;

/// The faults that the name of a test begins with: `f01_f08_…`.
fn faults_of(name: &str) -> BTreeSet<u32> {
    let numbers = name.split('_').map_while(|word| {
        let digits = word.strip_prefix('f').filter(|digits| digits.len() == 2)?;
        digits.parse().ok()
    });
    numbers.collect()
}

/// Functions of tests that are named after faults.
fn named() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in rust_files() {
        for line in file.text.lines() {
            let line = line.trim_start();
            let line = line.strip_prefix("async ").unwrap_or(line);
            let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            found.extend(name.filter(|name| !faults_of(name).is_empty()).map(str::to_owned));
        }
    }
    found
}

/// The tests that each row of the table names, by fault.
fn table() -> BTreeMap<u32, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("docs/faults.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| F")?.split('|');
        let fault = cells.next()?.trim().parse().ok()?;
        let tests = cells.nth(1)?;
        let names = tests.split('`').skip(1).step_by(2).map(str::to_owned);
        Some((fault, names.collect()))
    });
    rows.collect()
}

#[test]
fn every_fault_has_a_row_and_every_row_tells_the_truth() {
    let (table, named) = (table(), named());
    let all: Vec<u32> = (1..=FAULTS).collect();
    assert_eq!(table.keys().copied().collect::<Vec<_>>(), all);
    let mut wrong = Vec::new();
    for (fault, tests) in &table {
        for test in tests {
            if !named.contains(test) {
                wrong.push(format!("F{fault:02} names `{test}`, which is not there"));
            } else if !faults_of(test).contains(fault) {
                wrong.push(format!("`{test}` is not named after F{fault:02}"));
            }
        }
    }
    for test in &named {
        let missing = faults_of(test)
            .into_iter()
            .filter(|fault| table.get(fault).is_none_or(|tests| !tests.contains(test)));
        wrong.extend(missing.map(|fault| format!("F{fault:02} does not name `{test}`")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_are_read_as_they_are_meant() {
    assert_eq!(faults_of("f04_a_leader"), BTreeSet::from([4]));
    assert_eq!(faults_of("f01_f08_both"), BTreeSet::from([1, 8]));
    for name in ["faults_of", "f4_x", "format_f04", "fold"] {
        assert!(faults_of(name).is_empty(), "{name}");
    }
}
