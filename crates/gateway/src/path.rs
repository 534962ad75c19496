//! What a path asks for. It is matched as it was sent: what would mean something else once it is
//! decoded or tidied up is nobody's.

/// A path that the gateway knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Asks {
    Live,
    Ready,
    Models,
    /// One of the models, by its id.
    Model(String),
    /// An endpoint of OpenAI's API, or one of an engine beside it; the body names the model.
    OpenAi,
    /// `/invoke/{service}` and the path behind it, with its query.
    Invoke {
        service: String,
        rest: String,
    },
    Nothing,
}

pub(crate) fn asks(path: &str, query: Option<&str>) -> Asks {
    if is_odd(path) {
        return Asks::Nothing;
    }
    match path {
        "/livez" => return Asks::Live,
        "/readyz" => return Asks::Ready,
        "/v1/models" => return Asks::Models,
        _ => {}
    }
    if let Some(id) = path.strip_prefix("/v1/models/") {
        return decoded(id).map_or(Asks::Nothing, Asks::Model);
    }
    if path.strip_prefix("/v1/").is_some_and(|rest| !rest.is_empty()) {
        return Asks::OpenAi;
    }
    let Some(behind) = path.strip_prefix("/invoke/") else { return Asks::Nothing };
    let (service, rest) = match behind.split_once('/') {
        Some((service, rest)) => (service, rest),
        None => (behind, ""),
    };
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    match decoded(service).filter(|service| !service.is_empty()) {
        Some(service) => Asks::Invoke { service, rest: format!("/{rest}{query}") },
        None => Asks::Nothing,
    }
}

/// Steps up or nowhere, and bytes that end a string somewhere.
fn is_odd(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let steps = lower.replace("%2e", ".");
    path.contains("//")
        || lower.contains("%00")
        || lower.contains("%5c")
        || path.contains('\\')
        || steps.split('/').any(|part| part == "." || part == "..")
}

/// `None` where an escape is broken or the bytes are no text.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = part.bytes();
    let mut found = Vec::with_capacity(part.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            found.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        found.push(u8::from_str_radix(digits, 16).ok()?);
    }
    let text = String::from_utf8(found).ok()?;
    (!text.contains(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invoke(service: &str, rest: &str) -> Asks {
        Asks::Invoke { service: service.to_owned(), rest: rest.to_owned() }
    }

    #[test]
    fn a_path_is_known_or_nobodys() {
        let known = |path| asks(path, None);
        assert_eq!(known("/v1/models"), Asks::Models);
        assert_eq!(known("/v1/models/meta%2FLlama-3"), Asks::Model("meta/Llama-3".to_owned()));
        assert_eq!(known("/v1/models/meta/Llama-3"), Asks::Model("meta/Llama-3".to_owned()));
        assert_eq!(known("/v1/chat/completions"), Asks::OpenAi);
        assert_eq!(known("/v1/score"), Asks::OpenAi);
        assert_eq!(known("/livez"), Asks::Live);
        assert_eq!(known("/invoke/chat"), invoke("chat", "/"));
        assert_eq!(known("/invoke/chat/a/b%20c"), invoke("chat", "/a/b%20c"));
        assert_eq!(known("/invoke/research%2Fchat/a"), invoke("research/chat", "/a"));
        assert_eq!(asks("/invoke/chat/a", Some("b=1")), invoke("chat", "/a?b=1"));
    }

    #[test]
    fn what_is_odd_is_nobodys() {
        for path in [
            "",
            "/",
            "/v1",
            "/v1/",
            "/V1/models",
            "//v1/models",
            "/v1//models",
            "/v1/../admin",
            "/v1/%2e%2e/admin",
            "/v1/.%2E/admin",
            "/v1/./models",
            "/v1/models/%00",
            "/v1/models/%zz",
            "/v1/models/%2",
            "/v1/models/%ff",
            "/v1/a\\b",
            "/v1/a%5Cb",
            "/invoke/",
            "/invoke//a",
            "/invoke/chat/../../v1/models",
            "/invoke/%0a/x",
            "/admin",
        ] {
            assert_eq!(asks(path, None), Asks::Nothing, "{path}");
        }
    }
}
