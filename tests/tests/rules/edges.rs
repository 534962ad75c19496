//! Every dependency between crates of this workspace is in the table of
//! ARCHITECTURE.md, and every row of that table is true.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::Graph;
use crate::source::architecture;
use crate::table::{names, rows};

const HEADINGS: [&str; 3] = ["crate", "may import", "its tests also"];

/// Every difference between the table and the manifests.
fn differences(document: &str, graph: &Graph) -> Vec<String> {
    let rows = match rows(document, &HEADINGS) {
        Ok(rows) => rows,
        Err(error) => return vec![error],
    };
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for row in &rows {
        let name = names(&row[0]).concat();
        if !seen.insert(name.clone()) {
            found.push(format!("{name} has two rows"));
        }
        if !graph.folders.contains_key(&name) {
            found.push(format!("{name} has a row and is no crate"));
            continue;
        }
        let sides = [("imports", &row[1], &graph.direct), ("tests with", &row[2], &graph.in_tests)];
        for (verb, cell, edges) in sides {
            let allowed: BTreeSet<String> = names(cell).into_iter().collect();
            let real = within_workspace(graph, &edges[&name]);
            for extra in real.difference(&allowed) {
                found.push(format!("{name} {verb} {extra}, which its row does not allow"));
            }
            for missing in allowed.difference(&real) {
                found.push(format!("{name} has {missing} in its row and {verb} it nowhere"));
            }
        }
    }
    let without_row = graph.folders.keys().filter(|name| !seen.contains(*name));
    found.extend(without_row.map(|name| format!("{name} has no row")));
    found
}

fn within_workspace(graph: &Graph, edges: &BTreeSet<String>) -> BTreeSet<String> {
    edges.iter().filter(|name| graph.folders.contains_key(*name)).cloned().collect()
}

#[test]
fn every_edge_is_in_the_table_and_every_row_is_true() {
    let found = differences(&architecture(), &Graph::read());
    assert!(found.is_empty(), "ARCHITECTURE.md and the manifests differ:\n{}", found.join("\n"));
}

#[test]
fn only_tests_depend_on_the_package_of_tests() {
    let graph = Graph::read();
    for (name, edges) in &graph.direct {
        assert!(!edges.contains("berth-tests"), "{name} is built with the tests' instruments");
    }
}

/// The graph has no circle: an arrow up would close one.
#[test]
fn arrows_point_down_only() {
    let graph = Graph::read();
    for name in graph.folders.keys() {
        assert!(!graph.reach(name).contains(name), "{name} depends on itself");
    }
}

fn small_graph() -> Graph {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let map = |rows: &[(&str, &[&str])]| -> BTreeMap<String, BTreeSet<String>> {
        rows.iter().map(|(name, edges)| ((*name).to_owned(), set(edges))).collect()
    };
    Graph {
        folders: ["a", "b", "c"].map(|name| (name.to_owned(), name.to_owned())).into(),
        direct: map(&[("a", &["b", "serde"]), ("b", &[]), ("c", &["a", "b"])]),
        in_tests: map(&[("a", &["c", "proptest"]), ("b", &[]), ("c", &[])]),
        outside: BTreeMap::new(),
    }
}

#[test]
fn a_doctored_table_is_found_out() {
    let head = "| crate | may import | its tests also |\n| --- | --- | --- |\n";
    let good = ["| a | b | c |", "| b | nothing | nothing |", "| `c` | `a`, `b` | nothing |"];
    let table = |rows: &[&str]| format!("{head}{}\n", rows.join("\n"));
    let graph = small_graph();
    assert_eq!(differences(&table(&good), &graph), [""; 0]);
    for (doctored, expected) in [
        (table(&good[..2]), "c has no row"),
        (table(&[good[0], good[1], good[2], good[1]]), "b has two rows"),
        (table(&[good[0], good[1], good[2], "| d | a | nothing |"]), "d has a row and is no crate"),
        (
            table(&["| a | nothing | c |", good[1], good[2]]),
            "a imports b, which its row does not allow",
        ),
        (
            table(&["| a | b | nothing |", good[1], good[2]]),
            "a tests with c, which its row does not allow",
        ),
        (
            table(&[good[0], "| b | a | nothing |", good[2]]),
            "b has a in its row and imports it nowhere",
        ),
        (
            table(&[good[0], "| b | nothing | a |", good[2]]),
            "b has a in its row and tests with it nowhere",
        ),
        ("no table at all".to_owned(), &format!("no table with the headings {HEADINGS:?}")),
    ] {
        assert_eq!(differences(&doctored, &graph), [expected], "{doctored}");
    }
}

#[test]
fn one_row_less_or_one_edge_more_in_the_true_table_is_found_out() {
    let (document, graph) = (architecture(), Graph::read());
    for name in graph.folders.keys() {
        let start = format!("| `{name}` |");
        let is_row = |line: &str| line.starts_with(&start) && line.matches('|').count() == 4;
        let without: Vec<&str> = document.lines().filter(|line| !is_row(line)).collect();
        let found = differences(&without.join("\n"), &graph);
        assert_eq!(found, [format!("{name} has no row")], "the row of {name} removed");
    }
    let mut invented = graph.clone();
    let edges = invented.direct.get_mut("berth-model").unwrap();
    edges.insert("berth-raft".to_owned());
    assert_eq!(
        differences(&document, &invented),
        ["berth-model imports berth-raft, which its row does not allow"]
    );
}
