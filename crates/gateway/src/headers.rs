//! Headers on their way in and out: what is between two neighbours stays between them, and what
//! tells of the caller is said by the gateway alone.

use std::net::IpAddr;

use http::header::{
    CONNECTION, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The longest that is taken over from a caller.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Of one connection (RFC 9110, 7.6.1), `keep-alive` and `proxy-connection` of old among them.
const OF_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Removes what concerns this connection alone, and what `Connection` names.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_CONNECTION) {
        headers.remove(name);
    }
}

/// What a replica gets of a caller's headers.
pub(crate) fn onward(mut headers: HeaderMap, peer: IpAddr, id: &HeaderValue) -> HeaderMap {
    strip(&mut headers);
    headers.remove(HOST);
    let of_gateway = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("x-forwarded-") || name.starts_with("x-berth-") || name == "forwarded"
    };
    let told: Vec<HeaderName> = headers.keys().filter(|name| of_gateway(name)).cloned().collect();
    told.iter().for_each(|name| drop(headers.remove(name)));
    if let Ok(peer) = HeaderValue::from_str(&peer.to_string()) {
        headers.insert(FORWARDED_FOR, peer);
    }
    headers.insert(REQUEST_ID, id.clone());
    headers
}

/// The caller's own, where it is one; a new one else.
pub(crate) fn request_id(headers: &HeaderMap, chance: impl Fn() -> u64) -> HeaderValue {
    let is_id = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        !bytes.is_empty()
            && bytes.len() <= REQUEST_ID_BYTES_MAX
            && bytes.iter().all(|byte| byte.is_ascii_graphic())
    };
    let given = headers.get(REQUEST_ID).filter(is_id).cloned();
    given.unwrap_or_else(|| {
        let made = format!("req-{:016x}{:016x}", chance(), chance());
        HeaderValue::from_str(&made).unwrap_or_else(|_| HeaderValue::from_static("req"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        headers.iter().map(pair).collect()
    }

    #[test]
    fn what_is_between_neighbours_stays_there_and_who_asks_is_said_by_the_gateway() {
        let given = map(&[
            ("host", "elsewhere"),
            ("connection", "close, X-Api-Key"),
            ("x-api-key", "k"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=10.0.0.1"),
            ("x-berth-tenant", "root"),
            ("authorization", "Bearer a"),
            ("accept", "*/*"),
        ]);
        let onward = onward(given, IpAddr::from([127, 0, 0, 1]), &HeaderValue::from_static("r1"));
        let mut found: Vec<(&str, &str)> =
            onward.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        found.sort_unstable();
        let expected = [
            ("accept", "*/*"),
            ("authorization", "Bearer a"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-request-id", "r1"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_callers_id_is_kept_where_it_is_one() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(value).unwrap());
            request_id(&headers, || 7)
        };
        assert_eq!(of("abc-1"), "abc-1");
        for odd in ["", "a b", &"x".repeat(129)] {
            assert_eq!(of(odd), "req-00000000000000070000000000000007");
        }
    }
}
