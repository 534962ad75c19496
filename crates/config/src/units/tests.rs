use super::*;

fn check<T: std::fmt::Debug + PartialEq>(
    parse: impl Fn(&str) -> Result<T, UnitError>,
    good: Vec<(&str, T)>,
    bad: &[(&str, &str)],
) {
    for (text, value) in good {
        assert_eq!(parse(text).unwrap(), value, "{text}");
    }
    for (text, part) in bad {
        let message = parse(text).expect_err(text).to_string();
        assert!(message.contains(part), "{text}: {message}");
        assert!(message.contains("; expected "), "{text}: {message}");
    }
}

#[test]
fn durations() {
    check(
        duration_ms,
        vec![
            ("0ms", 0),
            ("250ms", 250),
            ("90s", 90_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("3650d", DURATION_MS_MAX),
        ],
        &[
            ("5", "has no unit (did you mean `5s`?)"),
            ("-5m", "is negative"),
            ("+5m", "has a sign"),
            ("1e9h", "unknown unit `e9h`"),
            ("1.5s", "is not a whole number"),
            ("5 m", "write `5m`"),
            ("5sec", "unknown unit `sec`"),
            ("5S", "did you mean `5s`?"),
            ("3651d", "is out of range"),
            ("99999999999999999999s", "is out of range"),
            ("18446744073709551615d", "is out of range"),
            ("", "is empty"),
            ("s", "does not start with a number"),
            (" 5s", "has spaces around it"),
            ("٣s", "does not start with a number"),
        ],
    );
}

#[test]
fn bounded_durations_name_their_bounds() {
    let error = duration_ms_between("8d", 1_000, 604_800_000).unwrap_err();
    assert!(error.to_string().contains("from 1s to 7d"), "{error}");
    assert_eq!(duration_ms_between("1s", 1_000, 604_800_000), Ok(1_000));
    assert!(duration_ms_between("999ms", 1_000, 604_800_000).is_err());
}

#[test]
fn sizes() {
    check(
        size_bytes,
        vec![("0B", 0), ("32GiB", 32 << 30), ("80GB", 80_000_000_000), ("1PiB", SIZE_BYTES_MAX)],
        &[
            ("80", "has no unit (did you mean `80GiB`?)"),
            ("80 Gib", "unknown unit `Gib` (did you mean `80GiB`?)"),
            ("80 GiB", "write `80GiB`"),
            ("-1GiB", "is negative"),
            ("9999999TiB", "is out of range"),
            ("2PiB", "is out of range"),
            ("1.5GiB", "is not a whole number"),
            ("80gb", "did you mean `80GB`?"),
            ("80Gi", "did you mean"),
        ],
    );
}

#[test]
fn shown_values_are_read_back() {
    for value in [0, 1, 999, 1_000, 1_024, 80_000_000_000, 32 << 30, 1 << 50, 123_456_789] {
        assert_eq!(size_bytes(&format_size(value)), Ok(value));
    }
    assert_eq!(format_size(80_000_000_000), "80GB");
    assert_eq!(format_size(32 << 30), "32GiB");
    for value in [0, 1, 999, 1_000, 90_000, 3_600_000, DURATION_MS_MAX] {
        assert_eq!(duration_ms(&format_duration(value)), Ok(value));
    }
    for value in [1, 500, 1_000, 1_500, CPU_MILLI_MAX] {
        assert_eq!(cpu_milli(&format_cpu(value)), Ok(value));
    }
}

#[test]
fn processors() {
    check(
        cpu_milli,
        vec![("4", 4_000), ("500m", 500), ("1m", 1), ("4096", CPU_MILLI_MAX)],
        &[
            ("1.5", "write `1500m`"),
            (".5", "write `500m`"),
            ("0", "is out of range"),
            ("-1", "is negative"),
            ("4097", "is out of range"),
            ("99999999999999999999", "is out of range"),
            ("4 cores", "unknown unit ` cores`"),
            ("1.5x", "is not a whole number"),
        ],
    );
}

#[test]
fn ranges_of_ports() {
    let range = |first, last| PortRange { first, last };
    check(
        port_range,
        vec![
            ("20000-29999", range(20_000, 29_999)),
            ("8080", range(8_080, 8_080)),
            ("1-65535", range(1, 65_535)),
        ],
        &[
            ("0-10", "port 0 out of range"),
            ("20000-70000", "port 70000 out of range"),
            ("29999-20000", "did you mean `20000-29999`?"),
            ("20000-", "is not a range of ports"),
            ("-5", "is not a range of ports"),
            ("+1-+2", "is not a range of ports"),
        ],
    );
}

#[test]
fn addresses() {
    let made = |host: &str, port| Address { host: host.to_owned(), port };
    check(
        address,
        vec![
            ("127.0.0.1:7070", made("127.0.0.1", 7070)),
            ("[::1]:7070", made("::1", 7070)),
            ("gpu-01.example:1", made("gpu-01.example", 1)),
        ],
        &[
            ("http//10.0.0.1", "has a `/`"),
            ("http://10.0.0.1:1", "has a scheme"),
            ("10.0.0.1:99999", "impossible port `99999`"),
            ("10.0.0.1:+80", "impossible port `+80`"),
            ("10.0.0.1", "has no port"),
            ("10.0.0:80", "impossible host `10.0.0`"),
            ("::1:80", "impossible host `::1`"),
            ("[zz]:80", "impossible host `zz`"),
            ("a b:80", "impossible host `a b`"),
            (":80", "impossible host ``"),
            ("host:0", "has port 0"),
            ("", "is empty"),
        ],
    );
    assert_eq!(listen_address("0.0.0.0:0"), Ok(made("0.0.0.0", 0)));
    assert_eq!(made("::1", 80).to_string(), "[::1]:80");
}

#[test]
fn simulated_hosts() {
    let made = |count, model: &str, memory_bytes| SimulatedGpus {
        count,
        model: model.to_owned(),
        memory_bytes,
    };
    check(
        simulated_gpus,
        vec![
            ("8xH100-80GB", made(8, "H100", 80_000_000_000)),
            ("1xA100-SXM4-40GiB", made(1, "A100-SXM4", 40 << 30)),
            ("64xT4-16GiB", made(64, "T4", 16 << 30)),
        ],
        &[
            ("H100-80GB", "does not start with a count"),
            ("0xH100-80GB", "count out of range"),
            ("65xH100-80GB", "count out of range"),
            ("-1xH100-80GB", "does not start with a count"),
            ("99999999999999999999xH100-80GB", "count out of range"),
            ("8xH100", "has no memory"),
            ("8xH100-80", "has memory that has no unit"),
            ("8xH100-80Gib", "did you mean `80GiB`?"),
            ("8x-80GB", "no usable model name"),
            ("8xH 100-80GB", "no usable model name"),
            ("8xH100-1B", "less memory than 1MiB"),
        ],
    );
    assert_eq!(made(8, "H100", 80_000_000_000).to_string(), "8xH100-80GB");
}

#[test]
fn labels() {
    let made = |key: &str, value: &str| Label { key: key.to_owned(), value: value.to_owned() };
    check(
        label,
        vec![
            ("rack=a1", made("rack", "a1")),
            ("note=a=b", made("note", "a=b")),
            ("k=", made("k", "")),
        ],
        &[
            ("rack", "has no `=`"),
            ("=x", "impossible key"),
            ("a b=x", "impossible key"),
            ("k=a\nb", "impossible value"),
        ],
    );
}

#[test]
fn messages_shorten_and_escape_what_was_seen() {
    let error = duration_ms(&format!("\u{1b}[31m{}", "9".repeat(400))).unwrap_err();
    assert!(error.seen.chars().count() < 60, "{}", error.seen);
    assert!(!error.to_string().contains('\u{1b}'));
}
