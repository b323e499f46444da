//! What a definition has to be, as far as it can be told without the configuration.

use std::collections::BTreeSet;

use super::{
    CHECK_INTERVAL_MS, CHECK_TIMEOUT_MAX_MS, ENDPOINT_TIMEOUT_MAX_MS, ENDPOINTS_MAX,
    SERVICE_CAPABILITIES_MAX, SERVICE_NAME_MAX, SERVICE_RATE_MAX, SERVICE_URL_MAX, ServiceAuth,
    ServiceCheck, ServiceDefinition, ServiceEndpoint,
};
use crate::schema::FieldError;
use crate::workflow::SERVICE_HEADERS_MAX;

/// Headers that meshd sets itself.
const OWN_HEADERS: [&str; 8] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "idempotency-key",
    "content-type",
    "accept",
    "expect",
];

/// The host and port of an address, as they are written in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Whether it is `https`.
    pub is_tls: bool,
    /// The host; an address of IPv6 in its brackets.
    pub host: &'a str,
    /// The port, or the scheme's own.
    pub port: u16,
    /// Scheme, host and port, without what follows.
    pub origin: &'a str,
}

/// Reads the place out of an address; what is wrong with the address, in words.
///
/// # Errors
/// It is no plain `http` or `https` address.
pub fn place_of(url: &str) -> Result<Place<'_>, &'static str> {
    const PLAIN: &str = "must be a plain address with a host, without a user, a fragment or spaces";
    if url.len() > SERVICE_URL_MAX {
        return Err("is longer than 2048 bytes");
    }
    let (is_tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err("must begin with https:// or http://"),
    };
    let visible = |byte: u8| {
        byte.is_ascii_graphic()
            && !matches!(
                byte,
                b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
            )
    };
    if !url.bytes().all(visible) {
        return Err(PLAIN);
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let origin = &url[..url.len() - rest.len() + authority.len()];
    if authority.contains('@') {
        return Err(PLAIN);
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port.map(str::parse::<u16>) {
        None if is_tls => 443,
        None => 80,
        Some(Ok(port)) if port > 0 => port,
        Some(_) => return Err("has a port that is none"),
    };
    if host.is_empty() {
        return Err(PLAIN);
    }
    Ok(Place {
        is_tls,
        host,
        port,
        origin,
    })
}

fn token(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.len() <= SERVICE_NAME_MAX && text.bytes().all(plain)
}

fn named(text: &str) -> bool {
    let visible = |c: char| !c.is_control();
    !text.trim().is_empty() && text.len() <= SERVICE_NAME_MAX && text.chars().all(visible)
}

/// Whether a name can stand in a path, a workflow and a record.
fn plain(text: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    !text.is_empty() && text.len() <= SERVICE_NAME_MAX && text.bytes().all(plain)
}

struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError::new(path, message));
    }
}

impl ServiceDefinition {
    /// All that is wrong with it, each with its path; nothing where it can be stored, as far as can be told without the
    /// configuration.
    pub fn errors(&self) -> Vec<FieldError> {
        let mut errors = Errors(Vec::new());
        if !named(&self.name) {
            errors.add(
                "name",
                format!("must have 1 to {SERVICE_NAME_MAX} bytes, without control characters"),
            );
        }
        if self.capabilities.len() > SERVICE_CAPABILITIES_MAX {
            errors.add(
                "capabilities",
                format!("has more than {SERVICE_CAPABILITIES_MAX} entries"),
            );
        }
        let mut seen = BTreeSet::new();
        for (index, capability) in self.capabilities.iter().enumerate() {
            let at = format!("capabilities[{index}]");
            if !named(capability) {
                errors.add(
                    at,
                    format!("must have 1 to {SERVICE_NAME_MAX} bytes, without control characters"),
                );
            } else if !seen.insert(capability) {
                errors.add(at, "is there twice");
            }
        }
        if self.endpoints.is_empty() {
            errors.add("endpoints", "must have at least one entry");
        }
        if self.endpoints.len() > ENDPOINTS_MAX {
            errors.add(
                "endpoints",
                format!("has more than {ENDPOINTS_MAX} entries"),
            );
        }
        let mut seen = BTreeSet::new();
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let at = format!("endpoints[{index}]");
            if !seen.insert(&endpoint.name) {
                errors.add(format!("{at}.name"), "is there twice");
            }
            endpoint_errors(endpoint, &at, &self.auth, &mut errors);
        }
        auth_errors(&self.auth, &mut errors);
        health_errors(&self.health, &mut errors);
        self.one_host(&mut errors);
        if let Some(rate) = &self.rate {
            let allowed = 1..=SERVICE_RATE_MAX;
            let numbers = [("perSecond", Some(rate.per_second)), ("burst", rate.burst)];
            for (field, number) in numbers {
                if number.is_some_and(|number| !allowed.contains(&number)) {
                    errors.add(
                        format!("rate.{field}"),
                        format!("must be 1 to {SERVICE_RATE_MAX}"),
                    );
                }
            }
        }
        errors.0
    }

    /// What proves who calls is for one host alone.
    fn one_host(&self, errors: &mut Errors) {
        if self.auth == ServiceAuth::None {
            return;
        }
        let host = |url: &str| Some(place_of(url).ok()?.host.to_ascii_lowercase());
        let Some(first) = self
            .endpoints
            .first()
            .and_then(|endpoint| host(&endpoint.url))
        else {
            return;
        };
        let endpoints = self.endpoints.iter().enumerate();
        let urls =
            endpoints.map(|(index, endpoint)| (format!("endpoints[{index}].url"), &endpoint.url));
        let health = self
            .health
            .url
            .iter()
            .map(|url| ("health.url".to_owned(), url));
        for (path, url) in urls.chain(health) {
            if host(url).is_some_and(|host| host != first) {
                errors.add(
                    path,
                    format!("must be at {first}: what `auth` proves is for one host"),
                );
            }
        }
    }
}

