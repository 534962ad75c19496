//! Libraries that only one crate may know, and what a crate must never bring
//! along, as two tables of ARCHITECTURE.md say.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::Graph;
use crate::source::architecture;
use crate::table::{names, rows};

const FENCED: [&str; 2] = ["library", "only in"];
const NEVER: [&str; 3] = ["crate", "never imports", "how far"];
/// Libraries that must stand in the first table, so that a row cannot just go.
const FENCED_ALWAYS: [&str; 4] = ["nvml-wrapper", "openraft", "openraft-rt-sim", "sled"];
/// Where the crates lie that decide purely.
const CORE: &str = "crates/core/";
/// What those may not bring along, whatever their rows say.
const NEVER_IN_CORE: [&str; 4] = ["tokio", "tonic", "prost", "tracing"];
/// What those may not import themselves. Ordered maps bring it along for
/// themselves, behind features that are off.
const NO_CHANCE_IN_CORE: [&str; 3] = ["fastrand", "getrandom", "rand"];

fn broken_fences(document: &str, graph: &Graph) -> Vec<String> {
    let rows = match rows(document, &FENCED) {
        Ok(rows) => rows,
        Err(error) => return vec![error],
    };
    let mut owners = BTreeMap::new();
    for row in &rows {
        for library in names(&row[0]) {
            owners.insert(library, names(&row[1]));
        }
    }
    let missing = FENCED_ALWAYS.iter().filter(|library| !owners.contains_key(**library));
    let mut found: Vec<String> = missing.map(|library| format!("{library} has no fence")).collect();
    for (name, edges) in graph.direct.iter().chain(&graph.in_tests) {
        for library in edges {
            if owners.get(library).is_some_and(|owners| !owners.contains(name)) {
                found.push(format!("{name} imports {library}"));
            }
        }
    }
    found
}

fn forbidden_imports(document: &str, graph: &Graph) -> Vec<String> {
    let rows = match rows(document, &NEVER) {
        Ok(rows) => rows,
        Err(error) => return vec![error],
    };
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for row in &rows {
        for name in names(&row[0]) {
            let Some(direct) = graph.direct.get(&name) else {
                found.push(format!("{name} has a row and is no crate"));
                continue;
            };
            let brought = match row[2].as_str() {
                "directly" => direct.clone(),
                "even indirectly" => graph.reach(&name),
                other => {
                    found.push(format!("{name}: `{other}` is no distance"));
                    continue;
                }
            };
            let never = names(&row[1]);
            found.extend(
                never
                    .iter()
                    .filter(|library| brought.contains(*library))
                    .map(|library| format!("{name} imports {library}")),
            );
            seen.insert(name);
        }
    }
    let core = graph.folders.iter().filter(|(_, folder)| folder.starts_with(CORE));
    for (name, _) in core {
        if !seen.contains(name) {
            found.push(format!("{name} lies in core and has no row"));
        }
        let (direct, reached) = (&graph.direct[name], graph.reach(name));
        let brought = NEVER_IN_CORE.iter().filter(|library| reached.contains(**library));
        let imported = NO_CHANCE_IN_CORE.iter().filter(|library| direct.contains(**library));
        let wrong = brought.chain(imported);
        found.extend(wrong.map(|library| format!("{name} lies in core and reaches {library}")));
    }
    found
}

#[test]
fn fenced_libraries_stay_behind_their_fences() {
    assert_eq!(broken_fences(&architecture(), &Graph::read()), [""; 0]);
}

#[test]
fn no_crate_brings_along_what_it_must_not_know() {
    assert_eq!(forbidden_imports(&architecture(), &Graph::read()), [""; 0]);
}

#[test]
fn a_graph_with_one_wrong_edge_is_found_out() {
    let (document, graph) = (architecture(), Graph::read());
    let with = |from: &str, to: &str| {
        let mut doctored = graph.clone();
        doctored.direct.get_mut(from).unwrap().insert(to.to_owned());
        doctored
    };
    for (from, to) in
        [("berth-scheduler", "openraft"), ("berth-agent", "sled"), ("berth-cli", "nvml-wrapper")]
    {
        let found = broken_fences(&document, &with(from, to));
        assert_eq!(found, [format!("{from} imports {to}")]);
    }
    // A dependency of a test would make openraft known there, too.
    let mut in_tests = graph.clone();
    in_tests.in_tests.get_mut("berth-scheduler").unwrap().insert("openraft".to_owned());
    assert_eq!(broken_fences(&document, &in_tests), ["berth-scheduler imports openraft"]);

    // Not by its own name, only through another.
    let mut doctored = with("berth-model", "between");
    doctored.outside.insert("between".to_owned(), BTreeSet::from(["tokio".to_owned()]));
    let found = forbidden_imports(&document, &doctored);
    assert!(found.contains(&"berth-model imports tokio".to_owned()), "{found:?}");
    let above = "berth-state lies in core and reaches tokio".to_owned();
    assert!(found.contains(&above), "through the model: {found:?}");
    let found = forbidden_imports(&document, &with("berth-state", "rand"));
    assert_eq!(found, ["berth-state lies in core and reaches rand"]);
    let found = forbidden_imports(&document, &with("berth-reconcile", "berth-supervise"));
    assert_eq!(found, ["berth-reconcile imports berth-supervise"]);
    let found = forbidden_imports(&document, &with("berth-agent", "berth-scheduler"));
    assert!(found.contains(&"berth-agent imports berth-scheduler".to_owned()), "{found:?}");
}

#[test]
fn a_fence_that_is_taken_down_is_found_out() {
    let (document, graph) = (architecture(), Graph::read());
    let without = |word: &str| {
        let keep = |line: &&str| !(line.starts_with('|') && line.contains(word));
        document.lines().filter(keep).collect::<Vec<&str>>().join("\n")
    };
    let found = broken_fences(&without("sled"), &graph);
    assert!(found.contains(&"sled has no fence".to_owned()), "{found:?}");
    let found = forbidden_imports(&without("`berth-model`"), &graph);
    assert!(found.contains(&"berth-model lies in core and has no row".to_owned()), "{found:?}");
}
