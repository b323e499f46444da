//! What a schema cannot say: how values stand to each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use mesh_messages::schema::FieldError;
use mesh_messages::system::Role;
use mesh_messages::units::{ByteCount, Span};

use crate::config::Config;
use crate::sections::{StorageEncryption, TlsConfig};

/// Bounds of `journal.segment_size`: two of the largest records, and what is read at once when the log is opened.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 128 * 1024..=64 * 1024 * 1024;
/// Longest description of a key in the kernel's keyring. The kernel takes more; nobody's is longer.
const KEYRING_NAME_BYTES_MAX: usize = 255;
/// Least `api.body_size_max`: the largest envelope must fit.
const BODY_BYTES_MIN: u64 = 2 * 1024 * 1024;

/// Everything that contradicts something else.
pub(crate) fn check(config: &Config) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if config.listen.parse::<SocketAddr>().is_err() {
        let message = format!(
            "{:?} is not an address and port such as 127.0.0.1:8080",
            config.listen
        );
        errors.push(FieldError::new("listen", message));
    }
    let segment = config.journal.segment_size;
    if !SEGMENT_BYTES.contains(&segment.bytes()) {
        errors.push(FieldError::new(
            "journal.segment_size",
            format!("{segment} is not from 128KiB to 64MiB"),
        ));
    }
    if config.api.body_size_max.bytes() < BODY_BYTES_MIN {
        let message = format!(
            "{} is below 2MiB, which the largest message needs",
            config.api.body_size_max
        );
        errors.push(FieldError::new("api.body_size_max", message));
    }
    let uids = config.sandbox.uid_range;
    if uids.first.checked_add(uids.count).is_none() {
        errors.push(FieldError::new(
            "sandbox.uid_range.count",
            "first and count together exceed 32 bits",
        ));
    }
    tls(&config.api.tls, &mut errors);
    files(config, &mut errors);
    egress(config, &mut errors);
    storage(config, &mut errors);
    times(config, &mut errors);
    errors
}

/// Longest name of a caller, as in a token.
const SUBJECT_MAX: usize = 128;

fn tls(tls: &TlsConfig, errors: &mut Vec<FieldError>) {
    let at = |key: &str| format!("api.tls.{key}");
    for (key, there, other) in [("cert", &tls.cert, &tls.key), ("key", &tls.key, &tls.cert)] {
        if there.is_none() && other.is_some() {
            let message = "is missing; TLS needs both cert and key";
            errors.push(FieldError::new(at(key), message));
        }
    }
    let with_client_ca = [
        ("require_client_cert", tls.require_client_cert),
        ("client_crl", tls.client_crl.is_some()),
        ("clients", !tls.clients.is_empty()),
    ];
    for (key, _) in with_client_ca
        .into_iter()
        .filter(|(_, is_set)| *is_set && tls.client_ca.is_none())
    {
        let message = "needs api.tls.client_ca, which says whose certificates count";
        errors.push(FieldError::new(at(key), message));
    }
    if tls.client_ca.is_some() && tls.cert.is_none() && tls.key.is_none() {
        let message = "needs api.tls.cert and api.tls.key; without them there is no TLS";
        errors.push(FieldError::new(at("client_ca"), message));
    }
    let mut known = BTreeSet::new();
    for (index, client) in tls.clients.iter().enumerate() {
        let at = |key: &str| format!("api.tls.clients[{index}].{key}");
        if !is_subject(&client.subject) {
            let message = format!(
                "{:?} is not a URI such as spiffe://mesh/ada, a DNS name in lower case, or CN=name",
                client.subject
            );
            errors.push(FieldError::new(at("subject"), message));
        }
        if !known.insert(&client.subject) {
            let message = format!("{:?} stands for somebody already", client.subject);
            errors.push(FieldError::new(at("subject"), message));
        }
        let name = client.name.strip_prefix("user:").unwrap_or_default();
        let is_name = (1..=SUBJECT_MAX).contains(&name.len())
            && name.bytes().all(|b| {
                b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'+' | b'-')
            });
        if !is_name {
            let message = format!(
                "{:?} is not user: and 1 to {SUBJECT_MAX} of letters, digits and . _ @ + -",
                client.name
            );
            errors.push(FieldError::new(at("name"), message));
        }
        if client.role == Role::Agent {
            let message =
                "agents are known by their channel; expected viewer, operator, admin or publisher";
            errors.push(FieldError::new(at("role"), message));
        }
    }
}

