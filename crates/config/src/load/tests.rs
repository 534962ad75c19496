use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::sections::{LogFormat, RaftProfile, RaftTimers};

/// A directory with `berth.toml` and perhaps more, and the other two layers.
struct Case {
    directory: tempfile::TempDir,
    variables: Vec<(OsString, OsString)>,
    flags: Flags,
}

impl Case {
    fn new(file: &str) -> Self {
        Self::with_bytes(file.as_bytes())
    }

    fn with_bytes(file: &[u8]) -> Self {
        let case = Self {
            directory: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
            flags: Flags::new(),
        };
        std::fs::write(case.path(), file).unwrap();
        case
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("berth.toml")
    }

    fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.directory.path().join(name), text).unwrap();
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, key: &str, flag: &str, text: &str) -> Self {
        self.flags.set(key, flag, text);
        self
    }

    fn load(&self) -> Result<Loaded, Box<Refused>> {
        load(&Inputs {
            file: FileChoice::Named(self.path()),
            environment: self.variables.clone(),
            flags: self.flags.clone(),
        })
    }

    fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// The problems, with the directory's path taken out.
    fn problems(&self) -> Vec<String> {
        let refused = self.load().expect_err("a refusal");
        let directory = format!("{}/", self.directory.path().display());
        let shown = refused.problems.iter();
        shown.map(|problem| problem.to_string().replace(&directory, "")).collect()
    }
}

/// Each complaint begins with the expected text, and there are no others.
fn check_problems(case: &Case, expected: &[&str]) {
    let problems = case.problems();
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, start) in problems.iter().zip(expected) {
        assert!(problem.starts_with(start), "{problem}\nis not\n{start}");
    }
}

fn row<'a>(rows: &'a [Row], key: &str) -> &'a Row {
    rows.iter().find(|row| row.key == key).unwrap()
}

#[test]
fn without_any_layer_the_defaults_stand() {
    let inputs = Inputs { file: FileChoice::None, environment: Vec::new(), flags: Flags::new() };
    let loaded = load(&inputs).unwrap();
    let config = loaded.config;
    assert_eq!(config.scheduler.listen.value.to_string(), "127.0.0.1:7070");
    assert_eq!(config.agent.ports.value.to_string(), "20000-29999");
    assert_eq!(config.client.namespace.value, "default");
    assert_eq!(config.scheduler.raft.timers(RaftProfile::Auto), RaftTimers::FAST);
    assert_eq!(loaded.warnings, Vec::new());
    assert!(loaded.rows.iter().all(|row| row.source == Source::Default));
    let keys: BTreeSet<&str> = loaded.rows.iter().map(|row| row.key.as_str()).collect();
    assert!(keys.contains("scheduler.disk.ballast") && keys.contains("log.level"));
    assert_eq!(config.scheduler.missing_to_start().len(), 1);
    assert_eq!(config.agent.missing_to_start().len(), 2);
}

#[test]
fn later_layers_win_and_sources_are_kept() {
    let case = Case::new(
        "[scheduler]\ndata_dir = \"/base\"\nhttp = \"127.0.0.1:1\"\n\
         [agent.labels]\nrack = \"a\"\nrow = \"1\"\n[log]\nlevel = \"warn\"\nformat = \"json\"\n",
    )
    .file("berth.prod.toml", "[scheduler]\nhttp = \"127.0.0.1:2\"\n[log]\nlevel = \"error\"\n")
    .variable("BERTH_ENV", "prod")
    .variable("BERTH_LOG__LEVEL", "debug")
    .variable("BERTH_AGENT__LABELS", "rack=b,colour=red")
    .flag("log.level", "--log-level", "trace")
    .flag("agent.labels", "--label", "rack=c")
    .flag("agent.labels", "--label", "shelf=7")
    .flag("scheduler.join", "--join", "a:1,b:2");
    let loaded = case.loaded();
    let shown = |key: &str| {
        let row = row(&loaded.rows, key);
        let directory = format!("{}/", case.directory.path().display());
        format!("{} ({})", row.value.clone().unwrap_or_default(), row.source)
            .replace(&directory, "")
    };
    for (key, expected) in [
        ("scheduler.data_dir", "/base (berth.toml:2:1)"),
        ("scheduler.http", "127.0.0.1:2 (berth.prod.toml:2:1)"),
        ("scheduler.join", "a:1,b:2 (flag --join)"),
        ("log.level", "trace (flag --log-level)"),
        ("log.format", "json (berth.toml:9:1)"),
        ("agent.labels.rack", "c (flag --label)"),
        ("agent.labels.row", "1 (berth.toml:6:1)"),
        ("agent.labels.colour", "red (environment BERTH_AGENT__LABELS)"),
        ("agent.labels.shelf", "7 (flag --label)"),
        ("agent.pool", "default (default)"),
    ] {
        assert_eq!(shown(key), expected, "{key}");
    }
    assert_eq!(loaded.config.log.format.value, LogFormat::Json);
    assert_eq!(loaded.config.agent.labels.len(), 4);
    assert_eq!(loaded.warnings, Vec::new());
}

