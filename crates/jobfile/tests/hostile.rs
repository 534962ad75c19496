//! Inputs made to hurt: no panic, no memory or time in proportion to what they
//! pretend to be. One test, since it looks at its own process.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;

use berth_jobfile::{Input, Syntax, parse};
use berth_model::Name;
use rustix::time::{ClockId, clock_gettime};

/// Processor time of this thread, which other tests on the machine do not touch.
fn cpu_ms() -> i64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

fn memory_peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

const MEBIBYTE: usize = 1 << 20;
/// The bound for users is 100 ms of an optimised build, which does the same work
/// in about a tenth of the time.
const CPU_MS_MAX: i64 = if cfg!(debug_assertions) { 1_000 } else { 100 };
const MEMORY_KIB_MAX: u64 = 50 << 10;

fn repeat_to_limit(unit: &str) -> String {
    unit.repeat((MEBIBYTE - 64) / unit.len())
}

fn numbered(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

fn inputs() -> Vec<(&'static str, Syntax, String)> {
    use Syntax::{Json, Toml, Yaml};
    vec![
        ("header of many parts", Toml, format!("[{}a]\n", repeat_to_limit("a."))),
        ("key of many parts", Toml, format!("{}a = 1\n", repeat_to_limit("a."))),
        ("deep list", Toml, format!("a = {}", repeat_to_limit("["))),
        ("deep inline table", Toml, format!("a = {}", repeat_to_limit("{a="))),
        ("one key many times", Toml, "a=1\n".repeat(12_000)),
        ("one header many times", Toml, "[a]\n".repeat(30_000)),
        ("one list of tables", Toml, "[[a]]\n".repeat(30_000)),
        ("many keys", Toml, numbered(40_000, |index| format!("a{index}=1\n"))),
        ("long string", Toml, format!("name = \"{}\"\n", "x".repeat(MEBIBYTE - 100))),
        ("ten mebibytes", Toml, format!("name = \"{}\"\n", "x".repeat(10 * MEBIBYTE))),
        ("quotes", Toml, repeat_to_limit("\"")),
        ("long string without an end", Toml, format!("\"\"\"{}", repeat_to_limit("x\n"))),
        ("deep flow list", Yaml, repeat_to_limit("[")),
        ("deep flow table", Yaml, repeat_to_limit("{a: ")),
        ("deep block list", Yaml, repeat_to_limit("- ")),
        ("deep block table", Yaml, numbered(1_000, |depth| format!("{}a:\n", " ".repeat(depth)))),
        ("question marks", Yaml, repeat_to_limit("? ")),
        ("string without an end", Yaml, format!("\"{}", repeat_to_limit("x"))),
        ("one key many times", Yaml, repeat_to_limit("a: 1\n")),
        ("many keys", Yaml, numbered(40_000, |index| format!("a{index}: 1\n"))),
        (
            "anchors that stand for a billion values",
            Yaml,
            format!(
                "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{}",
                numbered(9, |index| {
                    let part = vec![format!("*a{index}"); 10].join(",");
                    format!("a{}: &a{} [{part}]\n", index + 1, index + 1)
                })
            ),
        ),
        ("deep list", Json, repeat_to_limit("[")),
        ("deep table", Json, repeat_to_limit("{\"a\":")),
        ("one key many times", Json, format!("{{{}\"b\":1}}", repeat_to_limit("\"a\":1,"))),
        ("many keys", Json, format!("{{{}\"b\":1}}", numbered(40_000, |i| format!("\"a{i}\":1,")))),
        ("string without an end", Json, format!("{{\"a\": \"{}", repeat_to_limit("\\\""))),
    ]
}

#[test]
fn hostile_files_are_refused_in_little_time_and_memory() {
    let inputs = inputs();
    for (what, syntax, text) in &inputs {
        let (cpu_before, memory_before) = (cpu_ms(), memory_peak_kib());
        let input = Input {
            file_name: "job",
            syntax: *syntax,
            bytes: text.as_bytes(),
            overrides: &[],
            namespace: Name::new("default").expect("letters make a name"),
        };
        let refused = parse(&input).expect_err(what);
        let shown = refused.to_string();
        let (cpu, memory) = (cpu_ms() - cpu_before, memory_peak_kib() - memory_before);
        assert!(cpu <= CPU_MS_MAX, "{what} in {syntax:?}: {cpu} ms");
        assert!(memory <= MEMORY_KIB_MAX, "{what} in {syntax:?}: {memory} KiB");
        assert!(refused.problems.len() <= 50 && shown.len() < 50_000, "{what} in {syntax:?}");
    }
}
