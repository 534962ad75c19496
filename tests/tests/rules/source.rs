//! The files of the working tree.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the repository, by its path from the root.
pub struct SourceFile {
    pub path: String,
    pub text: String,
}

pub fn root() -> PathBuf {
    // The folder of this package lies in the root.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

pub fn architecture() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap()
}

/// Every file with one of these endings, in order of its path.
pub fn files(endings: &[&str]) -> Vec<SourceFile> {
    let mut found = Vec::new();
    collect(&root(), endings, &mut found);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    // A walk that looks in the wrong place finds nothing wrong.
    assert!(found.len() > 10, "only {} files found", found.len());
    found
}

pub fn rust_files() -> Vec<SourceFile> {
    files(&[".rs"])
}

fn collect(folder: &Path, endings: &[&str], found: &mut Vec<SourceFile>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        // What is built, and what a tool keeps beside the source.
        if name == "target" || name.starts_with('.') {
            continue;
        }
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            collect(&entry.path(), endings, found);
        } else if kind.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
            let path = entry.path();
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            found.push(SourceFile { path, text });
        }
    }
}

impl SourceFile {
    /// Whether the whole file is a test or is only used by tests.
    pub fn is_test(&self) -> bool {
        let mut folders = self.path.split('/').rev();
        let name = folders.next().unwrap();
        // The package of this name is tests by half: its library is an
        // instrument that has tests of its own.
        let in_tests = self.path.split('/').skip(1).any(|folder| folder == "tests");
        in_tests || name == "tests.rs" || name.ends_with("_test.rs")
    }

    /// The lines before the module of tests at the end of the file, if it has one.
    pub fn lines_without_tests(&self) -> Vec<&str> {
        let lines: Vec<&str> = self.text.lines().collect();
        let begins = |pair: &[&str]| {
            pair[0].trim() == "#[cfg(test)]"
                && pair[1].starts_with("mod ")
                && pair[1].trim_end().ends_with('{')
        };
        let end = lines.windows(2).position(begins).unwrap_or(lines.len());
        lines[..end].to_vec()
    }
}