#[test]
fn all_problems_are_listed_at_once() {
    let case = Case::new(
        "[scheduler]\nlisten = 7070\nprot = 3\nhttp = \"http//x\"\n\
         [scheduler.disk]\nsoft_free = \"80\"\n[agnet]\nname = \"x\"\n",
    )
    .variable("BERTH_AGENT__MEMORY", "12 Gib")
    .flag("agent.cpus", "--cpus", "1.5");
    check_problems(
        &case,
        &[
            "berth.toml:2:1: scheduler.listen: expected string, found integer `7070`",
            "berth.toml:4:1: scheduler.http: `http//x` has a `/`",
            "berth.toml:6:1: scheduler.disk.soft_free: `80` has no unit (did you mean `80GiB`?)",
            "berth.toml:7:2: unknown key `agnet`\n  hint: did you mean `agent`?",
            "berth.toml:3:1: unknown key `scheduler.prot`",
            "environment BERTH_AGENT__MEMORY: agent.memory: `12 Gib` has the unknown unit `Gib`",
            "flag --cpus: agent.cpus: `1.5` is a fraction (write `1500m`)",
        ],
    );
}

#[test]
fn unknown_keys_name_what_was_meant() {
    for (text, expected) in [
        ("[scheduler]\nhtpp = 1", "`scheduler.http`"),
        ("[scheduler.raft]\nheartbeet = \"1s\"", "`scheduler.raft.heartbeat`"),
        ("[scheduler]\nservers = []", "`agent.servers`"),
        ("level = \"info\"", "`log.level`"),
        ("[agent]\nlabel = {}", "`agent.labels`"),
        ("[raft]\nheartbeat = \"1s\"", "`scheduler.raft`"),
    ] {
        let problems = Case::new(text).problems();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].contains("unknown key"), "{problems:#?}");
        let hint = format!("did you mean {expected}?");
        assert!(problems[0].ends_with(&hint), "{problems:#?}");
    }
}

