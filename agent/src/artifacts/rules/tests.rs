use super::*;

fn rules(entries: &[&str]) -> Rules {
    let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
    Rules::parse(&entries).unwrap()
}

#[test]
fn an_entry_that_means_nothing_is_refused() {
    for entry in ["ftp", "https://", "file://srv", "x://y", "", "file://%zz"] {
        let refused = Rules::parse(&[entry.to_owned()]).unwrap_err();
        assert!(refused.starts_with(&format!("`{entry}` is neither")), "{refused}");
    }
}

#[test]
fn only_public_addresses_are_everybodys() {
    for (address, expected) in [
        ("93.184.216.34", true),
        ("127.0.0.1", false),
        ("10.0.0.1", false),
        ("172.16.0.1", false),
        ("192.168.1.1", false),
        ("169.254.169.254", false),
        ("100.64.0.1", false),
        ("0.0.0.0", false),
        ("224.0.0.1", false),
        ("255.255.255.255", false),
        ("198.18.0.1", false),
        ("192.0.2.1", false),
        ("2606:2800:220:1::1", true),
        ("::1", false),
        ("::", false),
        ("fe80::1", false),
        ("fd00:ec2::254", false),
        ("fec0::1", false),
        ("ff02::1", false),
        ("::ffff:10.0.0.1", false),
        ("::ffff:93.184.216.34", true),
        ("::127.0.0.1", false),
        ("64:ff9b::a9fe:a9fe", false),
        ("64:ff9b::5db8:d822", true),
        ("2002:7f00:1::", false),
        ("2001:db8::1", false),
        ("2001::1", false),
        ("2001:4860:4860::8888", true),
    ] {
        assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
    }
}

#[test]
fn a_url_is_reached_as_the_setting_says() {
    let usual = rules(&["https"]);
    let named = rules(&["https", "http://10.0.0.1:8080/models/", "https://in.example"]);
    let local = rules(&["http", "loopback"]);
    for (rules, url, expected) in [
        (&usual, "https://h.example/a", Some(Reach::Public)),
        (&usual, "http://h.example/a", None),
        (&usual, "https://127.0.0.1/a", None),
        (&usual, "https://2130706433/a", None),
        (&usual, "https://0x7f.1/a", None),
        (&usual, "https://[::ffff:169.254.169.254]/a", None),
        (&usual, "https://[fd00:ec2::254]/a", None),
        (&usual, "https://93.184.216.34/a", Some(Reach::Public)),
        (&named, "http://10.0.0.1:8080/models/a", Some(Reach::Any)),
        (&named, "http://10.0.0.1:8080/models", Some(Reach::Any)),
        (&named, "http://10.0.0.1:8080/modelsx", None),
        (&named, "http://10.0.0.1:8080/models/../secret", None),
        (&named, "http://10.0.0.1:8080/models/%2e%2e/secret", None),
        (&named, "http://10.0.0.1:8080/models/..%2fsecret", None),
        (&named, "http://10.0.0.1/models/a", None),
        (&named, "https://in.example:443/any%2fthing", Some(Reach::Any)),
        (&named, "https://other.example/a", Some(Reach::Public)),
        (&local, "http://127.0.0.1:1/a", Some(Reach::PublicAndLoopback)),
        (&local, "http://10.0.0.1/a", None),
    ] {
        let found = rules.reach(&Url::parse(url).unwrap());
        assert_eq!(found.ok(), expected, "{url}");
    }
}

#[test]
fn files_and_objects_are_below_what_is_named() {
    let rules = rules(&["file:///srv/models", "s3://b/llama/", "gs"]);
    let roots = rules.roots("/srv/models/a/b").unwrap();
    assert_eq!(roots, [("/srv/models".into(), "a/b".into())]);
    for outside in ["/srv/models", "/srv/modelsx/a", "/srv", "/etc/passwd"] {
        assert!(rules.roots(outside).is_err(), "{outside}");
    }
    for (source, expected) in [
        ("s3://b/llama/x", true),
        ("s3://b/other", false),
        ("s3://c/llama/x", false),
        ("gs://any/thing", true),
        ("az://b/llama/x", false),
    ] {
        let location = Location::parse(source).unwrap();
        let found = rules.check_object(&location, &location.path[1..]).is_ok();
        assert_eq!(found, expected, "{source}");
    }
}
