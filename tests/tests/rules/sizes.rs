//! Files stay short enough to be read in one go. Functions are clippy's
//! business (`too_many_lines`).

use crate::source::{SourceFile, rust_files};

/// Lines of a file without its tests.
const LINES_MAX: usize = 500;
/// From here on a file is on the list of those to watch.
const LINES_SOFT_MAX: usize = 300;

fn too_long(files: &[SourceFile]) -> Vec<String> {
    let counted = files.iter().map(|file| (file, file.lines_without_tests().len()));
    counted
        .filter(|(file, lines)| *lines > LINES_MAX && !file.is_test())
        .map(|(file, lines)| format!("{} has {lines} lines without its tests", file.path))
        .collect()
}

#[test]
fn no_file_is_over_the_limit() {
    let files = rust_files();
    for file in &files {
        let lines = file.lines_without_tests().len();
        if lines > LINES_SOFT_MAX {
            println!("long: {} has {lines} lines, better at most {LINES_SOFT_MAX}", file.path);
        }
    }
    let found = too_long(&files);
    assert!(found.is_empty(), "over {LINES_MAX} lines:\n{}", found.join("\n"));
}

#[test]
fn lines_are_counted_up_to_the_tests() {
    let code = |lines: usize| "fn f() {}\n".repeat(lines);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", code(600));
    let elsewhere = "#[cfg(test)]\nmod tests;\n";
    for (path, text, expected) in [
        ("a/src/x.rs", code(500), 0),
        ("a/src/x.rs", code(501), 1),
        ("a/src/x.rs", code(500) + &tests, 0),
        ("a/src/x.rs", code(501) + &tests, 1),
        // Tests in a file of their own do not hide what comes after them.
        ("a/src/x.rs", elsewhere.to_owned() + &code(501), 1),
        ("a/src/x/tests.rs", code(501), 0),
        ("a/tests/x.rs", code(501), 0),
        ("tests/src/x.rs", code(501), 1),
    ] {
        let file = SourceFile { path: path.to_owned(), text };
        let lines = file.text.lines().count();
        assert_eq!(too_long(&[file]).len(), expected, "{path} of {lines} lines");
    }
}
