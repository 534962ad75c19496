//! What is refused, and in which words. Each file of `refusals/` holds cases: a
//! line `===== FILE [--set ARGUMENT…]`, the job file, `-----`, and the whole
//! message.

use std::fs;
use std::path::Path;

use berth_jobfile::{Input, Syntax, parse};
use berth_model::Name;

fn refusal(file_name: &str, bytes: &[u8], overrides: &[String]) -> String {
    let input = Input {
        file_name,
        syntax: Syntax::of_path(file_name.as_ref()),
        bytes,
        overrides,
        namespace: Name::new("default").expect("letters make a name"),
    };
    match parse(&input) {
        Ok(job) => panic!("accepted: {job:?}"),
        Err(refused) => refused.to_string(),
    }
}

/// Where the message of `case` differs, both.
fn difference(case: &str) -> Option<String> {
    let (header, rest) = case.split_once('\n').expect("a header");
    let (text, expected) = rest.split_once("\n-----\n").expect("a message");
    let mut words = header.split(' ').map(str::to_owned);
    let file_name = words.next().expect("a file name");
    let overrides: Vec<String> = words.collect();
    let text = format!("{text}\n");
    let found = refusal(&file_name, text.as_bytes(), &overrides);
    let expected = expected.trim_end_matches('\n');
    (found != expected).then(|| format!("for\n{text}found\n{found}\nexpected\n{expected}\n"))
}

#[test]
fn refusals_are_worded_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refusals");
    let mut cases = 0;
    let mut differences = String::new();
    for entry in fs::read_dir(folder).expect("the folder of refusals") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a file of cases");
        for case in text.split("\n===== ").skip(1) {
            cases += 1;
            differences.extend(difference(case));
        }
    }
    assert!(differences.is_empty(), "{differences}");
    assert!(cases > 90, "only {cases} cases were found");
}

#[test]
fn line_ends_and_marks_move_no_place() {
    let text = "\u{feff}name = \"a\"\r\nbad = 1\r\n[task]\r\ncommand = [\"x\"]\r\ncpu = -3\r\n";
    let found = refusal("job.toml", text.as_bytes(), &[]);
    assert!(
        found
            .starts_with("job.toml:2:1: bad: unknown key `bad` in a job\n  2 | bad = 1\n    | ^\n")
    );
    assert!(found.contains("\njob.toml:5:7: tasks.main.cpu: `-3` is negative;"), "{found}");
    let text = "\u{feff}name: a\r\nbad: 1\r\ntask:\r\n  command: [x]\r\n  cpu: -3\r\n";
    let found = refusal("job.yaml", text.as_bytes(), &[]);
    assert!(found.starts_with("job.yaml:2:1: bad: unknown key"), "{found}");
    assert!(found.contains("\n  5 |   cpu: -3\n    |        ^"), "{found}");
}

#[test]
fn what_is_no_text_is_refused_with_its_offset() {
    for (bytes, expected) in [
        (&b"\x7fELF\xff\x01"[..], "job.toml: byte 4 is not UTF-8; a job file is text in UTF-8"),
        (b"\xff\xfen\0", "job.toml: the file is UTF-16 (byte 0); save it as UTF-8"),
        (b"\xfe\xff\0n", "job.toml: the file is UTF-16 (byte 0); save it as UTF-8"),
        (b"name = \"a\0\"", "job.toml: there is a NUL at byte 9; a job file is text in UTF-8"),
        (b"", "job.toml: there is no job in the file"),
    ] {
        assert_eq!(refusal("job.toml", bytes, &[]), expected);
    }
}

#[test]
fn a_name_of_three_hundred_letters_is_shortened() {
    let text = format!("name = \"{}\"\n[task]\ncommand = [\"x\"]\n", "a".repeat(300));
    let expected = format!(
        "job.toml:1:8: name: `{}…` is not a name: a name has at most 63 characters, this one has 300",
        "a".repeat(48)
    );
    assert_eq!(refusal("job.toml", text.as_bytes(), &[]), expected);
}