#[test]
fn a_key_given_twice_names_both_places() {
    check_problems(
        &Case::new("[log]\nlevel = \"info\"\n[agent]\nname = \"a\"\npool = \"b\"\nname = \"c\"\n"),
        &["berth.toml:6:1: `name` is given twice, first at berth.toml:4:1"],
    );
    check_problems(
        &Case::new("[agent]\nname = \"a\"\n[log]\nlevel = \"info\"\n[agent]\nname = \"b\"\n"),
        &[
            "berth.toml:5:2: `agent` is given twice, first at berth.toml:1:2",
            "berth.toml:6:1: `name` is given twice, first at berth.toml:2:1",
        ],
    );
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    check_problems(&Case::new(" \n"), &["berth.toml: is empty"]);
    check_problems(&Case::with_bytes(b"a = 1\n\xff"), &["berth.toml: is not UTF-8 at byte 6"]);
    check_problems(&Case::with_bytes(b"\xff\xfea\0=\0"), &["berth.toml: is not UTF-8 at byte 0"]);
    let long = format!("# {}\n", "x".repeat(1 << 20));
    check_problems(&Case::new(&long), &["berth.toml: is larger than 1048576 bytes"]);
    let problems = Case::new("[log]\nlevel = \n").problems();
    assert!(problems[0].starts_with("berth.toml:2:"), "{problems:#?}");
    assert!(problems[0].contains("\n  level = \n"), "{problems:#?}");
    assert!(!Case::new("a = \"\0\"\n").problems().is_empty());
    let nested = format!("a = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(!Case::new(&nested).problems().is_empty());
}

#[test]
fn byte_order_mark_and_carriage_returns_do_not_matter() {
    let loaded = Case::new("\u{feff}[log]\r\nlevel = \"warn\"\r\n").loaded();
    assert_eq!(loaded.config.log.level.value, "warn");
}

#[test]
fn a_missing_or_unreadable_file_is_told_apart() {
    let case = Case::new("");
    std::fs::remove_file(case.path()).unwrap();
    check_problems(&case, &["berth.toml: there is no such file"]);
    std::fs::create_dir(case.path()).unwrap();
    check_problems(&case, &["berth.toml: cannot be read: "]);
    std::fs::remove_dir(case.path()).unwrap();
    let optional = load(&Inputs {
        file: FileChoice::IfPresent(case.path()),
        environment: Vec::new(),
        flags: Flags::new(),
    });
    assert!(optional.is_ok());
}

#[test]
fn environment_names_cannot_lead_elsewhere() {
    check_problems(
        &Case::new("[log]").variable("BERTH_ENV", "../x"),
        &["environment BERTH_ENV: `../x` is no environment's name"],
    );
    let warnings = Case::new("[log]").variable("BERTH_ENV", "prod").loaded().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].message.contains("berth.prod.toml"), "{warnings:?}");
}

#[test]
fn misspelt_variables_are_warned_about_by_name() {
    for (name, hint) in [
        ("BERTH_SCHEDULER_DATA_DIR", "did you mean BERTH_SCHEDULER__DATA_DIR?"),
        ("BERTH_SCHEDULER__DATADIR", "did you mean BERTH_SCHEDULER__DATA_DIR?"),
        ("BERTH_SEVRER", "did you mean BERTH_SERVER?"),
        ("BERTH_QUITE_DIFFERENT", "levels are separated"),
    ] {
        let warnings = Case::new("[log]").variable(name, "x").loaded().warnings;
        assert_eq!(warnings.len(), 1, "{name}");
        let shown = warnings[0].to_string();
        assert!(shown.starts_with(&format!("environment {name}: ")), "{shown}");
        assert!(shown.contains(hint), "{shown}");
    }
}

#[test]
fn known_variables_are_not_warned_about() {
    let mut case = Case::new("[log]").variable("BERTH_PORT_HTTP", "1").variable("HOME", "/");
    for name in crate::environment::KNOWN_VARIABLES {
        let value = match name {
            "BERTH_SERVER" => "h:1",
            "BERTH_ENV" => "",
            _ => "name",
        };
        case = case.variable(name, value);
    }
    let loaded = case.loaded();
    assert_eq!(loaded.warnings, Vec::new());
    assert_eq!(loaded.config.client.namespace.value, "name");
    assert_eq!(loaded.config.client.server.source.to_string(), "environment BERTH_SERVER");
}

#[test]
fn two_variables_for_one_setting_must_agree() {
    let case = Case::new("[log]")
        .variable("BERTH_NAMESPACE", "a")
        .variable("BERTH_CLIENT__NAMESPACE", "b");
    check_problems(
        &case,
        &["environment BERTH_NAMESPACE: sets client.namespace, as does \
           environment BERTH_CLIENT__NAMESPACE with another value"],
    );
    let same = Case::new("[log]")
        .variable("BERTH_NAMESPACE", "a")
        .variable("BERTH_CLIENT__NAMESPACE", "a");
    assert_eq!(same.loaded().config.client.namespace.value, "a");
}

