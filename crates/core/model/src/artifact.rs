//! Files that must be there before a worker starts: where they come from, where they go, and
//! what is wrong with a place that nobody could mean. Fetches nothing.

use std::fmt;

use thiserror::Error;

/// Bytes of a source; the addresses that stores sign are long.
const SOURCE_BYTES_MAX: usize = 2048;
/// Bytes of a place below the task's directory.
const PLACE_BYTES_MAX: usize = 512;
/// Bytes of the name of a bucket or container.
const BUCKET_BYTES_MAX: usize = 222;

/// One file that a task needs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Artifact {
    /// A URL; it may hold a signature and is shown by [`shown_source`].
    pub source: String,
    /// Of the whole content.
    pub checksum: Option<Checksum>,
    /// Where it is put, below the task's directory.
    pub to: String,
}

/// SHA-256 of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum(pub [u8; 32]);

/// How a source is reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scheme {
    /// A file of the agent's host.
    File,
    Http,
    Https,
    /// An S3 bucket.
    S3,
    /// A bucket of Google Cloud Storage.
    Gs,
    /// A container of Azure Blob Storage.
    Az,
}

/// The parts of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location<'a> {
    pub scheme: Scheme,
    /// A host with its port, a bucket, or nothing (`file`).
    pub authority: &'a str,
    /// With its first `/`.
    pub path: &'a str,
}

/// Why a text is no source.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BadSource {
    #[error("expected a URL that begins with one of {}", Scheme::names())]
    Scheme,
    #[error("credentials do not belong into a job; put them into the agent's environment")]
    Credentials,
    #[error("expected at most {SOURCE_BYTES_MAX} characters, found {0}")]
    Length(usize),
    #[error("expected a URL of printable ASCII characters; write others as %XX")]
    Characters,
    #[error("a part after `#` means nothing here")]
    Fragment,
    #[error("expected {0}")]
    Form(&'static str),
}

/// Why a text is no place below a task's directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BadPlace {
    #[error("expected a path below the task's directory, such as \"models/weights.bin\"")]
    NotBelow,
    #[error("expected the name of a file: the URL's path does not end in one")]
    Nameless,
    #[error("expected at most {PLACE_BYTES_MAX} characters, none of them a control character")]
    Characters,
}

/// A checksum that is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("expected \"sha256:\" and 64 hexadecimal digits")]
pub struct BadChecksum;

impl Scheme {
    pub const ALL: [Scheme; 6] =
        [Scheme::File, Scheme::Http, Scheme::Https, Scheme::S3, Scheme::Gs, Scheme::Az];

    /// As it stands before `://`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::File => "file",
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Az => "az",
        }
    }

    pub fn parse(name: &str) -> Option<Scheme> {
        Scheme::ALL.into_iter().find(|scheme| scheme.name() == name)
    }

    fn names() -> String {
        Scheme::ALL.map(|scheme| format!("{}://", scheme.name())).join(", ")
    }
}

impl<'a> Location<'a> {
    /// Takes a source apart.
    ///
    /// # Errors
    /// It is no source of a kind that is known, or says more than a job may.
    pub fn parse(source: &'a str) -> Result<Location<'a>, BadSource> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(BadSource::Length(source.len()));
        }
        let (name, rest) = source.split_once("://").ok_or(BadSource::Scheme)?;
        let scheme = Scheme::parse(name).ok_or(BadSource::Scheme)?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err(BadSource::Characters);
        }
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        if authority.contains('@') {
            return Err(BadSource::Credentials);
        }
        if rest.contains('#') {
            return Err(BadSource::Fragment);
        }
        let location = Location { scheme, authority, path };
        location.check(query)?;
        Ok(location)
    }

    fn check(&self, query: Option<&str>) -> Result<(), BadSource> {
        let form = |what| Err(BadSource::Form(what));
        match self.scheme {
            Scheme::File if !self.authority.is_empty() || self.path.len() < 2 => {
                form("an absolute path of the agent's host: file:///PATH")
            }
            Scheme::File | Scheme::S3 | Scheme::Gs | Scheme::Az if query.is_some() => {
                form("no part after `?`: only http and https have one")
            }
            Scheme::Http | Scheme::Https if !is_host(self.authority) => {
                form("the name or the address of a host after `://`")
            }
            Scheme::S3 | Scheme::Gs | Scheme::Az if !is_bucket(self.authority) => {
                form("the name of a bucket after `://`")
            }
            Scheme::S3 | Scheme::Gs | Scheme::Az if self.path.len() < 2 => {
                form("the name of an object after the bucket's: BUCKET/NAME")
            }
            Scheme::File | Scheme::Http | Scheme::Https | Scheme::S3 | Scheme::Gs | Scheme::Az => {
                Ok(())
            }
        }
    }

    /// The place of what names none: the last part of its path.
    pub fn place(&self) -> &'a str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// A source as people may see it: without what follows a `?`, and without credentials.
pub fn shown_source(source: &str) -> String {
    let plain = source.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = plain.split_once("://").unwrap_or(("", plain));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{host}{path}")
}

/// Whether `to` is a place below a task's directory.
///
/// # Errors
/// What it is instead.
pub fn check_place(to: &str) -> Result<(), BadPlace> {
    if to.is_empty() {
        return Err(BadPlace::Nameless);
    }
    if to.len() > PLACE_BYTES_MAX || to.chars().any(char::is_control) {
        return Err(BadPlace::Characters);
    }
    // The first part of what is absolute is empty.
    let below = to.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if below { Ok(()) } else { Err(BadPlace::NotBelow) }
}

