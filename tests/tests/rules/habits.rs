//! What no source and no test may contain, whatever the occasion.

use crate::source::{SourceFile, files, rust_files};

/// A text that must not occur, written here in two halves, since this file is
/// read as well.
struct Forbidden {
    halves: (&'static str, &'static str),
    why: &'static str,
}

const ANYWHERE: [Forbidden; 4] = [
    Forbidden { halves: ("#[ig", "nore"), why: "a test runs, or says why it cannot" },
    Forbidden { halves: ("to", "do!("), why: "what is not built is refused, not a panic" },
    Forbidden { halves: ("unimple", "mented!("), why: "what is not built is refused, not a panic" },
    Forbidden { halves: ("[al", "low("), why: "`expect` notices when its reason is gone" },
];

const IN_TESTS: [Forbidden; 2] = [
    Forbidden { halves: ("thread::", "sleep"), why: "a test awaits a condition, not a time" },
    Forbidden { halves: ("time::", "sleep"), why: "a test awaits a condition, not a time" },
];

/// Folders of the machine that something was written on.
const PATHS: [Forbidden; 2] = [
    Forbidden { halves: ("/wo", "rk/"), why: "that folder is on one machine only" },
    Forbidden { halves: ("/ro", "ot/"), why: "that folder is on one machine only" },
];

impl Forbidden {
    /// Whether it occurs in `line` as words of its own.
    fn occurs(&self, line: &str) -> bool {
        let text = format!("{}{}", self.halves.0, self.halves.1);
        line.match_indices(&text).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            before.is_none_or(|letter| !letter.is_alphanumeric() && letter != '_')
        })
    }
}

fn complaints(file: &SourceFile, forbidden: &[Forbidden], from_line: usize) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate().skip(from_line) {
        // One module that several test binaries share has parts that one of
        // them does not use, and no lint level fits them all but this one.
        let shared = file.path.contains("/tests/")
            && file.path.ends_with("/mod.rs")
            && line.contains("(dead_code, reason = ");
        let wrong = forbidden.iter().filter(|forbidden| forbidden.occurs(line) && !shared);
        found.extend(wrong.map(|forbidden| {
            format!("{}:{}: {} ({})", file.path, number + 1, line.trim(), forbidden.why)
        }));
    }
    found
}

fn complaints_about_tests(file: &SourceFile) -> Vec<String> {
    let begin = if file.is_test() { 0 } else { file.lines_without_tests().len() };
    complaints(file, &IN_TESTS, begin)
}

#[test]
fn nothing_is_ignored_allowed_or_left_to_do() {
    let found: Vec<String> =
        rust_files().iter().flat_map(|file| complaints(file, &ANYWHERE, 0)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_test_sleeps() {
    let found: Vec<String> = rust_files().iter().flat_map(complaints_about_tests).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    let endings = [".rs", ".toml", ".md", ".proto", ".py", ".sh", ".yml", ".yaml", ".json"];
    let found: Vec<String> =
        files(&endings).iter().flat_map(|file| complaints(file, &PATHS, 0)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn what_is_forbidden_is_found() {
    let file = |path: &str, text: String| SourceFile { path: path.to_owned(), text };
    for forbidden in &ANYWHERE {
        let text = format!("fn f() {{}}\n{}{}", forbidden.halves.0, forbidden.halves.1);
        assert_eq!(complaints(&file("a/src/x.rs", text), &ANYWHERE, 0).len(), 1);
    }
    for forbidden in &PATHS {
        let text = format!("\"{}{}x\"", forbidden.halves.0, forbidden.halves.1);
        assert_eq!(complaints(&file("README.md", text), &PATHS, 0).len(), 1);
    }
    for forbidden in &IN_TESTS {
        let call = format!("std::{}{}(x);\n", forbidden.halves.0, forbidden.halves.1);
        let inline = format!("{call}#[cfg(test)]\nmod tests {{\n{call}}}\n");
        for (path, text, expected) in [
            ("a/src/x.rs", call.clone(), 0),
            ("a/src/x.rs", inline, 1),
            ("a/tests/x.rs", call.clone(), 1),
            ("a/src/x/tests.rs", call.clone(), 1),
        ] {
            let found = complaints_about_tests(&file(path, text.clone()));
            assert_eq!(found.len(), expected, "{path}: {text}");
        }
    }
    // Virtual time is what a test should use.
    let (module, function) = IN_TESTS[1].halves;
    let text = format!("SimRun{module}{function}(x);");
    assert!(complaints_about_tests(&file("a/tests/x.rs", text)).is_empty());
}
