//! Requests that meshd itself makes to whom the operator named: the witness, and whoever is told of alerts.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ureq::tls::TlsConfig;
use zeroize::Zeroizing;

/// How long whoever is asked may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A token has 64 bytes; a file of more than this holds something else.
const TOKEN_BYTES_MAX: u64 = 4096;

/// One request, with the token of a file if one is named.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn request(
    url: &str,
    content: &str,
    token: Option<&Path>,
    tls: TlsConfig,
) -> anyhow::Result<ureq::RequestBuilder<ureq::typestate::WithBody>> {
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        // A token must not follow a redirect or pass through somebody's proxy.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .max_idle_connections(0)
        .timeout_global(Some(ANSWER_MAX))
        .tls_config(tls)
        .user_agent(concat!("meshd/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent();
    let request = agent.post(url).header("content-type", content);
    let Some(path) = token else {
        return Ok(request);
    };
    let token = Zeroizing::new(read(path, TOKEN_BYTES_MAX)?);
    Ok(request.header("authorization", format!("Bearer {}", token.trim())))
}

/// The first `max` bytes of a file of text.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read(path: &Path, max: u64) -> anyhow::Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(max).read_to_string(&mut text))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}