#[test]
fn relations_are_named_with_their_values() {
    for (text, expected) in [
        (
            "[scheduler.guards]\nmemory_high = 80",
            "berth.toml:2:1: scheduler.guards.memory_low (85) must be below \
             scheduler.guards.memory_high (80)",
        ),
        (
            "[scheduler.raft]\nheartbeat = \"200ms\"",
            "berth.toml:2:1: scheduler.raft.heartbeat (200ms) must be below \
             scheduler.raft.election_min (150ms); scheduler.raft.election_min is from: default",
        ),
        (
            "[scheduler.raft]\nelection_max = \"150ms\"\nprofile = \"fast\"",
            "berth.toml:2:1: scheduler.raft.election_min (150ms) must be below \
             scheduler.raft.election_max (150ms)",
        ),
        (
            "[scheduler.raft]\nelection_max = \"500ms\"\nprofile = \"slow-disk\"",
            "berth.toml:2:1: scheduler.raft.election_min (750ms) must be below \
             scheduler.raft.election_max (500ms)",
        ),
        (
            "[scheduler.raft]\nheartbeat = \"1s\"\nelection_min = \"3s\"\nelection_max = \"6s\"",
            "berth.toml:2:1: scheduler.raft.heartbeat (1s) must be at most 500ms: members that \
             are not heard for 1.5s count as silent",
        ),
        (
            "[scheduler]\nlearner = true",
            "berth.toml:2:1: scheduler.learner needs scheduler.join: only who joins can be a learner",
        ),
        (
            "[scheduler.disk]\nhard_free = \"2GiB\"",
            "berth.toml:2:1: scheduler.disk.hard_free (2GiB) must be below \
             scheduler.disk.soft_free (1GiB)",
        ),
        (
            "[scheduler.backup]\nkeep = 0",
            "berth.toml:2:1: scheduler.backup.keep (0) must be at least 1: without \
             scheduler.backup.folder no copies are made",
        ),
        (
            "[scheduler.lease]\nlost_after = \"1s\"",
            "berth.toml:2:1: scheduler.lease.suspect_after (6s) must be below \
             scheduler.lease.lost_after (1s)",
        ),
        (
            "[agent.disconnect]\nretry_min = \"5s\"",
            "berth.toml:2:1: agent.disconnect.retry_min (5s) must be below \
             agent.disconnect.retry_max (1s)",
        ),
        (
            "[scheduler]\nbootstrap = true\njoin = [\"a:1\"]",
            "berth.toml:2:1: scheduler.bootstrap and scheduler.join (berth.toml:3:1) exclude",
        ),
    ] {
        check_problems(&Case::new(text), &[expected]);
    }
}

#[test]
fn timers_in_order_pass_under_each_profile() {
    let text = "[scheduler.raft]\nheartbeat = \"200ms\"\n";
    let slow = Case::new(&format!("{text}profile = \"slow-disk\"")).loaded();
    let timers = slow.config.scheduler.raft.timers(RaftProfile::SlowDisk);
    assert_eq!(timers, RaftTimers { heartbeat_ms: 200, ..RaftTimers::SLOW_DISK });
    let whole = format!("{text}election_min = \"1s\"\nelection_max = \"2s\"");
    assert!(Case::new(&whole).load().is_ok());
}

#[test]
fn a_value_that_cannot_be_read_brings_no_second_complaint() {
    check_problems(
        &Case::new("[scheduler.disk]\nsoft_free = 5\nhard_free = \"2GiB\""),
        &["berth.toml:2:1: scheduler.disk.soft_free: expected string, found integer `5`"],
    );
}