fn endpoint_errors(endpoint: &ServiceEndpoint, at: &str, auth: &ServiceAuth, errors: &mut Errors) {
    if !plain(&endpoint.name) {
        let text = "must be letters, digits, '-', '_', '.' and ':'";
        errors.add(format!("{at}.name"), text);
    }
    if let Err(why) = place_of(&endpoint.url) {
        errors.add(format!("{at}.url"), why);
    }
    let header = match auth {
        ServiceAuth::Header { name, .. } => Some(name.to_ascii_lowercase()),
        ServiceAuth::Bearer { .. } | ServiceAuth::Basic { .. } => Some("authorization".to_owned()),
        ServiceAuth::None | ServiceAuth::Query { .. } => None,
    };
    if endpoint.headers.len() > SERVICE_HEADERS_MAX {
        let text = format!("has more than {SERVICE_HEADERS_MAX} entries");
        errors.add(format!("{at}.headers"), text);
    }
    for (name, value) in &endpoint.headers {
        let at = format!("{at}.headers.{name}");
        let lower = name.to_ascii_lowercase();
        if !token(name) || OWN_HEADERS.contains(&&*lower) {
            errors.add(at, "is a header that cannot be set");
        } else if header.as_ref() == Some(&lower) {
            errors.add(at, "is set by `auth`");
        } else if matches!(&*lower, "authorization" | "proxy-authorization" | "cookie") {
            errors.add(at, "would show a secret to whoever may read; put it into the vault and name it in `auth`");
        } else if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            errors.add(at, "has a value that is not plain ASCII");
        }
    }
    if endpoint
        .timeout_ms
        .is_some_and(|limit| !(1..=ENDPOINT_TIMEOUT_MAX_MS).contains(&limit))
    {
        errors.add(
            format!("{at}.timeoutMs"),
            format!("must be 1 to {ENDPOINT_TIMEOUT_MAX_MS}"),
        );
    }
}

fn auth_errors(auth: &ServiceAuth, errors: &mut Errors) {
    if auth.secret().is_some_and(str::is_empty) {
        errors.add("auth.secret", "must name a secret of the vault");
    }
    match auth {
        ServiceAuth::None | ServiceAuth::Bearer { .. } => {}
        ServiceAuth::Header { name, .. } => {
            if !token(name) || OWN_HEADERS.contains(&&*name.to_ascii_lowercase()) {
                errors.add("auth.name", "is a header that cannot be set");
            }
        }
        ServiceAuth::Query { name, .. } => {
            if !plain(name) {
                errors.add(
                    "auth.name",
                    "must be letters, digits, '-', '_', '.' and ':'",
                );
            }
        }
        ServiceAuth::Basic { username, .. } => {
            if !named(username) || username.contains(':') {
                errors.add("auth.username", "must be a name without a colon");
            }
        }
    }
}