/// Whether one of two places is the other, or a directory of it.
pub fn places_collide(one: &str, other: &str) -> bool {
    let below = |upper: &str, lower: &str| {
        lower.strip_prefix(upper).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    below(one, other) || below(other, one)
}

fn is_host(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an address in brackets are its own.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    };
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_named = !host.is_empty() && host.bytes().all(named);
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_address = inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    port_fits && (is_named || is_address)
}

fn is_bucket(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'$');
    !name.is_empty() && name.len() <= BUCKET_BYTES_MAX && name.bytes().all(fits)
}

impl Checksum {
    /// Reads `sha256:HEX`.
    ///
    /// # Errors
    /// It is written in any other way.
    pub fn parse(text: &str) -> Result<Checksum, BadChecksum> {
        let digits = text.strip_prefix("sha256:").ok_or(BadChecksum)?;
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(BadChecksum);
        }
        let mut bytes = [0; 32];
        for (position, byte) in bytes.iter_mut().enumerate() {
            let pair = &digits[position * 2..position * 2 + 2];
            *byte = u8::from_str_radix(pair, 16).map_err(|_| BadChecksum)?;
        }
        Ok(Checksum(bytes))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_taken_apart_or_refused() {
        for (source, scheme, authority, path, place) in [
            ("https://h/a/b.bin", Scheme::Https, "h", "/a/b.bin", "b.bin"),
            ("http://[::1]:80/a?x=y/z", Scheme::Http, "[::1]:80", "/a", "a"),
            ("file:///srv/a%20b", Scheme::File, "", "/srv/a%20b", "a%20b"),
            ("s3://bucket.x/k/e@y", Scheme::S3, "bucket.x", "/k/e@y", "e@y"),
            ("gs://b/a", Scheme::Gs, "b", "/a", "a"),
            ("az://$web/a/", Scheme::Az, "$web", "/a/", ""),
            ("https://h", Scheme::Https, "h", "", ""),
        ] {
            let location = Location { scheme, authority, path };
            assert_eq!(Location::parse(source), Ok(location), "{source}");
            assert_eq!(location.place(), place, "{source}");
        }
        for (source, expected) in [
            ("ftp://h/a", BadSource::Scheme),
            ("h/a", BadSource::Scheme),
            ("HTTPS://h/a", BadSource::Scheme),
            ("https://me:secret@h/a", BadSource::Credentials),
            ("https://h/ a", BadSource::Characters),
            ("https://h/ä", BadSource::Characters),
            ("https://h/a#b", BadSource::Fragment),
        ] {
            assert_eq!(Location::parse(source), Err(expected), "{source}");
        }
        for source in [
            "https:///a",
            "https://h:0/a",
            "https://h:x/a",
            "https://[::g]/a",
            "file://h/a",
            "file:///",
            "file:///a?b",
            "s3://b",
            "s3://b/",
            "s3:///a",
            "s3://b/a?versionId=1",
        ] {
            let refused = Location::parse(source);
            assert!(matches!(refused, Err(BadSource::Form(_))), "{source}: {refused:?}");
        }
        let long = format!("https://h/{}", "a".repeat(SOURCE_BYTES_MAX));
        assert_eq!(Location::parse(&long), Err(BadSource::Length(long.len())));
    }

    #[test]
    fn a_source_is_shown_without_its_secrets() {
        for (source, shown) in [
            ("https://h/a?sig=secret", "https://h/a"),
            ("https://me:secret@h:1/a#x", "https://h:1/a"),
            ("s3://b/a@c", "s3://b/a@c"),
            ("nothing", "nothing"),
            ("", ""),
        ] {
            assert_eq!(shown_source(source), shown);
        }
    }

    #[test]
    fn a_place_is_below_the_tasks_directory() {
        for to in ["a", "a/b.bin", "..a/b..", "ä b"] {
            assert_eq!(check_place(to), Ok(()), "{to}");
        }
        for to in ["/a", "a/", "a//b", "..", "a/../b", "./a", "."] {
            assert_eq!(check_place(to), Err(BadPlace::NotBelow), "{to}");
        }
        assert_eq!(check_place(""), Err(BadPlace::Nameless));
        assert_eq!(check_place("a\nb"), Err(BadPlace::Characters));
        assert_eq!(check_place(&"a".repeat(PLACE_BYTES_MAX + 1)), Err(BadPlace::Characters));
        for (one, other, expected) in
            [("a", "a", true), ("a", "a/b", true), ("a/b", "a", true), ("a", "ab", false)]
        {
            assert_eq!(places_collide(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn a_checksum_reads_as_it_is_written() {
        let text = format!("sha256:{}", "0a".repeat(32));
        let checksum = Checksum::parse(&text).unwrap();
        assert_eq!((checksum, checksum.to_string()), (Checksum([10; 32]), text.clone()));
        assert_eq!(Checksum::parse(&text.to_uppercase()), Err(BadChecksum));
        for wrong in ["", "sha256:", "md5:00", &text[..70], &text.replace('a', "ä")] {
            assert_eq!(Checksum::parse(wrong), Err(BadChecksum), "{wrong}");
        }
    }
}
