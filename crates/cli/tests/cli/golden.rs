//! Command lines against a scripted cluster, compared whole. Each file of
//! `golden/` holds cases: a line `$ berth …`, `exit N`, stdout, and behind a line
//! `stderr:` what was written there. `BLESS=1` writes the files anew; look at
//! what it changes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fake::{Behaviour, Fake};
use crate::terminal::{Outcome, Terminal};

/// The words of a command line; those in single quotes stay together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().unwrap().push(other),
        }
    }
    words
}

fn shown(line: &str, outcome: &Outcome, fake: &Fake, folder: &Path) -> String {
    let mut text = format!("$ berth {line}\nexit {}\n{}", outcome.status, outcome.stdout);
    if !outcome.stderr.is_empty() {
        text.push_str(&format!("stderr:\n{}", outcome.stderr));
    }
    text.replace(&fake.address, "SERVER").replace(&*folder.to_string_lossy(), "FOLDER")
}

#[tokio::test]
async fn command_lines_do_as_recorded() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let fake = Fake::start(Behaviour::Answers).await;
    let jobs = here.join("jobs");
    let mut terminal = Terminal::new(&fake.address);
    terminal.input = b"name = \"from-a-pipe\"\n[task]\ncommand = [\"true\"]\n".to_vec();
    let mut files: Vec<PathBuf> =
        fs::read_dir(here.join("golden")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut cases, mut differences) = (0, Vec::new());
    for file in files {
        let recorded = fs::read_to_string(&file).unwrap();
        let mut found = String::new();
        for case in format!("\n{recorded}").split("\n$ berth ").skip(1) {
            let line = case.lines().next().unwrap();
            let arguments: Vec<String> = words(line)
                .into_iter()
                .map(|word| word.replace("JOBS", &jobs.to_string_lossy()))
                .collect();
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let outcome = terminal.run(&arguments).await;
            found.push_str(&shown(line, &outcome, &fake, &jobs));
            found.push('\n');
            cases += 1;
        }
        let found = format!("{}\n", found.trim_end());
        if std::env::var_os("BLESS").is_some() {
            fs::write(&file, &found).unwrap();
        } else if found != recorded {
            differences.push(difference(&file, &recorded, &found));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(cases > 60, "only {cases} cases were found");
}

/// The first line that differs.
fn difference(file: &Path, recorded: &str, found: &str) -> String {
    let mut lines = recorded.lines().zip(found.lines()).enumerate();
    let differing = lines.find(|(_, (recorded, found))| recorded != found);
    let name = file.display();
    match differing {
        Some((index, (recorded, found))) => {
            format!("{name}:{}:\nrecorded: {recorded}\nfound:    {found}", index + 1)
        }
        None => format!("{name}: one is longer:\n{found}"),
    }
}