#[test]
fn values_are_not_converted_silently() {
    for (text, expected) in [
        ("[agent]\ncpus = 4.0", "agent.cpus: expected integer or string, found float `4.0`"),
        ("[agent]\nservers = \"a:1\"", "agent.servers: expected array, found string `a:1`"),
        ("[agent]\nservers = [1]", "agent.servers: expected string, found integer `1`"),
        ("[agent]\nlabels = 3", "agent.labels: expected table, found integer `3`"),
        ("[agent]\nlabels = {a = 3}", "agent.labels: expected string, found integer `3`"),
        ("[agent]\nlabels = {\"a b\" = \"x\"}", "agent.labels: `a b=` has an impossible key"),
        (
            "[scheduler]\nbootstrap = \"true\"",
            "scheduler.bootstrap: expected boolean, found string",
        ),
        ("[scheduler]\nhttp = {}", "scheduler.http: expected string, found table"),
        ("scheduler = 3", "scheduler: expected table, found integer `3`"),
        ("[log]\nlevel = 2020-01-01", "log.level: expected string, found date"),
        ("[log]\nformat = \"jason\"", "log.format: `jason` is unknown (did you mean `json`?)"),
        ("[log]\nlevel = \"info,x=loud\"", "log.level: `info,x=loud` has the unknown level `loud`"),
        ("[agent]\nname = \"../x\"", "agent.name: `../x` is not a name"),
        (
            "[scheduler.raft]\nsnapshot_keep_entries = -1",
            "scheduler.raft.snapshot_keep_entries: `-1` is out of range",
        ),
        (
            "[scheduler.guards]\ncpu_high = 101",
            "scheduler.guards.cpu_high: `101` is out of range; expected a whole number from 1 to 100",
        ),
        (
            "[scheduler.raft]\nheartbeat = \"2h\"",
            "scheduler.raft.heartbeat: `2h` is out of range; expected a duration",
        ),
        (
            "[agent.gpus]\nmax_tasks_per_gpu = 0",
            "agent.gpus.max_tasks_per_gpu: `0` is out of range; expected a whole number from 1 to 64",
        ),
        (
            "[agent.gpus]\nmax_tasks_per_gpu = 65",
            "agent.gpus.max_tasks_per_gpu: `65` is out of range",
        ),
        ("[agent]\ncpus = 99999999999999999999999999999999999999999", "agent.cpus"),
    ] {
        let problems = Case::new(text).problems();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].contains(expected), "{}\nhas no\n{expected}", problems[0]);
    }
}

#[test]
fn a_bad_value_is_told_even_where_another_layer_replaces_it() {
    let case = Case::new("[log]\nformat = \"xml\"").flag("log.format", "--log-format", "json");
    check_problems(&case, &["berth.toml:2:1: log.format: `xml` is unknown"]);
}

#[test]
fn a_refusal_still_shows_the_rows() {
    let refused = Case::new("[log]\nlevel = \"debug\"\nformat = 1").load().expect_err("refused");
    assert_eq!(row(&refused.rows, "log.level").value.as_deref(), Some("debug"));
    assert_eq!(row(&refused.rows, "log.format").value.as_deref(), Some("text"));
}

#[test]
fn values_that_are_not_text_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let mut case = Case::new("[log]");
    let value = OsString::from_vec(vec![0xff]);
    case.variables.push(("BERTH_LOG__LEVEL".into(), value));
    check_problems(&case, &["environment BERTH_LOG__LEVEL: the value is not UTF-8"]);
}

/// Pieces of which files are made, well and badly.
fn fragments() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[scheduler]\n".to_owned()),
        Just("[agent.labels]\n".to_owned()),
        Just("[[log]]\n".to_owned()),
        Just("level = \"info\"\n".to_owned()),
        Just("a.b.c = {x = [1, 2.5, inf]}\n".to_owned()),
        Just("\"ä\" = '''\n".to_owned()),
        Just("labels = 1979-05-27T07:32:00Z\r\n".to_owned()),
        Just("0x_ = \u{1f600} ".to_owned()),
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(text in fragments()) {
        let (layer, problems) = file::parse(Path::new("berth.toml"), text.as_bytes());
        let mut reader = Reader::new(&layer);
        Config::read(&mut reader);
        reader.check_unknown();
        // Something was read or something was wrong, unless all of it is comment.
        let silent = layer.is_empty() && problems.is_empty();
        prop_assert!(!silent || text.contains('#'), "{text:?}");
        for problem in problems {
            prop_assert!(problem.place.starts_with("berth.toml"), "{problem}");
        }
    }

    #[test]
    fn no_value_makes_the_parsers_panic(text in any::<String>()) {
        let mut flags = Flags::new();
        let nothing = Layer::new();
        let mut known = Reader::new(&nothing);
        Config::read(&mut known);
        for key in &known.keys {
            flags.set(key, "--flag", text.clone());
        }
        let loaded = load(&Inputs { file: FileChoice::None, environment: Vec::new(), flags });
        let complaints = loaded.err().map_or(0, |refused| refused.problems.len());
        // No text is a duration, an address and a size at once.
        prop_assert!(complaints > 3, "{complaints}");
    }
}