/// Whether a certificate can bear this name, in the spelling in which it is compared.
fn is_subject(subject: &str) -> bool {
    let plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    match (subject.strip_prefix("CN="), subject.split_once(':')) {
        (Some(common), _) => plain(common),
        (None, Some((scheme, rest))) => !scheme.is_empty() && plain(rest) && subject.is_ascii(),
        (None, None) => {
            !subject.is_empty()
                && subject.bytes().all(|b| {
                    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')
                })
        }
    }
}

/// Least rate of an agent's way out: below it not even a page arrives within the time of a request.
const EGRESS_RATE_MIN: u64 = 1024;

/// Networks, or addresses alone.
fn networks(key: &str, texts: &[String], errors: &mut Vec<FieldError>) {
    for (index, network) in texts.iter().enumerate() {
        let (address, bits) = match network.split_once('/') {
            Some((address, bits)) => (address, bits.parse::<u8>().ok()),
            None => (network.as_str(), Some(0)),
        };
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => Some(32),
            Ok(IpAddr::V6(_)) => Some(128),
            Err(_) => None,
        };
        if bits.zip(most).is_none_or(|(bits, most)| bits > most) {
            let message =
                format!("{network:?} is not a network such as 10.1.0.0/16, nor an address");
            errors.push(FieldError::new(format!("{key}[{index}]"), message));
        }
    }
}

fn files(config: &Config, errors: &mut Vec<FieldError>) {
    let files = &config.sandbox.files;
    let absolute = |path: &str| {
        path.starts_with('/')
            && !path.contains('\0')
            && !path.split('/').any(|part| part == "." || part == "..")
    };
    let name =
        |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    let allowed = files.allowed_paths.as_deref().unwrap_or_default();
    let lists = [
        ("allowed_paths", allowed, false),
        ("blocked_paths", &files.blocked_paths, true),
        ("as_owner", &files.as_owner, false),
    ];
    for (key, paths, names) in lists {
        for (index, path) in paths.iter().enumerate() {
            if absolute(path) || (names && name(path)) {
                continue;
            }
            let or = if names { ", or a name without /" } else { "" };
            errors.push(FieldError::new(
                format!("sandbox.files.{key}[{index}]"),
                format!("{path:?} is not an absolute path without . and ..{or}"),
            ));
        }
    }
}

fn egress(config: &Config, errors: &mut Vec<FieldError>) {
    let egress = &config.sandbox.egress;
    let at = |key: &str| format!("sandbox.egress.{key}");
    networks("sandbox.egress.networks", &egress.networks, errors);
    networks("services.networks", &config.services.networks, errors);
    for (name, addresses) in &egress.hosts {
        for address in addresses
            .iter()
            .filter(|text| text.parse::<IpAddr>().is_err())
        {
            errors.push(FieldError::new(
                at(&format!("hosts.{name}")),
                format!("{address:?} is not an address"),
            ));
        }
    }
    let rate = egress.bytes_per_second.map(ByteCount::bytes);
    if rate.is_some_and(|rate| rate < EGRESS_RATE_MIN || u32::try_from(rate).is_err()) {
        errors.push(FieldError::new(
            at("bytes_per_second"),
            "is not from 1KiB to 4GiB",
        ));
    }
    for (key, span) in [
        ("head_timeout", egress.head_timeout),
        ("connect_timeout", egress.connect_timeout),
        ("idle_timeout", egress.idle_timeout),
        ("total_timeout", egress.total_timeout),
    ] {
        if span.as_millis() == 0 {
            errors.push(FieldError::new(at(key), "must be longer than nothing"));
        }
    }
    key_sources(
        "vault",
        [&config.vault.key_file, &config.vault.passphrase_file],
        config.vault.keyring.as_deref(),
        errors,
    );
}

