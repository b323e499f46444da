//! What the configuration leaves of a definition.

use std::net::IpAddr;

use mesh_egress::{Denial, Host};
use mesh_messages::schema::FieldError;
use mesh_messages::service::{Place, ServiceDefinition, place_of};

use crate::outbound::ServiceSettings;

/// Why an address is not called.
#[derive(Debug, Clone)]
pub(super) enum Unfit {
    /// The configuration does not allow it.
    Denied(Denial),
    /// It cannot be meant.
    Wrong(String),
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(denial) => {
                let rule = denial.rule.as_deref().unwrap_or("services");
                write!(f, "is not called: {denial} ({rule})")
            }
            Self::Wrong(why) => f.write_str(why),
        }
    }
}

/// Whether an address may be called, as far as can be said without resolving its name.
pub(super) fn may_call(settings: &ServiceSettings, url: &str) -> Result<(), Unfit> {
    let Place {
        is_tls, host, port, ..
    } = place_of(url).map_err(|why| Unfit::Wrong(why.to_owned()))?;
    let host = Host::parse(host).map_err(|error| Unfit::Wrong(format!("{host}: {error}")))?;
    settings.policy.decide(&host, port).map_err(Unfit::Denied)?;
    let open =
        is_tls || is_loopback(&host) || settings.http.iter().any(|pattern| pattern.matches(&host));
    if open {
        return Ok(());
    }
    let why = "must be https: only this host, and those that `services.http_domains` names, are called without";
    Err(Unfit::Wrong(why.to_owned()))
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Address(IpAddr::V4(address)) => address.is_loopback(),
        Host::Address(IpAddr::V6(address)) => address.is_loopback(),
        Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
    }
}

/// All that is wrong with a definition here, each with its path.
#[must_use]
pub fn unfit(settings: &ServiceSettings, definition: &ServiceDefinition) -> Vec<FieldError> {
    let mut errors = definition.errors();
    let endpoints = definition.endpoints.iter().enumerate();
    let urls = endpoints
        .map(|(index, endpoint)| (format!("endpoints[{index}].url"), endpoint.url.as_str()));
    let health = definition.health.url.iter();
    let health = health.map(|url| ("health.url".to_owned(), url.as_str()));
    for (path, url) in urls.chain(health) {
        if errors.iter().any(|error| error.path == path) {
            continue;
        }
        if let Err(why) = may_call(settings, url) {
            errors.push(FieldError::new(path, why.to_string()));
        }
    }
    errors
}
