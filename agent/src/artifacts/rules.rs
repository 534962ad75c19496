//! From where files may be fetched. Decides, and touches neither files nor the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use berth_model::{Location, Scheme};
use url::{Host, Url};

/// The word for addresses of the host itself.
const LOOPBACK: &str = "loopback";

/// What `agent.artifacts.allow` says.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rules {
    schemes: Vec<Scheme>,
    loopback: Loopback,
    /// Beginnings of http and https URLs.
    urls: Vec<Url>,
    /// Directories of the host.
    directories: Vec<PathBuf>,
    /// Buckets, with the beginning of their objects' names.
    buckets: Vec<(Scheme, String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Loopback {
    Allowed,
    #[default]
    Refused,
}

/// Which addresses of a host may be dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// The host is named by the one who owns the agent.
    Any,
    Public,
    PublicAndLoopback,
}

/// Why something may not be fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotAllowed(pub String);

impl Rules {
    /// Reads the entries of the setting.
    ///
    /// # Errors
    /// In words, which entry means nothing.
    pub fn parse(entries: &[String]) -> Result<Rules, String> {
        let mut rules = Rules::default();
        for entry in entries {
            rules.add(entry).ok_or_else(|| {
                format!(
                    "`{entry}` is neither a scheme (https, http, s3, gs, az, file), nor \
                     `{LOOPBACK}`, nor the beginning of a URL such as https://HOST/PATH/"
                )
            })?;
        }
        Ok(rules)
    }

    fn add(&mut self, entry: &str) -> Option<()> {
        if entry == LOOPBACK {
            self.loopback = Loopback::Allowed;
            return Some(());
        }
        let Some((scheme, rest)) = entry.split_once("://") else {
            self.schemes.push(Scheme::parse(entry)?);
            return Some(());
        };
        let scheme = Scheme::parse(scheme)?;
        match scheme {
            Scheme::Http | Scheme::Https => {
                let url = Url::parse(entry).ok()?;
                url.host()?;
                self.urls.push(url);
            }
            Scheme::File => {
                let path = PathBuf::from(decoded(rest)?);
                path.is_absolute().then(|| self.directories.push(path))?;
            }
            Scheme::S3 | Scheme::Gs | Scheme::Az => {
                let (bucket, beginning) = rest.split_once('/').unwrap_or((rest, ""));
                let beginning = decoded(beginning)?;
                self.buckets.push((scheme, bucket.to_owned(), beginning));
            }
        }
        Some(())
    }

    /// Whether a URL of http or https may be asked for at all, and at which addresses.
    ///
    /// # Errors
    /// It may not.
    pub fn reach(&self, url: &Url) -> Result<Reach, NotAllowed> {
        let scheme = Scheme::parse(url.scheme());
        let is_http = matches!(scheme, Some(Scheme::Http | Scheme::Https));
        if is_http && self.urls.iter().any(|allowed| begins_with(url, allowed)) {
            return Ok(Reach::Any);
        }
        if !is_http || !scheme.is_some_and(|scheme| self.schemes.contains(&scheme)) {
            return Err(NotAllowed("agent.artifacts.allow does not name it".to_owned()));
        }
        let reach = match self.loopback {
            Loopback::Allowed => Reach::PublicAndLoopback,
            Loopback::Refused => Reach::Public,
        };
        // A name is looked up later; an address is known now.
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        };
        match address {
            Some(address) if !reach.admits(address) => Err(NotAllowed(refused_address(address))),
            Some(_) | None => Ok(reach),
        }
    }

    /// Whether an object of a bucket may be asked for.
    ///
    /// # Errors
    /// It may not.
    pub fn check_object(&self, location: &Location<'_>, name: &str) -> Result<(), NotAllowed> {
        let of_bucket = |(scheme, bucket, beginning): &(Scheme, String, String)| {
            *scheme == location.scheme
                && bucket == location.authority
                && name.starts_with(beginning.as_str())
        };
        if self.schemes.contains(&location.scheme) || self.buckets.iter().any(of_bucket) {
            return Ok(());
        }
        Err(NotAllowed("agent.artifacts.allow does not name it".to_owned()))
    }

    /// The directories that a file of the host may be below of, and its path below the
    /// directory. Links are followed only when the file is opened.
    ///
    /// # Errors
    /// There is none.
    pub fn roots(&self, path: &str) -> Result<Vec<(PathBuf, PathBuf)>, NotAllowed> {
        let path = PathBuf::from(path);
        let everywhere = self.schemes.contains(&Scheme::File).then(|| PathBuf::from("/"));
        let all = self.directories.iter().cloned().chain(everywhere);
        let found: Vec<(PathBuf, PathBuf)> = all
            .filter_map(|root| Some((path.strip_prefix(&root).ok()?.to_owned(), root)))
            .filter(|(below, _)| !below.as_os_str().is_empty())
            .map(|(below, root)| (root, below))
            .collect();
        if found.is_empty() {
            return Err(NotAllowed("agent.artifacts.allow does not name it".to_owned()));
        }
        Ok(found)
    }
}

/// The text behind `%XX`, if it is one.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// Whether it is of the same host, and its path the same or below. `Url` has resolved dots.
fn begins_with(url: &Url, allowed: &Url) -> bool {
    let same_host = url.scheme() == allowed.scheme()
        && url.host() == allowed.host()
        && url.port_or_known_default() == allowed.port_or_known_default();
    let beginning = allowed.path().trim_end_matches('/');
    let rest = url.path().strip_prefix(beginning);
    // Servers may take these for separators.
    let plain = !url.path().to_ascii_lowercase().contains("%2f") || beginning.is_empty();
    same_host && plain && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// For people: what is wrong with an address.
pub fn refused_address(address: IpAddr) -> String {
    format!(
        "its address {address} is not a public one; an entry of agent.artifacts.allow may name \
         the host"
    )
}

impl Reach {
    /// Whether this address may be dialled.
    pub fn admits(self, address: IpAddr) -> bool {
        match self {
            Reach::Any => true,
            Reach::Public => is_public(address),
            Reach::PublicAndLoopback => is_public(address) || plain(address).is_loopback(),
        }
    }
}

/// The address that is meant, of one that is written into another.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => match six.to_ipv4_mapped() {
            Some(four) => IpAddr::V4(four),
            None => address,
        },
    }
}

/// Whether an address is everybody's: no host's own, no private network's, no link's, none of
/// a cloud's metadata, none for several hosts.
pub fn is_public(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(four) => is_public_v4(four),
        IpAddr::V6(six) => is_public_v6(six),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let shared = first == 100 && (64..128).contains(&second);
    let protocols = first == 192 && second == 0 && third == 0;
    let relays = first == 192 && second == 88 && third == 99;
    let trials = first == 198 && (18..20).contains(&second);
    !(first == 0
        || crate::metadata::answers_at(IpAddr::V4(address))
        || first >= 224
        || shared
        || protocols
        || relays
        || trials
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let four = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // Translated to what is behind.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => four(high, low),
        [0x2002, high, low, ..] => four(high, low),
        // Tunnels, benchmarks, identifiers, documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests;
