//! Who depends on whom: the crates of this workspace as their manifests say,
//! outside crates as the lock file says. Neither needs a network or a build.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::source::root;

/// Dependencies of every crate by name.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The crates of this workspace, with the folder of each from the root.
    pub folders: BTreeMap<String, String>,
    /// What a crate of this workspace names in its manifest, to build and run.
    pub direct: BTreeMap<String, BTreeSet<String>>,
    /// The same, for its tests, examples and benchmarks only.
    pub in_tests: BTreeMap<String, BTreeSet<String>>,
    /// What an outside crate depends on. Versions and optional features are
    /// taken together, so this may show too much and never too little.
    pub outside: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    pub fn read() -> Graph {
        let mut graph = Graph::default();
        graph.add_workspace(&metadata(&["--no-deps"]));
        let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
        graph.add_lock(&lock);
        graph
    }

    fn add_workspace(&mut self, metadata: &Value) {
        for package in metadata["packages"].as_array().unwrap() {
            let name = package["name"].as_str().unwrap().to_owned();
            let manifest = package["manifest_path"].as_str().unwrap();
            let folder = manifest.strip_suffix("/Cargo.toml").unwrap();
            let folder = folder.strip_prefix(root().to_str().unwrap()).unwrap();
            self.folders.insert(name.clone(), folder.trim_start_matches('/').to_owned());
            self.direct.entry(name.clone()).or_default();
            self.in_tests.entry(name.clone()).or_default();
            for dependency in package["dependencies"].as_array().unwrap() {
                let kind = dependency["kind"].as_str();
                let table = if kind == Some("dev") { &mut self.in_tests } else { &mut self.direct };
                let to = dependency["name"].as_str().unwrap().to_owned();
                table.get_mut(&name).unwrap().insert(to);
            }
        }
    }

    fn add_lock(&mut self, lock: &str) {
        let lock: toml::Table = lock.parse().unwrap();
        for package in lock["package"].as_array().unwrap() {
            let name = package["name"].as_str().unwrap();
            if self.folders.contains_key(name) {
                continue;
            }
            let row = self.outside.entry(name.to_owned()).or_default();
            let listed = package.get("dependencies").and_then(toml::Value::as_array);
            for dependency in listed.into_iter().flatten() {
                // A name, and where that is not enough a version after it.
                let text = dependency.as_str().unwrap();
                row.insert(text.split(' ').next().unwrap().to_owned());
            }
        }
    }

    /// Everything that building `from` brings along, itself left out.
    pub fn reach(&self, from: &str) -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(name) = open.pop() {
            for to in self.direct.get(&name).or(self.outside.get(&name)).into_iter().flatten() {
                if reached.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        reached
    }
}

/// What cargo says about this workspace.
pub fn metadata(arguments: &[&str]) -> Value {
    // Set while cargo runs a test; a test that is run by hand takes the first.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.current_dir(root()).args(["metadata", "--format-version", "1"]).args(arguments);
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata {arguments:?}: {complaint}");
    serde_json::from_slice(&output.stdout).unwrap()
}
