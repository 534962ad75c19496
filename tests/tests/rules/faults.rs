//! The tables of faults and of bad input tell the truth: what they name is there,
//! and what is named after one of their rows stands in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::source::{root, rust_files};

/// A catalogue with a table in the documents.
struct Catalogue {
    document: &'static str,
    letter: char,
    rows: &'static [std::ops::RangeInclusive<u32>],
    /// Every test that a row names must be named after it.
    strict: Strict,
}

#[derive(PartialEq, Eq)]
enum Strict {
    Yes,
    No,
}

const FAULTS: Catalogue = Catalogue {
    document: "docs/faults.md",
    letter: 'f',
    rows: &[1..=26, 30..=45, 50..=61, 70..=76],
    strict: Strict::Yes,
};
const BAD_INPUT: Catalogue = Catalogue {
    document: "docs/bad-input.md",
    letter: 'b',
    rows: &[25..=25, 41..=58, 60..=83],
    strict: Strict::No,
};

/// The rows that the name of a test begins with: `f01_f08_…`.
fn rows_of(name: &str, letter: char) -> BTreeSet<u32> {
    let numbers = name.split('_').map_while(|word| {
        let digits = word.strip_prefix(letter).filter(|digits| digits.len() == 2)?;
        digits.parse().ok()
    });
    numbers.collect()
}

/// Functions of this source.
fn functions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in rust_files() {
        for line in file.text.lines() {
            let line = line.trim_start();
            let line = line.strip_prefix("async ").unwrap_or(line);
            let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            found.extend(name.map(str::to_owned));
        }
    }
    found
}

impl Catalogue {
    /// The tests that each row of the table names.
    fn table(&self) -> BTreeMap<u32, BTreeSet<String>> {
        let text = fs::read_to_string(root().join(self.document)).unwrap();
        let begin = format!("| {}", self.letter.to_ascii_uppercase());
        let rows = text.lines().filter_map(|line| {
            let mut cells = line.strip_prefix(&begin)?.split('|');
            let row = cells.next()?.trim().parse().ok()?;
            let names = cells.flat_map(|cell| {
                let names = cell.split('`').skip(1).step_by(2);
                names.filter(|name| name.contains('_')).map(str::to_owned)
            });
            Some((row, names.collect()))
        });
        rows.collect()
    }

    fn wrong(&self) -> Vec<String> {
        let (table, functions) = (self.table(), functions());
        let all: Vec<u32> = self.rows.iter().cloned().flatten().collect();
        assert_eq!(table.keys().copied().collect::<Vec<_>>(), all, "{}", self.document);
        let show = |row: &u32| format!("{}{row:02}", self.letter.to_ascii_uppercase());
        let mut wrong = Vec::new();
        for (row, tests) in &table {
            for test in tests {
                let named_after = rows_of(test, self.letter);
                if !functions.contains(test) {
                    wrong.push(format!("{} names `{test}`, which is not there", show(row)));
                } else if self.strict == Strict::Yes && !named_after.contains(row) {
                    wrong.push(format!("`{test}` is not named after {}", show(row)));
                }
            }
        }
        for test in &functions {
            let missing = rows_of(test, self.letter)
                .into_iter()
                .filter(|row| table.get(row).is_none_or(|tests| !tests.contains(test)));
            wrong.extend(missing.map(|row| format!("{} does not name `{test}`", show(&row))));
        }
        wrong
    }
}

#[test]
fn every_fault_and_every_bad_input_has_a_row_that_tells_the_truth() {
    let wrong = [FAULTS.wrong(), BAD_INPUT.wrong()].concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_are_read_as_they_are_meant() {
    assert_eq!(rows_of("f04_a_leader", 'f'), BTreeSet::from([4]));
    assert_eq!(rows_of("f01_f08_both", 'f'), BTreeSet::from([1, 8]));
    assert_eq!(rows_of("b45_b46_both", 'b'), BTreeSet::from([45, 46]));
    for name in ["faults_of", "f4_x", "format_f04", "fold", "b45_x"] {
        assert!(rows_of(name, 'f').is_empty(), "{name}");
    }
}