/// What the data directory's encryption needs.
fn storage(config: &Config, errors: &mut Vec<FieldError>) {
    let storage = &config.storage;
    let files = [&storage.key_file, &storage.passphrase_file];
    key_sources("storage", files, storage.keyring.as_deref(), errors);
    let named = files.iter().any(|file| file.is_some()) || storage.keyring.is_some();
    if storage.encryption == StorageEncryption::Required && !named {
        errors.push(FieldError::new(
            "storage.encryption",
            "needs a key: name storage.key_file, storage.passphrase_file or storage.keyring",
        ));
    }
}

/// One place at most that a key comes from.
fn key_sources(
    section: &str,
    [key_file, passphrase_file]: [&Option<String>; 2],
    keyring: Option<&str>,
    errors: &mut Vec<FieldError>,
) {
    if key_file.is_some() && passphrase_file.is_some() {
        errors.push(FieldError::new(
            format!("{section}.passphrase_file"),
            format!("excludes {section}.key_file; name one of them"),
        ));
    }
    let Some(name) = keyring else {
        return;
    };
    let at = format!("{section}.keyring");
    if key_file.is_some() || passphrase_file.is_some() {
        let both =
            format!("excludes {section}.key_file and {section}.passphrase_file; name one of them");
        errors.push(FieldError::new(at.clone(), both));
    }
    if name.is_empty() || name.len() > KEYRING_NAME_BYTES_MAX || name.contains('\0') {
        errors.push(FieldError::new(
            at,
            format!("expected 1 to {KEYRING_NAME_BYTES_MAX} bytes, none of them zero"),
        ));
    }
}

fn times(config: &Config, errors: &mut Vec<FieldError>) {
    let (supervision, api) = (&config.supervision, &config.api);
    let liveness = &config.default_policy.liveness;
    let positive: [(&str, Span); 18] = [
        ("supervision.crash_window", supervision.crash_window),
        ("supervision.backoff_base", supervision.backoff_base),
        ("supervision.cool_down_base", supervision.cool_down_base),
        ("supervision.half_open_idle", supervision.half_open_idle),
        ("supervision.stable_after", supervision.stable_after),
        ("supervision.recovering", supervision.recovering),
        ("supervision.start_timeout", supervision.start_timeout),
        ("supervision.stop_timeout", supervision.stop_timeout),
        ("supervision.cancel_timeout", supervision.cancel_timeout),
        ("api.header_timeout", api.header_timeout),
        ("api.body_timeout", api.body_timeout),
        ("api.answer_timeout", api.answer_timeout),
        ("api.ping_interval", api.ping_interval),
        ("api.stall_timeout", api.stall_timeout),
        ("api.drain_timeout", api.drain_timeout),
        ("audit.witness.interval", config.audit.witness.interval),
        ("default_policy.liveness.stall.limit", liveness.stall.limit),
        ("default_policy.liveness.overrun.max", liveness.overrun.max),
    ];
    let silence = liveness.silence.limit;
    let silence = silence.map(|limit| ("default_policy.liveness.silence.limit", limit));
    for (key, _) in positive
        .into_iter()
        .chain(silence)
        .filter(|(_, span)| span.as_millis() == 0)
    {
        errors.push(FieldError::new(key, "must be longer than nothing"));
    }
    let ordered = [
        (
            "supervision.backoff_max",
            supervision.backoff_base,
            supervision.backoff_max,
        ),
        (
            "supervision.cool_down_max",
            supervision.cool_down_base,
            supervision.cool_down_max,
        ),
    ];
    for (key, base, max) in ordered.into_iter().filter(|(_, base, max)| max < base) {
        errors.push(FieldError::new(
            key,
            format!("{max} is below its base, {base}"),
        ));
    }
}
