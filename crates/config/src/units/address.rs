//! Network addresses written `HOST:PORT`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::UnitError;

/// A host and a port. The host is a name or an IP address and is not resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// A DNS name, an IPv4 address, or an IPv6 address without its brackets.
    pub host: String,
    /// The port; zero only where [`listen_address`] read it.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// Parses an address to connect to: `HOST:PORT` or `[IPV6]:PORT`, port 1 to 65535.
///
/// # Errors
/// A scheme or a path, a missing or impossible port, a host that is no name.
pub fn address(text: &str) -> Result<Address, UnitError> {
    let allowed = "HOST:PORT such as 10.0.0.1:7070 or [::1]:7070, with a port from 1 to 65535";
    let parsed = parse(text, allowed)?;
    if parsed.port == 0 {
        return Err(UnitError::new(text, "has port 0", allowed));
    }
    Ok(parsed)
}

/// As [`address`], but port 0 is accepted and asks the system for a free port.
///
/// # Errors
/// As [`address`], port 0 aside.
pub fn listen_address(text: &str) -> Result<Address, UnitError> {
    parse(
        text,
        "HOST:PORT such as 0.0.0.0:7070 or [::]:7070, with a port from 0 (any free one) to 65535",
    )
}

fn parse(text: &str, allowed: &str) -> Result<Address, UnitError> {
    let refuse = |problem: String| UnitError::new(text, problem, allowed);
    if text.is_empty() {
        return Err(refuse("is empty".to_owned()));
    }
    if text.contains("://") {
        return Err(refuse("has a scheme, which is not part of an address".to_owned()));
    }
    if text.contains('/') {
        return Err(refuse("has a `/`, which is not part of an address".to_owned()));
    }
    let (host, port) = split_host(text).ok_or_else(|| refuse("has no port".to_owned()))?;
    let port = match port.parse::<u16>() {
        Ok(number) if port.bytes().all(|byte| byte.is_ascii_digit()) => number,
        Ok(_) | Err(_) => {
            let seen = super::shorten(port);
            return Err(refuse(format!("has the impossible port `{seen}`")));
        }
    };
    let host_fits = if text.starts_with('[') {
        host.parse::<Ipv6Addr>().is_ok()
    } else {
        is_name_or_ipv4(host)
    };
    if !host_fits {
        let seen = super::shorten(host);
        return Err(refuse(format!("has the impossible host `{seen}`")));
    }
    Ok(Address { host: host.to_owned(), port })
}

fn split_host(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:"),
        None => text.rsplit_once(':'),
    }
}

fn is_name_or_ipv4(host: &str) -> bool {
    // A last label of digits can only be meant as an IPv4 address, and the
    // resolver would read 10.1 as 10.0.0.1: such shorthand is refused.
    let last_label = host.rsplit('.').next().unwrap_or(host);
    if last_label.bytes().all(|byte| byte.is_ascii_digit()) {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    host.len() <= 253 && host.split('.').all(is_host_label)
}

fn is_host_label(label: &str) -> bool {
    let characters_fit =
        label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    (1..=63).contains(&label.len())
        && characters_fit
        && !label.starts_with('-')
        && !label.ends_with('-')
}
