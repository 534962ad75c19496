//! Whatever the bytes, there is an answer, and every place in it is real.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use berth_jobfile::{Input, Place, Syntax, parse};
use berth_model::Name;
use proptest::prelude::*;

fn check(syntax: Syntax, bytes: &[u8], overrides: &[String]) {
    let namespace = Name::new("default").unwrap();
    let input = Input { file_name: "job", syntax, bytes, overrides, namespace };
    let Err(refused) = parse(&input) else { return };
    assert!(!refused.problems.is_empty());
    let lines = String::from_utf8_lossy(bytes).matches('\n').count() + 1;
    for problem in &refused.problems {
        assert!(!problem.message.is_empty());
        assert!(!problem.to_string().contains('\u{1b}'), "{problem:?}");
        if let Place::File { line, column, .. } = &problem.place {
            assert!((1..=lines).contains(line) && *column >= 1, "{problem:?}");
        }
        if let Some(excerpt) = &problem.excerpt {
            assert!(excerpt.caret_indent <= excerpt.line.chars().count(), "{problem:?}");
        }
    }
}

fn syntaxes() -> impl Strategy<Value = Syntax> {
    prop_oneof![Just(Syntax::Toml), Just(Syntax::Yaml), Just(Syntax::Json)]
}

/// Pieces of job files, which reach further than bytes by chance.
fn piece() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "name",
        "task",
        "tasks",
        "command",
        "gpu",
        "env",
        "health",
        "http",
        "port",
        "replicas",
        "count",
        "array",
        "min",
        "stop",
        "a",
        "\"x\"",
        "1",
        "-1",
        "1.5",
        "true",
        "null",
        "\"0-9\"",
        "[",
        "]",
        "{",
        "}",
        "=",
        ":",
        ",",
        ".",
        "\n",
        " ",
        "  ",
        "- ",
        "[task]\n",
        "[[",
        "]]",
        "command = [\"x\"]\n",
        "command: [x]\n",
        "name = \"a\"\n",
        "\"command\": [\"x\"]",
        "'",
        "\"",
        "\"\"\"",
        "|\n",
        "&a ",
        "*a",
        "!t ",
        "#",
        "\u{1b}",
        "ü",
        "\r",
        "\t",
        "---\n",
    ]);
    words.prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn bytes_by_chance(syntax in syntaxes(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(syntax, &bytes, &[]);
    }

    #[test]
    fn pieces_of_job_files(
        syntax in syntaxes(),
        pieces in prop::collection::vec(piece(), 0..40),
        overrides in prop::collection::vec("[a-z.=\\[\\]{}\"1]{0,12}", 0..3),
    ) {
        check(syntax, pieces.concat().as_bytes(), &overrides);
    }
}