fn health_errors(health: &ServiceCheck, errors: &mut Errors) {
    if let Some(Err(why)) = health.url.as_deref().map(place_of) {
        errors.add("health.url", why);
    }
    let (least, most) = CHECK_INTERVAL_MS;
    if health
        .interval_ms
        .is_some_and(|pause| !(least..=most).contains(&pause))
    {
        errors.add("health.intervalMs", format!("must be {least} to {most}"));
    }
    if health
        .timeout_ms
        .is_some_and(|limit| !(1..=CHECK_TIMEOUT_MAX_MS).contains(&limit))
    {
        errors.add(
            "health.timeoutMs",
            format!("must be 1 to {CHECK_TIMEOUT_MAX_MS}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(text: &str) -> ServiceDefinition {
        serde_json::from_str(text).unwrap()
    }

    fn wrong(text: &str) -> Vec<String> {
        let errors = definition(text).errors();
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn a_definition_of_the_seven_fields_is_taken() {
        let text = r#"{"id":"geo","name":"Geocoder","type":"utility","status":"active","capabilities":["geocode"],
            "endpoints":[{"name":"find","url":"https://geo.example/find"}],"auth":{"type":"bearer","secret":"geo-key"}}"#;
        assert_eq!(wrong(text), [""; 0]);
        let shortest = r#"{"id":"geo","name":"Geo","type":"llm","endpoints":[{"name":"a","url":"https://geo.example"}]}"#;
        assert_eq!(wrong(shortest), [""; 0]);
        let read = definition(shortest);
        assert_eq!(
            (read.status, read.auth),
            (super::super::ServiceStatus::Active, ServiceAuth::None)
        );
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_with_its_path() {
        let text = r#"{"id":"geo","name":" ","type":"utility","capabilities":["a","a",""],"endpoints":[
              {"name":"a b","url":"ftp://x","headers":{"Host":"x","X-Key":"1","cookie":"c","x-ok":"\u00e9"},"timeoutMs":0},
              {"name":"b","url":"https://u@x/"},{"name":"b","url":"https://x:0/"}],
            "auth":{"type":"header","secret":"","name":"x-key"},
            "health":{"url":"https://","intervalMs":1,"timeoutMs":0},"rate":{"perSecond":0,"burst":0}}"#;
        let expected = [
            "name",
            "capabilities[1]",
            "capabilities[2]",
            "endpoints[0].name",
            "endpoints[0].url",
            "endpoints[0].headers.Host",
            "endpoints[0].headers.X-Key",
            "endpoints[0].headers.cookie",
            "endpoints[0].headers.x-ok",
            "endpoints[0].timeoutMs",
            "endpoints[1].url",
            "endpoints[2].name",
            "endpoints[2].url",
            "auth.secret",
            "health.url",
            "health.intervalMs",
            "health.timeoutMs",
            "rate.perSecond",
            "rate.burst",
        ];
        assert_eq!(wrong(text), expected);
        assert_eq!(
            wrong(r#"{"id":"a","name":"a","type":"image","endpoints":[]}"#),
            ["endpoints"]
        );
    }

    #[test]
    fn a_service_that_is_sent_a_secret_has_one_host() {
        let of = |auth: &str| {
            wrong(&format!(
                r#"{{"id":"a","name":"a","type":"llm","endpoints":[{{"name":"a","url":"https://a/1"}},{{"name":"b","url":"https://A:8443/2"}},
            {{"name":"c","url":"https://b/"}}],"health":{{"url":"https://c/"}}{auth}}}"#
            ))
        };
        assert_eq!(of(""), [""; 0]);
        let bearer = r#","auth":{"type":"bearer","secret":"k"}"#;
        assert_eq!(of(bearer), ["endpoints[2].url", "health.url"]);
    }

    #[test]
    fn a_secret_has_no_place_for_its_value() {
        for auth in [
            r#"{"type":"bearer","value":"x"}"#,
            r#"{"type":"bearer","secret":"a","value":"x"}"#,
            r#"{"type":"magic"}"#,
        ] {
            assert!(serde_json::from_str::<ServiceAuth>(auth).is_err(), "{auth}");
        }
    }

    #[test]
    fn places_are_read_as_they_are_written() {
        let read =
            |url| place_of(url).map(|place| (place.is_tls, place.host, place.port, place.origin));
        assert_eq!(
            read("https://a.b/c?d"),
            Ok((true, "a.b", 443, "https://a.b"))
        );
        assert_eq!(
            read("http://[::1]:8080/x"),
            Ok((false, "[::1]", 8080, "http://[::1]:8080"))
        );
        assert_eq!(
            read("http://[::1]?x"),
            Ok((false, "[::1]", 80, "http://[::1]"))
        );
        for url in [
            "",
            "https://",
            "https:///x",
            "http://a:b@c/",
            "http://a:99999",
            "http://a:0/",
            "http://a/ b",
            "http://a/#x",
            "http://a/${x}",
        ] {
            assert!(place_of(url).is_err(), "{url}");
        }
    }

    #[test]
    fn what_may_be_tried_again_follows_from_the_method_unless_it_is_said() {
        let of = |extra: &str| {
            let text = format!(r#"{{"name":"a","url":"https://a"{extra}}}"#);
            serde_json::from_str::<ServiceEndpoint>(&text)
                .unwrap()
                .is_idempotent()
        };
        assert!(!of(""));
        assert!(of(r#","method":"GET""#) && of(r#","method":"PUT""#));
        assert!(of(r#","idempotent":true"#));
        assert!(!of(r#","method":"DELETE","idempotent":false"#));
    }
}
