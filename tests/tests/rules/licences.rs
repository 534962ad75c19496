//! Where outside code comes from, and on which terms.

use std::collections::BTreeSet;

use crate::graph::metadata;
use crate::source::root;

/// Terms that go together with this project's own (Apache-2.0) in one binary.
/// MPL-2.0 asks for changes of its own files only, and none is changed here.
const LICENCES: [&str; 9] = [
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// The public registry, by the name that every lock file has for it.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Libraries that must not come in at all, with the reason.
const BANNED: [(&str, &str); 4] = [
    ("openssl-sys", "TLS is rustls: one binary without a system library"),
    ("native-tls", "TLS is rustls: one binary without a system library"),
    ("protoc-bin-vendored", "protox compiles the .proto files"),
    ("serde_yaml", "is no longer maintained"),
];

/// Whether an SPDX expression can be met with these licences alone.
fn is_met(expression: &str) -> bool {
    // Old manifests write `A/B` where SPDX has `A OR B`.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let met = any_of(&mut rest);
    met && rest.is_empty()
}

fn any_of(words: &mut &[&str]) -> bool {
    let mut met = all_of(words);
    while words.first() == Some(&"OR") {
        *words = &words[1..];
        met = all_of(words) || met;
    }
    met
}

fn all_of(words: &mut &[&str]) -> bool {
    let mut met = one(words);
    while words.first() == Some(&"AND") {
        *words = &words[1..];
        met = one(words) && met;
    }
    met
}

fn one(words: &mut &[&str]) -> bool {
    let Some((first, rest)) = words.split_first() else { return false };
    *words = rest;
    if *first == "(" {
        let met = any_of(words);
        let closed = words.first() == Some(&")");
        *words = words.get(1..).unwrap_or_default();
        return met && closed;
    }
    // An exception only gives further rights.
    if words.first() == Some(&"WITH") {
        *words = words.get(2..).unwrap_or_default();
    }
    let name = first.strip_suffix('+').unwrap_or(first);
    LICENCES.contains(&name)
}

#[test]
fn every_outside_crate_comes_on_terms_that_fit() {
    // Everything that a build here compiles has been fetched by that build.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = metadata(&["--locked", "--filter-platform", &target]);
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "only {} packages", packages.len());
    let mut found = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        match package["license"].as_str() {
            Some(expression) if is_met(expression) => {}
            Some(expression) => found.push(format!("{name}: {expression}")),
            None => found.push(format!("{name}: no licence")),
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn outside_code_comes_from_the_public_registry_with_a_checksum() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let lock: toml::Table = lock.parse().unwrap();
    let mut own = BTreeSet::new();
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let Some(source) = package.get("source").and_then(toml::Value::as_str) else {
            own.insert(name);
            continue;
        };
        assert_eq!(source, REGISTRY, "{name} comes from elsewhere");
        assert!(package.get("checksum").is_some(), "{name} has no checksum");
        let ban = BANNED.iter().find(|(banned, _)| *banned == name);
        assert_eq!(ban, None, "{name} must not come in");
    }
    // What has no source is a folder: only those of this workspace may be.
    let folders = crate::graph::Graph::read().folders;
    let members: BTreeSet<&str> = folders.keys().map(String::as_str).collect();
    assert_eq!(own, members);
}

#[test]
fn expressions_are_understood() {
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("MIT/Apache-2.0", true),
        ("GPL-2.0 / GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
        ("(MIT OR Apache-2.0) AND AGPL-3.0", false),
        ("GPL-2.0 OR MIT AND Zlib", true),
        ("MIT AND Zlib OR GPL-2.0", true),
        ("GPL-2.0 OR MIT AND GPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("GPL-2.0 WITH Classpath-exception-2.0", false),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("MPL-2.0+", true),
        ("", false),
        ("(MIT", false),
        ("MIT)", false),
        ("MIT MIT", false),
    ] {
        assert_eq!(is_met(expression), expected, "{expression}");
    }
}
